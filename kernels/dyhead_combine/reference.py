"""DyHead's combination in plain torch: the definition, the CPU path and the oracle of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

__all__ = ["Branch", "dyhead_combine_reference"]


class Branch(NamedTuple):
    """A map and the parameters of its group normalisation."""

    x: Tensor  # [B, C, H, W]
    weight: Tensor  # [C]
    bias: Tensor  # [C]


def dyhead_combine_reference(
        branches: Sequence[Branch], attention_weight: Tensor, attention_bias: Tensor, groups: int,
        eps: float, act: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    """Arguments and result as :func:`fastdet.kernels.dyhead_combine.dyhead_combine`, unchecked.

    The branches that there are come as one sequence; all get the size of the first.
    """
    bias, divisor, least, most = act
    size = branches[0].x.shape[2:]
    total = None
    for x, weight, shift in branches:
        y = F.group_norm(x, groups, weight, shift, eps)
        if y.shape[2:] != size:
            y = F.interpolate(y, size, mode="bilinear", align_corners=True)
        mean = y.sum((2, 3)) / (size[0] * size[1])
        scale = F.linear(mean, attention_weight[None], attention_bias).relu()
        y = y * ((scale + bias) / divisor).clamp(least, most)[:, :, None, None]
        total = y if total is None else total + y
    assert total is not None
    out = total / len(branches)
    return out, out.sum((2, 3)) / (size[0] * size[1])
