"""YOLOX's head (arXiv 2107.08430): anchor free, decoupled, matched by cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule, DepthwiseSeparableConvModule, bias_init_with_prob
from fastdet.core.anchor import MlvlPointGenerator
from fastdet.core.bbox import GroundTruth, build_assigner
from fastdet.core.bbox.transforms import bbox_xyxy_to_cxcywh
from fastdet.core.utils import multi_apply, reduce_mean

from ..builder import HEADS, build_loss
from ..losses.utils import at_least_float32
from .base_dense_head import BaseDenseHead, Meta
from .candidates import Candidates

__all__ = ["YOLOXHead"]


@HEADS.register_module()
class YOLOXHead(BaseDenseHead):
    """Each level has a tower for classes and one for boxes and whether there is an object.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        feat_channels: of the towers.
        stacked_convs: convolutions of a tower.
        strides: pixels between the cells of each level.
        use_depthwise: convolutions are depthwise, then pointwise.
        dcn_on_last_conv: the last convolution of a tower is deformable.
        conv_bias: whether the towers have biases; ``'auto'`` where they have no norm.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        act_cfg: config of the activations.
        loss_cls: config of the classification loss, a sum.
        loss_bbox: config of the box loss, a sum.
        loss_obj: config of the loss of objects, a sum.
        loss_l1: config of the L1 loss, a sum; it is used while :attr:`use_l1` is set.
        train_cfg: ``assigner``.
        test_cfg: ``score_thr``, ``nms``.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: a loss is no sum.
    """

    def __init__(self, num_classes: int, in_channels: int, feat_channels: int = 256,
                 stacked_convs: int = 2, strides: Sequence[int] = [8, 16, 32],
                 use_depthwise: bool = False, dcn_on_last_conv: bool = False,
                 conv_bias: bool | str = "auto", conv_cfg: Any = None,
                 norm_cfg: Any = dict(type="BN", momentum=0.03, eps=0.001),
                 act_cfg: Any = dict(type="Swish"),
                 loss_cls: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                 reduction="sum", loss_weight=1.0),
                 loss_bbox: dict[str, Any] = dict(type="IoULoss", mode="square", eps=1e-16,
                                                  reduction="sum", loss_weight=5.0),
                 loss_obj: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                 reduction="sum", loss_weight=1.0),
                 loss_l1: dict[str, Any] = dict(type="L1Loss", reduction="sum", loss_weight=1.0),
                 train_cfg: Any = None, test_cfg: Any = None,
                 init_cfg: Any = dict(type="Kaiming", layer="Conv2d", a=5 ** 0.5,
                                      distribution="uniform", mode="fan_in",
                                      nonlinearity="leaky_relu")) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.cls_out_channels = num_classes
        self.in_channels = in_channels
        self.feat_channels = feat_channels
        self.stacked_convs = stacked_convs
        self.strides = strides
        self.use_depthwise = use_depthwise
        self.dcn_on_last_conv = dcn_on_last_conv
        self.conv_bias = conv_bias
        self.use_sigmoid_cls = True
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        self.loss_cls = build_loss(loss_cls)
        self.loss_bbox = build_loss(loss_bbox)
        self.loss_obj = build_loss(loss_obj)
        #: Whether the L1 loss counts; a hook sets it for the last epochs.
        self.use_l1 = False
        self.loss_l1 = build_loss(loss_l1)
        for name in ("loss_cls", "loss_bbox", "loss_obj", "loss_l1"):
            if getattr(self, name).reduction != "sum":
                raise ValueError(f"YOLOXHead divides sums by the positives: {name} must have "
                                 f"reduction='sum', got {getattr(self, name).reduction!r}")
        self.prior_generator = MlvlPointGenerator(strides, offset=0)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        if train_cfg:
            self.assigner: Any = build_assigner(train_cfg["assigner"])
        self.fp16_enabled = False
        self._init_layers()

    def subnet(self) -> nn.Sequential:
        """``stacked_convs`` convolutions of 3 x 3, each with norm and activation."""
        kind = DepthwiseSeparableConvModule if self.use_depthwise else ConvModule
        deformable = {"type": "DCNv2"} if self.dcn_on_last_conv else self.conv_cfg
        last = self.stacked_convs - 1
        return nn.Sequential(*[
            kind(self.in_channels if i == 0 else self.feat_channels, self.feat_channels, 3,
                 stride=1, padding=1, conv_cfg=deformable if i == last else self.conv_cfg,
                 norm_cfg=self.norm_cfg, act_cfg=self.act_cfg, bias=self.conv_bias)
            for i in range(self.stacked_convs)])

    def _init_layers(self) -> None:
        def each(make: Any) -> nn.ModuleList:
            return nn.ModuleList([make() for _ in self.strides])

        self.multi_level_cls_convs = each(self.subnet)
        self.multi_level_reg_convs = each(self.subnet)
        self.multi_level_conv_cls = each(lambda: nn.Conv2d(self.feat_channels,
                                                           self.cls_out_channels, 1))
        self.multi_level_conv_reg = each(lambda: nn.Conv2d(self.feat_channels, 4, 1))
        self.multi_level_conv_obj = each(lambda: nn.Conv2d(self.feat_channels, 1, 1))

    def init_weights(self) -> None:
        """By ``init_cfg``; classes and objects start at a probability of 0.01."""
        super().init_weights()
        for conv in (*self.multi_level_conv_cls, *self.multi_level_conv_obj):
            nn.init.constant_(conv.bias, bias_init_with_prob(0.01))  # type: ignore[arg-type]

    def forward_single(self, x: Tensor, cls_convs: nn.Module, reg_convs: nn.Module,
                       conv_cls: nn.Module, conv_reg: nn.Module,
                       conv_obj: nn.Module) -> tuple[Tensor, ...]:
        """Classes, boxes and objects of one level."""
        boxes = reg_convs(x)
        return conv_cls(cls_convs(x)), conv_reg(boxes), conv_obj(boxes)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Classes [B, C, H, W], boxes [B, 4, H, W] and objects [B, 1, H, W] of every level."""
        return multi_apply(self.forward_single, feats, self.multi_level_cls_convs,
                           self.multi_level_reg_convs, self.multi_level_conv_cls,
                           self.multi_level_conv_reg, self.multi_level_conv_obj)

    def rows(self, *kinds: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Priors [N, 4] (x, y and strides) of all levels, and each kind of maps as [B, N, c]."""
        priors = torch.cat(self.prior_generator.grid_priors(
            [m.shape[-2:] for m in kinds[0]], dtype=kinds[0][0].dtype, device=kinds[0][0].device,
            with_stride=True))
        return (priors, *(self.flattened(maps, maps[0].shape[1]).unflatten(0, (len(maps[0]), -1))
                          for maps in kinds))

    @staticmethod
    def boxes(priors: Tensor, pred: Tensor) -> Tensor:
        """Corners [B, N, 4] of an offset and a log size [B, N, 4] in strides of priors [N, 4]."""
        centre = pred[..., :2] * priors[:, 2:] + priors[:, :2]
        half = pred[..., 2:].exp() * priors[:, 2:] / 2
        return torch.cat([centre - half, centre + half], dim=-1)

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             objectnesses: list[Tensor], gt_bboxes: list[Tensor], gt_labels: list[Tensor],
             img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of all levels together.

        Args:
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: [B, 4, H, W] of each level.
            objectnesses: [B, 1, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: not used.
            gt_bboxes_ignore: not used.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``loss_obj`` and, with :attr:`use_l1`, ``loss_l1``.
        """
        priors, classes, raw, objects = self.rows(cls_scores, bbox_preds, objectnesses)
        gts = GroundTruth.pad(gt_bboxes, gt_labels)
        with torch.no_grad():
            middle = torch.cat([priors[:, :2] + priors[:, 2:] * 0.5, priors[:, 2:]], dim=-1)
            gt_inds, overlaps = self.assigner.assign_batch(
                classes.sigmoid() * objects.sigmoid(), middle, self.boxes(priors, raw), gts)
        pos = gt_inds > 0
        targets, labels = gts.of(gt_inds)
        # What is not positive predicts its own cell: finite, of no weight.
        raw = torch.where(pos[..., None], raw, 0.0)
        boxes = self.boxes(priors, raw)
        targets = torch.where(pos[..., None], targets.to(boxes.dtype), boxes.detach())
        total = reduce_mean(at_least_float32(pos.sum().to(boxes.dtype))).clamp(min=1.0)
        quality = (labels[..., None] == torch.arange(self.num_classes, device=labels.device)
                   ) * torch.where(pos, overlaps, 0.0)[..., None]
        weight = pos.to(boxes.dtype)
        losses = {
            "loss_cls": self.loss_cls(classes.flatten(0, 1), quality.flatten(0, 1),
                                      weight.reshape(-1, 1)) / total,
            "loss_bbox": self.loss_bbox(boxes.flatten(0, 1), targets.flatten(0, 1),
                                        weight.flatten()) / total,
            "loss_obj": self.loss_obj(objects.reshape(-1, 1), weight.reshape(-1, 1)) / total}
        if self.use_l1:
            losses["loss_l1"] = self.loss_l1(
                raw.flatten(0, 1), self.l1_targets(targets, priors).flatten(0, 1),
                weight.reshape(-1, 1)) / total
        return losses

    @staticmethod
    def l1_targets(boxes: Tensor, priors: Tensor, eps: float = 1e-8) -> Tensor:
        """What is predicted for boxes [B, N, 4] at priors [N, 4]: offset and log of the size."""
        around = bbox_xyxy_to_cxcywh(boxes)
        return torch.cat([(around[..., :2] - priors[:, :2]) / priors[:, 2:],
                          torch.log(around[..., 2:] / priors[:, 2:] + eps)], dim=-1)

    @torch.no_grad()
    def candidates(self, outs: tuple[Any, ...], img_metas: list[Meta], cfg: Any) -> Candidates:
        """The best class of every prior."""
        priors, classes, raw, objects = self.rows(*outs)
        scores, labels = classes.sigmoid().max(-1)
        scores = scores * objects[..., 0].sigmoid()
        return Candidates(self.boxes(priors, raw), scores, labels, scores >= cfg["score_thr"])
