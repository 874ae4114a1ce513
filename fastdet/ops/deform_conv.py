"""Deformable convolution (`arXiv 1703.06211 <https://arxiv.org/abs/1703.06211>`_)."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair, _single

from fastdet.cnn import CONV_LAYERS, constant_init
from fastdet.kernels.deform_conv2d import deform_conv2d as _operator
from fastdet.utils.types import Size

__all__ = ["DeformConv2d", "DeformConv2dPack", "deform_conv2d"]

_Init = TypeVar("_Init", bound=Callable[..., None])


def deform_conv2d(input: Tensor, offset: Tensor, weight: Tensor, stride: Size = 1,
                  padding: Size = 0, dilation: Size = 1, groups: int = 1, deform_groups: int = 1,
                  bias: bool = False, im2col_step: int = 32) -> Tensor:
    """Convolve with every tap shifted by an offset of its own.

    ``input`` and ``weight`` are cast to the type of ``offset``, and so is the result.

    Args:
        input: ``(B, C, H, W)``.
        offset: ``(B, deform_groups * 2 * kH * kW, H', W')`` in pixels, ``(dy, dx)`` of one tap
            after the other; ``H'`` and ``W'`` are the size of the result.
        weight: ``(O, C / groups, kH, kW)``.
        stride: step of the kernel.
        padding: zeros around the input.
        dilation: spacing of the kernel's taps.
        groups: groups of channels.
        deform_groups: groups of input channels with offsets of their own.
        bias: must be false.
        im2col_step: images that mmcv takes at a time; has no effect.

    Returns:
        ``(B, O, H', W')``.

    Raises:
        ValueError: ``bias`` is true, or a shape does not fit.
    """
    if bias:
        raise ValueError(f"deform_conv2d adds no bias, bias must be False, got {bias!r}")
    return _operator(input, offset, weight, stride=_pair(stride), padding=_pair(padding),
                     dilation=_pair(dilation), groups=groups, deform_groups=deform_groups)


def accept_deformable_groups(init: _Init) -> _Init:
    """Let a constructor take ``deform_groups`` under its old name ``deformable_groups`` too."""
    name = init.__qualname__.partition(".")[0]

    @functools.wraps(init)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        if "deformable_groups" in kwargs:
            if "deform_groups" in kwargs:
                raise ValueError(f"{name} got both deform_groups and its old name "
                                 "deformable_groups; give deform_groups only")
            warnings.warn(f"deformable_groups of {name} is now called deform_groups",
                          DeprecationWarning, stacklevel=2)
            kwargs["deform_groups"] = kwargs.pop("deformable_groups")
        init(self, *args, **kwargs)

    return wrapper  # type: ignore[return-value]


class DeformConvBase(nn.Module):
    """What the deformable convolutions share: sizes, a weight and old names in checkpoints."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size,
                 padding: Size, dilation: Size, groups: int, deform_groups: int) -> None:
        super().__init__()
        for what, channels, parts, of in (
                ("in_channels", in_channels, groups, "groups"),
                ("out_channels", out_channels, groups, "groups"),
                ("in_channels", in_channels, deform_groups, "deform_groups")):
            if parts < 1 or channels % parts:
                raise ValueError(f"{type(self).__name__}: {what} must be a multiple of {of}, "
                                 f"got {what}={channels}, {of}={parts}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.deform_groups = deform_groups
        # Code that takes a convolution of any kind reads these two.
        self.transposed = False
        self.output_padding = _single(0)
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size))

    def _offset_conv(self, per_tap: int) -> nn.Conv2d:
        """The convolution that predicts ``per_tap`` numbers for each tap."""
        channels = self.deform_groups * per_tap * math.prod(self.kernel_size)
        return nn.Conv2d(self.in_channels, channels, self.kernel_size, self.stride, self.padding,
                         self.dilation)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str,
                              local_metadata: dict[str, Any], *args: Any) -> None:
        version = local_metadata.get("version")
        if hasattr(self, "conv_offset") and (version is None or version < 2):
            # Before version 2 the convolution lay beside the layer: "conv2_offset.weight".
            for leaf in ("weight", "bias"):
                old, new = f"{prefix[:-1]}_offset.{leaf}", f"{prefix}conv_offset.{leaf}"
                if new not in state_dict and old in state_dict:
                    state_dict[new] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        """The layer's arguments, for ``repr``."""
        return (f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
                f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
                f"groups={self.groups}, deform_groups={self.deform_groups}")


class DeformConv2d(DeformConvBase):
    """Deformable convolution whose offsets the caller gives.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: side or sides of the kernel.
        stride: step of the kernel.
        padding: zeros around the input.
        dilation: spacing of the kernel's taps.
        groups: groups of channels.
        deform_groups: groups of input channels with offsets of their own; ``deformable_groups``
            is its old name.
        bias: must be false.
        im2col_step: images that mmcv takes at a time; has no effect.

    Raises:
        ValueError: ``bias`` is true, or channels do not divide into the groups.
    """

    @accept_deformable_groups
    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
                 padding: Size = 0, dilation: Size = 1, groups: int = 1, deform_groups: int = 1,
                 bias: bool = False, im2col_step: int = 32) -> None:
        if bias:
            raise ValueError(f"{type(self).__name__} has no bias, bias must be False, got {bias!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                         deform_groups)
        self.im2col_step = im2col_step
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from Kaiming's uniform distribution for ReLU."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Convolve ``x`` ``(B, C, H, W)`` at ``offset``, as :func:`deform_conv2d`.

        mmcv pads an input smaller than the kernel with zeros and crops the result; outside is zero
        anyhow, so that the result is the same.
        """
        return deform_conv2d(x, offset, self.weight, self.stride, self.padding, self.dilation,
                             self.groups, self.deform_groups, False, self.im2col_step)


@CONV_LAYERS.register_module("DCN")
class DeformConv2dPack(DeformConv2d):
    """Deformable convolution that predicts its own offsets, by ``conv_offset``, zero at first.

    Takes the arguments of :class:`DeformConv2d`.
    """

    _version = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv_offset = self._offset_conv(2)
        self.init_offset()

    def init_offset(self) -> None:
        """Make all offsets zero."""
        constant_init(self.conv_offset, 0)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve ``x`` ``(B, C, H, W)``."""
        return super().forward(x, self.conv_offset(x))
