"""A DyHead block after its convolutions, level by level: the definition and the CPU path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

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


class _Branch(NamedTuple):
    """A map and the parameters of its group normalisation."""

    x: Tensor  # [B, C, H, W]
    weight: Tensor  # [C]
    bias: Tensor  # [C]


def _combined(branches: Sequence[_Branch], p: Attention) -> tuple[Tensor, Tensor]:
    """The mean of the branches, normalised, resized to the first, and weighted; and its mean."""
    size = branches[0].x.shape[2:]
    total = None
    for x, weight, shift in branches:
        y = F.group_norm(x, p.groups, weight, shift, p.eps)
        if y.shape[2:] != size:
            y = F.interpolate(y, size, mode="bilinear", align_corners=True)
        mean = y.sum((2, 3)) / (size[0] * size[1])
        scale = p.scale_act(F.linear(mean, p.attention[0][None], p.attention[1]).relu())
        y = y * scale[:, :, None, None]
        total = y if total is None else total + y
    assert total is not None
    out = total / len(branches)
    return out, out.sum((2, 3)) / (size[0] * size[1])


def dyhead_attention_reference(convolved: Convolved, p: Attention) -> list[Tensor]:
    """Arguments and result as :func:`fastdet.kernels.dyhead_attention.dyhead_attention`,
    unchecked."""
    images, sizes = convolved.pyramid
    plan = list(convolutions(len(sizes)))
    rows = [images * sizes[grid][0] * sizes[grid][1] for *_, grid in plan]
    branches: list[list[_Branch]] = [[] for _ in sizes]
    for (branch, _, level, grid), part in zip(plan, convolved.maps.split(rows)):
        x = part.view(images, *sizes[grid], -1).permute(0, 3, 1, 2)
        branches[level].append(_Branch(x, *p.norms[2 * branch:2 * branch + 2]))
    outs = []
    for of_level in branches:
        out, mean = _combined(of_level, p)
        coeffs = p.relu_act(F.linear(F.linear(mean, *p.squeeze).relu(), *p.excite))
        outs.append(dyrelu(out, coeffs))
    return outs
