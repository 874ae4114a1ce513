"""Classes and boxes of regions (Fast R-CNN, arXiv 1504.08083)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from fastdet.core.bbox import build_bbox_coder
from fastdet.core.bbox.samplers.samples import Samples
from fastdet.core.bbox.transforms import clip_boxes
from fastdet.core.post_processing import multiclass_nms
from fastdet.models.utils import build_linear_layer
from fastdet.runner import BaseModule, force_fp32

from ...builder import HEADS, build_loss
from ...losses.utils import at_least_float32

__all__ = ["BBoxHead", "BBoxTargets"]

#: Labels [N], their weights [N], boxes [N, 4] and their weights [N, 4].
BBoxTargets = tuple[Tensor, Tensor, Tensor, Tensor]


@HEADS.register_module()
class BBoxHead(BaseModule):
    """Two linear layers on pooled regions: classes, and a box for each class.

    Args:
        with_avg_pool: average over the region first.
        with_cls: predict classes.
        with_reg: predict boxes.
        roi_feat_size: of the pooled regions.
        in_channels: of the pooled regions.
        num_classes: foreground classes; background is the label ``num_classes``.
        bbox_coder: its config.
        reg_class_agnostic: one box for all classes.
        reg_decoded_bbox: the box loss is on boxes in pixels.
        reg_predictor_cfg: config of the last layer of the boxes.
        cls_predictor_cfg: config of the last layer of the classes.
        loss_cls: config of the classification loss.
        loss_bbox: config of the box loss.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: nothing is to be predicted.
    """

    loss_cls: Any
    loss_bbox: Any
    bbox_coder: Any
    fc_cls: Any
    fc_reg: Any

    def __init__(self, with_avg_pool: bool = False, with_cls: bool = True, with_reg: bool = True,
                 roi_feat_size: Any = 7, in_channels: int = 256, num_classes: int = 80,
                 bbox_coder: dict[str, Any] = dict(
                     type="DeltaXYWHBBoxCoder", clip_border=True,
                     target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]),
                 reg_class_agnostic: bool = False, reg_decoded_bbox: bool = False,
                 reg_predictor_cfg: dict[str, Any] = dict(type="Linear"),
                 cls_predictor_cfg: dict[str, Any] = dict(type="Linear"),
                 loss_cls: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=False,
                                                 loss_weight=1.0),
                 loss_bbox: dict[str, Any] = dict(type="SmoothL1Loss", beta=1.0,
                                                  loss_weight=1.0),
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if not (with_cls or with_reg):
            raise ValueError(f"{type(self).__name__}: with_cls and with_reg are both false")
        self.with_avg_pool = with_avg_pool
        self.with_cls = with_cls
        self.with_reg = with_reg
        self.roi_feat_size = _pair(roi_feat_size)
        self.roi_feat_area = self.roi_feat_size[0] * self.roi_feat_size[1]
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.reg_class_agnostic = reg_class_agnostic
        self.reg_decoded_bbox = reg_decoded_bbox
        self.reg_predictor_cfg = reg_predictor_cfg
        self.cls_predictor_cfg = cls_predictor_cfg
        self.fp16_enabled = False
        self.bbox_coder = build_bbox_coder(bbox_coder)
        self.loss_cls = build_loss(loss_cls)
        self.loss_bbox = build_loss(loss_bbox)
        if with_avg_pool:
            self.avg_pool = nn.AvgPool2d(self.roi_feat_size)
            width = in_channels
        else:
            width = in_channels * self.roi_feat_area
        if with_cls:
            self.fc_cls = self.predictor(cls_predictor_cfg, width, self.cls_channels)
        if with_reg:
            self.fc_reg = self.predictor(reg_predictor_cfg, width, self.reg_channels)
        self.debug_imgs = None
        if init_cfg is None:
            self.init_cfg = [
                *([dict(type="Normal", std=0.01, override=dict(name="fc_cls"))] * with_cls),
                *([dict(type="Normal", std=0.001, override=dict(name="fc_reg"))] * with_reg)]

    @staticmethod
    def predictor(cfg: dict[str, Any], inputs: int, outputs: int) -> nn.Module:
        """A last layer."""
        return build_linear_layer(cfg, in_features=inputs, out_features=outputs)

    @property
    def cls_channels(self) -> int:
        """Outputs of the last layer of the classes."""
        if self.custom_cls_channels:
            return self.loss_cls.get_cls_channels(self.num_classes)
        return self.num_classes + 1

    @property
    def reg_channels(self) -> int:
        """Outputs of the last layer of the boxes."""
        return 4 if self.reg_class_agnostic else 4 * self.num_classes

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

    def pooled(self, x: Tensor) -> Tensor:
        """Regions [N, C, h, w] to rows; the mean over a region of any size, none included."""
        return self.avg_pool(x).flatten(1) if x.numel() else x.mean((-1, -2))

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Logits [N, C + 1] and deltas [N, 4 C] of regions [N, in_channels, h, w]."""
        if self.with_avg_pool:
            x = self.pooled(x)
        elif x.dim() > 2:
            x = x.flatten(1)
        return (self.fc_cls(x) if self.with_cls else None,
                self.fc_reg(x) if self.with_reg else None)

    # --- training ---------------------------------------------------------------------------
    def get_targets(self, sampling_results: Any, gt_bboxes: Any, gt_labels: Any,
                    rcnn_train_cfg: Any, concat: bool = True) -> Any:
        """What each sampled region learns.

        Args:
            sampling_results: :class:`Samples`, or one ``SamplingResult`` of each image.
            gt_bboxes: not used; the samples know their gts.
            gt_labels: likewise.
            rcnn_train_cfg: ``pos_weight`` is read.
            concat: of all images in a row, else of each.

        Returns:
            :data:`BBoxTargets`; without ``concat`` four lists.
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

    def targets(self, samples: Samples, cfg: Any) -> BBoxTargets:
        """What each row of ``samples`` learns; the weights of padding are zero."""
        weight = cfg.get("pos_weight", -1)
        boxes, dtype = samples.boxes, samples.boxes.dtype
        pos, valid = samples.pos, samples.valid
        wanted = samples.gt_boxes.to(dtype)
        if not self.reg_decoded_bbox:
            # A box that is not positive gets one of a pixel to encode: no logarithm of zero.
            unit = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
            here = pos[..., None]
            wanted = self.bbox_coder.encode(
                torch.where(here, boxes, unit).flatten(0, 1),
                torch.where(here, wanted, unit).flatten(0, 1)).view_as(boxes)
        pos_weight = 1.0 if weight <= 0 else weight
        label_weights = torch.where(pos, pos_weight, valid.to(dtype))
        return (torch.where(pos, samples.gt_labels, self.num_classes).flatten(),
                label_weights.flatten(),
                torch.where(pos[..., None], wanted, 0.0).flatten(0, 1),
                pos[..., None].to(dtype).expand(*pos.shape, 4).flatten(0, 1))

    def accuracy(self, cls_score: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Percentage of the regions of positive weight whose class is right."""
        if self.custom_accuracy:
            rows = weights > 0
            return self.loss_cls.get_accuracy(cls_score[rows], labels[rows])
        counts = (weights > 0).float()
        right = ((cls_score.argmax(1) == labels) * counts).sum()
        return {"acc": (right * (100.0 / counts.sum().clamp(min=1.0))).view(1)}

    @force_fp32(apply_to=("cls_score", "bbox_pred"))
    def loss(self, cls_score: Tensor | None, bbox_pred: Tensor | None, rois: Tensor,
             labels: Tensor, label_weights: Tensor, bbox_targets: Tensor, bbox_weights: Tensor,
             reduction_override: str | None = None,
             num_rois: Tensor | None = None) -> dict[str, Any]:
        """Losses of regions.

        Args:
            cls_score: [N, C + 1].
            bbox_pred: [N, 4 C].
            rois: [N, 5].
            labels: [N].
            label_weights: [N].
            bbox_targets: [N, 4].
            bbox_weights: [N, 4].
            reduction_override: in place of the losses' own reduction.
            num_rois: what the box loss is divided by, where some of the N are padding.

        Returns:
            ``loss_cls`` and ``acc``, ``loss_bbox``.
        """
        losses: dict[str, Any] = {}
        if cls_score is not None and cls_score.numel() > 0:
            total = at_least_float32((label_weights > 0).to(cls_score.dtype)).sum().clamp(min=1.0)
            of_class = self.loss_cls(cls_score, labels, label_weights, avg_factor=total,
                                     reduction_override=reduction_override)
            losses.update(of_class if isinstance(of_class, dict) else {"loss_cls": of_class})
            losses.update(self.accuracy(cls_score, labels, label_weights))
        if bbox_pred is not None:
            losses["loss_bbox"] = self.bbox_loss(bbox_pred, rois, labels, bbox_targets,
                                                 bbox_weights, reduction_override, num_rois)
        return losses

    def bbox_loss(self, bbox_pred: Tensor, rois: Tensor, labels: Tensor, bbox_targets: Tensor,
                  bbox_weights: Tensor, reduction_override: str | None,
                  num_rois: Tensor | None) -> Tensor:
        """The loss of the box of each positive's own class."""
        pos = (labels >= 0) & (labels < self.num_classes)
        if self.reg_decoded_bbox:
            bbox_pred = self.bbox_coder.decode(rois[:, 1:], bbox_pred)
        own = bbox_pred.view(len(bbox_pred), -1, 4)
        row = torch.where(pos, labels, 0) if own.shape[1] > 1 else torch.zeros_like(labels)
        own = own.gather(1, row[:, None, None].expand(-1, 1, 4))[:, 0]
        # What is not positive predicts its target: no NaN whose weight is zero.
        own = torch.where(pos[:, None], own, bbox_targets.to(own.dtype))
        total = bbox_targets.size(0) if num_rois is None else at_least_float32(
            num_rois.to(own.dtype))
        return self.loss_bbox(own, bbox_targets, bbox_weights, avg_factor=total,
                              reduction_override=reduction_override)

    # --- detections -------------------------------------------------------------------------
    def probabilities(self, cls_score: Any) -> Tensor | None:
        """[N, C + 1] of logits, or of the mean of a list of logits."""
        if isinstance(cls_score, list):
            cls_score = sum(cls_score) / float(len(cls_score))
        if self.custom_activation:
            return self.loss_cls.get_activation(cls_score)
        return None if cls_score is None else F.softmax(cls_score, dim=-1)

    def boxes(self, rois: Tensor, bbox_pred: Tensor | None, max_shape: Any) -> Tensor:
        """Boxes [..., 4 C] of RoIs [..., 5]; the RoIs themselves where none are predicted."""
        if bbox_pred is not None:
            return self.bbox_coder.decode(rois[..., 1:], bbox_pred, max_shape=max_shape)
        return rois[..., 1:] if max_shape is None else clip_boxes(rois[..., 1:], max_shape)

    @force_fp32(apply_to=("cls_score", "bbox_pred"))
    def get_bboxes(self, rois: Tensor, cls_score: Any, bbox_pred: Tensor | None, img_shape: Any,
                   scale_factor: Any, rescale: bool = False,
                   cfg: Any = None) -> tuple[Tensor, Tensor | None]:
        """Detections of one image.

        Args:
            rois: [N, 5].
            cls_score: [N, C + 1], or a list of such.
            bbox_pred: [N, 4 C].
            img_shape: (height, width, ...), to clip to.
            scale_factor: (w, h, w, h).
            rescale: in pixels of the original image.
            cfg: ``score_thr``, ``nms`` and ``max_per_img``; without it nothing is suppressed.

        Returns:
            Boxes and scores ``[n, 5]`` and labels ``[n]``; without ``cfg`` boxes ``[N, 4 C]`` and
            probabilities ``[N, C + 1]``.
        """
        scores = self.probabilities(cls_score)
        boxes = self.boxes(rois, bbox_pred, img_shape)
        if rescale and len(boxes):
            factor = boxes.new_tensor(scale_factor)
            boxes = (boxes.view(len(boxes), -1, 4) / factor).view(len(boxes), -1)
        if cfg is None:
            return boxes, scores
        found = multiclass_nms(boxes, scores, cfg["score_thr"],  # type: ignore[arg-type]
                               cfg["nms"], cfg["max_per_img"])
        return found[0], found[1]

    # --- cascades ---------------------------------------------------------------------------
    def regress_by_class(self, rois: Tensor, label: Tensor, bbox_pred: Tensor,
                         img_meta: dict[str, Any]) -> Tensor:
        """RoIs moved to the box of one class.

        Args:
            rois: [N, 4] or [N, 5].
            label: [N], the classes.
            bbox_pred: [N, 4 C] or [N, 4].
            img_meta: of the image they are all in.
        """
        if rois.size(1) not in (4, 5):
            raise ValueError(f"regress_by_class: rois must be [N, 4] or [N, 5], got "
                             f"{list(rois.shape)}")
        if not self.reg_class_agnostic:
            inds = torch.stack([label * 4 + i for i in range(4)], 1)
            bbox_pred = bbox_pred.gather(1, inds)
        boxes = self.bbox_coder.decode(rois[:, -4:], bbox_pred, max_shape=img_meta["img_shape"])
        return torch.cat([rois[:, :-4], boxes], dim=1)

    @force_fp32(apply_to=("bbox_preds",))
    def refine_bboxes(self, rois: Tensor, labels: Tensor, bbox_preds: Tensor,
                      pos_is_gts: list[Tensor], img_metas: list[dict[str, Any]]) -> list[Tensor]:
        """RoIs of each image moved by the predictions, without the gts among them.

        Args:
            rois: [N, 5], of all images, positives of an image first.
            labels: [N].
            bbox_preds: [N, 4 C] or [N, 4].
            pos_is_gts: of each image, [p], which positives are gts.
            img_metas: of each image.
        """
        refined = []
        for i, (is_gt, meta) in enumerate(zip(pos_is_gts, img_metas)):
            rows = (rois[:, 0] == i).nonzero().squeeze(1)
            keep = rows.new_ones(len(rows), dtype=torch.bool)
            keep[:len(is_gt)] = is_gt == 0
            boxes = self.regress_by_class(rois[rows, 1:], labels[rows], bbox_preds[rows], meta)
            refined.append(boxes[keep])
        return refined
