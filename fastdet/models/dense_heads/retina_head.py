"""RetinaNet's head (arXiv 1708.02002): two towers of convolutions over all levels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..builder import HEADS
from .anchor_head import AnchorHead

__all__ = ["RetinaHead"]


@HEADS.register_module()
class RetinaHead(AnchorHead):
    """A tower for classes and one for boxes, shared by all levels.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        stacked_convs: convolutions of a tower.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        anchor_generator: its config.
        init_cfg: how weights are initialised.
        kwargs: of :class:`AnchorHead`.
    """

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4,
                 conv_cfg: Any = None, norm_cfg: Any = None,
                 anchor_generator: dict[str, Any] = dict(
                     type="AnchorGenerator", octave_base_scale=4, scales_per_octave=3,
                     ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="retina_cls", std=0.01, bias_prob=0.01)),
                 **kwargs: Any) -> None:
        self.stacked_convs = stacked_convs
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        super().__init__(num_classes, in_channels, anchor_generator=anchor_generator,
                         init_cfg=init_cfg, **kwargs)

    def _init_layers(self) -> None:
        self.relu = nn.ReLU(inplace=True)
        self.cls_convs = self.tower()
        self.reg_convs = self.tower()
        self.retina_cls = nn.Conv2d(
            self.feat_channels, self.num_base_priors * self.cls_out_channels, 3, padding=1)
        self.retina_reg = nn.Conv2d(self.feat_channels, self.num_base_priors * 4, 3, padding=1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores [B, A C, H, W] and deltas [B, A 4, H, W] of one level."""
        classes, boxes = self.features(x)
        return self.retina_cls(classes), self.retina_reg(boxes)
