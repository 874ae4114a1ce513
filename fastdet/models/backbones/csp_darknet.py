"""CSP-Darknet of YOLOv5 and YOLOX (`arXiv 2107.08430 <https://arxiv.org/abs/2107.08430>`_)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastdet.cnn import ConvModule, DepthwiseSeparableConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

from ..builder import BACKBONES
from ..utils.checks import check_image, check_indices, known
from ..utils.csp_layer import CSPLayer
from ..utils.misc import eval_batch_norms

__all__ = ["CSPDarknet", "Focus", "SPPBottleneck"]


_SQRT5 = math.sqrt(5)  # with it Kaiming's rule is torch's own initialisation


class Focus(nn.Module):
    """Move 2x2 pixels into the channels, then convolve.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: kernel of the convolution.
        stride: its stride.
        conv_cfg: config of the convolution; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisation.
        act_cfg: config of the activation.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1,
                 conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN", "momentum": 0.03, "eps": 0.001},
                 act_cfg: Cfg = {"type": "Swish"}) -> None:
        super().__init__()
        self.conv = ConvModule(in_channels * 4, out_channels, kernel_size, stride,
                               padding=(kernel_size - 1) // 2, conv_cfg=conv_cfg,
                               norm_cfg=norm_cfg, act_cfg=act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H / 2, W / 2)``.

        Raises:
            ValueError: a side is odd.
        """
        b, c, h, w = x.shape
        if h % 2 or w % 2:
            raise ValueError(f"Focus takes maps of even height and width, got {h} x {w}")
        # Of a channel's four pixels the column is the slow index: (0, 0), (1, 0), (0, 1), (1, 1).
        x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 5, 3, 1, 2, 4)
        return self.conv(x.reshape(b, 4 * c, h // 2, w // 2))


class SPPBottleneck(BaseModule):
    """Spatial pyramid pooling: a map beside its maxima over windows of several sizes.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_sizes: sides of the windows, odd numbers.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: a kernel size is even.
    """

    def __init__(self, in_channels: int, out_channels: int,
                 kernel_sizes: Sequence[int] = (5, 9, 13), conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN", "momentum": 0.03, "eps": 0.001},
                 act_cfg: Cfg = {"type": "Swish"},
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if any(k % 2 == 0 for k in kernel_sizes):
            raise ValueError("kernel sizes of the pyramid pooling must be odd, "
                             f"got {tuple(kernel_sizes)}")
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.kernel_sizes = tuple(kernel_sizes)
        hidden = in_channels // 2
        self.conv1 = ConvModule(in_channels, hidden, 1, **cfgs)
        self.poolings = nn.ModuleList(
            nn.MaxPool2d(kernel_size=k, stride=1, padding=k // 2) for k in kernel_sizes)
        self.conv2 = ConvModule(hidden * (len(kernel_sizes) + 1), out_channels, 1, **cfgs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        x = self.conv1(x)
        if torch.is_grad_enabled():
            maxima = [pool(x) for pool in self.poolings]
        else:
            maxima = self._nested_maxima(x)
        return self.conv2(torch.cat([x, *maxima], dim=1))

    def _nested_maxima(self, x: Tensor) -> list[Tensor]:
        """What the poolings give, each made from the one before it, whose window is smaller.

        The values are the same and the windows small. But where a maximum is there twice, the
        gradient would go another way.
        """
        maxima = []
        side, out = 1, x
        for kernel in self.kernel_sizes:
            if kernel < side:
                side, out = 1, x
            out = F.max_pool2d(out, kernel - side + 1, stride=1, padding=(kernel - side) // 2)
            side = kernel
            maxima.append(out)
        return maxima


@BACKBONES.register_module()
class CSPDarknet(BaseModule):
    """CSP-Darknet backbone.

    Args:
        arch: ``'P5'`` or ``'P6'``: four stages, or five.
        deepen_factor: factor on the number of blocks of each stage.
        widen_factor: factor on the channels of each layer.
        out_indices: the stages whose output is returned; the stem is 0.
        frozen_stages: the stem and that many stages get no gradient and stay in eval mode in train
            mode; 0 freezes the stem alone, -1 nothing.
        use_depthwise: use depthwise separable convolutions.
        arch_ovewrite: stages in place of those of ``arch``, each ``(in_channels, out_channels,
            num_blocks, add_identity, use_spp)``. (MMDetection's spelling.)
        spp_kernal_sizes: windows of the spatial pyramid pooling. (MMDetection's spelling.)
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        norm_eval: keep batch normalisation in eval mode while training.
        init_cfg: the initialiser's config; by default torch's own initialisation of convolutions.

    Raises:
        KeyError: ``arch`` is unknown.
        ValueError: an index of a stage is out of range.

    Example:
        >>> import torch
        >>> self = CSPDarknet(deepen_factor=0.33, widen_factor=0.25).eval()
        >>> [tuple(out.shape) for out in self(torch.rand(1, 3, 64, 64))]
        [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    """

    arch_settings: ClassVar[dict[str, list[Any]]] = {
        "P5": [(64, 128, 3, True, False), (128, 256, 9, True, False),
               (256, 512, 9, True, False), (512, 1024, 3, False, True)],
        "P6": [(64, 128, 3, True, False), (128, 256, 9, True, False),
               (256, 512, 9, True, False), (512, 768, 3, True, False),
               (768, 1024, 3, False, True)],
    }

    def __init__(self, arch: str = "P5", deepen_factor: float = 1.0, widen_factor: float = 1.0,
                 out_indices: Sequence[int] = (2, 3, 4), frozen_stages: int = -1,
                 use_depthwise: bool = False, arch_ovewrite: Sequence[Any] | None = None,
                 spp_kernal_sizes: Sequence[int] = (5, 9, 13), conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN", "momentum": 0.03, "eps": 0.001},
                 act_cfg: Cfg = {"type": "Swish"},
                 norm_eval: bool = False,
                 init_cfg: Any = {"type": "Kaiming", "layer": "Conv2d",
                                  "a": _SQRT5, "distribution": "uniform",
                                  "mode": "fan_in", "nonlinearity": "leaky_relu"}) -> None:
        super().__init__(init_cfg)
        known("CSPDarknet", "arch", arch, self.arch_settings)
        setting = arch_ovewrite or self.arch_settings[arch]
        check_indices("out_indices of this CSPDarknet", out_indices, len(setting) + 1)
        if not -1 <= frozen_stages <= len(setting):
            raise ValueError(f"frozen_stages of this CSPDarknet must be -1 to {len(setting)}, "
                             f"got {frozen_stages}")
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.use_depthwise = use_depthwise
        self.norm_eval = norm_eval
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        conv = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        self.stem = Focus(3, int(setting[0][0] * widen_factor), kernel_size=3, **cfgs)
        self.layers = ["stem"]
        for i, (c_in, c_out, num_blocks, add_identity, use_spp) in enumerate(setting, 1):
            c_in, c_out = int(c_in * widen_factor), int(c_out * widen_factor)
            stage: list[nn.Module] = [conv(c_in, c_out, 3, stride=2, padding=1, **cfgs)]
            if use_spp:
                stage.append(SPPBottleneck(c_out, c_out, spp_kernal_sizes, **cfgs))
            stage.append(CSPLayer(
                c_out, c_out, num_blocks=max(round(num_blocks * deepen_factor), 1),
                add_identity=add_identity, use_depthwise=use_depthwise, **cfgs))
            self.add_module(f"stage{i}", nn.Sequential(*stage))
            self.layers.append(f"stage{i}")

    def _freeze_stages(self) -> None:
        for name in self.layers[:self.frozen_stages + 1]:
            getattr(self, name).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> CSPDarknet:
        """Set the mode, but keep frozen stages and, with ``norm_eval``, batch norms in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            eval_batch_norms(self)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(N, 3, H, W)`` to the feature maps of ``out_indices``."""
        check_image(self, x, 3)
        outs = []
        for i, name in enumerate(self.layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)
