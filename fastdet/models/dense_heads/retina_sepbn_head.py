"""RetinaNet's head with norms of each level (NAS-FPN, arXiv 1904.07392)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastdet.cnn import bias_init_with_prob, normal_init
from fastdet.core.utils import multi_apply

from ..builder import HEADS
from .anchor_head import AnchorHead

__all__ = ["RetinaSepBNHead"]


@HEADS.register_module()
class RetinaSepBNHead(AnchorHead):
    """As RetinaHead: convolutions are shared by the levels, norms are not.

    Args:
        num_classes: foreground classes.
        num_ins: levels.
        in_channels: of the feature maps.
        stacked_convs: convolutions of a tower.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        init_cfg: must be ``None``: :meth:`init_weights` knows how.
        kwargs: of :class:`AnchorHead`.

    Raises:
        ValueError: there is an ``init_cfg``.
    """

    def __init__(self, num_classes: int, num_ins: int, in_channels: int, stacked_convs: int = 4,
                 conv_cfg: Any = None, norm_cfg: Any = None, init_cfg: Any = None,
                 **kwargs: Any) -> None:
        if init_cfg is not None:
            raise ValueError("RetinaSepBNHead initialises itself: init_cfg must be None, got "
                             f"{init_cfg}")
        self.stacked_convs = stacked_convs
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.num_ins = num_ins
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **kwargs)

    def towers(self) -> nn.ModuleList:
        """A tower for each level, all with the first one's convolutions."""
        levels = nn.ModuleList([self.tower() for _ in range(self.num_ins)])
        for tower in levels[1:]:
            for mine, first in zip(tower, levels[0]):  # type: ignore[call-overload]
                mine.conv = first.conv
        return levels

    def _init_layers(self) -> None:
        self.relu = nn.ReLU(inplace=True)
        self.cls_convs = self.towers()
        self.reg_convs = self.towers()
        self.retina_cls = nn.Conv2d(
            self.feat_channels, self.num_base_priors * self.cls_out_channels, 3, padding=1)
        self.retina_reg = nn.Conv2d(self.feat_channels, self.num_base_priors * 4, 3, padding=1)

    def init_weights(self) -> None:
        """Small normal weights, and a probability of 0.01 for every class."""
        super().init_weights()
        for tower in (self.cls_convs[0], self.reg_convs[0]):
            for layer in tower:  # type: ignore[attr-defined]
                normal_init(layer.conv, std=0.01)
        normal_init(self.retina_cls, std=0.01, bias=bias_init_with_prob(0.01))
        normal_init(self.retina_reg, std=0.01)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Scores [B, A C, H, W] and deltas [B, A 4, H, W] of every level."""
        return multi_apply(self._of_level, feats, self.cls_convs, self.reg_convs)

    def _of_level(self, x: Tensor, cls_convs: nn.ModuleList,
                  reg_convs: nn.ModuleList) -> tuple[Tensor, Tensor]:
        classes = boxes = x
        for conv in cls_convs:
            classes = conv(classes)
        for conv in reg_convs:
            boxes = conv(boxes)
        return self.retina_cls(classes), self.retina_reg(boxes)
