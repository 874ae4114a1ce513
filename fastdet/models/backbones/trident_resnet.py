"""TridentNet's backbone (Li et al., https://arxiv.org/abs/1901.01892)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from fastdet.runner import BaseModule
from fastdet.utils.registry import UnknownTypeError
from fastdet.utils.types import Cfg

from ..builder import BACKBONES
from ..utils import ResLayer
from .resnet import Bottleneck, ResNet

__all__ = ["TridentBottleneck", "TridentConv", "TridentResNet", "make_trident_res_layer"]



class TridentConv(BaseModule):
    """One weight, convolved with another dilation in each branch.

    In training, or with ``test_branch_idx=-1``, there is one branch per dilation; otherwise only
    that branch is computed.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: size of the kernel.
        stride: stride of the convolution.
        trident_dilations: dilation, and padding, of each branch.
        test_branch_idx: the branch that is used in evaluation, -1 for all.
        bias: whether there is a bias.
        init_cfg: the initialiser's config.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
                 trident_dilations: Sequence[int] = (1, 2, 3), test_branch_idx: int = 1,
                 bias: bool = False, init_cfg: Cfg | None = None) -> None:
        super().__init__(init_cfg)
        if not -1 <= test_branch_idx < len(trident_dilations):
            raise ValueError(f"test_branch_idx must be -1 to {len(trident_dilations) - 1} with "
                             f"trident_dilations={trident_dilations}, got {test_branch_idx}")
        self.num_branch = len(trident_dilations)
        self.with_bias = bias
        self.test_branch_idx = test_branch_idx
        self.stride = _pair(stride)
        self.kernel_size = _pair(kernel_size)
        self.paddings = trident_dilations
        self.dilations = trident_dilations
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        nn.init.kaiming_uniform_(self.weight, mode="fan_in", nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def extra_repr(self) -> str:
        return (f"in_channels={self.in_channels}, out_channels={self.out_channels}, "
                f"kernel_size={self.kernel_size}, num_branch={self.num_branch}, "
                f"test_branch_idx={self.test_branch_idx}, stride={self.stride}, "
                f"paddings={self.paddings}, dilations={self.dilations}, bias={self.with_bias}")

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Convolve the input of each branch, ``(N, in_channels, H, W)`` each."""
        if self.training or self.test_branch_idx == -1:
            branches = range(self.num_branch)
        else:
            branches = range(self.test_branch_idx, self.test_branch_idx + 1)
        return [F.conv2d(x, self.weight, self.bias, self.stride, self.paddings[i],
                         self.dilations[i])
                for x, i in zip(inputs, branches)]


class TridentBottleneck(Bottleneck):
    """Bottleneck that works on a list of branches, which share all weights.

    Args:
        trident_dilations: dilation of the 3x3 convolution in each branch.
        test_branch_idx: the branch that is used in evaluation, -1 for all.
        concat_output: return the branches joined along the batch instead of a list.
        **kwargs: the arguments of ResNet's bottleneck.
    """

    def __init__(self, trident_dilations: Sequence[int], test_branch_idx: int,
                 concat_output: bool, **kwargs: Any) -> None:
        self.trident_dilations = trident_dilations
        self.num_branch = len(trident_dilations)
        self.concat_output = concat_output
        self.test_branch_idx = test_branch_idx
        super().__init__(**kwargs)

    def _conv3x3(self, width: int, groups: int) -> nn.Module:
        return TridentConv(width, width, kernel_size=3, stride=self.conv2_stride,
                           trident_dilations=self.trident_dilations,
                           test_branch_idx=self.test_branch_idx)

    def _residuals(self, *xs: Tensor) -> list[Tensor]:
        outs = self._each(self._head, xs)
        outs = [self.forward_plugin(self.relu(self.norm2(out)), self.after_conv2_plugin_names)
                for out in self.conv2(outs)]
        outs = [self.forward_plugin(self.norm3(self.conv3(out)), self.after_conv3_plugin_names)
                for out in outs]
        identities = xs if self.downsample is None else self._each(self.downsample, xs)
        return [out + identity for out, identity in zip(outs, identities)]

    def _head(self, x: Tensor) -> Tensor:
        return self.forward_plugin(self.relu(self.norm1(self.conv1(x))),
                                   self.after_conv1_plugin_names)

    def _each(self, layer: Callable[[Tensor], Tensor], xs: Sequence[Tensor]) -> list[Tensor]:
        # The first block of a stage has one input for all branches: its result is computed once,
        # unless batch normalisation has to count it once per branch.
        if not self.norm1.training and all(x is xs[0] for x in xs):
            return [layer(xs[0])] * len(xs)
        return [layer(x) for x in xs]

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:  # type: ignore[override]
        """Run the block on each branch.

        Args:
            x: one ``(N, inplanes, H, W)`` per branch, or one for all of them.

        Returns:
            The outputs of the branches: a list, or joined along the batch if ``concat_output``.
        """
        if isinstance(x, Tensor):
            all_branches = self.training or self.test_branch_idx == -1
            x = [x] * (self.num_branch if all_branches else 1)
        if self.with_cp and any(branch.requires_grad for branch in x):
            outs = cp.checkpoint(self._residuals, *x, use_reentrant=False)
        else:
            outs = self._residuals(*x)
        outs = [self.relu(out) for out in outs]
        return torch.cat(outs, dim=0) if self.concat_output else outs


def make_trident_res_layer(block: type[TridentBottleneck], inplanes: int, planes: int,
                           num_blocks: int, stride: int = 1,
                           trident_dilations: Sequence[int] = (1, 2, 3), style: str = "pytorch",
                           with_cp: bool = False, conv_cfg: Cfg | None = None,
                           norm_cfg: Cfg = {"type": "BN"},
                           dcn: Cfg | None = None, plugins: list[Cfg] | None = None,
                           test_branch_idx: int = -1) -> ResLayer:
    """Build a stage of trident blocks, the last of which joins the branches.

    Args:
        block: class of the blocks.
        inplanes: channels of the input.
        planes: base width.
        num_blocks: number of blocks.
        stride: stride of the first block.
        trident_dilations: dilation of each branch.
        style: ``'pytorch'`` or ``'caffe'``, see :class:`Bottleneck`.
        with_cp: recompute blocks in backward instead of keeping their activations.
        conv_cfg: config of the 1x1 convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        dcn: has no effect, a trident convolution is not deformable.
        plugins: plugins of the blocks.
        test_branch_idx: the branch that is used in evaluation, -1 for all.
    """
    layer = ResLayer(block, inplanes, planes, num_blocks, stride,
                     trident_dilations=trident_dilations, style=style, with_cp=with_cp,
                     conv_cfg=conv_cfg, norm_cfg=norm_cfg, dcn=dcn, plugins=plugins,
                     test_branch_idx=test_branch_idx, concat_output=False)
    layer[-1].concat_output = True  # type: ignore[assignment]
    return layer


@BACKBONES.register_module()
class TridentResNet(ResNet):
    """ResNet whose last stage has branches of different dilations that share their weights.

    The branches come out joined along the batch, which is ``num_branch`` times as large then.

    Args:
        depth: one of 50, 101 and 152.
        num_branch: number of branches.
        test_branch_idx: the branch that is used in evaluation, -1 for all.
        trident_dilations: dilation of each branch.
        **kwargs: the other arguments of :class:`ResNet`; ``num_stages`` must be 3.

    Raises:
        ValueError: ``num_stages`` is not 3, or an argument does not fit ``num_branch``.
        KeyError: there is no network of bottlenecks of this depth.
    """

    def __init__(self, depth: int, num_branch: int, test_branch_idx: int,
                 trident_dilations: Sequence[int], **kwargs: Any) -> None:
        if kwargs.get("num_stages") != 3:
            raise ValueError("TridentResNet has three stages, "
                             f"got num_stages={kwargs.get('num_stages', 4)}")
        if len(trident_dilations) != num_branch:
            raise ValueError(f"trident_dilations must have num_branch={num_branch} entries, "
                             f"got {trident_dilations}")
        self.num_branch = num_branch
        self.test_branch_idx = test_branch_idx
        self.trident_dilations = trident_dilations
        super().__init__(depth, **kwargs)

    def _architecture(self, depth: int) -> tuple[Any, tuple[int, ...]]:
        block, stage_blocks = super()._architecture(depth)
        if block is not Bottleneck:
            raise UnknownTypeError(f"TridentResNet has no depth {depth!r}; "
                                   "known are 50, 101, 152")
        return block, stage_blocks

    def _stage_args(self, stage_idx: int) -> Cfg:
        return {"block": TridentBottleneck} if stage_idx == self.num_stages - 1 else {}

    def make_res_layer(self, **kwargs: Any) -> nn.Module:
        """Build one stage; the arguments are those of :class:`ResLayer`."""
        if kwargs["block"] is not TridentBottleneck:
            return super().make_res_layer(**kwargs)
        for name in ("dilation", "avg_down", "init_cfg"):  # not followed, as in MMDetection
            del kwargs[name]
        return make_trident_res_layer(trident_dilations=self.trident_dilations,
                                      test_branch_idx=self.test_branch_idx, **kwargs)
