"""The focal losses on the CPU: sum and gradient in one pass, in chunks that stay in the cache.

With labels all elements but one a row are of target zero, where the formulas are short; the
others are then put right.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import EPS

CHUNK = 1 << 17


def _power(base: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """base^exponent and its derivative."""
    if exponent == 0:
        return torch.ones_like(base), torch.zeros_like(base)
    return base.pow(exponent), base.pow(exponent - 1).mul_(exponent)


def loss_and_slope(kind: str, x: Tensor, t: Tensor, first: float, second: float
                   ) -> tuple[Tensor, Tensor]:
    """:func:`.reference.elementwise` and its derivative in x."""
    if kind == "gaussian":
        y, hit = 1 - x, t.eq(1)
        up, dup = _power(x, second)
        down, ddown = _power(y, second)
        far = (1 - t).pow(first)
        log_x, log_y = (x + EPS).log(), (y + EPS).log()
        loss = -(log_x * down * hit + log_y * up * far)
        return loss, (log_x * ddown - down / (x + EPS)) * hit - (log_y * dup - up / (y + EPS)) * far
    s, bce = x.sigmoid(), F.binary_cross_entropy_with_logits(x, t, reduction="none")
    slope = s * (1 - s)
    if kind == "sigmoid":
        focus, dfocus = _power((1 - s) * t + s * (1 - t), first)
        balance = second * t + (1 - second) * (1 - t)
        focus, dfocus = focus * balance, dfocus * balance * (1 - 2 * t)
    else:
        focus, dfocus = _power((s - t).abs(), first)
        dfocus = dfocus * (s - t).sign()
        if kind != "quality":
            here = t > 0
            focus = torch.where(here, t if kind == "varifocal" else torch.ones_like(t),
                                second * focus)
            dfocus = torch.where(here, 0, second * dfocus)
    return focus * bce, dfocus * slope * bce + focus * (s - t)


def _background(x: Tensor, gamma: float, factor: float, weight: Tensor | None,
                slope: Tensor | None) -> Tensor:
    """Weighted sum of ``sigmoid`` and ``quality`` where t is 0, factor s^gamma softplus.

    ``slope`` gets its derivative, s^gamma (gamma (1 - s) softplus + s).
    """
    s, softplus = x.sigmoid(), F.softplus(x, threshold=40)
    power = s * s if gamma == 2 else s.pow(gamma)
    power.mul_(factor if weight is None else weight * factor)
    total = torch.dot(power.flatten(), softplus.flatten())
    if slope is not None:
        softplus.addcmul_(softplus, s, value=-1).mul_(gamma).add_(s)
        torch.mul(softplus, power, out=slope)
    return total


def focal_sum(kind: str, x: Tensor, target: Tensor, values: Tensor | None, weight: Tensor | None,
              first: float, second: float, slope: Tensor | None) -> Tensor:
    """The weighted sum of :func:`.reference.focal_reference`.

    Args:
        kind: see the reference; so are the other arguments.
        x: [N, C].
        target: [N, C] or labels [N].
        values: [N] or ``None``.
        weight: [N], [N, C] or ``None``.
        first: see the reference.
        second: see the reference.
        slope: [N, C], gets the derivative of the sum in x; ``None`` if it is not wanted.
    """
    n, c = x.shape
    labels = target.dim() == 1
    work = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    if weight is not None:
        weight = (weight[:, None] if weight.dim() == 1 else weight).to(work)
    factor = 1 - second if kind == "sigmoid" else 1.0
    step = max(1, CHUNK // max(c, 1))
    sums = []
    for start in range(0, n, step):
        rows = slice(start, start + step)
        part = x[rows].to(work)
        mine = None if weight is None else weight[rows]
        out = None if slope is None else slope[rows]
        if labels:
            sums.append(_background(part, first, factor, mine, out))
            continue
        loss, dx = loss_and_slope(kind, part, target[rows].to(work), first, second)
        sums.append((loss if mine is None else loss.mul_(mine)).sum())
        if out is not None:
            out.copy_(dx if mine is None else dx.mul_(mine))
    if labels:
        row = ((target >= 0) & (target < c)).nonzero().view(-1)
        column = target[row]
        part = x[row, column].to(work)
        mine = None if weight is None else weight.expand(n, c)[row, column]
        t = torch.ones_like(part) if values is None else values[row].to(work)
        loss, right = loss_and_slope(kind, part, t, first, second)
        sums.append((loss if mine is None else loss * mine).sum()
                    - _background(part, first, factor, mine, None))
        if slope is not None:
            slope[row, column] = (right if mine is None else right * mine).to(slope.dtype)
    return torch.stack(sums).sum() if sums else x.new_zeros((), dtype=work)
