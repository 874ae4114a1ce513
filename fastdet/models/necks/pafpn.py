"""Path aggregation network (Liu et al., https://arxiv.org/abs/1803.01534)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import auto_fp16
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from .fpn import FPN
from .levels import check_size

__all__ = ["PAFPN"]



@NECKS.register_module()
class PAFPN(FPN):
    """Feature pyramid with a bottom-up path after the top-down one.

    Args:
        in_channels: channels of each input map, from the finest to the coarsest.
        out_channels: channels of every output map.
        num_outs: number of output maps.
        start_level: index of the first input map that is used.
        end_level: index of the last input map that is used; -1 is the last one.
        add_extra_convs: see :class:`FPN`; ``'on_output'`` reads the last map of the bottom-up
            path.
        relu_before_extra_convs: see :class:`FPN`.
        no_norm_on_lateral: see :class:`FPN`.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations; ``None`` for none.
        act_cfg: config of the activations; ``None`` for none.
        init_cfg: the initialiser's config.

    Raises:
        TypeError: ``in_channels`` is not a sequence, or ``add_extra_convs`` not a bool or a string.
        ValueError: the levels and ``num_outs`` do not fit, or ``add_extra_convs`` is unknown.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_outs: int,
                 start_level: int = 0, end_level: int = -1, add_extra_convs: bool | str = False,
                 relu_before_extra_convs: bool = False, no_norm_on_lateral: bool = False,
                 conv_cfg: Cfg | None = None, norm_cfg: Cfg | None = None,
                 act_cfg: Cfg | None = None,
                 init_cfg: InitCfg = {
                     "type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}) -> None:
        super().__init__(in_channels, out_channels, num_outs, start_level, end_level,
                         add_extra_convs, relu_before_extra_convs, no_norm_on_lateral, conv_cfg,
                         norm_cfg, act_cfg, init_cfg=init_cfg)
        conv: Cfg = {"padding": 1, "conv_cfg": conv_cfg, "norm_cfg": norm_cfg,
                        "act_cfg": act_cfg, "inplace": False}
        self.downsample_convs = nn.ModuleList()
        self.pafpn_convs = nn.ModuleList()
        for _ in range(start_level + 1, self.backbone_end_level):
            self.downsample_convs.append(
                ConvModule(out_channels, out_channels, 3, stride=2, **conv))
            self.pafpn_convs.append(ConvModule(out_channels, out_channels, 3, **conv))

    @auto_fp16()
    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: one ``(N, in_channels[i], H_i, W_i)`` per level of the backbone.

        Returns:
            ``num_outs`` maps of ``out_channels``.

        Raises:
            ValueError: the number of maps is not that of ``in_channels``, or a level is not half
                as large as the one before it, rounded up.
        """
        laterals = self._top_down(inputs)
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]

        for i, conv in enumerate(self.downsample_convs):
            down = conv(outs[i])
            level = self.start_level + i
            check_size(down, f"level {level} downsampled by 2", outs[i + 1], level + 1)
            outs[i + 1] = outs[i + 1] + down
        outs[1:] = [conv(x) for conv, x in zip(self.pafpn_convs, outs[1:])]
        return self._extend(outs, laterals[-1], inputs[self.backbone_end_level - 1])
