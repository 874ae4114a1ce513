"""Masks by residual blocks (SCNet, arXiv 2012.10150)."""

from __future__ import annotations

from typing import Any

from ...builder import HEADS
from ...utils import ResLayer, SimplifiedBasicBlock
from .fcn_mask_head import FCNMaskHead

__all__ = ["SCNetMaskHead"]


@HEADS.register_module()
class SCNetMaskHead(FCNMaskHead):
    """A FCNMaskHead of residual blocks.

    Args:
        conv_to_res: each two convolutions are a block.
        kwargs: of :class:`FCNMaskHead`.

    Raises:
        ValueError: the convolutions are not 3x3.
    """

    def __init__(self, conv_to_res: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv_to_res = conv_to_res
        if conv_to_res:
            if self.conv_kernel_size != 3:
                raise ValueError("SCNetMaskHead: with conv_to_res conv_kernel_size must be 3, got "
                                 f"{self.conv_kernel_size}")
            self.num_res_blocks = self.num_convs // 2
            self.convs = ResLayer(SimplifiedBasicBlock, self.in_channels, self.conv_out_channels,
                                  self.num_res_blocks, conv_cfg=self.conv_cfg,
                                  norm_cfg=self.norm_cfg)
