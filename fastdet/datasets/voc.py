"""Pascal VOC."""

from __future__ import annotations

from typing import Any

from fastdet.core.evaluation.class_names import data_set

from .builder import DATASETS
from .xml_style import XMLDataset

__all__ = ["VOCDataset"]


@DATASETS.register_module()
class VOCDataset(XMLDataset):
    """Pascal VOC 2007 or 2012 (Everingham et al., IJCV 2010), by the name of ``img_prefix``.

    Args:
        kwargs: of :class:`XMLDataset`.

    Raises:
        ValueError: ``img_prefix`` names neither year.
    """

    CLASSES = data_set("voc")
    PALETTE = data_set("voc", "palette")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        years = [y for y in (2007, 2012) if f"VOC{y}" in self.img_prefix]
        if not years:
            raise ValueError("VOCDataset takes the year from img_prefix, which must have VOC2007 "
                             f"or VOC2012 in it, got {self.img_prefix!r}")
        self.year = years[0]

    def evaluate(self, results: Any, metric: Any = "mAP", logger: Any = None,
                 proposal_nums: Any = (100, 300, 1000), iou_thr: Any = 0.5,
                 scale_ranges: Any = None) -> dict[str, float]:
        """See :meth:`CustomDataset.evaluate`; boxes have VOC's coordinates, and 2007 averages at
        11 points of recall."""
        annotations = [self.get_ann_info(i) for i in range(len(self))]
        metric = self._one_metric(metric)
        thrs = [iou_thr] if isinstance(iou_thr, float) else list(iou_thr)
        if metric == "recall":
            return self._recalls(results, annotations, proposal_nums, thrs, logger,
                                 use_legacy_coordinate=True)
        return self._mean_ap(results, annotations, thrs, logger, scale_ranges=None,
                             dataset="voc07" if self.year == 2007 else self.CLASSES,
                             use_legacy_coordinate=True)
