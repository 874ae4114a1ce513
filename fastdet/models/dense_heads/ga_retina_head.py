"""RetinaNet's head with guided anchors (arXiv 1901.03278)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..builder import HEADS
from .guided_anchor_head import FeatureAdaption, GuidedAnchorHead

__all__ = ["GARetinaHead"]


@HEADS.register_module()
class GARetinaHead(GuidedAnchorHead):
    """Two towers; the one of the classes locates anchors, that of the boxes shapes them.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        stacked_convs: convolutions of a tower.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        init_cfg: how weights are initialised.
        kwargs: of :class:`GuidedAnchorHead`.
    """

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4,
                 conv_cfg: Any = None, norm_cfg: Any = None, init_cfg: Any = None,
                 **kwargs: Any) -> None:
        if init_cfg is None:
            init_cfg = dict(type="Normal", layer="Conv2d", std=0.01, override=[
                dict(type="Normal", name=name, std=0.01, bias_prob=0.01)
                for name in ("conv_loc", "retina_cls")])
        self.stacked_convs = stacked_convs
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **kwargs)

    def _init_layers(self) -> None:
        width, priors = self.feat_channels, self.num_base_priors
        self.relu = nn.ReLU(inplace=True)
        self.cls_convs, self.reg_convs = self.tower(), self.tower()
        self.conv_loc = nn.Conv2d(width, 1, 1)
        self.conv_shape = nn.Conv2d(width, priors * 2, 1)
        self.feature_adaption_cls, self.feature_adaption_reg = (
            FeatureAdaption(width, width, deform_groups=self.deform_groups) for _ in range(2))
        self.retina_cls = nn.Conv2d(width, priors * self.cls_out_channels, 3, padding=1)
        self.retina_reg = nn.Conv2d(width, priors * 4, 3, padding=1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`GuidedAnchorHead.forward_single`."""
        classes, boxes = self.features(x)
        loc, shape = self.conv_loc(classes), self.conv_shape(boxes)
        scores = self.retina_cls(self.feature_adaption_cls(classes, shape))
        deltas = self.retina_reg(self.feature_adaption_reg(boxes, shape))
        return *self.masked(loc, scores, deltas), shape, loc
