"""Darknet-53 of YOLOv3 (`arXiv 1804.02767 <https://arxiv.org/abs/1804.02767>`_)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

from ..builder import BACKBONES
from ..utils.checks import check_image, check_indices, known
from ..utils.misc import eval_batch_norms, pretrained_init_cfg

__all__ = ["Darknet", "ResBlock"]



class ResBlock(BaseModule):
    """A 1x1 convolution to half the channels, a 3x3 one back, and the input added to them.

    Args:
        in_channels: channels of input and output, an even number.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: ``in_channels`` is odd.
    """

    def __init__(self, in_channels: int, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN", "requires_grad": True},
                 act_cfg: Cfg = {"type": "LeakyReLU", "negative_slope": 0.1},
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if in_channels % 2:
            raise ValueError(f"in_channels of a ResBlock must be even, got {in_channels}")
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.conv1 = ConvModule(in_channels, in_channels // 2, 1, **cfgs)
        self.conv2 = ConvModule(in_channels // 2, in_channels, 3, padding=1, **cfgs)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on ``(N, in_channels, H, W)``."""
        return self.conv2(self.conv1(x)) + x


@BACKBONES.register_module()
class Darknet(BaseModule):
    """Darknet backbone.

    Args:
        depth: depth of the network; 53 is the only one.
        out_indices: the stages whose output is returned; the stem is 0, and the further five halve
            the size.
        frozen_stages: that many stages, the stem being the first, get no gradient and stay in eval
            mode in train mode; -1 freezes nothing.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        norm_eval: keep batch normalisation in eval mode while training.
        pretrained: deprecated; use ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: the initialiser's config. By default He initialisation of the convolutions,
            and ones for the weights of batch and group normalisation.

    Raises:
        KeyError: there is no network of this depth.
        ValueError: an index of a stage is out of range, or both ``pretrained`` and ``init_cfg``
            are given.

    Example:
        >>> import torch
        >>> self = Darknet(depth=53).eval()
        >>> [tuple(out.shape) for out in self(torch.rand(1, 3, 64, 64))]
        [(1, 256, 8, 8), (1, 512, 4, 4), (1, 1024, 2, 2)]
    """

    # Blocks of each stage, and its channels in and out.
    arch_settings: ClassVar[dict[int, Any]] = {
        53: ((1, 2, 8, 8, 4), ((32, 64), (64, 128), (128, 256), (256, 512), (512, 1024))),
    }

    def __init__(self, depth: int = 53, out_indices: Sequence[int] = (3, 4, 5),
                 frozen_stages: int = -1, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN", "requires_grad": True},
                 act_cfg: Cfg = {"type": "LeakyReLU", "negative_slope": 0.1},
                 norm_eval: bool = True, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(pretrained_init_cfg(pretrained, init_cfg, [
            {"type": "Kaiming", "layer": "Conv2d"},
            {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]}]))
        known("Darknet", "depth", depth, self.arch_settings)
        self.layers, self.channels = self.arch_settings[depth]
        num_stages = 1 + len(self.layers)
        check_indices("out_indices of Darknet", out_indices, num_stages)
        if frozen_stages > num_stages:
            raise ValueError(f"frozen_stages of Darknet must be at most {num_stages}, "
                             f"got {frozen_stages}")
        self.depth = depth
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.conv1 = ConvModule(3, 32, 3, padding=1, **cfgs)
        self.cr_blocks = ["conv1"]
        for i, (num_blocks, (c_in, c_out)) in enumerate(zip(self.layers, self.channels), 1):
            name = f"conv_res_block{i}"
            self.add_module(name, self.make_conv_res_block(c_in, c_out, num_blocks, **cfgs))
            self.cr_blocks.append(name)

    @staticmethod
    def make_conv_res_block(
            in_channels: int, out_channels: int, res_repeat: int, conv_cfg: Cfg | None = None,
            norm_cfg: Cfg = {"type": "BN", "requires_grad": True},
            act_cfg: Cfg = {"type": "LeakyReLU", "negative_slope": 0.1},
            ) -> nn.Sequential:
        """A stage: a 3x3 convolution of stride 2, then residual blocks.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            res_repeat: number of blocks.
            conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
            norm_cfg: config of the normalisations.
            act_cfg: config of the activations.
        """
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        stage = nn.Sequential()
        stage.add_module("conv", ConvModule(in_channels, out_channels, 3, stride=2, padding=1,
                                            **cfgs))
        for i in range(res_repeat):
            stage.add_module(f"res{i}", ResBlock(out_channels, **cfgs))
        return stage

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(N, 3, H, W)`` to the feature maps of ``out_indices``."""
        check_image(self, x, 3)
        outs = []
        for i, name in enumerate(self.cr_blocks):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _freeze_stages(self) -> None:
        for name in self.cr_blocks[:max(self.frozen_stages, 0)]:
            getattr(self, name).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Darknet:
        """Set the mode, but keep frozen stages and, with ``norm_eval``, batch norms in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            eval_batch_norms(self)
        return self
