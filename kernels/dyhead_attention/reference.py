"""A DyHead block after its convolutions, level by level: the definition and the CPU path."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from ..dyhead_combine import Branch, dyhead_combine
from ..dyhead_convs.op import Convolved
from ..dyhead_convs.reference import convolutions
from ..dyrelu import dyrelu

__all__ = ["Act", "Attention", "dyhead_attention_reference"]


class Act(NamedTuple):
    """``clamp((x + bias) / divisor, least, most)``."""

    bias: float = 3.0
    divisor: float = 6.0
    least: float = 0.0
    most: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return ((x + self.bias) / self.divisor).clamp(self.least, self.most)


class Attention(NamedTuple):
    """Parameters of a block after its convolutions; C channels, D of the hidden layer."""

    norms: tuple[Tensor, ...]  # [C] each: weight and bias of mid, of low, of high
    attention: tuple[Tensor, Tensor]  # [C] and [1]: of the scales
    squeeze: tuple[Tensor, Tensor]  # [D, C] and [D]: of the dynamic ReLU
    excite: tuple[Tensor, Tensor]  # [4 C, D] and [4 C]
    groups: int  # of the norms
    eps: float = 1e-5
    scale_act: Act = Act()
    relu_act: Act = Act()


def dyhead_attention_reference(convolved: Convolved, p: Attention) -> list[Tensor]:
    """Arguments and result as :func:`fastdet.kernels.dyhead_attention.dyhead_attention`,
    unchecked: level by level, by the operators of one level."""
    images, sizes = convolved.pyramid
    plan = list(convolutions(len(sizes)))
    rows = [images * sizes[grid][0] * sizes[grid][1] for *_, grid in plan]
    branches: list[list[Branch | None]] = [[None] * 3 for _ in sizes]
    for (branch, _, level, grid), part in zip(plan, convolved.maps.split(rows)):
        x = part.view(images, *sizes[grid], -1).permute(0, 3, 1, 2)
        branches[level][branch] = Branch(x, *p.norms[2 * branch:2 * branch + 2])
    outs = []
    for of_level in branches:
        out, mean = dyhead_combine(of_level, *p.attention, groups=p.groups, eps=p.eps,
                                   act=p.scale_act)
        coeffs = p.relu_act(F.linear(F.linear(mean, *p.squeeze).relu(), *p.excite))
        outs.append(dyrelu(out, coeffs))
    return outs
