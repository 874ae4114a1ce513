"""What every head has that makes a panoptic segmentation."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

from fastdet.runner import BaseModule

from ...builder import build_loss

__all__ = ["BasePanopticFusionHead"]


class BasePanopticFusionHead(BaseModule, metaclass=ABCMeta):
    """The base of fusion heads.

    Args:
        num_things_classes: classes of things, the first ones.
        num_stuff_classes: classes of stuff, behind them.
        test_cfg: settings of the test.
        loss_panoptic: config of a loss, if any.
        init_cfg: how weights are initialised.
        kwargs: not used.
    """

    def __init__(self, num_things_classes: int = 80, num_stuff_classes: int = 53,
                 test_cfg: Any = None, loss_panoptic: Any = None, init_cfg: Any = None,
                 **kwargs: Any) -> None:
        super().__init__(init_cfg)
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.num_classes = num_things_classes + num_stuff_classes
        self.test_cfg = test_cfg
        self.loss_panoptic = build_loss(loss_panoptic) if loss_panoptic else None

    @property
    def with_loss(self) -> bool:
        """Whether there is a loss."""
        return self.loss_panoptic is not None

    @abstractmethod
    def forward_train(self, gt_masks: Any = None, gt_semantic_seg: Any = None,
                      **kwargs: Any) -> dict[str, Any]:
        """Losses."""

    @abstractmethod
    def simple_test(self, img_metas: Any, det_labels: Any, mask_preds: Any, seg_preds: Any,
                    det_bboxes: Any, cfg: Any = None, **kwargs: Any) -> Any:
        """Results of each image."""
