"""Images and maps to sequences of patches, as in ``mmcv.cnn.bricks.transformer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from fastdet.kernels.merge_layer_norm.reference import merge_windows
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, Size

from .conv import build_conv_layer
from .fused import casts, is_layer_norm, merge_norm
from .layers import convolve_to_tokens, run_layers
from .norm import build_norm_layer

__all__ = ["AdaptivePadding", "PatchEmbed", "PatchMerging"]


class AdaptivePadding(nn.Module):
    """Zero padding with which a sliding window covers the whole map, whatever its size.

    Args:
        kernel_size: size of the window, ``(h, w)`` or one number.
        stride: its step.
        dilation: spacing of its elements.
        padding: ``'corner'`` pads right and bottom; ``'same'`` pads all around, the odd row and
            column right and bottom.

    Raises:
        ValueError: ``padding`` is neither.
    """

    def __init__(self, kernel_size: Size = 1, stride: Size = 1, dilation: Size = 1,
                 padding: str = "corner") -> None:
        super().__init__()
        if padding not in ("same", "corner"):
            raise ValueError(f"padding must be 'same' or 'corner', got {padding!r}")
        self.padding = padding
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.dilation = _pair(dilation)

    def get_pad_shape(self, input_shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of padding that a map of ``input_shape`` ``(H, W)`` needs."""
        pad_h, pad_w = (
            max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            for size, kernel, stride, dilation in zip(
                input_shape, self.kernel_size, self.stride, self.dilation))
        return pad_h, pad_w

    def forward(self, x: Tensor) -> Tensor:
        """Pad a map ``(..., H, W)``."""
        pad_h, pad_w = self.get_pad_shape(x.shape[-2:])
        if pad_h == 0 and pad_w == 0:
            return x
        top, left = (pad_h // 2, pad_w // 2) if self.padding == "same" else (0, 0)
        return F.pad(x, (left, pad_w - left, top, pad_h - top))


def _window_count(size: int, pad: int, kernel: int, stride: int, dilation: int) -> int:
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


class PatchEmbed(BaseModule):
    """Image to a sequence of patch embeddings, by a convolution.

    Args:
        in_channels: channels of the image.
        embed_dims: channels of an embedding.
        conv_type: type of the convolution.
        kernel_size: size of a patch.
        stride: step between patches; ``kernel_size`` if ``None``.
        padding: numbers, or the mode of :class:`AdaptivePadding`.
        dilation: dilation of the convolution.
        bias: whether the convolution has a bias.
        norm_cfg: config of a norm over the embeddings, if any.
        input_size: ``(H, W)`` of the input, from which ``init_out_size`` is computed.
        init_cfg: see :class:`fastdet.runner.BaseModule`.
    """

    def __init__(self, in_channels: int = 3, embed_dims: int = 768, conv_type: str = "Conv2d",
                 kernel_size: Size = 16, stride: Size | None = 16, padding: Size | str = "corner",
                 dilation: Size = 1, bias: bool = True, norm_cfg: Cfg | None = None,
                 input_size: Size | None = None, init_cfg: Any = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.embed_dims = embed_dims
        kernel = _pair(kernel_size)
        step = kernel if stride is None else _pair(stride)
        spacing = _pair(dilation)
        self.adap_padding: AdaptivePadding | None = None
        if isinstance(padding, str):
            self.adap_padding = AdaptivePadding(kernel, step, spacing, padding)
            padding = 0
        pad = _pair(padding)
        self.projection = build_conv_layer(
            {"type": conv_type}, in_channels=in_channels, out_channels=embed_dims,
            kernel_size=kernel, stride=step, padding=pad, dilation=spacing, bias=bias)
        self.norm = build_norm_layer(norm_cfg, embed_dims)[1] if norm_cfg is not None else None

        self.init_input_size: tuple[int, int] | None = None
        self.init_out_size: tuple[int, int] | None = None
        if input_size is not None:
            self.init_input_size = size = _pair(input_size)
            if self.adap_padding is not None:
                extra = self.adap_padding.get_pad_shape(size)
                size = (size[0] + extra[0], size[1] + extra[1])
            rows, columns = map(_window_count, size, pad, kernel, step, spacing)
            self.init_out_size = (rows, columns)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed the patches of an image.

        Args:
            x: ``(B, in_channels, H, W)``.

        Returns:
            ``(B, h * w, embed_dims)``, patches row by row, and ``(h, w)``.
        """
        if self.adap_padding is not None:
            x = self.adap_padding(x)
        x, hw = convolve_to_tokens(self.projection, x)
        if self.norm is not None:
            x = self.norm(x)
        return x, hw


class PatchMerging(BaseModule):
    """Merge neighbouring tokens of a map: gather each window's, normalise, project.

    A merged token's channels are ordered as ``torch.nn.Unfold`` does: channel slowest, then the
    row and the column inside the window.

    Args:
        in_channels: channels of the tokens.
        out_channels: channels of the merged tokens.
        kernel_size: size of a window.
        stride: step between windows; ``kernel_size`` if ``None``.
        padding: numbers, or the mode of :class:`AdaptivePadding`.
        dilation: spacing of the tokens of a window.
        bias: whether the projection has a bias.
        norm_cfg: config of the norm before the projection, if any.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Source: Swin Transformer, https://arxiv.org/abs/2103.14030
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size = 2,
                 stride: Size | None = None, padding: Size | str = "corner", dilation: Size = 1,
                 bias: bool = False, norm_cfg: Cfg | None = {"type": "LN"},
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        kernel = _pair(kernel_size)
        step = _pair(stride) if stride else kernel
        spacing = _pair(dilation)
        self.adap_padding: AdaptivePadding | None = None
        if isinstance(padding, str):
            self.adap_padding = AdaptivePadding(kernel, step, spacing, padding)
            padding = 0
        pad = _pair(padding)
        self.sampler = nn.Unfold(kernel, dilation=spacing, padding=pad, stride=step)
        channels = kernel[0] * kernel[1] * in_channels
        self.norm = build_norm_layer(norm_cfg, channels)[1] if norm_cfg is not None else None
        self.reduction = nn.Linear(channels, out_channels, bias=bias)
        self._window = (pad, kernel, step, spacing)
        self._tiles = step == kernel and spacing == (1, 1) and pad == (0, 0)
        self._merges = self._tiles and kernel == (2, 2) and self.adap_padding is not None

    def forward(self, x: Tensor, input_size: Sequence[int]) -> tuple[Tensor, tuple[int, int]]:
        """Merge the tokens of a map.

        Args:
            x: ``(B, H * W, in_channels)``.
            input_size: ``(H, W)``.

        Returns:
            ``(B, h * w, out_channels)`` and ``(h, w)``.

        Raises:
            ValueError: ``input_size`` is not two numbers whose product is the number of tokens.
        """
        if not isinstance(input_size, Sequence) or len(input_size) != 2:
            raise ValueError(f"input_size must be (H, W), got {input_size!r}")
        height, width = input_size
        if x.shape[1] != height * width:
            raise ValueError(f"PatchMerging: {x.shape[1]} tokens cannot be a map of "
                             f"{height} x {width}")
        if self._merges and is_layer_norm(self.norm):
            x = merge_norm(self.norm, x, (height, width), cast=casts(self.reduction))
            return run_layers([self.reduction], x), (-(-height // 2), -(-width // 2))
        x = x.view(x.shape[0], height, width, x.shape[2]).permute(0, 3, 1, 2)
        if self.adap_padding is not None:
            x = self.adap_padding(x)
        rows, columns = map(_window_count, x.shape[2:], *self._window)
        if self._tiles:
            kh, kw = self._window[1]
            x = x[:, :, :rows * kh, :columns * kw].permute(0, 2, 3, 1)
            x = merge_windows(x, (kh, kw))
        else:
            x = self.sampler(x).transpose(1, 2)
        if self.norm is not None:
            x = self.norm(x)
        return run_layers([self.reduction], x), (rows, columns)
