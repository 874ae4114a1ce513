"""HRNet (Sun et al., https://arxiv.org/abs/1902.09212)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from fastdet.cnn import build_conv_layer, build_norm_layer
from fastdet.runner import BaseModule, ModuleList, Sequential
from fastdet.utils.types import Cfg, InitCfg

from ..builder import BACKBONES
from ..utils import ResLayer
from ..utils.checks import check_image, known
from ..utils.misc import eval_batch_norms, pretrained_init_cfg
from .resnet import BasicBlock, Bottleneck

__all__ = ["HRModule", "HRNet"]



def _conv_norm(conv_cfg: Cfg | None, norm_cfg: Cfg, in_channels: int, out_channels: int,
               kernel_size: int, stride: int) -> list[nn.Module]:
    return [build_conv_layer(conv_cfg, in_channels, out_channels, kernel_size=kernel_size,
                             stride=stride, padding=kernel_size // 2, bias=False),
            build_norm_layer(norm_cfg, out_channels)[1]]


class HRModule(BaseModule):
    """Parallel branches of residual blocks, and an exchange between their resolutions.

    Branch ``i`` works at ``1 / 2**i`` of the resolution of branch 0.

    Args:
        num_branches: number of branches.
        blocks: class of the residual blocks.
        num_blocks: number of blocks of each branch.
        in_channels: channels of each branch's input; changed in place to those of its output.
        num_channels: base width of each branch.
        multiscale_output: return every resolution, not only the first.
        with_cp: recompute blocks in backward instead of keeping their activations.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        block_init_cfg: the initialiser's config of the blocks.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: a list has another length than ``num_branches``.
    """

    def __init__(self, num_branches: int, blocks: type[BasicBlock | Bottleneck],
                 num_blocks: Sequence[int], in_channels: list[int], num_channels: Sequence[int],
                 multiscale_output: bool = True, with_cp: bool = False,
                 conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 block_init_cfg: Cfg | None = None, init_cfg: Cfg | None = None) -> None:
        super().__init__(init_cfg)
        for name, values in (("num_blocks", num_blocks), ("num_channels", num_channels),
                             ("in_channels", in_channels)):
            if len(values) != num_branches:
                raise ValueError(f"{name} must have num_branches={num_branches} entries, "
                                 f"got {values}")
        self.in_channels = in_channels
        self.num_branches = num_branches
        self.multiscale_output = multiscale_output
        self.norm_cfg = norm_cfg
        self.conv_cfg = conv_cfg
        self.with_cp = with_cp
        self.block_init_cfg = block_init_cfg
        self.branches = ModuleList([
            ResLayer(blocks, in_channels[i], num_channels[i], num_blocks[i], conv_cfg=conv_cfg,
                     norm_cfg=norm_cfg, with_cp=with_cp, init_cfg=block_init_cfg)
            for i in range(num_branches)])
        in_channels[:] = [c * blocks.expansion for c in num_channels]
        self.fuse_layers = self._make_fuse_layers() if num_branches > 1 else None
        self.relu = nn.ReLU(inplace=True)

    def _make_fuse_layers(self) -> nn.ModuleList:
        rows = [[self._make_fuse_layer(source, target) for source in range(self.num_branches)]
                for target in range(self.num_branches if self.multiscale_output else 1)]
        return nn.ModuleList([nn.ModuleList(row) for row in rows])  # type: ignore[arg-type]

    def _make_fuse_layer(self, source: int, target: int) -> nn.Module | None:
        """What brings the output of one branch to the resolution of another."""
        c_in, c_out = self.in_channels[source], self.in_channels[target]
        if source == target:
            return None
        if source > target:
            return nn.Sequential(
                *_conv_norm(self.conv_cfg, self.norm_cfg, c_in, c_out, 1, 1),
                nn.Upsample(scale_factor=2**(source - target), mode="nearest"))
        halvings = [nn.Sequential(*_conv_norm(self.conv_cfg, self.norm_cfg, c_in, c_in, 3, 2),
                                  nn.ReLU(inplace=True))
                    for _ in range(target - source - 1)]
        last = nn.Sequential(*_conv_norm(self.conv_cfg, self.norm_cfg, c_in, c_out, 3, 2))
        return nn.Sequential(*halvings, last)

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Run the module.

        Args:
            x: one ``(N, in_channels[i], H / 2**i, W / 2**i)`` per branch.

        Returns:
            The fused maps of the same resolutions, only the first without ``multiscale_output``.
        """
        x = [branch(feat) for branch, feat in zip(self.branches, x)]
        if self.fuse_layers is None:
            return x
        outs = []
        for layers in self.fuse_layers:
            parts = [feat if layer is None else layer(feat) for layer, feat in zip(layers, x)]  # type: ignore[call-overload]
            total = parts[0] + parts[1]
            for part in parts[2:]:
                total += part
            outs.append(self.relu(total))
        return outs


@BACKBONES.register_module()
class HRNet(BaseModule):
    """High-resolution network.

    Args:
        extra: a dict ``stage1`` to ``stage4``, each with ``num_modules`` (number of
            :class:`HRModule`), ``num_branches``, ``block`` (``'BASIC'`` or ``'BOTTLENECK'``),
            ``num_blocks`` and ``num_channels`` (one entry per branch).
        in_channels: channels of the image.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        norm_eval: keep batch normalisation in eval mode while training.
        with_cp: recompute blocks in backward instead of keeping their activations.
        zero_init_residual: kept, without effect, as in MMDetection: no block starts at zero.
        multiscale_output: return all resolutions, not only the highest.
        pretrained: deprecated; use ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: the initialiser's config. By default He initialisation of the convolutions,
            and ones for the weights of batch and group normalisation.

    Raises:
        ValueError: a stage is missing from ``extra`` or the lengths of its lists are wrong.
        KeyError: a stage lacks a key, or its block is unknown.

    Example:
        >>> import torch
        >>> stages = [(1, 'BOTTLENECK', (64,)), (1, 'BASIC', (32, 64)),
        ...           (4, 'BASIC', (32, 64, 128)), (3, 'BASIC', (32, 64, 128, 256))]
        >>> extra = {f'stage{i + 1}': dict(
        ...     num_modules=n, num_branches=i + 1, block=block, num_blocks=(4,) * (i + 1),
        ...     num_channels=channels) for i, (n, block, channels) in enumerate(stages)}
        >>> self = HRNet(extra, in_channels=1).eval()
        >>> [tuple(out.shape) for out in self(torch.rand(1, 1, 32, 32))]
        [(1, 32, 8, 8), (1, 64, 4, 4), (1, 128, 2, 2), (1, 256, 1, 1)]
    """

    blocks_dict: ClassVar[dict[str, type[BasicBlock | Bottleneck]]] = {
        "BASIC": BasicBlock, "BOTTLENECK": Bottleneck}

    def __init__(self, extra: dict[str, Cfg], in_channels: int = 3,
                 conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 norm_eval: bool = True, with_cp: bool = False, zero_init_residual: bool = False,
                 multiscale_output: bool = True, pretrained: str | None = None,
                 init_cfg: InitCfg = None) -> None:
        super().__init__(pretrained_init_cfg(pretrained, init_cfg, [
            {"type": "Kaiming", "layer": "Conv2d"},
            {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]}]))
        stages = [f"stage{i}" for i in range(1, 5)]
        missing = [name for name in stages if name not in extra]
        if missing:
            raise ValueError(f"extra must describe {', '.join(stages)}, {missing[0]} is missing")
        for name in stages:
            cfg = extra[name]
            for key in ("num_blocks", "num_channels"):
                if len(cfg[key]) != cfg["num_branches"]:
                    raise ValueError(f"{key} of {name} must have num_branches="
                                     f"{cfg['num_branches']} entries, got {cfg[key]}")
            known(f"{name} of HRNet", "block", cfg["block"], self.blocks_dict)
        self.pretrained = pretrained
        self.extra = extra
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.zero_init_residual = zero_init_residual

        self.norm1_name, norm1 = build_norm_layer(norm_cfg, 64, postfix=1)
        self.norm2_name, norm2 = build_norm_layer(norm_cfg, 64, postfix=2)
        self.conv1 = build_conv_layer(conv_cfg, in_channels, 64, kernel_size=3, stride=2,
                                      padding=1, bias=False)
        self.add_module(self.norm1_name, norm1)
        self.conv2 = build_conv_layer(conv_cfg, 64, 64, kernel_size=3, stride=2, padding=1,
                                      bias=False)
        self.add_module(self.norm2_name, norm2)
        self.relu = nn.ReLU(inplace=True)

        self.stage1_cfg = extra["stage1"]
        block = self.blocks_dict[self.stage1_cfg["block"]]
        planes = self.stage1_cfg["num_channels"][0]
        self.layer1 = ResLayer(block, 64, planes, self.stage1_cfg["num_blocks"][0],
                               conv_cfg=conv_cfg, norm_cfg=norm_cfg, with_cp=with_cp)
        channels = [planes * block.expansion]
        self.stage2_cfg, self.stage3_cfg, self.stage4_cfg = (extra[name] for name in stages[1:])
        for i in (2, 3, 4):
            cfg = extra[f"stage{i}"]
            expansion = self.blocks_dict[cfg["block"]].expansion
            widths = [c * expansion for c in cfg["num_channels"]]
            self.add_module(f"transition{i - 1}", self._make_transition_layer(channels, widths))
            stage, channels = self._make_stage(cfg, widths, multiscale_output or i < 4)
            self.add_module(f"stage{i}", stage)

    @property
    def norm1(self) -> nn.Module:
        """The normalisation after the first convolution of the stem."""
        return getattr(self, self.norm1_name)

    @property
    def norm2(self) -> nn.Module:
        """The normalisation after the second convolution of the stem."""
        return getattr(self, self.norm2_name)

    def _make_transition_layer(self, before: list[int], after: list[int]) -> nn.ModuleList:
        """What makes the inputs of a stage's branches from the maps of the stage before.

        A branch that was there already gets a convolution if its width changes, else nothing; a
        new one starts from the smallest map, halved once per level between them.
        """
        def unit(c_in: int, c_out: int, stride: int) -> nn.Sequential:
            return nn.Sequential(*_conv_norm(self.conv_cfg, self.norm_cfg, c_in, c_out, 3, stride),
                                 nn.ReLU(inplace=True))

        layers: list[nn.Module | None] = []
        for i, width in enumerate(after):
            if i < len(before):
                layers.append(unit(before[i], width, 1) if before[i] != width else None)
            else:
                halvings = i - len(before)
                layers.append(nn.Sequential(
                    *(unit(before[-1], before[-1], 2) for _ in range(halvings)),
                    unit(before[-1], width, 2)))
        return nn.ModuleList(layers)  # type: ignore[arg-type]

    def _make_stage(self, cfg: Cfg, in_channels: list[int],
                    multiscale_output: bool = True) -> tuple[Sequential, list[int]]:
        block = self.blocks_dict[cfg["block"]]
        last = cfg["num_modules"] - 1
        modules = [HRModule(cfg["num_branches"], block, cfg["num_blocks"], in_channels,
                            cfg["num_channels"], multiscale_output or i < last,
                            with_cp=self.with_cp, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
                   for i in range(last + 1)]
        return Sequential(*modules), in_channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images ``(N, in_channels, H, W)`` to the maps at strides 4, 8, 16 and 32."""
        check_image(self, x, self.conv1.in_channels)  # type: ignore[arg-type]
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.relu(self.norm2(self.conv2(x)))
        maps = [self.layer1(x)]
        for i in (2, 3, 4):
            transition = getattr(self, f"transition{i - 1}")
            maps = [maps[min(j, len(maps) - 1)] if layer is None
                    else layer(maps[min(j, len(maps) - 1)]) for j, layer in enumerate(transition)]
            maps = getattr(self, f"stage{i}")(maps)
        return maps

    def train(self, mode: bool = True) -> HRNet:
        """Set the mode, but with ``norm_eval`` keep batch norms in eval."""
        super().train(mode)
        if mode and self.norm_eval:
            eval_batch_norms(self)
        return self
