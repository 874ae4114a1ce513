"""Masks that build on those of the stage before (HTC, arXiv 1901.07518)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastdet.cnn import ConvModule

from ...builder import HEADS
from .fcn_mask_head import FCNMaskHead

__all__ = ["HTCMaskHead"]


@HEADS.register_module()
class HTCMaskHead(FCNMaskHead):
    """A FCNMaskHead that takes features of the stage before and gives its own.

    Args:
        with_conv_res: whether it can take features.
        args: of :class:`FCNMaskHead`.
        kwargs: of :class:`FCNMaskHead`.
    """

    conv_res: Any

    def __init__(self, with_conv_res: bool = True, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.with_conv_res = with_conv_res
        if with_conv_res:
            self.conv_res = ConvModule(self.conv_out_channels, self.conv_out_channels, 1,
                                       conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)

    def forward(self, x: Tensor, res_feat: Tensor | None = None,  # type: ignore[override]
                return_logits: bool = True, return_feat: bool = True) -> Any:
        """Logits and features of regions.

        Args:
            x: [n, in_channels, h, w].
            res_feat: features of the stage before, [n, conv_out_channels, h, w].
            return_logits: give logits [n, C, H, W].
            return_feat: give features [n, conv_out_channels, h, w].

        Returns:
            Both in a list, or the only one.

        Raises:
            ValueError: there are features of the stage before, and no layer for them.
        """
        if res_feat is not None:
            if not self.with_conv_res:
                raise ValueError("HTCMaskHead: res_feat is given, but with_conv_res is false")
            x = x + self.conv_res(res_feat)
        feat = self.features(x)
        outs = [self.logits(feat)] if return_logits else []
        outs += [feat] if return_feat else []
        return outs if len(outs) > 1 else outs[0]
