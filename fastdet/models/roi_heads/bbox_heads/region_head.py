"""What heads of classes and boxes of regions share, however they predict boxes."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdet.core.bbox.samplers.samples import Samples
from fastdet.core.bbox.transforms import clip_boxes
from fastdet.core.post_processing import multiclass_nms
from fastdet.runner import BaseModule, force_fp32

from ...losses.utils import at_least_float32

__all__ = ["RegionHead"]


class RegionHead(BaseModule, metaclass=ABCMeta):
    """What heads of classes and boxes share: the classes, and how samples become targets."""

    loss_cls: Any
    num_classes: int

    @property
    def custom_cls_channels(self) -> bool:
        """Whether the loss says how many outputs classes have."""
        return getattr(self.loss_cls, "custom_cls_channels", False)

    @property
    def custom_activation(self) -> bool:
        """Whether the loss turns outputs into probabilities."""
        return getattr(self.loss_cls, "custom_activation", False)

    @property
    def custom_accuracy(self) -> bool:
        """Whether the loss says what is right."""
        return getattr(self.loss_cls, "custom_accuracy", False)

    def get_targets(self, sampling_results: Any, gt_bboxes: Any, gt_labels: Any,
                    rcnn_train_cfg: Any, concat: bool = True) -> Any:
        """What each sampled region learns, a tuple of tensors.

        Args:
            sampling_results: :class:`Samples`, or one ``SamplingResult`` of each image.
            gt_bboxes: not used; the samples know their gts.
            gt_labels: likewise.
            rcnn_train_cfg: ``pos_weight`` is read.
            concat: of all images in a row, else of each.

        Returns:
            See :meth:`targets`; without ``concat`` as many lists.
        """
        if isinstance(sampling_results, Samples):
            samples = sampling_results
        else:
            samples = Samples.pad(sampling_results)
        targets = self.targets(samples, rcnn_train_cfg)
        if not concat:
            keep = samples.valid
            each = [[t.view(*keep.shape, *t.shape[1:])[i][keep[i]] for i in range(len(keep))]
                    for t in targets]
            return tuple(each)
        if isinstance(sampling_results, Samples):
            return targets
        rows = samples.valid.flatten()
        return tuple(t[rows] for t in targets)

    @abstractmethod
    def targets(self, samples: Samples, cfg: Any) -> tuple[Tensor, ...]:
        """What each row of ``samples`` learns; the weights of padding are zero."""

    def label_targets(self, samples: Samples, cfg: Any) -> tuple[Tensor, Tensor]:
        """Labels [N] and their weights [N]."""
        weight = cfg.get("pos_weight", -1)
        valid = samples.valid.to(samples.boxes.dtype)
        return (torch.where(samples.pos, samples.gt_labels, self.num_classes).flatten(),
                torch.where(samples.pos, 1.0 if weight <= 0 else weight, valid).flatten())

    def accuracy(self, cls_score: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Percentage of the regions of positive weight whose class is right."""
        if self.custom_accuracy:
            rows = weights > 0
            return self.loss_cls.get_accuracy(cls_score[rows], labels[rows])
        counts = (weights > 0).float()
        right = ((cls_score.argmax(1) == labels) * counts).sum()
        return {"acc": (right * (100.0 / counts.sum().clamp(min=1.0))).view(1)}

    def class_losses(self, cls_score: Tensor | None, labels: Tensor, label_weights: Tensor,
                     reduction_override: str | None) -> dict[str, Any]:
        """``loss_cls`` and ``acc`` of logits [N, C + 1]; nothing where there are none."""
        if cls_score is None or cls_score.numel() == 0:
            return {}
        total = at_least_float32((label_weights > 0).to(cls_score.dtype)).sum().clamp(min=1.0)
        of_class = self.loss_cls(cls_score, labels, label_weights, avg_factor=total,
                                 reduction_override=reduction_override)
        losses = dict(of_class) if isinstance(of_class, dict) else {"loss_cls": of_class}
        losses.update(self.accuracy(cls_score, labels, label_weights))
        return losses

    def probabilities(self, cls_score: Any) -> Tensor | None:
        """[N, C + 1] of logits, or of the mean of a list of logits."""
        if isinstance(cls_score, list):
            cls_score = sum(cls_score) / float(len(cls_score))
        if self.custom_activation:
            return self.loss_cls.get_activation(cls_score)
        return None if cls_score is None else F.softmax(cls_score, dim=-1)

    @abstractmethod
    def decoded(self, rois: Tensor, bbox_pred: Any,
                max_shape: Any) -> tuple[Tensor, Tensor | None]:
        """Boxes of RoIs [N, 5], and what their scores are multiplied by, [N]."""

    @force_fp32(apply_to=("cls_score", "bbox_pred"))
    def get_bboxes(self, rois: Tensor, cls_score: Any, bbox_pred: Any, img_shape: Any,
                   scale_factor: Any, rescale: bool = False,
                   cfg: Any = None) -> tuple[Tensor, Tensor | None]:
        """Detections of one image.

        Args:
            rois: [N, 5].
            cls_score: [N, C + 1], or a list of such.
            bbox_pred: the N predictions, or ``None``: the regions are the boxes.
            img_shape: (height, width, ...), to clip to.
            scale_factor: (w, h, w, h).
            rescale: in pixels of the original image.
            cfg: ``score_thr``, ``nms`` and ``max_per_img``; without it nothing is suppressed.

        Returns:
            Boxes and scores ``[n, 5]`` and labels ``[n]``; without ``cfg`` boxes ``[N, 4 C]`` and
            probabilities ``[N, C + 1]``.
        """
        scores = self.probabilities(cls_score)
        factors = None
        if bbox_pred is not None:
            boxes, factors = self.decoded(rois, bbox_pred, img_shape)
        else:  # the regions themselves
            boxes = rois[:, 1:] if img_shape is None else clip_boxes(rois[:, 1:], img_shape)
        if rescale and len(boxes):
            factor = boxes.new_tensor(scale_factor)
            boxes = (boxes.view(len(boxes), -1, 4) / factor).view(len(boxes), -1)
        if cfg is None:
            return boxes, scores
        found = multiclass_nms(boxes, scores, cfg["score_thr"],  # type: ignore[arg-type]
                               cfg["nms"], cfg["max_per_img"], factors)
        return found[0], found[1]

    @abstractmethod
    def regress_by_class(self, rois: Tensor, label: Tensor, bbox_pred: Any,
                         img_meta: dict[str, Any]) -> Tensor:
        """RoIs moved to the box of one class.

        Args:
            rois: [N, 4] or [N, 5].
            label: [N], the classes.
            bbox_pred: the N predictions.
            img_meta: of the image they are all in.
        """

    @force_fp32(apply_to=("bbox_preds",))
    def refine_bboxes(self, rois: Tensor, labels: Tensor, bbox_preds: Any,
                      pos_is_gts: list[Tensor], img_metas: list[dict[str, Any]]) -> list[Tensor]:
        """RoIs of each image moved by the predictions, without the gts among them.

        Args:
            rois: [N, 5], of all images, positives of an image first.
            labels: [N].
            bbox_preds: the N predictions, a tensor or a tuple of such.
            pos_is_gts: of each image, [p], which positives are gts.
            img_metas: of each image.
        """
        refined = []
        for i, (is_gt, meta) in enumerate(zip(pos_is_gts, img_metas)):
            rows = (rois[:, 0] == i).nonzero().squeeze(1)
            keep = rows.new_ones(len(rows), dtype=torch.bool)
            keep[:len(is_gt)] = is_gt == 0
            pred = (bbox_preds[rows] if isinstance(bbox_preds, Tensor) else
                    tuple(p[rows] for p in bbox_preds))
            boxes = self.regress_by_class(rois[rows, 1:], labels[rows], pred, meta)
            refined.append(boxes[keep])
        return refined
