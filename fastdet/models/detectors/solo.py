"""SOLO (arXiv 1912.04488)."""

from __future__ import annotations

from typing import Any

from ..builder import DETECTORS
from .single_stage_instance_seg import SingleStageInstanceSegmentor

__all__ = ["SOLO"]


@DETECTORS.register_module()
class SOLO(SingleStageInstanceSegmentor):
    """Instances by the cells that their centres lie in.

    Args:
        backbone: its config.
        neck: its config.
        bbox_head: must be ``None``.
        mask_head: its config.
        train_cfg: settings of training, for the head.
        test_cfg: settings of the test, for the head.
        init_cfg: how weights are initialised.
        pretrained: the old spelling of the backbone's ``init_cfg``.
    """

    def __init__(self, backbone: dict[str, Any], neck: Any = None, bbox_head: Any = None,
                 mask_head: Any = None, train_cfg: Any = None, test_cfg: Any = None,
                 init_cfg: Any = None, pretrained: str | None = None) -> None:
        super().__init__(backbone, neck, bbox_head, mask_head, train_cfg, test_cfg, pretrained,
                         init_cfg)
