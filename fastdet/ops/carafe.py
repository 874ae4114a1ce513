"""Content-aware reassembly of features, CARAFE (`arXiv 1905.02188
<https://arxiv.org/abs/1905.02188>`_)."""

from __future__ import annotations

from torch import Tensor, nn

from fastdet.cnn import UPSAMPLE_LAYERS, normal_init, xavier_init
from fastdet.kernels.carafe import carafe as _operator
from fastdet.kernels.carafe.reference import normalized_masks

__all__ = ["CARAFE", "CARAFENaive", "CARAFEPack", "carafe", "carafe_naive"]


def carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int,
           scale_factor: int) -> Tensor:
    """Upsample a map, each output pixel by a kernel of its own.

    Args:
        features: ``(N, C, H, W)``.
        masks: ``(N, group_size * kernel_size**2, H * scale_factor, W * scale_factor)``, the
            kernels, group before row-major tap.
        kernel_size: height and width of the kernels, odd.
        group_size: number of groups of channels, each with kernels of its own.
        scale_factor: how many times larger the output is.

    Returns:
        ``(N, C, H * scale_factor, W * scale_factor)``. Taps off the map count as zero.

    Raises:
        ValueError: sizes, data types or devices do not fit.
    """
    return _operator(features, masks, kernel_size, group_size, scale_factor)


# mmcv has a second implementation under this name; the operator is the same.
carafe_naive = carafe


class CARAFE(nn.Module):
    """:func:`carafe` as a module.

    Args:
        kernel_size: height and width of the kernels, odd.
        group_size: number of groups of channels.
        scale_factor: how many times larger the output is.

    Raises:
        TypeError: an argument is not an int.
    """

    def __init__(self, kernel_size: int, group_size: int, scale_factor: int) -> None:
        super().__init__()
        for name, value in (("kernel_size", kernel_size), ("group_size", group_size),
                            ("scale_factor", scale_factor)):
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {value!r}")
        self.kernel_size = kernel_size
        self.group_size = group_size
        self.scale_factor = scale_factor

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Upsample ``features``; see :func:`carafe`."""
        return carafe(features, masks, self.kernel_size, self.group_size, self.scale_factor)


class CARAFENaive(CARAFE):
    """The same as :class:`CARAFE`, under the name of mmcv's second implementation."""


@UPSAMPLE_LAYERS.register_module("carafe")
class CARAFEPack(nn.Module):
    """Upsampling by kernels that are predicted from the map itself.

    Args:
        channels: channels of the map.
        scale_factor: how many times larger the output is.
        up_kernel: height and width of the kernels, odd.
        up_group: number of groups of channels.
        encoder_kernel: kernel of the convolution that predicts the kernels, odd.
        encoder_dilation: its dilation.
        compressed_channels: its input channels.
    """

    def __init__(self, channels: int, scale_factor: int, up_kernel: int = 5, up_group: int = 1,
                 encoder_kernel: int = 3, encoder_dilation: int = 1,
                 compressed_channels: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.scale_factor = scale_factor
        self.up_kernel = up_kernel
        self.up_group = up_group
        self.encoder_kernel = encoder_kernel
        self.encoder_dilation = encoder_dilation
        self.compressed_channels = compressed_channels
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels, up_kernel**2 * up_group * scale_factor**2, encoder_kernel,
            padding=(encoder_kernel - 1) * encoder_dilation // 2, dilation=encoder_dilation)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier's uniform draw for the compressor, a normal one of 0.001 for the encoder."""
        for conv in (self.channel_compressor, self.content_encoder):
            xavier_init(conv, distribution="uniform")  # the encoder's, too: mmcv's stream of draws
        normal_init(self.content_encoder, std=0.001)

    def kernel_normalizer(self, mask: Tensor) -> Tensor:
        """Make kernels of sum one of what the encoder predicts.

        Args:
            mask: ``(N, up_group * up_kernel**2 * scale_factor**2, H, W)``.

        Returns:
            ``(N, up_group * up_kernel**2, H * scale_factor, W * scale_factor)``.
        """
        return normalized_masks(mask, self.up_kernel, self.up_group, self.scale_factor)

    def feature_reassemble(self, x: Tensor, mask: Tensor) -> Tensor:
        """Upsample ``x`` by normalised kernels; see :func:`carafe`."""
        return carafe(x, mask, self.up_kernel, self.up_group, self.scale_factor)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to ``(N, channels, H * scale_factor, W * scale_factor)``."""
        # The operator normalises the kernels itself: they are never written out.
        mask = self.content_encoder(self.channel_compressor(x))
        return _operator(x, mask, self.up_kernel, self.up_group, self.scale_factor, normalize=True)
