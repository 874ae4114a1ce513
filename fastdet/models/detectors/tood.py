"""TOOD (arXiv 2108.07755)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["TOOD"]


@DETECTORS.register_module()
class TOOD(SingleStageDetector):
    """A backbone, an FPN and a TOODHead."""

    def set_epoch(self, epoch: int) -> None:
        """Tell the head which epoch it is: the first ones are assigned otherwise."""
        self.bbox_head.epoch = epoch
