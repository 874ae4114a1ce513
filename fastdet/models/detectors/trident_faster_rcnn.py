"""TridentNet (arXiv 1901.01892)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..builder import DETECTORS
from .base import Meta
from .faster_rcnn import FasterRCNN

__all__ = ["TridentFasterRCNN"]


@DETECTORS.register_module()
class TridentFasterRCNN(FasterRCNN):
    """Faster R-CNN on a TridentResNet, whose branches are a batch, with a TridentRoIHead.

    Args:
        backbone: its config.
        rpn_head: its config.
        roi_head: its config.
        train_cfg: as of ``TwoStageDetector``.
        test_cfg: as of ``TwoStageDetector``.
        neck: its config.
        pretrained: the old spelling of the backbone's ``init_cfg``.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: the backbone's and the head's branches differ.
    """

    def __init__(self, backbone: dict[str, Any], rpn_head: dict[str, Any],
                 roi_head: dict[str, Any], train_cfg: Any, test_cfg: Any,
                 neck: dict[str, Any] | None = None, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(backbone, rpn_head, roi_head, train_cfg, test_cfg, neck, pretrained,
                         init_cfg)
        for name in ("num_branch", "test_branch_idx"):
            if getattr(self.backbone, name) != getattr(self.roi_head, name):
                raise ValueError(
                    f"TridentFasterRCNN: {name} is {getattr(self.backbone, name)} in the backbone "
                    f"and {getattr(self.roi_head, name)} in the RoI head")
        self.num_branch: int = self.backbone.num_branch
        self.test_branch_idx: int = self.backbone.test_branch_idx

    def _of_branches(self, img_metas: list[Meta]) -> list[Meta]:
        """Metas of what the backbone makes of a batch in a test."""
        return img_metas * (self.num_branch if self.test_branch_idx == -1 else 1)

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      **kwargs: Any) -> dict[str, Any]:
        """Losses of a batch.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            gt_bboxes: [G, 4] of each image, corners in pixels.
            gt_labels: [G] of each image.
            kwargs: not used, as in MMDetection: regions to ignore are not either.
        """
        n = self.num_branch
        return super().forward_train(img, img_metas * n, gt_bboxes * n, gt_labels * n)

    def simple_test(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                    proposals: list[Tensor] | None = None, rescale: bool = False) -> Any:
        """Of each image arrays ``[n, 5]`` for each class.

        Args:
            img: [B, 3, H, W]; with several branches one image.
            img_metas: of each image.
            proposals: of each branch, where none are made here.
            rescale: in pixels of the original image.
        """
        return super().simple_test(img, self._of_branches(img_metas), proposals, rescale)

    def aug_test(self, imgs: list[Tensor], img_metas: list[list[Meta]],  # type: ignore[override]
                 rescale: bool = False) -> Any:
        """As :meth:`simple_test`, of one image from several views."""
        x = self.extract_feats(imgs)
        proposals = self.rpn_head.aug_test_rpn(x, [self._of_branches(m) for m in img_metas])
        return self.roi_head.aug_test(x, proposals, img_metas, rescale=rescale)
