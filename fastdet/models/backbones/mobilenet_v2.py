"""MobileNetV2 (`arXiv 1801.04381 <https://arxiv.org/abs/1801.04381>`_)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

from ..builder import BACKBONES
from ..utils.checks import check_image, check_indices
from ..utils.inverted_residual import InvertedResidual
from ..utils.make_divisible import make_divisible
from ..utils.misc import eval_batch_norms, pretrained_init_cfg

__all__ = ["MobileNetV2"]



@BACKBONES.register_module()
class MobileNetV2(BaseModule):
    """MobileNetV2 backbone.

    Args:
        widen_factor: factor on the channels of each layer.
        out_indices: the layers whose output is returned, 0 to 7; 7 is the last 1x1 convolution.
        frozen_stages: from 0 on, the stem gets no gradient, and that many layers get none and
            stay in eval mode in train mode; -1 freezes nothing.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        norm_eval: keep batch normalisation in eval mode while training.
        with_cp: recompute blocks in backward instead of keeping their activations.
        pretrained: deprecated; use ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: the initialiser's config. By default He initialisation of the convolutions,
            and ones for the weights of batch and group normalisation.

    Raises:
        ValueError: an index is out of range, or both ``pretrained`` and ``init_cfg`` are given.
    """

    # Of each layer: expansion, channels, blocks and stride.
    arch_settings: ClassVar[list[tuple[int, int, int, int]]] = [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1)]

    def __init__(self, widen_factor: float = 1.0, out_indices: Sequence[int] = (1, 2, 4, 7),
                 frozen_stages: int = -1, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 act_cfg: Cfg = {"type": "ReLU6"},
                 norm_eval: bool = False, with_cp: bool = False, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(pretrained_init_cfg(pretrained, init_cfg, [
            {"type": "Kaiming", "layer": "Conv2d"},
            {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]}]))
        check_indices("out_indices of MobileNetV2", out_indices, 8)
        if not -1 <= frozen_stages <= 7:
            raise ValueError(f"frozen_stages of MobileNetV2 must be -1 to 7, got {frozen_stages}")
        self.pretrained = pretrained
        self.widen_factor = widen_factor
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.in_channels = make_divisible(32 * widen_factor, 8)
        self.conv1 = ConvModule(3, self.in_channels, 3, stride=2, padding=1, **cfgs)
        self.layers = []
        for i, (expansion, channels, num_blocks, stride) in enumerate(self.arch_settings, 1):
            self.add_module(f"layer{i}", self.make_layer(
                make_divisible(channels * widen_factor, 8), num_blocks, stride, expansion))
            self.layers.append(f"layer{i}")
        self.out_channel = int(1280 * max(widen_factor, 1.0))
        self.conv2 = ConvModule(self.in_channels, self.out_channel, 1, **cfgs)
        self.layers.append("conv2")

    def make_layer(self, out_channels: int, num_blocks: int, stride: int, expand_ratio: int
                   ) -> nn.Sequential:
        """Build a layer of inverted residual blocks behind what has been built so far.

        Args:
            out_channels: channels of the output.
            num_blocks: number of blocks.
            stride: stride of the first block.
            expand_ratio: channels inside a block per channel of its input.
        """
        blocks = []
        for i in range(num_blocks):
            blocks.append(InvertedResidual(
                self.in_channels, out_channels, round(self.in_channels * expand_ratio),
                stride=stride if i == 0 else 1, with_expand_conv=expand_ratio != 1,
                conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg,
                with_cp=self.with_cp))
            self.in_channels = out_channels
        return nn.Sequential(*blocks)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        self.conv1.requires_grad_(False)  # its norm goes on training its statistics
        for name in self.layers[:self.frozen_stages]:
            getattr(self, name).eval().requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(N, 3, H, W)`` to the feature maps of ``out_indices``."""
        check_image(self, x, 3)
        x = self.conv1(x)
        outs = []
        for i, name in enumerate(self.layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> MobileNetV2:
        """Set the mode, but keep frozen stages and, with ``norm_eval``, batch norms in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            eval_batch_norms(self)
        return self
