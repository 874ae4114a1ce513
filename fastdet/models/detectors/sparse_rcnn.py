"""Sparse R-CNN (arXiv 2011.12450)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..builder import DETECTORS
from .base import Meta
from .two_stage import TwoStageDetector

__all__ = ["SparseRCNN"]


@DETECTORS.register_module()
class SparseRCNN(TwoStageDetector):
    """Learned proposals and a SparseRoIHead.

    Args:
        args: of :class:`TwoStageDetector`.
        kwargs: likewise.

    Raises:
        ValueError: there is no ``rpn_head``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.with_rpn:
            raise ValueError(f"{type(self).__name__} needs an rpn_head: its proposals are "
                             "parameters")

    def forward_dummy(self, img: Tensor) -> Any:
        """The heads' raw outputs for images without padding, to count operations."""
        metas = [{"img_shape": (*img.shape[-2:], 3)} for _ in img]
        x = self.extract_feat(img)
        boxes, features, _ = self.rpn_head.forward_dummy(x, metas)
        return self.roi_head.forward_dummy(x, boxes, features, metas)

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None, gt_masks: Any = None,
                      proposals: list[Tensor] | None = None,
                      **kwargs: Any) -> dict[str, Tensor]:
        """Losses of a batch; see :meth:`TwoStageDetector.forward_train`.

        Raises:
            ValueError: proposals or ignored regions are given.
        """
        if proposals is not None:
            raise ValueError(f"{type(self).__name__}: its proposals are parameters, others cannot "
                             "be given")
        for meta in img_metas:
            meta["batch_input_shape"] = tuple(img.shape[-2:])
        x = self.extract_feat(img)
        boxes, features, size = self.rpn_head.forward_train(x, img_metas)
        return self.roi_head.forward_train(
            x, boxes, features, img_metas, gt_bboxes, gt_labels, gt_bboxes_ignore=gt_bboxes_ignore,
            gt_masks=gt_masks, imgs_whwh=size)

    def simple_test(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                    rescale: bool = False) -> Any:
        """Of each image its results; see :meth:`TwoStageDetector.simple_test`."""
        x = self.extract_feat(img)
        boxes, features, size = self.rpn_head.simple_test_rpn(x, img_metas)
        return self.roi_head.simple_test(x, boxes, features, img_metas, imgs_whwh=size,
                                         rescale=rescale)
