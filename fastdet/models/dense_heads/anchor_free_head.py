"""Heads on points: what FCOS and its relatives share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.core.anchor import MlvlPointGenerator
from fastdet.core.bbox import build_bbox_coder
from fastdet.core.utils import multi_apply

from ..builder import HEADS, build_loss
from .base_dense_head import BaseDenseHead

__all__ = ["AnchorFreeHead"]


@HEADS.register_module()
class AnchorFreeHead(BaseDenseHead):
    """Two towers of convolutions over all levels, one prediction for each point.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        feat_channels: of the towers.
        stacked_convs: convolutions of a tower.
        strides: pixels between the points of each level.
        dcn_on_last_conv: the last convolution of a tower is deformable.
        conv_bias: whether the towers have biases; ``'auto'`` where they have no norm.
        loss_cls: config of the classification loss.
        loss_bbox: config of the box loss.
        bbox_coder: its config.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        train_cfg: settings of training.
        test_cfg: ``nms_pre``, ``score_thr``, ``nms``, ``max_per_img``.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: ``conv_bias`` is neither a bool nor ``'auto'``.
    """

    _version = 1

    def __init__(self, num_classes: int, in_channels: int, feat_channels: int = 256,
                 stacked_convs: int = 4, strides: Sequence[Any] = (4, 8, 16, 32, 64),
                 dcn_on_last_conv: bool = False, conv_bias: bool | str = "auto",
                 loss_cls: dict[str, Any] = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0,
                                                 alpha=0.25, loss_weight=1.0),
                 loss_bbox: dict[str, Any] = dict(type="IoULoss", loss_weight=1.0),
                 bbox_coder: dict[str, Any] = dict(type="DistancePointBBoxCoder"),
                 conv_cfg: Any = None, norm_cfg: Any = None, train_cfg: Any = None,
                 test_cfg: Any = None,
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="conv_cls", std=0.01,
                                   bias_prob=0.01))) -> None:
        super().__init__(init_cfg)
        if conv_bias != "auto" and not isinstance(conv_bias, bool):
            raise ValueError(f"{type(self).__name__}: conv_bias must be a bool or 'auto', got "
                             f"{conv_bias!r}")
        self.num_classes = num_classes
        self.use_sigmoid_cls = loss_cls.get("use_sigmoid", False)
        self.cls_out_channels = num_classes if self.use_sigmoid_cls else num_classes + 1
        self.in_channels = in_channels
        self.feat_channels = feat_channels
        self.stacked_convs = stacked_convs
        self.strides = strides
        self.dcn_on_last_conv = dcn_on_last_conv
        self.conv_bias = conv_bias
        self.loss_cls = build_loss(loss_cls)
        self.loss_bbox = build_loss(loss_bbox)
        self.bbox_coder = build_bbox_coder(bbox_coder)
        self.prior_generator = MlvlPointGenerator(strides)
        self.num_base_priors = self.prior_generator.num_base_priors[0]
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.fp16_enabled = False
        self._init_layers()

    def conv_at(self, i: int) -> Any:
        """Deformable where it is the last one, if so wished."""
        last = i == self.stacked_convs - 1
        return {"type": "DCNv2"} if last and self.dcn_on_last_conv else self.conv_cfg

    def _init_layers(self) -> None:
        self.cls_convs = self.tower()
        self.reg_convs = self.tower()
        self.conv_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 3, padding=1)
        self.conv_reg = nn.Conv2d(self.feat_channels, 4, 3, padding=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, local_metadata: Any,
                              *args: Any) -> None:
        """Checkpoints before version 1 name the predictors after their head (``fcos_cls``)."""
        if local_metadata.get("version") is None:
            kinds = {"cls": "conv_cls", "reg": "conv_reg", "centerness": "conv_centerness"}
            for key in [k for k in state_dict if k.startswith(prefix)]:
                name, _, rest = key[len(prefix):].partition(".")
                head, _, kind = name.rpartition("_")
                new = f"{prefix}{kinds.get(kind)}.{rest}"
                if head in ("fcos", "fovea") and kind in kinds and new not in state_dict:
                    state_dict[new] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores, boxes and the towers' outputs of one level."""
        classes, boxes = self.features(x)
        return self.conv_cls(classes), self.conv_reg(boxes), classes, boxes

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Scores [B, C, H, W] and boxes [B, 4, H, W] of every level."""
        return multi_apply(self.forward_single, feats)[:2]

    def points(self, maps: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Points of all levels.

        Returns:
            ``[N, 2]`` (x, y) in pixels, the stride of each and its level, ``[N]``.
        """
        levels = self.prior_generator.grid_priors([m.shape[-2:] for m in maps], dtype=dtype,
                                                  device=maps[0].device)
        sizes = [len(level) for level in levels]
        strides = [s[0] if isinstance(s, (tuple, list)) else s for s in self.strides]
        each = torch.cat([levels[0].new_full((n,), s) for n, s in zip(sizes, strides)])
        level = torch.cat([each.new_full((n,), i, dtype=torch.long) for i, n in enumerate(sizes)])
        return torch.cat(levels), each, level
