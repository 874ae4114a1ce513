"""Dynamic Head (Dai et al., https://arxiv.org/abs/2106.08322)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import (
    HSigmoid,
    build_activation_layer,
    build_norm_layer,
    constant_init,
    normal_init,
)
from fastdet.kernels.dyhead_attention import Act, Attention, dyhead_attention
from fastdet.kernels.dyhead_convs import (
    Convolved,
    channels_last_maps,
    convolutions,
    dyhead_convs,
)
from fastdet.ops import ModulatedDeformConv2d
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from ..utils import DyReLU

__all__ = ["DyDCNv2", "DyHead", "DyHeadBlock"]



class DyDCNv2(nn.Module):
    """A modulated deformable 3x3 convolution and its normalisation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        stride: step of the convolution.
        norm_cfg: config of the normalisation; with ``None`` the convolution has a bias instead.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1,
                 norm_cfg: Cfg | None = {
                     "type": "GN", "num_groups": 16, "requires_grad": True}) -> None:
        super().__init__()
        self.with_norm = norm_cfg is not None
        self.conv = ModulatedDeformConv2d(in_channels, out_channels, 3, stride=stride, padding=1,
                                          bias=not self.with_norm)
        if norm_cfg is not None:
            self.norm = build_norm_layer(norm_cfg, out_channels)[1]

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Convolve ``x`` ``(N, in_channels, H, W)`` and normalise.

        Args:
            x: the map.
            offset: ``(N, 18, H', W')`` as :class:`~fastdet.ops.ModulatedDeformConv2d` takes it.
            mask: ``(N, 9, H', W')``.
        """
        x = self.conv(x, offset, mask)
        return self.norm(x) if self.with_norm else x


class DyHeadBlock(nn.Module):
    """Attention over places, scales and tasks, in this order.

    Every level is the mean of up to three maps: itself, the finer level and the coarser level,
    each convolved where the level's own offsets say (places) and weighted by what its mean says
    (scales). A dynamic ReLU (tasks) activates the mean.

    Args:
        in_channels: channels of every input map.
        out_channels: channels of every output map.
        zero_init_offset: begin with offsets of zero.
        act_cfg: config of the activation that gives the weights of the scales.
    """

    def __init__(self, in_channels: int, out_channels: int, zero_init_offset: bool = True,
                 act_cfg: Cfg = {
                     "type": "HSigmoid", "bias": 3.0, "divisor": 6.0}) -> None:
        super().__init__()
        self.zero_init_offset = zero_init_offset
        self.offset_and_mask_dim = 3 * 3 * 3
        self.offset_dim = 2 * 3 * 3
        self.spatial_conv_high = DyDCNv2(in_channels, out_channels)
        self.spatial_conv_mid = DyDCNv2(in_channels, out_channels)
        self.spatial_conv_low = DyDCNv2(in_channels, out_channels, stride=2)
        self.spatial_conv_offset = nn.Conv2d(in_channels, self.offset_and_mask_dim, 3, padding=1)
        self.scale_attn_module = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(out_channels, 1, 1), nn.ReLU(inplace=True),
            build_activation_layer(act_cfg))
        self.task_attn_module = DyReLU(out_channels)
        self._init_weights()

    def _init_weights(self) -> None:
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                normal_init(m, 0, 0.01)
        if self.zero_init_offset:
            constant_init(self.spatial_conv_offset, 0)

    def _check(self, x: Sequence[Tensor]) -> None:
        channels = self.spatial_conv_offset.in_channels
        for i, level in enumerate(x):
            if level.dim() != 4 or level.shape[1] != channels:
                raise ValueError(f"DyHead: level {i} must be (N, {channels}, H, W), "
                                 f"got {tuple(level.shape)}")
            if i == 0:
                continue
            finer, size = x[i - 1].shape[2:], level.shape[2:]
            if size[0] != (finer[0] + 1) // 2 or size[1] != (finer[1] + 1) // 2:
                raise ValueError(
                    f"DyHead: level {i} must be {(finer[0] + 1) // 2}x{(finer[1] + 1) // 2}, half "
                    f"of level {i - 1} ({finer[0]}x{finer[1]}) rounded up, got {size[0]}x{size[1]}")

    def _attention(self, scale: HSigmoid, relu: HSigmoid) -> Attention:
        """The parameters after the convolutions, as the operator takes them."""
        norms: list[Any] = [self.spatial_conv_mid.norm, self.spatial_conv_low.norm,
                            self.spatial_conv_high.norm]
        attention: Any = self.scale_attn_module[1]
        squeeze, excite = (conv.conv for conv in (self.task_attn_module.conv1,
                                                  self.task_attn_module.conv2))
        return Attention(
            norms=tuple(t for norm in norms for t in (norm.weight, norm.bias)),
            attention=(attention.weight.flatten(), attention.bias),
            squeeze=(squeeze.weight.flatten(1), squeeze.bias),
            excite=(excite.weight.flatten(1), excite.bias),
            groups=norms[0].num_groups, eps=norms[0].eps,
            scale_act=Act(scale.bias, scale.divisor, scale.min_value, scale.max_value),
            relu_act=Act(relu.bias, relu.divisor, relu.min_value, relu.max_value))

    def _by_modules(self, convolved: Convolved) -> list[Tensor]:
        """Normalise, resize, weigh and average with other activations than HSigmoid."""
        images, sizes = convolved.pyramid
        layers = (self.spatial_conv_mid, self.spatial_conv_low, self.spatial_conv_high)
        maps: list[list[Tensor]] = [[] for _ in sizes]
        start = 0
        for branch, _, level, grid in convolutions(len(sizes)):
            rows = images * sizes[grid][0] * sizes[grid][1]
            part = convolved.maps[start:start + rows].view(images, *sizes[grid], -1)
            start += rows
            y = layers[branch].norm(part.permute(0, 3, 1, 2))
            if grid != level:
                y = F.interpolate(y, sizes[level], mode="bilinear", align_corners=True)
            maps[level].append(y * self.scale_attn_module(y))
        return [self.task_attn_module(torch.stack(of_level).mean(0)) for of_level in maps]

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Attend to all levels.

        Args:
            x: ``(N, in_channels, H_i, W_i)`` from the finest level to the coarsest, each of half
                the size of the one before, rounded up.

        Returns:
            Maps of ``out_channels`` of the same sizes, channels last where ``x`` is.

        Raises:
            ValueError: channels or sizes of a level do not fit.
        """
        self._check(x)
        last = (all(t.is_contiguous(memory_format=torch.channels_last) for t in x)
                and not all(t.is_contiguous() for t in x))
        x = channels_last_maps(x)
        convolved = dyhead_convs(x, [self.spatial_conv_offset(t) for t in x], [
            layer.conv.weight for layer in (self.spatial_conv_mid, self.spatial_conv_low,
                                            self.spatial_conv_high)])
        scale, relu = self.scale_attn_module[3], self.task_attn_module.conv2.activate
        if isinstance(scale, HSigmoid) and isinstance(relu, HSigmoid):
            return dyhead_attention(convolved, self._attention(scale, relu), channels_last=last)
        return self._by_modules(convolved)


@NECKS.register_module()
class DyHead(BaseModule):
    """Dynamic head: blocks that let the levels of a pyramid attend to each other.

    Args:
        in_channels: channels of every input map.
        out_channels: channels of every output map, a multiple of 16.
        num_blocks: number of :class:`DyHeadBlock`.
        zero_init_offset: begin with offsets of zero.
        init_cfg: the initialiser's config.

    Example:
        >>> import torch
        >>> neck = DyHead(16, 32, num_blocks=2).eval()
        >>> [tuple(out.shape) for out in neck([torch.rand(1, 16, s, s) for s in (12, 6, 3)])]
        [(1, 32, 12, 12), (1, 32, 6, 6), (1, 32, 3, 3)]
    """

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int = 6,
                 zero_init_offset: bool = True,
                 init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_blocks = num_blocks
        self.zero_init_offset = zero_init_offset
        # Not the Sequential of fastdet.runner: init_weights must not reach into the blocks, whose
        # own initialisation it would undo.
        self.dyhead_blocks = nn.Sequential(*(
            DyHeadBlock(out_channels if i else in_channels, out_channels, zero_init_offset)
            for i in range(num_blocks)))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Apply the blocks one after the other.

        Args:
            inputs: ``(N, in_channels, H_i, W_i)`` from the finest level to the coarsest, each of
                half the size of the one before, rounded up.

        Returns:
            As many maps of ``out_channels``, of the same sizes.

        Raises:
            TypeError: ``inputs`` is not a list or tuple.
            ValueError: there is no level, or its channels or size do not fit.
        """
        if not isinstance(inputs, (list, tuple)):
            raise TypeError("DyHead takes a list with one map per level, got "
                            f"{type(inputs).__name__}")
        if not inputs:
            raise ValueError("DyHead takes at least one level, got none")
        return tuple(self.dyhead_blocks(inputs))
