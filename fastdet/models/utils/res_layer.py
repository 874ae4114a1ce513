"""A stage of residual blocks, and the block of SCNet."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastdet.cnn import build_conv_layer, build_norm_layer
from fastdet.runner import BaseModule, Sequential
from fastdet.utils.types import Cfg

__all__ = ["ResLayer", "SimplifiedBasicBlock"]



class ResLayer(Sequential):
    """One stage of a ResNet: ``num_blocks`` residual blocks in a row.

    The block that changes the stride or the width gets a ``downsample`` branch: a 1x1 convolution
    and a normalisation, behind an average pooling if ``avg_down``.

    Args:
        block: class of the blocks; it has an ``expansion``.
        inplanes: channels of the input.
        planes: base width; the stage returns ``planes * block.expansion`` channels.
        num_blocks: number of blocks.
        stride: stride of the block that downsamples.
        avg_down: pool before the convolution of ``downsample`` instead of striding it.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        downsample_first: downsample in the first block (ResNet), else in the last (Hourglass).
        **kwargs: further arguments of every block.
    """

    #: Arguments that only the first block takes; a subclass sets them before it calls ``__init__``.
    first_block_args: Cfg = {}  # noqa: RUF012

    def __init__(self, block: type[nn.Module], inplanes: int, planes: int, num_blocks: int,
                 stride: int = 1, avg_down: bool = False, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 downsample_first: bool = True, **kwargs: Any) -> None:
        outplanes = planes * block.expansion  # type: ignore[attr-defined]
        downsample = None
        if stride != 1 or inplanes != outplanes:
            layers: list[nn.Module] = []
            if avg_down:
                layers.append(nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False))
            layers += [
                build_conv_layer(conv_cfg, inplanes, outplanes, kernel_size=1,
                                 stride=1 if avg_down else stride, bias=False),
                build_norm_layer(norm_cfg, outplanes)[1]]
            downsample = nn.Sequential(*layers)

        shared = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, **kwargs}
        turn = {"stride": stride, "downsample": downsample}
        if downsample_first:
            plan = [(inplanes, planes, turn)] + [(outplanes, planes, {})] * (num_blocks - 1)
        else:
            plan = [(inplanes, inplanes, {})] * (num_blocks - 1) + [(inplanes, planes, turn)]
        blocks = []
        for i, (width_in, width, own) in enumerate(plan):
            extra = self.first_block_args if i == 0 else {}
            blocks.append(block(inplanes=width_in, planes=width, **own, **shared, **extra))
        super().__init__(*blocks)
        self.block = block


class SimplifiedBasicBlock(BaseModule):
    """The basic residual block of SCNet: no ReLU after the sum, and the norms may be left out.

    Args:
        inplanes: channels of the input.
        planes: channels of the output.
        stride: stride of the first convolution.
        dilation: dilation of the first convolution.
        downsample: the identity branch, where the shapes differ.
        style: not used; the block has the same form in both styles.
        with_cp: must be false; the block cannot be checkpointed.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations; with ``None`` the convolutions have a bias instead.
        dcn: must be ``None``.
        plugins: must be ``None``.
        init_fg: the initialiser's config. (MMDetection's spelling.)

    Raises:
        ValueError: ``dcn``, ``plugins`` or ``with_cp`` is given.
    """

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, dilation: int = 1,
                 downsample: nn.Module | None = None, style: str = "pytorch",
                 with_cp: bool = False, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg | None = {"type": "BN"},
                 dcn: Cfg | None = None, plugins: list[Cfg] | None = None,
                 init_fg: Cfg | None = None) -> None:
        super().__init__(init_fg)
        if dcn is not None or plugins is not None or with_cp:
            raise ValueError("SimplifiedBasicBlock takes no dcn, plugins or with_cp, "
                             f"got dcn={dcn!r}, plugins={plugins!r}, with_cp={with_cp!r}")
        self.with_norm = norm_cfg is not None
        bias = norm_cfg is None
        self.conv1 = build_conv_layer(conv_cfg, inplanes, planes, 3, stride=stride,
                                      padding=dilation, dilation=dilation, bias=bias)
        if norm_cfg is not None:
            self.norm1_name, norm1 = build_norm_layer(norm_cfg, planes, postfix=1)
            self.add_module(self.norm1_name, norm1)
        self.conv2 = build_conv_layer(conv_cfg, planes, planes, 3, padding=1, bias=bias)
        if norm_cfg is not None:
            self.norm2_name, norm2 = build_norm_layer(norm_cfg, planes, postfix=2)
            self.add_module(self.norm2_name, norm2)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride
        self.dilation = dilation
        self.with_cp = with_cp

    @property
    def norm1(self) -> nn.Module | None:
        """The normalisation after the first convolution, if there is one."""
        return getattr(self, self.norm1_name) if self.with_norm else None

    @property
    def norm2(self) -> nn.Module | None:
        """The normalisation after the second convolution, if there is one."""
        return getattr(self, self.norm2_name) if self.with_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inplanes, H, W)`` to ``(N, planes, H / stride, W / stride)``."""
        out = self.conv1(x)
        if self.with_norm:
            out = self.norm1(out)  # type: ignore[misc]
        out = self.conv2(self.relu(out))
        if self.with_norm:
            out = self.norm2(out)  # type: ignore[misc]
        out += x if self.downsample is None else self.downsample(x)
        return out
