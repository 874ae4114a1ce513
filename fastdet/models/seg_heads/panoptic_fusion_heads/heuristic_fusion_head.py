"""Instances over stuff, the surest first (Panoptic Segmentation, arXiv 1801.00868)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.core.evaluation.panoptic_utils import INSTANCE_OFFSET

from ...builder import HEADS
from .base_panoptic_fusion_head import BasePanopticFusionHead

__all__ = ["HeuristicFusionHead"]


@HEADS.register_module()
class HeuristicFusionHead(BasePanopticFusionHead):
    """Lays the masks of instances over the classes of pixels.

    Args:
        num_things_classes: classes of things, the first ones.
        num_stuff_classes: classes of stuff, behind them.
        test_cfg: ``mask_thr_binary``, ``mask_overlap`` and ``stuff_area_limit``.
        init_cfg: how weights are initialised.
        kwargs: not used.
    """

    def __init__(self, num_things_classes: int = 80, num_stuff_classes: int = 53,
                 test_cfg: Any = None, init_cfg: Any = None, **kwargs: Any) -> None:
        super().__init__(num_things_classes, num_stuff_classes, test_cfg, None, init_cfg,
                         **kwargs)

    def forward_train(self, gt_masks: Any = None, gt_semantic_seg: Any = None,
                      **kwargs: Any) -> dict[str, Any]:
        """Nothing here is trained."""
        return {}

    @staticmethod
    def _lay_masks(bboxes: Tensor, labels: Tensor, masks: Tensor,
                   overlap_thr: float) -> tuple[Tensor, list[int]]:
        """Which instance, from 1 up, each pixel is of, [H, W], and the instances' classes.

        A mask whose part ``overlap_thr`` is under better ones is left out.
        """
        order = bboxes[:, -1].argsort(descending=True)
        ids = torch.zeros(masks.shape[-2:], dtype=torch.long, device=masks.device)
        left: list[int] = []
        for label, mask in zip(labels[order].tolist(), masks[order]):
            taken = ids > 0
            area, hidden = (n.float() for n in (mask.sum(), (mask & taken).sum()))
            if area == 0 or hidden / (area + 1e-5) > overlap_thr:
                continue
            left.append(label)
            ids = torch.where(mask & ~taken, len(left), ids)
        return ids, left

    def simple_test(self, det_bboxes: Tensor, det_labels: Tensor,  # type: ignore[override]
                    mask_preds: Tensor, seg_preds: Tensor, **kwargs: Any) -> Tensor:
        """A class and an instance for each pixel of one image.

        Args:
            det_bboxes: [n, 5], boxes and scores.
            det_labels: [n].
            mask_preds: [n, H, W], probabilities.
            seg_preds: [classes of stuff + 1, H, W], logits, things last.
            kwargs: not used.

        Returns:
            [H, W] int64: the class of stuff; of things, the class plus ``INSTANCE_OFFSET`` times
            the instance, counted from 1; ``num_classes`` where there is neither.
        """
        cfg = self.test_cfg
        ids, labels = self._lay_masks(det_bboxes, det_labels,
                                      mask_preds >= cfg["mask_thr_binary"], cfg["mask_overlap"])
        out = seg_preds.argmax(0) + self.num_things_classes
        sizes = torch.bincount(ids.flatten(), minlength=len(labels) + 1).tolist()
        instance = 1
        for i, (label, size) in enumerate(zip(labels, sizes[1:]), start=1):
            if size:  # a mask may be all under better ones
                out[ids == i] = label + instance * INSTANCE_OFFSET
                instance += 1
        areas = torch.bincount((out % INSTANCE_OFFSET).flatten(), minlength=self.num_classes + 1)
        small = areas < cfg["stuff_area_limit"]
        small[:self.num_things_classes] = False
        stuff = out < INSTANCE_OFFSET
        return torch.where(stuff & small[out % INSTANCE_OFFSET], self.num_classes, out)
