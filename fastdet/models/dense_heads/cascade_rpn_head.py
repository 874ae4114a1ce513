"""Proposals refined once more, where the refined anchors are (Cascade RPN, arXiv 1909.06720)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.core.anchor import anchor_inside_flags
from fastdet.core.bbox import GroundTruth, Proposals, PseudoSampler, RegionAssigner
from fastdet.core.post_processing.merge_augs import proposal_settings
from fastdet.core.utils import multi_apply
from fastdet.ops import DeformConv2d
from fastdet.runner import BaseModule

from ..builder import HEADS, build_head
from ..losses.utils import at_least_float32
from .base_dense_head import BaseDenseHead, Meta
from .candidates import Candidates, suppress
from .rpn_head import RPNHead

__all__ = ["AdaptiveConv", "CascadeRPNHead", "StageCascadeRPNHead"]


class AdaptiveConv(BaseModule):
    """A convolution that is dilated, or looks where its anchor is.

    Args:
        in_channels: of the map.
        out_channels: of the result.
        kernel_size: of the kernel; 3 with offsets.
        stride: of a convolution with offsets.
        padding: of a convolution with offsets, which must be 1.
        dilation: of a dilated convolution.
        groups: of a convolution with offsets, which must be 1.
        bias: kept for its name, and not used, as in MMDetection.
        type: ``'dilation'`` or ``'offset'``.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: ``type`` is another, or a convolution with offsets is not 3 x 3.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1,
                 padding: int = 1, dilation: int = 1, groups: int = 1, bias: bool = False,
                 type: str = "dilation",
                 init_cfg: Any = dict(type="Normal", std=0.01,
                                      override=dict(name="conv"))) -> None:
        super().__init__(init_cfg)
        if type not in ("offset", "dilation"):
            raise ValueError(f"AdaptiveConv: type must be offset or dilation, got {type!r}")
        self.adapt_type = type
        if type == "offset":
            if (kernel_size, padding, groups) != (3, 1, 1):
                raise ValueError("AdaptiveConv: offsets are those of a 3 x 3 kernel with padding "
                                 f"1 and one group, got {kernel_size}, {padding} and {groups}")
            self.conv: nn.Module = DeformConv2d(in_channels, out_channels, 3, stride=stride,
                                                padding=1, groups=1, bias=False)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=dilation,
                                  dilation=dilation)

    def forward(self, x: Tensor, offset: Tensor | None) -> Tensor:
        """The convolution of ``x`` [B, C, H, W], with offsets [B, H W, 18] where it has them."""
        if self.adapt_type != "offset" or offset is None:
            return self.conv(x)
        return self.conv(x, offset.transpose(1, 2).unflatten(2, x.shape[-2:]).contiguous())


@HEADS.register_module()
class StageCascadeRPNHead(RPNHead):
    """One stage, on anchors that the stage before it refined.

    Args:
        in_channels: of the feature maps.
        anchor_generator: its config; one anchor for each place.
        adapt_cfg: arguments of :class:`AdaptiveConv`.
        bridged_feature: the next stage sees this stage's features.
        with_cls: predict scores.
        sampling: train sampled anchors.
        init_cfg: how weights are initialised.
        kwargs: of :class:`RPNHead`.
    """

    def __init__(self, in_channels: int,
                 anchor_generator: dict[str, Any] = dict(
                     type="AnchorGenerator", scales=[8], ratios=[1.0],
                     strides=[4, 8, 16, 32, 64]),
                 adapt_cfg: dict[str, Any] = dict(type="dilation", dilation=3),
                 bridged_feature: bool = False, with_cls: bool = True, sampling: bool = True,
                 init_cfg: Any = None, **kwargs: Any) -> None:
        self.with_cls = with_cls
        self.anchor_strides = anchor_generator["strides"]
        self.anchor_scales = anchor_generator["scales"]
        self.bridged_feature = bridged_feature
        self.adapt_cfg = adapt_cfg
        if init_cfg is None:
            names = ["rpn_reg"] + ["rpn_cls"] * with_cls
            init_cfg = dict(type="Normal", std=0.01, layer="Conv2d",
                            override=[dict(type="Normal", name=name) for name in names])
        super().__init__(in_channels, **{**kwargs, "anchor_generator": anchor_generator,
                                         "init_cfg": init_cfg})
        self.sampling = sampling
        if self.train_cfg and not sampling:
            self.sampler = PseudoSampler()

    def _init_layers(self) -> None:
        width = self.feat_channels
        self.rpn_conv = AdaptiveConv(self.in_channels, width, **self.adapt_cfg)
        if self.with_cls:
            self.rpn_cls = nn.Conv2d(width, self.num_base_priors * self.cls_out_channels, 1)
        self.rpn_reg = nn.Conv2d(width, self.num_base_priors * 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward_single(self, x: Tensor,  # type: ignore[override]
                       offset: Tensor | None) -> tuple[Any, ...]:
        """What the next stage sees, scores (or ``None``) and deltas of one level."""
        y = self.relu(self.rpn_conv(x, offset))
        return (y if self.bridged_feature else x, self.rpn_cls(y) if self.with_cls else None,
                self.rpn_reg(y))

    def forward(self, feats: Sequence[Tensor],  # type: ignore[override]
                offset_list: Sequence[Tensor] | None = None) -> tuple[list[Any], ...]:
        """What :meth:`forward_single` makes of every level."""
        offsets = [None] * len(feats) if offset_list is None else offset_list
        return multi_apply(self.forward_single, feats, offsets)

    def anchor_offset(self, anchors: Sequence[Tensor], anchor_strides: Sequence[Any],
                      featmap_sizes: Sequence[Any]) -> list[Tensor]:
        """Where a 3 x 3 kernel has to look to cover each anchor, y first.

        Args:
            anchors: [B, H W, 4] of each level.
            anchor_strides: of each level.
            featmap_sizes: (height, width) of each level.

        Returns:
            [B, H W, 18] of each level.
        """
        out = []
        for box, stride, (height, width) in zip(anchors, anchor_strides, featmap_sizes):
            stride = stride[0] if isinstance(stride, (tuple, list)) else stride
            at = torch.arange(3, device=box.device).to(box.dtype) - 1
            tap = torch.stack([at.repeat_interleave(3), at.repeat(3)], dim=-1)  # y, x
            cell = torch.stack([
                torch.arange(height, device=box.device).repeat_interleave(width),
                torch.arange(width, device=box.device).repeat(height)], dim=-1).to(box.dtype)
            low, high = box[..., :2].flip(-1), box[..., 2:].flip(-1)
            centre = (low + high) * 0.5 / stride - cell
            reach = (high - low) / stride / 2 - 1
            out.append((centre[:, :, None] + reach[:, :, None] * tap).flatten(2))
        return out

    # --- losses -----------------------------------------------------------------------------
    def inside(self, anchors: list[Tensor], featmap_sizes: list[Any],
               img_metas: list[Meta]) -> Tensor:
        """Which anchors ([B, n, 4] of each level) are trained, [B, N] of all levels."""
        border = self.train_cfg.get("allowed_border", -1)
        return torch.stack([
            anchor_inside_flags(own, torch.cat(self.prior_generator.valid_flags(
                featmap_sizes, meta["pad_shape"], own.device)), meta["img_shape"][:2], border)
            for own, meta in zip(torch.cat(anchors, dim=1), img_metas)])

    def loss(self, anchors: list[Tensor], inside: Tensor,  # type: ignore[override]
             cls_scores: list[Any], bbox_preds: list[Tensor], gts: GroundTruth,
             featmap_sizes: list[Any]) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            anchors: [B, n, 4] of each level.
            inside: [B, N], which anchors are trained.
            cls_scores: [B, C, H, W] of each level, or ``None``.
            bbox_preds: [B, 4, H, W] of each level.
            gts: of the batch.
            featmap_sizes: (height, width) of each level.

        Returns:
            ``loss_rpn_reg`` and, with scores, ``loss_rpn_cls``.
        """
        per_level = [level.shape[1] for level in anchors]
        flat = torch.cat(anchors, dim=1)
        if isinstance(self.assigner, RegionAssigner):
            inds = self.assigner.assign_levels(anchors, inside, gts, featmap_sizes,
                                               self.anchor_scales[0], self.anchor_strides)
            targets = self.learned(flat, inds, gts)
        else:
            targets = self.targets(flat, per_level, inside, gts)
        # What is not sampled is divided by a number that fits, as in MMDetection.
        total: Any = (targets.num_pos + targets.num_neg if self.sampling
                      else targets.labels.numel() / 200.0)
        parts = [t.split(per_level, dim=1) for t in targets[:4]]
        of_class, of_box = multi_apply(self.loss_single, cls_scores, bbox_preds, anchors, *parts,
                                       num_total_samples=total)
        losses = {"loss_rpn_reg": of_box}
        return {"loss_rpn_cls": of_class, **losses} if self.with_cls else losses

    def loss_single(self, cls_score: Any, bbox_pred: Tensor, anchors: Tensor, labels: Tensor,
                    label_weights: Tensor, bbox_targets: Tensor, bbox_weights: Tensor,
                    num_total_samples: Any) -> tuple[Any, Tensor]:
        """Losses of one level; anchors are [B, n, 4], the rest as of :class:`AnchorHead`."""
        of_class = None
        if self.with_cls:
            score = at_least_float32(cls_score).permute(0, 2, 3, 1).reshape(
                -1, self.cls_out_channels)
            of_class = self.loss_cls(score, labels.flatten(), label_weights.flatten(),
                                     avg_factor=num_total_samples)
        boxes = at_least_float32(bbox_pred).permute(0, 2, 3, 1).reshape(-1, 4)
        if self.reg_decoded_bbox:
            boxes = self.bbox_coder.decode(anchors.flatten(0, 1), boxes)
        return of_class, self.loss_bbox(boxes, bbox_targets.flatten(0, 1),
                                        bbox_weights.flatten(0, 1), avg_factor=num_total_samples)

    # --- boxes ------------------------------------------------------------------------------
    def refine_bboxes(self, anchors: list[Tensor], bbox_preds: list[Tensor],
                      img_metas: list[Meta]) -> list[Tensor]:
        """Anchors [B, n, 4] of each level moved by the predictions, without a gradient."""
        shapes = [meta["img_shape"] for meta in img_metas]
        return [self.bbox_coder.decode(own, delta, max_shape=shapes)
                for own, delta in zip(anchors, self.flat(bbox_preds, 4))]

    @torch.no_grad()
    def get_bboxes(self, anchors: list[Tensor], cls_scores: list[Tensor],  # type: ignore[override]
                   bbox_preds: list[Tensor], img_metas: list[Meta], cfg: Any,
                   rescale: bool = False) -> Proposals:
        """Proposals and scores of each image, in pixels of the input.

        Args:
            anchors: [B, n, 4] of each level.
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: [B, 4, H, W] of each level.
            img_metas: of each image.
            cfg: ``nms_pre``, ``nms``, ``max_per_img``, ``min_bbox_size``.
            rescale: not used.
        """
        cfg = proposal_settings(self.test_cfg if cfg is None else cfg)
        shapes = [meta["img_shape"] for meta in img_metas]
        levels = []
        for i, (own, logits, delta) in enumerate(zip(
                anchors, self.flat(cls_scores, self.cls_out_channels), self.flat(bbox_preds, 4))):
            scores = logits[..., 0].sigmoid() if self.use_sigmoid_cls else (
                logits.softmax(-1)[..., 0])
            num = own.shape[1]
            pre = cfg.get("nms_pre", -1)
            scores, rows = scores.topk(min(pre, num) if pre > 0 else num, dim=1)
            at = rows[..., None].expand(-1, -1, 4)
            boxes = self.bbox_coder.decode(own.gather(1, at), delta.gather(1, at),
                                           max_shape=shapes)
            levels.append((boxes, scores, torch.full_like(rows, i)))
        boxes, scores, labels = (torch.cat(part, dim=1) for part in zip(*levels))
        valid = torch.ones_like(labels, dtype=torch.bool)
        least = cfg.get("min_bbox_size", -1)
        if least >= 0:
            valid = (boxes[..., 2:] - boxes[..., :2] > least).all(-1)
        found = suppress(Candidates(boxes, scores, labels, valid), cfg["nms"],
                         cfg["max_per_img"])
        return Proposals(found.boxes, found.counts)


@HEADS.register_module()
class CascadeRPNHead(BaseDenseHead):
    """Several :class:`StageCascadeRPNHead`.

    Args:
        num_stages: how many.
        stages: config of each.
        train_cfg: of each stage.
        test_cfg: of all stages.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: there are other than ``num_stages`` configs.
    """

    def __init__(self, num_stages: int, stages: list[dict[str, Any]], train_cfg: Any,
                 test_cfg: Any, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if num_stages != len(stages):
            raise ValueError(f"CascadeRPNHead: {num_stages} stages and {len(stages)} configs")
        self.num_stages = num_stages
        self.stages: Any = nn.ModuleList([
            build_head({**cfg, "train_cfg": None if train_cfg is None else train_cfg[i],
                        "test_cfg": test_cfg}) for i, cfg in enumerate(stages)])
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg

    def loss(self, **kwargs: Any) -> Any:
        """Not defined; each stage has its losses.

        Raises:
            TypeError: always.
        """
        raise TypeError("CascadeRPNHead has no loss of its own; forward_train adds those of its "
                        "stages")

    def _run(self, x: Sequence[Tensor], img_metas: list[Meta], losses: dict[str, Any] | None,
             gts: GroundTruth | None = None) -> tuple[Any, ...]:
        """Anchors, scores and deltas of the last stage; adds up losses where they are asked for."""
        sizes = [level.shape[-2:] for level in x]
        generator = self.stages[0].prior_generator
        anchors = [level.expand(len(img_metas), -1, -1)
                   for level in generator.grid_priors(sizes, device=x[0].device)]
        for i, stage in enumerate(self.stages):
            offsets = None
            if stage.adapt_cfg["type"] == "offset":
                offsets = stage.anchor_offset(anchors, stage.anchor_strides, sizes)
            x, scores, deltas = stage(x, offsets)
            if losses is not None:
                of_stage = stage.loss(anchors, stage.inside(anchors, sizes, img_metas), scores,
                                      deltas, gts, sizes)
                losses.update({f"s{i}.{name}": value for name, value in of_stage.items()})
            if i < self.num_stages - 1:
                anchors = stage.refine_bboxes(anchors, deltas, img_metas)
        return anchors, scores, deltas

    def forward_train(self, x: Sequence[Tensor], img_metas: list[Meta], gt_bboxes: list[Tensor],
                      gt_labels: list[Tensor] | None = None,
                      gt_bboxes_ignore: list[Tensor] | None = None, proposal_cfg: Any = None,
                      **kwargs: Any) -> Any:
        """Losses of every stage, and with ``proposal_cfg`` proposals; see :class:`BaseDenseHead`.

        Raises:
            ValueError: labels are given; proposals have none.
        """
        if gt_labels is not None:
            raise ValueError("CascadeRPNHead: proposals have no classes, got gt_labels")
        losses: dict[str, Any] = {}
        outs = self._run(x, img_metas, losses,
                         GroundTruth.pad(gt_bboxes, None, gt_bboxes_ignore))
        if proposal_cfg is None:
            return losses
        return losses, self.stages[-1].get_bboxes(*outs, img_metas, self.test_cfg)

    def simple_test_rpn(self, x: Sequence[Tensor], img_metas: list[Meta]) -> list[Tensor]:
        """Proposals and scores ``[n, 5]`` of each image."""
        outs = self._run(x, img_metas, None)
        return list(self.stages[-1].get_bboxes(*outs, img_metas, self.test_cfg))

    def aug_test_rpn(self, x: Any, img_metas: Any) -> Any:
        """Not defined.

        Raises:
            TypeError: always.
        """
        raise TypeError("CascadeRPNHead has no test-time augmentation")
