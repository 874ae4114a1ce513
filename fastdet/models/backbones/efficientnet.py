"""EfficientNet and EfficientNet-EdgeTPU.

Source: `arXiv 1905.11946 <https://arxiv.org/abs/1905.11946>`_.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
import torch.utils.checkpoint as cp
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.cnn.bricks.drop import DropPath
from fastdet.runner import BaseModule, Sequential
from fastdet.utils.types import Cfg

from ..builder import BACKBONES
from ..utils.checks import check_image, check_indices, known
from ..utils.inverted_residual import InvertedResidual
from ..utils.make_divisible import make_divisible
from ..utils.misc import eval_batch_norms
from ..utils.se_layer import SELayer

__all__ = ["EdgeResidual", "EfficientNet", "model_scaling"]

# Kernel size, channels, divisor of the squeeze (0 for none), stride, expansion, and the kind of
# block: 0 inverted residual, 1 edge residual, -1 a plain convolution.
Block = tuple[int, int, int, int, int, int]


class EdgeResidual(BaseModule):
    """Expand by a full convolution instead of a 1x1 and a depthwise one, and project back.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        mid_channels: channels between the convolutions.
        kernel_size: kernel of the first convolution.
        stride: stride of the second convolution, 1 or 2.
        se_cfg: arguments of an :class:`SELayer` between them; ``None`` for none.
        with_residual: add the input, where stride and channels let it.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activation.
        drop_path_rate: chance of a sample to skip the block in train mode.
        with_cp: recompute the block in backward instead of keeping its activations.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: the stride is neither 1 nor 2.
        TypeError: ``se_cfg`` is neither a dict nor ``None``.
    """

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int,
                 kernel_size: int = 3, stride: int = 1, se_cfg: Cfg | None = None,
                 with_residual: bool = True, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 act_cfg: Cfg = {"type": "ReLU"},
                 drop_path_rate: float = 0.0, with_cp: bool = False,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if stride not in (1, 2):
            raise ValueError(f"stride of an edge residual block must be 1 or 2, got {stride}")
        if se_cfg is not None and not isinstance(se_cfg, dict):
            raise TypeError(f"se_cfg must be a config dict or None, got {type(se_cfg).__name__}")
        self.with_cp = with_cp
        self.with_se = se_cfg is not None
        self.with_residual = with_residual and stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()
        self.conv1 = ConvModule(in_channels, mid_channels, kernel_size, padding=kernel_size // 2,
                                conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        if se_cfg is not None:
            self.se = SELayer(**se_cfg)
        self.conv2 = ConvModule(mid_channels, out_channels, 1, stride=stride, conv_cfg=conv_cfg,
                                norm_cfg=norm_cfg, act_cfg=None)

    def _forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        if self.with_se:
            out = self.se(out)
        out = self.conv2(out)
        return x + self.drop_path(out) if self.with_residual else out

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)


def model_scaling(layer_setting: Sequence[Sequence[Block]], arch_setting: Sequence[float]
                  ) -> list[list[Block]]:
    """Scale the width and the depth of EfficientNet's layers.

    Args:
        layer_setting: the blocks of each layer; the first and the last layer are convolutions,
            which keep their depth.
        arch_setting: factors on the width and on the depth, and what follows is not used.

    Returns:
        The blocks of each layer. Channels are multiples of 8. Blocks in a row that have the same
        channels are scaled together: the last of them repeats, or they are cut short.
    """
    width, depth = arch_setting[:2]
    layers = [[(k, make_divisible(channels * width, 8), *rest) for k, channels, *rest in layer]
              for layer in layer_setting]
    for i, layer in enumerate(layers[1:-1], 1):
        scaled = []
        for _, group in groupby(layer, key=lambda block: block[1]):
            blocks = list(group)
            wanted = math.ceil(depth * len(blocks))
            scaled += blocks[:wanted] + blocks[-1:] * (wanted - len(blocks))
        layers[i] = scaled
    return layers  # type: ignore[return-value]


@BACKBONES.register_module()
class EfficientNet(BaseModule):
    """EfficientNet backbone.

    Args:
        arch: ``'b0'`` to ``'b8'``, or ``'es'``, ``'em'`` or ``'el'`` for EfficientNet-EdgeTPU.
        drop_path_rate: chance of a sample to skip the last block in train mode; it grows linearly
            from 0 at the first one.
        out_indices: the layers whose output is returned, 0 (the stem) to 6 (the last 1x1
            convolution). Layers behind the last of them are not built.
        frozen_stages: that many layers, the stem being the first, get no gradient and stay in eval
            mode in train mode.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        norm_eval: keep batch normalisation in eval mode while training.
        with_cp: recompute blocks in backward instead of keeping their activations.
        init_cfg: the initialiser's config.

    Raises:
        KeyError: ``arch`` is unknown.
        ValueError: an index of a layer is out of range.
    """

    layer_settings: ClassVar[dict[str, list[list[Block]]]] = {
        "b": [[(3, 32, 0, 2, 0, -1)],
              [(3, 16, 4, 1, 1, 0)],
              [(3, 24, 4, 2, 6, 0), (3, 24, 4, 1, 6, 0)],
              [(5, 40, 4, 2, 6, 0), (5, 40, 4, 1, 6, 0)],
              [(3, 80, 4, 2, 6, 0), *[(3, 80, 4, 1, 6, 0)] * 2, *[(5, 112, 4, 1, 6, 0)] * 3],
              [(5, 192, 4, 2, 6, 0), *[(5, 192, 4, 1, 6, 0)] * 3, (3, 320, 4, 1, 6, 0)],
              [(1, 1280, 0, 1, 0, -1)]],
        "e": [[(3, 32, 0, 2, 0, -1)],
              [(3, 24, 0, 1, 3, 1)],
              [(3, 32, 0, 2, 8, 1), (3, 32, 0, 1, 8, 1)],
              [(3, 48, 0, 2, 8, 1), *[(3, 48, 0, 1, 8, 1)] * 3],
              [(5, 96, 0, 2, 8, 0), *[(5, 96, 0, 1, 8, 0)] * 4, *[(5, 144, 0, 1, 8, 0)] * 4],
              [(5, 192, 0, 2, 8, 0), (5, 192, 0, 1, 8, 0)],
              [(1, 1280, 0, 1, 0, -1)]],
    }
    # Factors on width and depth, and the side of the images of pre-training.
    arch_settings: ClassVar[dict[str, tuple[float, float, int]]] = {
        "b0": (1.0, 1.0, 224), "b1": (1.0, 1.1, 240), "b2": (1.1, 1.2, 260), "b3": (1.2, 1.4, 300),
        "b4": (1.4, 1.8, 380), "b5": (1.6, 2.2, 456), "b6": (1.8, 2.6, 528), "b7": (2.0, 3.1, 600),
        "b8": (2.2, 3.6, 672),
        "es": (1.0, 1.0, 224), "em": (1.0, 1.1, 240), "el": (1.2, 1.4, 300)}

    def __init__(self, arch: str = "b0", drop_path_rate: float = 0.0,
                 out_indices: Sequence[int] = (6,), frozen_stages: int = 0,
                 conv_cfg: Cfg | None = {"type": "Conv2dAdaptivePadding"},
                 norm_cfg: Cfg = {"type": "BN", "eps": 1e-3},
                 act_cfg: Cfg = {"type": "Swish"},
                 norm_eval: bool = False, with_cp: bool = False,
                 init_cfg: Any = [
                     {"type": "Kaiming", "layer": "Conv2d"},
                     {"type": "Constant", "layer": ["_BatchNorm", "GroupNorm"], "val": 1}]) -> None:
        super().__init__(init_cfg)
        known("EfficientNet", "arch", arch, self.arch_settings)
        self.arch_setting = self.arch_settings[arch]
        self.layer_setting = model_scaling(self.layer_settings[arch[0]], self.arch_setting)
        last = len(self.layer_setting) - 1
        check_indices("out_indices of EfficientNet", out_indices, last + 1)
        if not out_indices:
            raise ValueError(f"out_indices of EfficientNet must be one or more of 0 to {last}, "
                             f"got {out_indices}")
        if not 0 <= frozen_stages <= last + 1:
            raise ValueError(f"frozen_stages of EfficientNet must be 0 to {last + 1}, "
                             f"got {frozen_stages}")
        self.drop_path_rate = drop_path_rate
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        self.norm_eval = norm_eval
        self.with_cp = with_cp

        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        (kernel, self.in_channels, _, stride, *_), = self.layer_setting[0]
        self.layers = nn.ModuleList([ConvModule(
            3, self.in_channels, kernel, stride=stride, padding=kernel // 2, **cfgs)])
        self.make_layer()
        (kernel, self.out_channels, _, stride, *_), = self.layer_setting[-1]
        if max(out_indices) == last:
            self.layers.append(ConvModule(self.in_channels, self.out_channels, kernel,
                                          stride=stride, padding=kernel // 2, **cfgs))

    def make_layer(self) -> None:
        """Build the layers of blocks, up to the last one that is returned."""
        settings = self.layer_setting[1:-1]
        rates = iter(torch.linspace(0, self.drop_path_rate, sum(map(len, settings)),
                                    device="cpu").tolist())
        for setting in settings[:max(self.out_indices)]:
            blocks = []
            for i, block in enumerate(setting):
                blocks.append(self._make_block(block, i, next(rates)))
                self.in_channels = block[1]
            self.layers.append(Sequential(*blocks))

    def _make_block(self, setting: Block, index: int, drop_path_rate: float) -> nn.Module:
        kernel_size, out_channels, se_ratio, stride, expand_ratio, kind = setting
        shared: Cfg = {"kernel_size": kernel_size, "stride": stride, "conv_cfg": self.conv_cfg,
                          "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg,
                          "drop_path_rate": drop_path_rate, "with_cp": self.with_cp}
        # The first layer of EdgeTPU has the width of its output times four inside, which for its
        # first block is that of the input times three; its blocks have no residual.
        first_edge_layer = kind == 1 and expand_ratio == 3
        if first_edge_layer and index > 0:
            expand_ratio = 4
        mid_channels = self.in_channels * expand_ratio
        if se_ratio > 0:
            shared["se_cfg"] = {"channels": mid_channels, "ratio": expand_ratio * se_ratio,
                                "act_cfg": (self.act_cfg, {"type": "Sigmoid"})}
        if kind == 1:
            return EdgeResidual(self.in_channels, out_channels, mid_channels,
                                with_residual=not first_edge_layer, **shared)
        return InvertedResidual(self.in_channels, out_channels, mid_channels,
                                with_expand_conv=expand_ratio != 1, **shared)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(N, 3, H, W)`` to the feature maps of ``out_indices``."""
        check_image(self, x, 3)
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _freeze_stages(self) -> None:
        for layer in self.layers[:self.frozen_stages]:
            layer.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNet:
        """Set the mode, but keep frozen stages and, with ``norm_eval``, batch norms in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            eval_batch_norms(self)
        return self
