"""The focal losses in plain torch: the definitions and the oracle of the tests.

All but the softmax one are elementwise in a prediction x and a target t; :func:`elementwise` is
the family. ``first`` and ``second`` are the two exponents or factors that a kind has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: kind: the names of its ``first`` and ``second``.
KINDS = {"sigmoid": ("gamma", "alpha"), "quality": ("beta", ""),
         "varifocal": ("gamma", "alpha"), "varifocal_plain": ("gamma", "alpha"),
         "gaussian": ("gamma", "alpha")}
EPS = 1e-12


def elementwise(kind: str, x: Tensor, t: Tensor, first: float, second: float) -> Tensor:
    """One loss per element, of its inputs' shape and data type.

    ``sigmoid``: a (s + t - 2 s t)^gamma BCE(x, t) with s = sigmoid(x), a = alpha t +
    (1 - alpha)(1 - t). ``quality``: \\|t - s\\|^beta BCE(x, t). ``varifocal``: BCE(x, t) times t
    where t > 0 (``varifocal_plain``: times 1), else times alpha \\|s - t\\|^gamma. ``gaussian``, of
    a probability x: -log(x + eps) (1 - x)^alpha where t is 1, and -log(1 - x + eps) x^alpha
    (1 - t)^gamma.

    Args:
        kind: a key of :data:`KINDS`.
        x: logits; probabilities for ``gaussian``.
        t: targets in [0, 1], of the same shape.
        first: gamma, or beta for ``quality``.
        second: alpha; not used by ``quality``.
    """
    if kind == "gaussian":
        hit = -(x + EPS).log() * (1 - x).pow(second) * t.eq(1).to(x.dtype)
        return hit + -(1 - x + EPS).log() * x.pow(second) * (1 - t).pow(first)
    s = x.sigmoid()
    if kind == "sigmoid":
        focus = (second * t + (1 - second) * (1 - t)) * ((1 - s) * t + s * (1 - t)).pow(first)
    elif kind == "quality":
        focus = (t - s).abs().pow(first)
    else:
        here = t > 0
        focus = torch.where(here, t if kind == "varifocal" else torch.ones_like(t),
                            second * (s - t).abs().pow(first))
    return F.binary_cross_entropy_with_logits(x, t, reduction="none") * focus


def spread(labels: Tensor, values: Tensor | None, like: Tensor) -> Tensor:
    """Targets [N, C] of labels [N]: ``values`` (or one) at the label; labels off 0..C-1 have none.
    """
    n, c = like.shape
    inside = (labels >= 0) & (labels < c)
    target = like.new_zeros(n, c + 1)
    column = torch.where(inside, labels, c)[:, None]
    target.scatter_(1, column, 1.0 if values is None else values[:, None].to(like))
    return target[:, :c]


def focal_reference(kind: str, x: Tensor, target: Tensor, values: Tensor | None,
                    weight: Tensor | None, first: float, second: float) -> Tensor:
    """The weighted loss of every element.

    Args:
        kind: a key of :data:`KINDS`.
        x: [N, C].
        target: dense [N, C], or int64 labels [N].
        values: [N], the target at the label; one if ``None``.
        weight: [N], [N, C] or ``None``.
        first: see :func:`elementwise`.
        second: see :func:`elementwise`.
    """
    t = spread(target, values, x) if target.dim() < x.dim() else target.to(x.dtype)
    loss = elementwise(kind, x, t, first, second)
    if weight is None:
        return loss
    return loss * (weight[:, None] if weight.dim() < x.dim() else weight)


def softmax_focal_reference(x: Tensor, labels: Tensor, weight: Tensor | None, gamma: float,
                            alpha: float) -> Tensor:
    """-alpha (1 - p)^gamma log(p) of the label's probability; zero for negative labels.

    Args:
        x: [N, C].
        labels: int64 [N] in 0..C-1, or negative.
        weight: [C], by label, or ``None``.
        gamma: exponent.
        alpha: factor.

    Returns:
        [N].
    """
    inside = labels >= 0
    label = labels.clamp(min=0)
    log_p = x.log_softmax(1).gather(1, label[:, None])[:, 0]
    loss = -alpha * (1 - log_p.exp()).pow(gamma) * log_p
    if weight is not None:
        loss = loss * weight.to(x.dtype)[label]
    return torch.where(inside, loss, torch.zeros_like(loss))
