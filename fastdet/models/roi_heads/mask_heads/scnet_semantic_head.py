"""Classes of pixels by residual blocks (SCNet, arXiv 2012.10150)."""

from __future__ import annotations

from typing import Any

from ...builder import HEADS
from ...utils import ResLayer, SimplifiedBasicBlock
from .fused_semantic_head import FusedSemanticHead

__all__ = ["SCNetSemanticHead"]


@HEADS.register_module()
class SCNetSemanticHead(FusedSemanticHead):
    """A FusedSemanticHead of residual blocks.

    Args:
        conv_to_res: each two convolutions are a block.
        kwargs: of :class:`FusedSemanticHead`.
    """

    def __init__(self, conv_to_res: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv_to_res = conv_to_res
        if conv_to_res:
            self.num_convs = self.num_convs // 2
            self.convs = ResLayer(SimplifiedBasicBlock, self.in_channels, self.conv_out_channels,
                                  self.num_convs, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
