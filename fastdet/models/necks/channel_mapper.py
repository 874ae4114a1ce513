"""ChannelMapper: one convolution per level."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from ..utils.checks import check_maps
from .levels import check_in_channels

__all__ = ["ChannelMapper"]



@NECKS.register_module()
class ChannelMapper(BaseModule):
    """Bring every level to the same number of channels, and add coarser levels.

    Args:
        in_channels: channels of each input map.
        out_channels: channels of every output map.
        kernel_size: kernel of the convolution of each input map, odd.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations; ``None`` for none.
        act_cfg: config of the activations; ``None`` for none.
        num_outs: number of output maps. Those beyond the input maps come from 3x3 convolutions of
            stride 2, the first of which reads the last input. There are never fewer outputs than
            inputs.
        init_cfg: the initialiser's config.

    Raises:
        TypeError: ``in_channels`` is not a list.

    Example:
        >>> import torch
        >>> inputs = [torch.rand(1, c, s, s) for c, s in zip((2, 3, 5, 7), (340, 170, 84, 43))]
        >>> self = ChannelMapper([2, 3, 5, 7], 11, 3).eval()
        >>> [tuple(out.shape) for out in self(inputs)]
        [(1, 11, 340, 340), (1, 11, 170, 170), (1, 11, 84, 84), (1, 11, 43, 43)]
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, kernel_size: int = 3,
                 conv_cfg: Cfg | None = None, norm_cfg: Cfg | None = None,
                 act_cfg: Cfg | None = {"type": "ReLU"},
                 num_outs: int | None = None,
                 init_cfg: InitCfg = {
                     "type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}) -> None:
        super().__init__(init_cfg)
        check_in_channels(in_channels)
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.convs = nn.ModuleList(
            ConvModule(c, out_channels, kernel_size, padding=(kernel_size - 1) // 2, **cfgs)
            for c in in_channels)
        extra = max(0, (num_outs or 0) - len(in_channels))
        self.extra_convs = nn.ModuleList(
            ConvModule(out_channels if i else in_channels[-1], out_channels, 3, stride=2,
                       padding=1, **cfgs)
            for i in range(extra)) if extra else None

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map the levels.

        Args:
            inputs: one ``(N, in_channels[i], H_i, W_i)`` per level.

        Returns:
            The maps of ``out_channels``, of the inputs' sizes and then each half the one before.

        Raises:
            ValueError: the number of maps is not that of ``in_channels``.
        """
        check_maps(self, inputs, [conv.in_channels for conv in self.convs])  # type: ignore[misc]
        outs = [conv(x) for conv, x in zip(self.convs, inputs)]
        source = inputs[-1]
        for conv in self.extra_convs or ():
            source = conv(source)
            outs.append(source)
        return tuple(outs)
