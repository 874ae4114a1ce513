"""Sums that do not depend on their order: integer atomics in a unit chosen on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def fixed_point_scale(bound: Tensor) -> Tensor:
    """A power of two: units of 1 such that an int64 sum of at most ``bound`` fits, ``[1]`` fp32.

    Args:
        bound: a float64 scalar, above the magnitude of every partial sum.

    Returns:
        At most 2^126, float32's smallest normal number being the finest unit; NaN where the bound
        is not finite.
    """
    exponent = (62 - torch.frexp(bound).exponent).clamp(max=126)
    scale = torch.ldexp(torch.ones_like(bound), exponent)
    return scale.where(bound.isfinite(), torch.nan).float().view(1)
