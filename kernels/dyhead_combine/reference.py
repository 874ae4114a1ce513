"""DyHead's combination in plain torch: the definition, the CPU path and the oracle of the tests."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from ..dyhead_convs.op import Convolved
from ..dyhead_convs.reference import convolutions
from ..dyrelu.reference import dyrelu_reference

__all__ = ["Act", "Combination", "dyhead_combine_reference"]


class Act(NamedTuple):
    """``clamp((x + bias) / divisor, least, most)``."""

    bias: float = 3.0
    divisor: float = 6.0
    least: float = 0.0
    most: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return ((x + self.bias) / self.divisor).clamp(self.least, self.most)


class Combination(NamedTuple):
    """Parameters of a block after its convolutions; C channels, D of the hidden layer."""

    norms: tuple[Tensor, ...]  # [C] each: weight and bias of mid, of low, of high
    attention: tuple[Tensor, Tensor]  # [C] and [1]: of the scales
    squeeze: tuple[Tensor, Tensor]  # [D, C] and [D]: of the dynamic ReLU
    excite: tuple[Tensor, Tensor]  # [4 C, D] and [4 C]
    groups: int  # of the norms
    eps: float = 1e-5
    scale_act: Act = Act()
    relu_act: Act = Act()


def dyhead_combine_reference(convolved: Convolved, p: Combination) -> list[Tensor]:
    """Arguments and result as :func:`fastdet.kernels.dyhead_combine.dyhead_combine`, unchecked."""
    images, sizes = convolved.pyramid
    channels = convolved.maps.shape[1]
    totals: list[Tensor | None] = [None] * len(sizes)
    plan = list(convolutions(len(sizes)))
    rows = [images * sizes[grid][0] * sizes[grid][1] for *_, grid in plan]
    for (branch, _, level, grid), part in zip(plan, convolved.maps.split(rows)):
        x = part.view(images, *sizes[grid], channels).permute(0, 3, 1, 2)
        y = F.group_norm(x, p.groups, *p.norms[2 * branch:2 * branch + 2], p.eps)
        if grid != level:
            y = F.interpolate(y, sizes[level], mode="bilinear", align_corners=True)
        mean = y.sum((2, 3)) / (sizes[level][0] * sizes[level][1])
        scale = p.scale_act(F.linear(mean, p.attention[0][None], p.attention[1]).relu())
        y = y * scale[:, :, None, None]
        so_far = totals[level]
        totals[level] = y if so_far is None else so_far + y
    outs = []
    for level, total in enumerate(totals):
        assert total is not None
        out = total / (1 + (level > 0) + (level < len(sizes) - 1))
        mean = out.sum((2, 3)) / (sizes[level][0] * sizes[level][1])
        coeffs = p.relu_act(F.linear(F.linear(mean, *p.squeeze).relu(), *p.excite))
        outs.append(dyrelu_reference(out, coeffs))
    return outs
