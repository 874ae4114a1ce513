"""What every head of regions has."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastdet.core.bbox import GroundTruth, Proposals, RandomSampler, Samples
from fastdet.runner import BaseModule

from ..builder import build_shared_head

__all__ = ["BaseRoIHead"]

Meta = dict[str, Any]


class BaseRoIHead(BaseModule, metaclass=ABCMeta):
    """The base of heads of regions.

    Args:
        bbox_roi_extractor: config of what pools regions for boxes.
        bbox_head: config of the head of boxes.
        mask_roi_extractor: config of what pools regions for masks; without it masks share the
            boxes' regions.
        mask_head: config of the head of masks.
        shared_head: config of what comes after pooling and before both.
        train_cfg: ``assigner``, ``sampler``, ``pos_weight``, ``mask_size``.
        test_cfg: ``score_thr``, ``nms``, ``max_per_img``, ``mask_thr_binary``.
        pretrained: the old spelling of the shared head's ``init_cfg``.
        init_cfg: how weights are initialised.
    """

    bbox_roi_extractor: Any
    bbox_head: Any
    mask_roi_extractor: Any
    mask_head: Any
    shared_head: Any

    def __init__(self, bbox_roi_extractor: Any = None, bbox_head: Any = None,
                 mask_roi_extractor: Any = None, mask_head: Any = None, shared_head: Any = None,
                 train_cfg: Any = None, test_cfg: Any = None, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        if shared_head is not None:
            self.shared_head = build_shared_head({**shared_head, "pretrained": pretrained})
        if bbox_head is not None:
            self.init_bbox_head(bbox_roi_extractor, bbox_head)
        if mask_head is not None:
            self.init_mask_head(mask_roi_extractor, mask_head)
        self.init_assigner_sampler()

    def _has(self, name: str) -> bool:
        return getattr(self, name, None) is not None

    @property
    def with_bbox(self) -> bool:
        """Whether boxes are predicted."""
        return self._has("bbox_head")

    @property
    def with_mask(self) -> bool:
        """Whether masks are predicted."""
        return self._has("mask_head")

    @property
    def with_shared_head(self) -> bool:
        """Whether something comes between pooling and the two heads."""
        return self._has("shared_head")

    @abstractmethod
    def init_bbox_head(self, bbox_roi_extractor: Any, bbox_head: Any) -> None:
        """Build what predicts boxes."""

    @abstractmethod
    def init_mask_head(self, mask_roi_extractor: Any, mask_head: Any) -> None:
        """Build what predicts masks."""

    @abstractmethod
    def init_assigner_sampler(self) -> None:
        """Build what chooses regions to train on."""

    @abstractmethod
    def forward_train(self, x: Sequence[Tensor], img_meta: list[Meta], proposal_list: Any,
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None, gt_masks: Any = None,
                      **kwargs: Any) -> dict[str, Any]:
        """Losses of feature maps and proposals."""

    @abstractmethod
    def simple_test(self, x: Sequence[Tensor], proposal_list: Any, img_meta: list[Meta],
                    proposals: Any = None, rescale: bool = False, **kwargs: Any) -> Any:
        """Results of each image."""

    @abstractmethod
    def aug_test(self, x: list[Any], proposal_list: Any, img_metas: list[list[Meta]],
                 rescale: bool = False, **kwargs: Any) -> Any:
        """Results of one image from several views."""

    async def async_simple_test(self, x: Sequence[Tensor], proposal_list: Any,
                                img_metas: list[Meta], proposals: Any = None,
                                rescale: bool = False, **kwargs: Any) -> Any:
        """:meth:`simple_test` for callers in an event loop."""
        return self.simple_test(x, proposal_list, img_metas, proposals, rescale, **kwargs)

    def samples(self, assigner: Any, sampler: Any, x: Sequence[Tensor], proposal_list: Any,
                gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                gt_bboxes_ignore: list[Tensor] | None) -> Samples:
        """The regions that are trained.

        Args:
            assigner: which gt each proposal learns.
            sampler: which proposals are trained; a random one works on the batch at once.
            x: feature maps, for samplers that look at them.
            proposal_list: [n, 4 or more] of each image, or :class:`Proposals`.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            gt_bboxes_ignore: [g, 4] of each image.
        """
        if type(sampler) is not RandomSampler:
            return Samples.pad(self.sampled(assigner, sampler, x, proposal_list, gt_bboxes,
                                            gt_labels, gt_bboxes_ignore))
        proposals = Proposals.pad(proposal_list)
        gts = GroundTruth.pad(gt_bboxes, gt_labels, gt_bboxes_ignore)
        boxes, valid = proposals.boxes[..., :4].detach(), proposals.valid
        gt_inds, overlaps = assigner.assign_batch(boxes, gts, valid)
        added = gts.labels.shape[1] if sampler.add_gt_as_proposals else 0
        if added:
            place = torch.arange(added, device=boxes.device)
            there = place < gts.counts[:, None]
            boxes = torch.cat([gts.boxes.to(boxes.dtype), boxes], dim=1)
            valid = torch.cat([there, valid], dim=1)
            gt_inds = torch.cat([torch.where(there, place + 1, -1), gt_inds], dim=1)
            overlaps = torch.cat([there.to(overlaps.dtype), overlaps], dim=1)
        self.note_overlaps(overlaps, valid)
        return Samples.draw(boxes, valid, gt_inds, gts, sampler.num, sampler.pos_fraction,
                            sampler.neg_pos_ub, added)

    def sampled(self, assigner: Any, sampler: Any, x: Sequence[Tensor], proposal_list: Any,
                gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                gt_bboxes_ignore: list[Tensor] | None) -> list[Any]:
        """What the sampler chooses, image by image; the arguments are those of :meth:`samples`."""
        ignore: Sequence[Tensor | None] = gt_bboxes_ignore or [None] * len(gt_bboxes)
        results, overlaps = [], []
        for i, boxes in enumerate(proposal_list):
            assigned = assigner.assign(boxes, gt_bboxes[i], ignore[i], gt_labels[i])
            results.append(sampler.sample(assigned, boxes, gt_bboxes[i], gt_labels[i],
                                          feats=[level[i][None] for level in x]))
            overlaps.append(assigned.max_overlaps)
        padded = pad_sequence(overlaps, batch_first=True, padding_value=-1.0)
        self.note_overlaps(padded, padded >= 0)
        return results

    def note_overlaps(self, overlaps: Tensor, valid: Tensor) -> None:
        """Called with each candidate's largest IoU [B, M]; for heads that learn from them."""
        return
