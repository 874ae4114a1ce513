"""Masks as sums of prototypes (YOLACT, arXiv 1904.02689)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.core.bbox import PseudoSampler
from fastdet.core.post_processing import fast_nms
from fastdet.core.utils import multi_apply
from fastdet.runner import BaseModule

from ..builder import HEADS, build_loss
from ..losses.utils import at_least_float32
from .anchor_head import AnchorHead, AnchorTargets
from .base_dense_head import Meta

__all__ = ["YOLACTHead", "YOLACTProtonet", "YOLACTSegmHead"]


class Positives(NamedTuple):
    """Anchors of one image that learn a mask: which [P], and the gt of each [P]."""

    pos_inds: Tensor
    pos_assigned_gt_inds: Tensor


@HEADS.register_module()
class YOLACTHead(AnchorHead):
    """Classes, boxes and coefficients of prototypes for each anchor.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        anchor_generator: its config.
        loss_cls: config of the classification loss, which must not be reduced with ``use_ohem``.
        loss_bbox: config of the box loss.
        num_head_convs: convolutions that all predictions share.
        num_protos: how many prototypes.
        use_ohem: of the negatives, the hardest ``neg_pos_ratio`` for each positive count.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        init_cfg: how weights are initialised.
        kwargs: of :class:`AnchorHead`.
    """

    def __init__(self, num_classes: int, in_channels: int,
                 anchor_generator: dict[str, Any] = dict(
                     type="AnchorGenerator", octave_base_scale=3, scales_per_octave=1,
                     ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
                 loss_cls: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=False,
                                                 reduction="none", loss_weight=1.0),
                 loss_bbox: dict[str, Any] = dict(type="SmoothL1Loss", beta=1.0,
                                                  loss_weight=1.5),
                 num_head_convs: int = 1, num_protos: int = 32, use_ohem: bool = True,
                 conv_cfg: Any = None, norm_cfg: Any = None,
                 init_cfg: Any = dict(type="Xavier", distribution="uniform", bias=0,
                                      layer="Conv2d"), **kwargs: Any) -> None:
        self.num_head_convs = num_head_convs
        self.num_protos = num_protos
        self.use_ohem = use_ohem
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        super().__init__(num_classes, in_channels, **{
            **kwargs, "loss_cls": loss_cls, "loss_bbox": loss_bbox,
            "anchor_generator": anchor_generator, "init_cfg": init_cfg})
        if use_ohem:
            self.sampler = PseudoSampler()
            self.sampling = False

    def _init_layers(self) -> None:
        self.relu = nn.ReLU(inplace=True)
        width = self.feat_channels
        self.head_convs = nn.ModuleList([
            ConvModule(self.in_channels if i == 0 else width, width, 3, padding=1,
                       conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
            for i in range(self.num_head_convs)])
        self.conv_cls, self.conv_reg, self.conv_coeff = (
            nn.Conv2d(width, self.num_base_priors * n, 3, padding=1)
            for n in (self.cls_out_channels, 4, self.num_protos))

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores, deltas and coefficients [B, A num_protos, H, W] of one level."""
        for conv in self.head_convs:
            x = conv(x)
        return self.conv_cls(x), self.conv_reg(x), self.conv_coeff(x).tanh()

    # --- losses -----------------------------------------------------------------------------
    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> tuple[dict[str, Any], Any]:
        """Losses of each image with ``use_ohem``, else of each level, and the positives.

        Args:
            cls_scores: [B, A (C + 1), H, W] of each level.
            bbox_preds: [B, A 4, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls`` and ``loss_bbox``, lists of scalars; and which anchors of each image learn
            the mask of which gt, as :class:`YOLACTProtonet` takes it.
        """
        levels, targets = self.batch_targets(cls_scores, gt_bboxes, gt_labels, img_metas,
                                             gt_bboxes_ignore)
        found = []
        for inds in targets.gt_inds:
            rows = (inds > 0).nonzero()[:, 0]
            found.append(Positives(rows, inds[rows] - 1))
        if self.use_ohem:
            return self._ohem(cls_scores, bbox_preds, torch.cat(levels), targets), found
        parts = [part.split([len(level) for level in levels], dim=1) for part in targets[:4]]
        total = targets.num_pos + targets.num_neg if self.sampling else targets.num_pos
        of_classes, of_boxes = multi_apply(self.loss_single, cls_scores, bbox_preds, levels,
                                           *parts, num_total_samples=total)
        return {"loss_cls": of_classes, "loss_bbox": of_boxes}, found

    def _ohem(self, cls_scores: list[Tensor], bbox_preds: list[Tensor], anchors: Tensor,
              targets: AnchorTargets) -> dict[str, list[Tensor]]:
        """Losses of each image: all positives and the hardest negatives."""
        scores, deltas = (
            torch.cat([at_least_float32(m).permute(0, 2, 3, 1).reshape(len(m), -1, n)
                       for m in maps], dim=1)
            for maps, n in ((cls_scores, self.cls_out_channels), (bbox_preds, 4)))
        each = self.loss_cls(scores.flatten(0, 1), targets.labels.flatten(),
                             targets.label_weights.flatten()).view_as(targets.labels)
        pos, neg = targets.gt_inds > 0, targets.gt_inds == 0
        num_pos = pos.sum(1)
        wanted = torch.where(num_pos > 0, num_pos * self.train_cfg["neg_pos_ratio"],
                             neg.sum(1)).minimum(neg.sum(1))
        hardest = torch.where(neg, each, -torch.inf).sort(dim=1, descending=True).values
        place = torch.arange(each.shape[1], device=each.device)
        hard = torch.where(place < wanted[:, None], hardest, 0.0).sum(1)
        total = targets.num_pos.to(each.dtype)
        of_class = (torch.where(pos, each, 0.0).sum(1) + hard) / total
        if self.reg_decoded_bbox:
            deltas = self.bbox_coder.decode(anchors.expand(len(deltas), -1, -1), deltas)
        of_box = [self.loss_bbox(*one, avg_factor=total)
                  for one in zip(deltas, targets.boxes, targets.box_weights)]
        return {"loss_cls": list(of_class.split(1)), "loss_bbox": of_box}

    # --- detections -------------------------------------------------------------------------
    def get_bboxes(self, cls_scores: list[Tensor],  # type: ignore[override]
                   bbox_preds: list[Tensor], coeff_preds: list[Tensor],
                   img_metas: list[Meta], cfg: Any = None,
                   rescale: bool = False) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Detections of each image by fast NMS.

        Args:
            cls_scores: [B, A (C + 1), H, W] of each level.
            bbox_preds: [B, A 4, H, W] of each level.
            coeff_preds: [B, A num_protos, H, W] of each level.
            img_metas: of each image.
            cfg: settings in place of ``test_cfg``: ``nms_pre``, ``score_thr``, ``iou_thr``,
                ``top_k``, ``max_per_img``.
            rescale: in pixels of the original image.

        Returns:
            Of each image boxes and scores ``[n, 5]``, labels ``[n]``, coefficients ``[n, K]``.
        """
        cfg = self.test_cfg if cfg is None else cfg
        priors = self.prior_generator.grid_priors(
            [m.shape[-2:] for m in cls_scores], dtype=cls_scores[0].dtype,
            device=cls_scores[0].device)
        shapes = [meta["img_shape"] for meta in img_metas]
        levels = []
        for prior, score, delta, coeff in zip(
                priors, self.flat(cls_scores, self.cls_out_channels), self.flat(bbox_preds, 4),
                self.flat(coeff_preds, self.num_protos)):
            score = score.sigmoid() if self.use_sigmoid_cls else score.softmax(-1)
            own = prior.expand(len(score), -1, -1)
            num = cfg.get("nms_pre", -1)
            if 0 < num < len(prior):
                best = score if self.use_sigmoid_cls else score[..., :-1]
                rows = best.amax(2).topk(num).indices[..., None]
                own, delta, score, coeff = (
                    t.gather(1, rows.expand(-1, -1, t.shape[2]))
                    for t in (own, delta, score, coeff))
            levels.append((self.bbox_coder.decode(own, delta, max_shape=shapes), score, coeff))
        boxes, scores, coeffs = (torch.cat(part, dim=1) for part in zip(*levels))
        if rescale:
            boxes = boxes / torch.stack(
                [boxes.new_tensor(meta["scale_factor"]) for meta in img_metas])[:, None]
        if self.use_sigmoid_cls:  # fast NMS takes the background last
            scores = F.pad(scores, (0, 1))
        return [fast_nms(*one, cfg["score_thr"], cfg["iou_thr"], cfg["top_k"], cfg["max_per_img"])
                for one in zip(boxes, scores, coeffs)]

    def simple_test(self, feats: Sequence[Tensor], img_metas: list[Meta],  # type: ignore[override]
                    rescale: bool = False) -> tuple[tuple[Tensor, ...], ...]:
        """Boxes and scores, labels and coefficients, of each image each."""
        scores, boxes, coeffs = self(feats)
        found = self.get_bboxes(scores, boxes, coeffs, img_metas, rescale=rescale)
        return tuple(zip(*found))


@HEADS.register_module()
class YOLACTSegmHead(BaseModule):
    """A semantic segmentation that helps to train.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature map.
        loss_segm: config of the loss.
        init_cfg: how weights are initialised.
    """

    def __init__(self, num_classes: int, in_channels: int = 256,
                 loss_segm: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                  loss_weight=1.0),
                 init_cfg: Any = dict(type="Xavier", distribution="uniform",
                                      override=dict(name="segm_conv"))) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.loss_segm = build_loss(loss_segm)
        self.segm_conv = nn.Conv2d(in_channels, num_classes, 1)
        self.fp16_enabled = False

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C, h, w] of a feature map."""
        return self.segm_conv(x)

    def loss(self, segm_pred: Tensor, gt_masks: list[Tensor],
             gt_labels: list[Tensor]) -> dict[str, list[Tensor]]:
        """``loss_segm`` of each image.

        Args:
            segm_pred: [B, C, h, w].
            gt_masks: [G, H, W] of each image.
            gt_labels: [G] of each image.
        """
        segm_pred = at_least_float32(segm_pred)
        total = segm_pred[:, 0].numel()
        return {"loss_segm": [
            self.loss_segm(pred, self.get_targets(pred, masks, labels), avg_factor=total)
            for pred, masks, labels in zip(segm_pred, gt_masks, gt_labels)]}

    def get_targets(self, segm_pred: Tensor, gt_masks: Tensor, gt_labels: Tensor) -> Tensor:
        """Where each class is in one image, [C, h, w]; class ``c`` stands in row ``c - 1``, as in
        MMDetection, and the first in the last."""
        target = torch.zeros_like(segm_pred, requires_grad=False)
        if len(gt_masks) == 0:
            return target
        small = shrunk(gt_masks, segm_pred)
        return target.index_reduce(0, (gt_labels - 1) % self.num_classes, small, "amax")


def shrunk(masks: Tensor, like: Tensor) -> Tensor:
    """Masks [G, H, W] as zeros and ones of the size and type of ``like`` [..., h, w]."""
    size = tuple(like.shape[-2:])
    small = F.interpolate(masks[None].float(), size, mode="bilinear", align_corners=False)[0]
    return (small > 0.5).to(like.dtype)


class InterpolateLayer(BaseModule):
    """``torch.nn.functional.interpolate`` as a layer.

    Args:
        scale_factor: of height and width.
    """

    def __init__(self, scale_factor: int) -> None:
        super().__init__()
        self.scale_factor = scale_factor

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, C, H, W], larger."""
        return F.interpolate(x, scale_factor=self.scale_factor, mode="bilinear",
                             align_corners=False)


@HEADS.register_module()
class YOLACTProtonet(BaseModule):
    """Prototypes of masks, and what becomes of them with coefficients.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature map.
        proto_channels: of each layer; ``None`` keeps them.
        proto_kernel_sizes: of each layer; if negative, it makes the map so many times larger.
        include_last_relu: prototypes are not negative.
        num_protos: how many prototypes.
        loss_mask_weight: multiplies the loss.
        max_masks_to_train: of an image.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: a layer that does not make the map larger has no channels.
    """

    def __init__(self, num_classes: int, in_channels: int = 256,
                 proto_channels: Sequence[int | None] = (256, 256, 256, None, 256, 32),
                 proto_kernel_sizes: Sequence[int] = (3, 3, 3, -2, 3, 1),
                 include_last_relu: bool = True, num_protos: int = 32,
                 loss_mask_weight: float = 1.0, max_masks_to_train: int = 100,
                 init_cfg: Any = dict(type="Xavier", distribution="uniform",
                                      override=dict(name="protonet"))) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.proto_channels = proto_channels
        self.proto_kernel_sizes = proto_kernel_sizes
        self.include_last_relu = include_last_relu
        self.num_protos = num_protos
        self.loss_mask_weight = loss_mask_weight
        self.max_masks_to_train = max_masks_to_train
        self.num_classes = num_classes
        self.fp16_enabled = False
        layers: list[nn.Module] = []
        for channels, kernel in zip(proto_channels, proto_kernel_sizes):
            if kernel > 0:
                if channels is None:
                    raise ValueError("YOLACTProtonet: a convolution of proto_channels None")
                layers.append(nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2))
            elif channels is None:
                layers.append(InterpolateLayer(-kernel))
            else:
                layers.append(nn.ConvTranspose2d(in_channels, channels, -kernel,
                                                 padding=kernel // 2))
            layers.append(nn.ReLU(inplace=True))
            in_channels = channels or in_channels
        self.protonet = nn.Sequential(*(layers if include_last_relu else layers[:-1]))

    def forward_dummy(self, x: Tensor) -> Tensor:
        """Prototypes [B, num_protos, h, w]."""
        return self.protonet(x)

    def forward(self, x: Tensor, coeff_pred: list[Tensor], bboxes: list[Tensor],
                img_meta: list[Meta], sampling_results: Any = None) -> list[Tensor]:
        """Masks of each image.

        Args:
            x: a feature map [B, in_channels, h, w].
            coeff_pred: in training [B, A num_protos, H, W] of each level, else [n, num_protos] of
                each image.
            bboxes: in training the gts [G, 4] of each image, else the boxes [n, 4], in pixels.
            img_meta: ``img_shape`` is read.
            sampling_results: in training ``pos_inds`` and ``pos_assigned_gt_inds`` of each image.

        Returns:
            Probabilities [n, h, w], zero outside the boxes.
        """
        prototypes = self.protonet(x)
        if self.training:
            flat = torch.cat([c.permute(0, 2, 3, 1).reshape(len(c), -1, self.num_protos)
                              for c in coeff_pred], dim=1)
            coeff_pred = [c[r.pos_inds] for c, r in zip(flat, sampling_results)]
            bboxes = [b[r.pos_assigned_gt_inds] for b, r in zip(bboxes, sampling_results)]
        return [self._masks(*one) for one in zip(prototypes, coeff_pred, bboxes, img_meta)]

    def _masks(self, prototypes: Tensor, coeffs: Tensor, boxes: Tensor, meta: Meta) -> Tensor:
        height, width = meta["img_shape"][:2]
        masks = torch.einsum("khw,nk->nhw", prototypes, coeffs).sigmoid()
        x, y = boxes[:, 0::2] / width, boxes[:, 1::2] / height
        return masks * self.crop(masks.shape[-2:], x, y).to(masks.dtype)

    @staticmethod
    def crop(size: Sequence[int], x: Tensor, y: Tensor, padding: int = 1) -> Tensor:
        """Which places [n, h, w] are in boxes, or at most ``padding`` outside.

        Args:
            size: (h, w).
            x: [n, 2], left and right in units of the image.
            y: [n, 2], top and bottom likewise.
            padding: in places.
        """
        inside = []
        for n, side in zip(size, (y, x)):
            low = (side.amin(1) * n - padding).clamp(min=0)[:, None]
            high = (side.amax(1) * n + padding).clamp(max=n)[:, None]
            at = torch.arange(n, device=side.device)
            inside.append((at >= low) & (at < high))
        return inside[0][:, :, None] & inside[1][:, None]

    def loss(self, mask_pred: list[Tensor], gt_masks: list[Tensor], gt_bboxes: list[Tensor],
             img_meta: list[Meta], sampling_results: Any) -> dict[str, list[Tensor]]:
        """``loss_mask`` of each image, each mask's in parts of its box.

        Args:
            mask_pred: [P, h, w] of each image.
            gt_masks: [G, H, W] of each image.
            gt_bboxes: [G, 4] of each image.
            img_meta: ``img_shape`` is read.
            sampling_results: ``pos_assigned_gt_inds`` of each image.
        """
        losses, total = [], 0
        for pred, masks, boxes, meta, found in zip(mask_pred, gt_masks, gt_bboxes, img_meta,
                                                   sampling_results):
            pred, gt = at_least_float32(pred), found.pos_assigned_gt_inds
            if len(gt) > self.max_masks_to_train:
                chosen = torch.randperm(len(gt))[:self.max_masks_to_train].to(gt.device)
                pred, gt = pred[chosen], gt[chosen]
            total += len(gt)
            if len(gt) == 0:
                losses.append(pred.sum() * 0.0)
                continue
            each = F.binary_cross_entropy(pred.clamp(0, 1), shrunk(masks, pred)[gt],
                                          reduction="none") * self.loss_mask_weight
            height, width = meta["img_shape"][:2]
            size = (boxes[gt, 2:4] - boxes[gt, :2]).to(pred.dtype)
            losses.append((each.mean((1, 2)) / (size[:, 0] / width) / (size[:, 1] / height)).sum())
        return {"loss_mask": [loss / max(total, 1) for loss in losses]}

    def get_seg_masks(self, mask_pred: Tensor, label_pred: Tensor, img_meta: Meta,
                      rescale: bool) -> list[list[np.ndarray]]:
        """Of each class, a list of masks [H, W] of one image.

        Args:
            mask_pred: [n, h, w], probabilities.
            label_pred: [n].
            img_meta: ``ori_shape`` and ``scale_factor`` are read.
            rescale: masks are of the original image.
        """
        height, width = img_meta["ori_shape"][:2]
        if not rescale:
            factor = np.asarray(img_meta["scale_factor"])
            height = int(np.round(height * factor[1]).astype(np.int32))
            width = int(np.round(width * factor[0]).astype(np.int32))
        result: list[list[np.ndarray]] = [[] for _ in range(self.num_classes)]
        if len(mask_pred) == 0:
            return result
        masks = F.interpolate(mask_pred[None], (height, width), mode="bilinear",
                              align_corners=False)[0] > 0.5
        for label, mask in zip(label_pred.tolist(), masks.cpu().numpy()):
            result[label].append(mask)
        return result

    def simple_test(self, feats: Sequence[Tensor], det_bboxes: Sequence[Tensor],
                    det_labels: Sequence[Tensor], det_coeffs: Sequence[Tensor],
                    img_metas: list[Meta], rescale: bool = False) -> list[Any]:
        """Of each image and class, a list of masks.

        Args:
            feats: feature maps; the first is used.
            det_bboxes: [n, 5] of each image.
            det_labels: [n] of each image.
            det_coeffs: [n, num_protos] of each image.
            img_metas: of each image.
            rescale: boxes and masks are of the original image.
        """
        boxes = [b[:, :4] * b.new_tensor(m["scale_factor"]) if rescale else b[:, :4]
                 for b, m in zip(det_bboxes, img_metas)]
        masks = self(feats[0], list(det_coeffs), boxes, img_metas)
        return [self.get_seg_masks(*one, rescale) for one in zip(masks, det_labels, img_metas)]
