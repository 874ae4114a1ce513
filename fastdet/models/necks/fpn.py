"""Feature Pyramid Network (Lin et al., https://arxiv.org/abs/1612.03144)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule, auto_fp16
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from ..utils.checks import check_maps
from .levels import channels_of_used, check_in_channels, end_of_levels

__all__ = ["FPN"]


EXTRA_SOURCES = ("on_input", "on_lateral", "on_output")


@NECKS.register_module()
class FPN(BaseModule):
    """Feature pyramid: lateral 1x1 convolutions, a top-down path, a 3x3 convolution per level.

    Args:
        in_channels: channels of each input map, from the finest to the coarsest.
        out_channels: channels of every output map.
        num_outs: number of output maps.
        start_level: index of the first input map that is used.
        end_level: index of the last input map that is used; -1 is the last one. A level before
            the last allows no extra outputs.
        add_extra_convs: how outputs beyond the used inputs are made: ``False`` by subsampling the
            last output, else by 3x3 convolutions of stride 2, the first of which reads the last
            input (``True`` or ``'on_input'``), the last lateral map (``'on_lateral'``) or the last
            output (``'on_output'``).
        relu_before_extra_convs: apply a ReLU before each of those convolutions but the first.
        no_norm_on_lateral: leave the normalisation out of the lateral convolutions.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations; ``None`` for none.
        act_cfg: config of the activations; ``None`` for none.
        upsample_cfg: arguments of :func:`torch.nn.functional.interpolate` in the top-down path. The
            size is that of the finer level unless a ``scale_factor`` is given.
        init_cfg: the initialiser's config.

    Raises:
        TypeError: ``in_channels`` is not a sequence, or ``add_extra_convs`` not a bool or a string.
        ValueError: the levels and ``num_outs`` do not fit, or ``add_extra_convs`` is unknown.

    Example:
        >>> import torch
        >>> inputs = [torch.rand(1, c, s, s) for c, s in zip((2, 3, 5, 7), (340, 170, 84, 43))]
        >>> self = FPN([2, 3, 5, 7], 11, 4).eval()
        >>> [tuple(out.shape) for out in self(inputs)]
        [(1, 11, 340, 340), (1, 11, 170, 170), (1, 11, 84, 84), (1, 11, 43, 43)]
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_outs: int,
                 start_level: int = 0, end_level: int = -1, add_extra_convs: bool | str = False,
                 relu_before_extra_convs: bool = False, no_norm_on_lateral: bool = False,
                 conv_cfg: Cfg | None = None, norm_cfg: Cfg | None = None,
                 act_cfg: Cfg | None = None,
                 upsample_cfg: Cfg = {"mode": "nearest"},
                 init_cfg: InitCfg = {
                     "type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}) -> None:
        super().__init__(init_cfg)
        check_in_channels(in_channels)
        if not isinstance(add_extra_convs, (bool, str)):
            raise TypeError("add_extra_convs must be a bool or a string, "
                            f"got {type(add_extra_convs).__name__}")
        if isinstance(add_extra_convs, str) and add_extra_convs not in EXTRA_SOURCES:
            raise ValueError(f"add_extra_convs must be a bool or one of {EXTRA_SOURCES}, "
                             f"got {add_extra_convs!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_ins = len(in_channels)
        self.num_outs = num_outs
        self.start_level = start_level
        self.end_level = end_level
        self.add_extra_convs = "on_input" if add_extra_convs is True else add_extra_convs
        self.relu_before_extra_convs = relu_before_extra_convs
        self.no_norm_on_lateral = no_norm_on_lateral
        self.fp16_enabled = False
        self.upsample_cfg = dict(upsample_cfg)

        self.backbone_end_level = end_of_levels(self.num_ins, num_outs, start_level, end_level)
        used = self.backbone_end_level - start_level

        conv: dict[str, Any] = {"conv_cfg": conv_cfg, "act_cfg": act_cfg, "inplace": False}
        self.lateral_convs = nn.ModuleList()
        self.fpn_convs = nn.ModuleList()
        for c in in_channels[start_level:self.backbone_end_level]:  # in turn, as they draw weights
            self.lateral_convs.append(ConvModule(
                c, out_channels, 1, norm_cfg=None if no_norm_on_lateral else norm_cfg, **conv))
            self.fpn_convs.append(ConvModule(
                out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, **conv))
        for i in range(num_outs - used if self.add_extra_convs else 0):
            from_input = i == 0 and self.add_extra_convs == "on_input"
            self.fpn_convs.append(ConvModule(
                in_channels[self.backbone_end_level - 1] if from_input else out_channels,
                out_channels, 3, stride=2, padding=1, norm_cfg=norm_cfg, **conv))

    def _upsample(self, x: Tensor, like: Tensor) -> Tensor:
        if "scale_factor" in self.upsample_cfg:
            return F.interpolate(x, **self.upsample_cfg)
        return F.interpolate(x, size=like.shape[2:], **self.upsample_cfg)

    def _top_down(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The lateral maps, to each of which the coarser ones are added."""
        check_maps(self, inputs, channels_of_used(
            self.in_channels, self.start_level, self.backbone_end_level))
        laterals = [conv(x) for conv, x in zip(
            self.lateral_convs, inputs[self.start_level:self.backbone_end_level])]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + self._upsample(laterals[i], laterals[i - 1])
        return laterals

    def _extend(self, outs: list[Tensor], last_lateral: Tensor, last_input: Tensor
                ) -> tuple[Tensor, ...]:
        """The outputs and those beyond the used inputs."""
        if self.add_extra_convs:
            source = {"on_input": last_input, "on_lateral": last_lateral,
                      "on_output": outs[-1]}[self.add_extra_convs]  # type: ignore[index]
            for conv in [*self.fpn_convs][len(outs):]:
                outs.append(conv(source))
                source = F.relu(outs[-1]) if self.relu_before_extra_convs else outs[-1]
        else:
            while len(outs) < self.num_outs:
                outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)

    @auto_fp16()
    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: one ``(N, in_channels[i], H_i, W_i)`` per level of the backbone.

        Returns:
            ``num_outs`` maps of ``out_channels``.

        Raises:
            ValueError: the number of maps is not that of ``in_channels``.
        """
        laterals = self._top_down(inputs)
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        return self._extend(outs, laterals[-1], inputs[self.backbone_end_level - 1])
