"""Merge cells: two feature maps into one (NAS-FPN, https://arxiv.org/abs/1904.07392)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.utils.types import Cfg

__all__ = ["BaseMergeCell", "ConcatCell", "GlobalPoolingCell", "SumCell"]



class BaseMergeCell(nn.Module):
    """Convolve two maps, bring them to one size, merge them and convolve the result.

    A subclass says in ``_binary_op(x1, x2)`` how two maps of one size are merged.

    Args:
        fused_channels: channels of what ``_binary_op`` returns.
        out_channels: channels of the output, and of both inputs where those are convolved.
        with_out_conv: convolve the merged map.
        out_conv_cfg: arguments of that convolution.
        out_norm_cfg: config of its normalisation; ``None`` for none.
        out_conv_order: order of its convolution, normalisation and ReLU.
        with_input1_conv: convolve the first map, 3x3, before it is resized.
        with_input2_conv: convolve the second map likewise.
        input_conv_cfg: config of the input convolutions; ``None`` is ``Conv2d``.
        input_norm_cfg: config of their normalisations; ``None`` for none.
        upsample_mode: ``'nearest'`` or ``'bilinear'``.

    Raises:
        ValueError: ``upsample_mode`` is unknown.
    """

    def __init__(self, fused_channels: int | None = 256, out_channels: int | None = 256,
                 with_out_conv: bool = True,
                 out_conv_cfg: Cfg = {
                     "groups": 1, "kernel_size": 3, "padding": 1, "bias": True},
                 out_norm_cfg: Cfg | None = None,
                 out_conv_order: tuple[str, str, str] = ("act", "conv", "norm"),
                 with_input1_conv: bool = False, with_input2_conv: bool = False,
                 input_conv_cfg: Cfg | None = None, input_norm_cfg: Cfg | None = None,
                 upsample_mode: str = "nearest") -> None:
        super().__init__()
        if upsample_mode not in ("nearest", "bilinear"):
            raise ValueError("upsample_mode must be 'nearest' or 'bilinear', "
                             f"got {upsample_mode!r}")
        self.with_out_conv = with_out_conv
        self.with_input1_conv = with_input1_conv
        self.with_input2_conv = with_input2_conv
        self.upsample_mode = upsample_mode
        if with_out_conv:
            self.out_conv = ConvModule(
                fused_channels, out_channels,  # type: ignore[arg-type]
                **out_conv_cfg, norm_cfg=out_norm_cfg, order=out_conv_order)
        self.input1_conv, self.input2_conv = (
            self._build_input_conv(out_channels, input_conv_cfg, input_norm_cfg) if wanted
            else nn.Sequential() for wanted in (with_input1_conv, with_input2_conv))

    def _build_input_conv(self, channel: int | None, conv_cfg: Cfg | None,
                          norm_cfg: Cfg | None) -> nn.Module:
        return ConvModule(channel, channel, 3, padding=1,  # type: ignore[arg-type]
                          conv_cfg=conv_cfg, norm_cfg=norm_cfg, bias=True)

    @abstractmethod
    def _binary_op(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Merge two maps of one size."""

    def _resize(self, x: Tensor, size: Sequence[int]) -> Tensor:
        height, width = x.shape[-2:]
        if (height, width) == tuple(size):
            return x
        # By height first, and by width only where the heights agree, as mmcv compares sizes.
        if (height, width) < tuple(size):
            return F.interpolate(x, size=tuple(size), mode=self.upsample_mode)
        kernel = [-(-n // target) for n, target in zip((height, width), size)]
        pad_y, pad_x = (k * target - n for k, n, target in zip(kernel, (height, width), size))
        if pad_y or pad_x:  # zeros, which a maximum can return
            x = F.pad(x, (pad_x // 2, pad_x - pad_x // 2, pad_y // 2, pad_y - pad_y // 2))
        return F.max_pool2d(x, kernel_size=kernel, stride=kernel)

    def forward(self, x1: Tensor, x2: Tensor, out_size: Sequence[int] | None = None) -> Tensor:
        """Merge two maps.

        A smaller map is interpolated, a larger one padded with zeros to a multiple of the size and
        max-pooled. Which it is the heights say, and the widths where the heights agree.

        Args:
            x1: ``(N, C, H1, W1)``.
            x2: ``(N, C, H2, W2)``.
            out_size: height and width of the output; the larger of the two maps' by default.

        Returns:
            ``(N, out_channels, *out_size)``.

        Raises:
            ValueError: the maps differ in batch or channels, or ``out_size`` is not two numbers.
        """
        if x1.shape[:2] != x2.shape[:2]:
            raise ValueError(f"{type(self).__name__} merges maps of one batch size and one number "
                             f"of channels, got {tuple(x1.shape)} and {tuple(x2.shape)}")
        if out_size is None:
            out_size = max(tuple(x1.shape[2:]), tuple(x2.shape[2:]))
        elif len(out_size) != 2:
            raise ValueError(f"out_size must be a height and a width, got {tuple(out_size)}")
        x = self._binary_op(self._resize(self.input1_conv(x1), out_size),
                            self._resize(self.input2_conv(x2), out_size))
        return self.out_conv(x) if self.with_out_conv else x


class SumCell(BaseMergeCell):
    """Merge by the sum.

    Args:
        in_channels: channels of each map.
        out_channels: channels of the output.
        **kwargs: the other arguments of :class:`BaseMergeCell`.
    """

    def __init__(self, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, **kwargs)

    def _binary_op(self, x1: Tensor, x2: Tensor) -> Tensor:
        return x1 + x2


class ConcatCell(BaseMergeCell):
    """Merge by concatenation over the channels.

    Args:
        in_channels: channels of each map.
        out_channels: channels of the output.
        **kwargs: the other arguments of :class:`BaseMergeCell`.
    """

    def __init__(self, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        super().__init__(in_channels * 2, out_channels, **kwargs)

    def _binary_op(self, x1: Tensor, x2: Tensor) -> Tensor:
        return torch.cat((x1, x2), dim=1)


class GlobalPoolingCell(BaseMergeCell):
    """Add the first map to the second, weighted per channel by the second's global average.

    Args:
        in_channels: channels of each map.
        out_channels: channels of the output.
        **kwargs: the other arguments of :class:`BaseMergeCell`.
    """

    def __init__(self, in_channels: int | None = None, out_channels: int | None = None,
                 **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, **kwargs)
        self.global_pool = nn.AdaptiveAvgPool2d((1, 1))

    def _binary_op(self, x1: Tensor, x2: Tensor) -> Tensor:
        return x2 + self.global_pool(x2).sigmoid() * x1
