"""RegNet (Radosavovic et al., https://arxiv.org/abs/2003.13678)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import nn

from fastdet.utils.registry import UnknownTypeError
from fastdet.utils.types import Cfg, InitCfg

from ..builder import BACKBONES
from ..utils.checks import known
from .resnet import ResNet
from .resnext import Bottleneck

__all__ = ["RegNet"]



class RegNetBottleneck(Bottleneck):
    """ResNeXt's bottleneck, as wide at its end as ``planes`` says."""

    expansion = 1


@BACKBONES.register_module()
class RegNet(ResNet):
    """RegNet backbone.

    Args:
        arch: name of an architecture (see ``arch_settings``), or a dict of its parameters:
            ``w0`` (initial width), ``wa`` (slope of the width), ``wm`` (base of the quantised
            widths), ``group_w`` (width of a group), ``depth`` (number of blocks), ``bot_mul``
            (width inside a block relative to its output).
        in_channels: channels of the image.
        stem_channels: channels of the stem.
        base_channels: kept for ``ResNet``'s sake; the widths follow from ``arch``.
        strides: stride of the first block of each stage.
        dilations: dilation of each stage.
        out_indices: the stages whose output is returned.
        style: ``'pytorch'`` strides the 3x3 convolution of a block, ``'caffe'`` the first 1x1.
        deep_stem: three 3x3 convolutions in the stem instead of one.
        avg_down: downsample the identity branch by average pooling instead of a stride.
        frozen_stages: the stem and that many stages get no gradient and stay in eval mode; -1
            freezes nothing.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        norm_eval: keep batch normalisation in eval mode while training.
        dcn: config of the deformable convolutions.
        stage_with_dcn: the stages that have them.
        plugins: plugin layers, see :meth:`ResNet.make_stage_plugins`.
        with_cp: recompute blocks in backward instead of keeping their activations.
        zero_init_residual: initialise the last normalisation of each block to zero.
        pretrained: deprecated; use ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: the initialiser's config.

    Raises:
        KeyError: the name of the architecture is unknown, or its dict lacks a parameter.
        TypeError: ``arch`` is neither a name nor a dict.
        ValueError: the parameters do not make a network, or an argument does not fit the
            number of stages that follows from them.

    Example:
        >>> import torch
        >>> self = RegNet(arch=dict(w0=88, wa=26.31, wm=2.25, group_w=48, depth=25, bot_mul=1.0))
        >>> [tuple(out.shape) for out in self.eval()(torch.rand(1, 3, 32, 32))]
        [(1, 96, 8, 8), (1, 192, 4, 4), (1, 432, 2, 2), (1, 1008, 1, 1)]
    """

    arch_settings: ClassVar[dict[Any, Any]] = {
        "regnetx_400mf": {"w0": 24, "wa": 24.48, "wm": 2.54, "group_w": 16, "depth": 22,
                          "bot_mul": 1.0},
        "regnetx_800mf": {"w0": 56, "wa": 35.73, "wm": 2.28, "group_w": 16, "depth": 16,
                          "bot_mul": 1.0},
        "regnetx_1.6gf": {"w0": 80, "wa": 34.01, "wm": 2.25, "group_w": 24, "depth": 18,
                          "bot_mul": 1.0},
        "regnetx_3.2gf": {"w0": 88, "wa": 26.31, "wm": 2.25, "group_w": 48, "depth": 25,
                          "bot_mul": 1.0},
        "regnetx_4.0gf": {"w0": 96, "wa": 38.65, "wm": 2.43, "group_w": 40, "depth": 23,
                          "bot_mul": 1.0},
        "regnetx_6.4gf": {"w0": 184, "wa": 60.83, "wm": 2.07, "group_w": 56, "depth": 17,
                          "bot_mul": 1.0},
        "regnetx_8.0gf": {"w0": 80, "wa": 49.56, "wm": 2.88, "group_w": 120, "depth": 23,
                          "bot_mul": 1.0},
        "regnetx_12gf": {"w0": 168, "wa": 73.36, "wm": 2.37, "group_w": 112, "depth": 19,
                         "bot_mul": 1.0},
    }

    def __init__(self, arch: str | Cfg, in_channels: int = 3, stem_channels: int = 32,
                 base_channels: int = 32, strides: Sequence[int] = (2, 2, 2, 2),
                 dilations: Sequence[int] = (1, 1, 1, 1),
                 out_indices: Sequence[int] = (0, 1, 2, 3), style: str = "pytorch",
                 deep_stem: bool = False, avg_down: bool = False, frozen_stages: int = -1,
                 conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN", "requires_grad": True},
                 norm_eval: bool = True, dcn: Cfg | None = None,
                 stage_with_dcn: Sequence[bool] = (False, False, False, False),
                 plugins: list[Cfg] | None = None, with_cp: bool = False,
                 zero_init_residual: bool = True, pretrained: str | None = None,
                 init_cfg: InitCfg = None) -> None:
        if isinstance(arch, str):
            known("RegNet", "architecture", arch, self.arch_settings)
        if not isinstance(arch, (str, dict)):
            raise TypeError("arch must be the name of an architecture or a dict of its "
                            f"parameters, got {type(arch).__name__}")
        params: Cfg = self.arch_settings[arch] if isinstance(arch, str) else arch
        missing = {"w0", "wa", "wm", "group_w", "depth", "bot_mul"} - set(params)
        if missing:
            raise UnknownTypeError(f"arch lacks {', '.join(sorted(missing))}: {params}")
        self.arch = params
        widths, num_stages = self.generate_regnet(params["w0"], params["wa"], params["wm"],
                                                  params["depth"])
        stage_widths, stage_blocks = self.get_stages_from_blocks(widths)
        self.bottleneck_ratio = [params["bot_mul"]] * num_stages
        self.stage_widths, self.group_widths = self.adjust_width_group(
            stage_widths, self.bottleneck_ratio, [params["group_w"]] * num_stages)
        self._stage_blocks = tuple(stage_blocks)
        super().__init__(
            params["depth"], in_channels, stem_channels, base_channels, num_stages, strides,
            dilations, out_indices, style, deep_stem, avg_down, frozen_stages, conv_cfg, norm_cfg,
            norm_eval, dcn, stage_with_dcn, plugins, with_cp, zero_init_residual, pretrained,
            init_cfg)

    def _architecture(self, depth: int) -> tuple[Any, tuple[int, ...]]:
        return RegNetBottleneck, self._stage_blocks

    def _stage_args(self, stage_idx: int) -> Cfg:
        planes, group_width = self.stage_widths[stage_idx], self.group_widths[stage_idx]
        width = round(planes * self.bottleneck_ratio[stage_idx])
        return {"planes": planes, "groups": width // group_width, "base_width": group_width,
                "base_channels": planes}

    def _zero_init_cfg(self) -> Cfg:
        return {"type": "Constant", "val": 0, "override": {"name": "norm3"}}

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        if self.deep_stem:
            self._make_deep_stem(in_channels, stem_channels)
        else:
            self._make_plain_stem(in_channels, stem_channels, kernel_size=3)
        self.maxpool = nn.Identity()  # a RegNet's first stage has the stride instead

    def generate_regnet(self, initial_width: float, width_slope: float, width_parameter: float,
                        depth: int, divisor: int = 8) -> tuple[list[int], int]:
        """The width of each block: a line, quantised to powers of ``width_parameter``.

        Args:
            initial_width: width at block 0.
            width_slope: rise of the line from one block to the next.
            width_parameter: base of the powers.
            depth: number of blocks.
            divisor: the widths are multiples of it.

        Returns:
            The widths, one per block, and the number of stages (of different widths).

        Raises:
            ValueError: the parameters do not make a growing line.
        """
        if not (width_slope >= 0 and initial_width > 0 and width_parameter > 1
                and initial_width % divisor == 0):
            raise ValueError("a RegNet needs a slope >= 0, a width parameter > 1 and an initial "
                             f"width that is a positive multiple of {divisor}, got {width_slope}, "
                             f"{width_parameter} and {initial_width}")
        line = np.arange(depth) * width_slope + initial_width
        power = np.round(np.log(line / initial_width) / np.log(width_parameter))
        widths = initial_width * np.power(width_parameter, power)
        widths = (np.round(widths / divisor) * divisor).astype(int)
        return widths.tolist(), len(np.unique(widths))

    @staticmethod
    def quantize_float(number: float, divisor: int) -> int:
        """The multiple of ``divisor`` that is nearest to ``number``, halves to even.

        Args:
            number: the number to round.
            divisor: what the result is a multiple of.
        """
        return int(round(number / divisor) * divisor)

    def adjust_width_group(self, widths: list[int], bottleneck_ratio: list[float],
                           groups: list[int]) -> tuple[list[int], list[int]]:
        """Make each stage's width divisible by the width of its groups.

        Args:
            widths: width of each stage.
            bottleneck_ratio: width inside a block relative to its output, per stage.
            groups: width of a group, per stage.

        Returns:
            The adjusted widths of the stages and of their groups.
        """
        inner = [int(w * ratio) for w, ratio in zip(widths, bottleneck_ratio)]
        groups = [min(g, w) for g, w in zip(groups, inner)]
        inner = [self.quantize_float(w, g) for w, g in zip(inner, groups)]
        return [int(w / ratio) for w, ratio in zip(inner, bottleneck_ratio)], groups

    def get_stages_from_blocks(self, widths: list[int]) -> tuple[list[int], list[int]]:
        """Group consecutive blocks of one width into stages.

        Args:
            widths: width of each block.

        Returns:
            The width and the number of blocks of each stage.
        """
        starts = [i for i, w in enumerate(widths) if i == 0 or w != widths[i - 1]]
        ends = [*starts[1:], len(widths)]
        return [widths[i] for i in starts], [end - start for start, end in zip(starts, ends)]
