"""YOLOv3's head (arXiv 1804.02767): boxes, objectness and classes of anchors on three levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule, bias_init_with_prob, constant_init, is_norm, normal_init
from fastdet.core.anchor import build_prior_generator
from fastdet.core.bbox import GroundTruth, build_assigner, build_bbox_coder
from fastdet.core.post_processing import multiclass_nms
from fastdet.core.utils import multi_apply

from ..builder import HEADS, build_loss
from .base_dense_head import BaseDenseHead, Meta
from .candidates import Candidates, top_pairs

__all__ = ["YOLOV3Head"]


@HEADS.register_module()
class YOLOV3Head(BaseDenseHead):
    """Predicts, for every anchor, its centre, size, whether there is an object, and classes.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature map of each level, coarsest first.
        out_channels: of the hidden map of each level.
        anchor_generator: its config.
        bbox_coder: its config.
        featmap_strides: pixels between the cells of each level.
        one_hot_smoother: how much of the classes' targets is spread over all classes.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        act_cfg: config of the activations.
        loss_cls: config of the classification loss.
        loss_conf: config of the loss of objects.
        loss_xy: config of the loss of the centres.
        loss_wh: config of the loss of the sizes.
        train_cfg: ``assigner``.
        test_cfg: ``conf_thr``, ``score_thr``, ``nms``, ``max_per_img``; ``nms_pre`` for
            :meth:`detect`.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: levels of channels, strides and anchors differ.
    """

    def __init__(self, num_classes: int, in_channels: Sequence[int],
                 out_channels: Sequence[int] = (1024, 512, 256),
                 anchor_generator: dict[str, Any] = dict(
                     type="YOLOAnchorGenerator",
                     base_sizes=[[(116, 90), (156, 198), (373, 326)],
                                 [(30, 61), (62, 45), (59, 119)],
                                 [(10, 13), (16, 30), (33, 23)]],
                     strides=[32, 16, 8]),
                 bbox_coder: dict[str, Any] = dict(type="YOLOBBoxCoder"),
                 featmap_strides: Sequence[int] = [32, 16, 8], one_hot_smoother: float = 0.0,
                 conv_cfg: Any = None, norm_cfg: Any = dict(type="BN", requires_grad=True),
                 act_cfg: Any = dict(type="LeakyReLU", negative_slope=0.1),
                 loss_cls: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                 loss_weight=1.0),
                 loss_conf: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                  loss_weight=1.0),
                 loss_xy: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                loss_weight=1.0),
                 loss_wh: dict[str, Any] = dict(type="MSELoss", loss_weight=1.0),
                 train_cfg: Any = None, test_cfg: Any = None,
                 init_cfg: Any = dict(type="Normal", std=0.01,
                                      override=dict(name="convs_pred"))) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.featmap_strides = featmap_strides
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        if train_cfg:
            self.assigner: Any = build_assigner(train_cfg["assigner"])
        self.one_hot_smoother = one_hot_smoother
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        self.bbox_coder = build_bbox_coder(bbox_coder)
        self.prior_generator = build_prior_generator(anchor_generator)
        self.loss_cls = build_loss(loss_cls)
        self.loss_conf = build_loss(loss_conf)
        self.loss_xy = build_loss(loss_xy)
        self.loss_wh = build_loss(loss_wh)
        self.num_base_priors = self.prior_generator.num_base_priors[0]
        levels = [len(x) for x in (in_channels, out_channels, featmap_strides,
                                   self.prior_generator.num_base_priors)]
        if len(set(levels)) > 1:
            raise ValueError("YOLOV3Head: in_channels, out_channels, featmap_strides and the "
                             f"anchors must be of the same levels, got {levels}")
        self.fp16_enabled = False
        self._init_layers()

    @property
    def num_levels(self) -> int:
        """Levels of features."""
        return len(self.featmap_strides)

    @property
    def num_attrib(self) -> int:
        """Numbers for each anchor: centre, size, objectness and classes."""
        return 5 + self.num_classes

    def _init_layers(self) -> None:
        self.convs_bridge = nn.ModuleList()
        self.convs_pred = nn.ModuleList()
        for inside, outside in zip(self.in_channels, self.out_channels):
            self.convs_bridge.append(ConvModule(
                inside, outside, 3, padding=1, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg,
                act_cfg=self.act_cfg))
            self.convs_pred.append(nn.Conv2d(outside, self.num_base_priors * self.num_attrib, 1))

    def init_weights(self) -> None:
        """Eight objects on every map, each class with a probability of 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                normal_init(module, mean=0, std=0.01)
            if is_norm(module):
                constant_init(module, 1)
        for conv, stride in zip(self.convs_pred, self.featmap_strides):
            bias = conv.bias.data.view(self.num_base_priors, -1)  # type: ignore
            nn.init.constant_(bias[:, 4], bias_init_with_prob(8 / (608 / stride) ** 2))
            nn.init.constant_(bias[:, 5:], bias_init_with_prob(0.01))

    def forward(self, feats: Sequence[Tensor]) -> tuple[tuple[Tensor, ...]]:
        """Maps [B, A (5 + C), H, W] of every level, in a tuple of one.

        Raises:
            ValueError: there are other levels.
        """
        if len(feats) != self.num_levels:
            raise ValueError(f"YOLOV3Head has {self.num_levels} levels, got {len(feats)} maps")
        return tuple(pred(bridge(x)) for x, bridge, pred in zip(
            feats, self.convs_bridge, self.convs_pred)),

    # --- training ---------------------------------------------------------------------------
    def responsible(self, sizes: Sequence[Sequence[int]], gts: GroundTruth) -> Tensor:
        """Anchors of all levels whose cell holds a gt's centre, ``[B, N]``."""
        middle = (gts.boxes[..., :2] + gts.boxes[..., 2:]) * 0.5
        there = torch.arange(middle.shape[1], device=middle.device) < gts.counts[:, None]
        flags = []
        for (h, w), stride, a in zip(sizes, self.prior_generator.strides,
                                     self.prior_generator.num_base_priors):
            x, y = ((middle[..., i] / stride[i]).floor().long() for i in (0, 1))
            cell = torch.where(there, y * w + x, h * w)  # one past the map for what is no gt
            flags.append(cell.new_zeros((len(cell), h * w + 1), dtype=torch.bool).scatter_(
                1, cell, True)[:, :-1].repeat_interleave(a, dim=1))
        return torch.cat(flags, dim=1)

    def targets(self, sizes: Sequence[Sequence[int]], gts: GroundTruth,
                dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What each anchor predicts, ``[B, N, 5 + C]``, and which are background, ``[B, N]``."""
        levels = self.prior_generator.grid_priors(sizes, dtype=dtype, device=gts.boxes.device)
        anchors = torch.cat(levels)
        strides = torch.cat([anchors.new_full((len(level),), stride) for level, stride in zip(
            levels, self.featmap_strides)])
        gt_inds = self.assigner.assign_batch(anchors, self.responsible(sizes, gts), gts)[0]
        pos = (gt_inds > 0)[..., None]
        boxes, labels = gts.of(gt_inds)
        own = anchors.expand(*gt_inds.shape, 4)
        # What is not positive has itself as its target: no logarithm of zero.
        boxes = torch.where(pos, boxes.to(own.dtype), own)
        encoded = self.bbox_coder.encode(own.flatten(0, 1), boxes.flatten(0, 1),
                                         strides.repeat(len(gt_inds))).view_as(boxes)
        classes = (labels[..., None] == torch.arange(
            self.num_classes, device=labels.device)).to(own.dtype)
        if self.one_hot_smoother != 0:
            classes = (classes * (1 - self.one_hot_smoother)
                       + self.one_hot_smoother / self.num_classes)
        target = torch.cat([encoded, torch.ones_like(encoded[..., :1]), classes], dim=-1)
        return torch.where(pos, target, 0.0), gt_inds == 0

    def loss(self, pred_maps: Sequence[Tensor], gt_bboxes: list[Tensor],  # type: ignore[override]
             gt_labels: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            pred_maps: [B, A (5 + C), H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: not used.
            gt_bboxes_ignore: not used.

        Returns:
            ``loss_cls``, ``loss_conf``, ``loss_xy`` and ``loss_wh``, lists of scalars.
        """
        sizes = [m.shape[-2:] for m in pred_maps]
        target, negative = self.targets(sizes, GroundTruth.pad(gt_bboxes, gt_labels),
                                        pred_maps[0].dtype)
        each = [h * w * self.num_base_priors for h, w in sizes]
        losses = multi_apply(self.loss_single, pred_maps, target.split(each, dim=1),
                             negative.split(each, dim=1))
        return dict(zip(("loss_cls", "loss_conf", "loss_xy", "loss_wh"), losses))

    def loss_single(self, pred_map: Tensor, target_map: Tensor,
                    neg_map: Tensor) -> tuple[Tensor, ...]:
        """Losses of one level.

        Args:
            pred_map: [B, A (5 + C), H, W].
            target_map: [B, n, 5 + C].
            neg_map: [B, n].
        """
        pred = pred_map.permute(0, 2, 3, 1).reshape(len(pred_map), -1, self.num_attrib)
        positive = target_map[..., 4]
        of_both = (positive + neg_map.to(positive.dtype)).clamp(min=0.0, max=1.0)
        positive = positive[..., None]
        return (self.loss_cls(pred[..., 5:], target_map[..., 5:], weight=positive),
                self.loss_conf(pred[..., 4], target_map[..., 4], weight=of_both),
                self.loss_xy(pred[..., :2], target_map[..., :2], weight=positive),
                self.loss_wh(pred[..., 2:4], target_map[..., 2:4], weight=positive))

    # --- detections -------------------------------------------------------------------------
    def predicted(self, pred_maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each level boxes [B, n, 4], objectness [B, n] and classes [B, n, C] in (0, 1)."""
        priors = self.prior_generator.grid_priors(
            [m.shape[-2:] for m in pred_maps], dtype=pred_maps[0].dtype,
            device=pred_maps[0].device)
        each = []
        for pred, anchors, stride in zip(self.flat(pred_maps, self.num_attrib), priors,
                                         self.featmap_strides):
            deltas = torch.cat([pred[..., :2].sigmoid(), pred[..., 2:4]], dim=-1)
            each.append((self.bbox_coder.decode(anchors.expand(len(pred), -1, -1), deltas, stride),
                         pred[..., 4].sigmoid(), pred[..., 5:].sigmoid()))
        return each

    @torch.no_grad()
    def candidates(self, outs: tuple[Any, ...], img_metas: list[Meta], cfg: Any) -> Candidates:
        """The best ``nms_pre`` pairs of anchor and class of every level."""
        least = cfg.get("conf_thr", -1)
        levels = []
        for boxes, objects, classes in self.predicted(outs[0]):
            known = torch.where((objects >= least)[..., None], classes, 0.0)
            scores, labels, rows, valid = top_pairs(known, cfg.get("nms_pre", -1),
                                                    cfg.get("score_thr", 0.0), False)
            levels.append((boxes.gather(1, rows[..., None].expand(-1, -1, 4)),
                           scores * objects.gather(1, rows), labels, valid))
        return Candidates(*(torch.cat(part, dim=1) for part in zip(*levels)))

    @torch.no_grad()
    def get_bboxes(self, *outs: Any, img_metas: list[Meta], cfg: Any = None,
                   rescale: bool = False, with_nms: bool = True) -> list[tuple[Tensor, ...]]:
        """As :meth:`BaseDenseHead.get_bboxes`, of every pair above the thresholds."""
        cfg = self.test_cfg if cfg is None else cfg
        boxes, objects, classes = (torch.cat(part, dim=1) for part in zip(
            *self.predicted(outs[0])))
        if rescale:
            factors = torch.stack([boxes.new_tensor(m["scale_factor"]) for m in img_metas])
            boxes = boxes / factors[:, None]
        found: list[tuple[Tensor, ...]] = []
        for box, factor, score in zip(boxes, objects, classes):
            kept = factor >= cfg.get("conf_thr", -1)
            box, factor, score = box[kept], factor[kept], score[kept]
            if with_nms:
                padded = torch.cat([score, torch.zeros_like(factor)[:, None]], dim=-1)
                found.append(multiclass_nms(box, padded, cfg["score_thr"], cfg["nms"],
                                            cfg["max_per_img"], score_factors=factor))
                continue
            row, label = (score > cfg["score_thr"]).nonzero(as_tuple=True)
            found.append((box[row], score[row, label] * factor[row], label))
        return found
