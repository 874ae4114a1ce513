"""The extra levels of SSD (`arXiv 1512.02325 <https://arxiv.org/abs/1512.02325>`_)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule, DepthwiseSeparableConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from ..utils.checks import check_maps

__all__ = ["L2Norm", "SSDNeck"]



class L2Norm(nn.Module):
    """Scale each position of a map to length one over the channels, then each channel.

    Args:
        n_dims: number of channels.
        scale: initial weight of every channel.
        eps: added to the lengths.

    Source: ParseNet, https://arxiv.org/abs/1506.04579
    """

    def __init__(self, n_dims: int, scale: float = 20.0, eps: float = 1e-10) -> None:
        super().__init__()
        self.n_dims = n_dims
        self.weight = nn.Parameter(torch.full((n_dims,), float(scale)))
        self.scale = scale
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` ``(N, n_dims, H, W)``, in float32 whatever its type."""
        wide = x.float()
        length = wide.pow(2).sum(1, keepdim=True).sqrt() + self.eps
        return (self.weight[:, None, None].float() * wide / length).type_as(x)


@NECKS.register_module()
class SSDNeck(BaseModule):
    """Further levels on top of a backbone's, each from the one before it.

    Args:
        in_channels: channels of the backbone's levels.
        out_channels: channels of all levels; they begin with ``in_channels``.
        level_strides: stride of the 3x3 convolution of each further level.
        level_paddings: its padding.
        l2_norm_scale: initial weight of the :class:`L2Norm` on the first level; ``None`` for no
            such normalisation.
        last_kernel_size: kernel of that convolution in the last level.
        use_depthwise: whether it is a depthwise separable one.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations; ``None`` for none.
        act_cfg: config of the activations.
        init_cfg: the initialiser's config, or a list of them.

    Raises:
        ValueError: ``out_channels`` do not begin with ``in_channels`` and go on, or there is not
            one stride and one padding for each further level.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: Sequence[int],
                 level_strides: Sequence[int], level_paddings: Sequence[int],
                 l2_norm_scale: float | None = 20.0, last_kernel_size: int = 3,
                 use_depthwise: bool = False, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg | None = None,
                 act_cfg: Cfg = {"type": "ReLU"},
                 init_cfg: InitCfg = [
                     {"type": "Xavier", "distribution": "uniform", "layer": "Conv2d"},
                     {"type": "Constant", "val": 1, "layer": "BatchNorm2d"}]) -> None:
        num_given = len(in_channels)
        if len(out_channels) <= num_given or list(out_channels[:num_given]) != list(in_channels):
            raise ValueError("out_channels must be in_channels and those of the further levels, "
                             f"got {out_channels} with in_channels={in_channels}")
        further = len(out_channels) - num_given
        for name, values in (("level_strides", level_strides), ("level_paddings", level_paddings)):
            if len(values) != further:
                raise ValueError(f"{name} must have one entry for each of the {further} further "
                                 f"levels, got {values}")
        super().__init__(init_cfg)
        if l2_norm_scale:
            self.l2_norm = L2Norm(in_channels[0], l2_norm_scale)
            given = self.init_cfg or []
            self.init_cfg = [*([given] if isinstance(given, dict) else given),
                             {"type": "Constant", "val": l2_norm_scale,
                              "override": {"name": "l2_norm"}}]
        self._channels = list(in_channels)
        conv = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.extra_layers = nn.ModuleList()
        for i, (stride, padding) in enumerate(zip(level_strides, level_paddings)):
            before, channels = out_channels[num_given + i - 1], out_channels[num_given + i]
            kernel = last_kernel_size if i == further - 1 else 3
            self.extra_layers.append(nn.Sequential(
                ConvModule(before, channels // 2, 1, **cfgs),
                conv(channels // 2, channels, kernel, stride=stride, padding=padding, **cfgs)))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Make the levels.

        Args:
            inputs: the backbone's levels ``(N, C, H, W)``, finest first.

        Returns:
            All levels, finest first.
        """
        check_maps(self, inputs, self._channels)
        outs = list(inputs)
        if hasattr(self, "l2_norm"):
            outs[0] = self.l2_norm(outs[0])
        for layer in self.extra_layers:
            outs.append(layer(outs[-1]))
        return tuple(outs)
