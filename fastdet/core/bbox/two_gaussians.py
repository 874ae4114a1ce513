"""Mixtures of two gaussians on a line, many at once (PAA, arXiv 2007.08103, section 3.1)."""

from __future__ import annotations

import numpy as np

__all__ = ["two_gaussians"]

#: Added to every variance, so that a gaussian never collapses.
FLOOR = 1e-6


def two_gaussians(values: np.ndarray, counts: np.ndarray, tied: bool = False,
                  max_iter: int = 100, tol: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Fit by expectation maximisation, from the least and the largest value.

    It is what scikit-learn's ``GaussianMixture(2)`` does with both means, equal weights and
    unit variances given: a row ends when its mean log likelihood changes by less than ``tol``.

    Args:
        values: [M, K], ascending; what counts stands first.
        counts: [M], how many of a row count, at least two.
        tied: both gaussians have one variance.
        max_iter: steps at most.
        tol: see above.

    Returns:
        Whether the first gaussian is the likelier one, and the log likelihood, ``[M, K]``.
    """
    there = np.arange(values.shape[1]) < counts[:, None]
    x = np.where(there, values, values[:, :1]).astype(np.float64)
    last = np.take_along_axis(x, counts[:, None] - 1, axis=1)[:, 0]
    mean = np.stack([x[:, 0], last], axis=1)
    weight = np.full_like(mean, 0.5)
    variance = np.ones_like(mean)

    def log_joint(rows: np.ndarray) -> np.ndarray:
        off = x[rows, :, None] - mean[rows, None]
        return (np.log(weight[rows]) - 0.5 * np.log(2 * np.pi * variance[rows]))[:, None] \
            - 0.5 * off ** 2 / variance[rows, None]

    rows, before = np.arange(len(x)), np.full(len(x), -np.inf)
    for _ in range(max_iter):
        joint = log_joint(rows)
        total = np.logaddexp(joint[..., 0], joint[..., 1])
        share = np.where(there[rows, :, None], np.exp(joint - total[..., None]), 0.0)
        n, mine = counts[rows, None], x[rows, :, None]
        mass = share.sum(1) + 10 * np.finfo(np.float64).eps
        mean[rows] = (share * mine).sum(1) / mass
        spread = (share * mine ** 2).sum(1) / mass - mean[rows] ** 2
        if tied:
            spread = np.broadcast_to((spread * mass).sum(1, keepdims=True)
                                     / mass.sum(1, keepdims=True), spread.shape)
        variance[rows], weight[rows] = spread + FLOOR, mass / n
        now = np.where(there[rows], total, 0.0).sum(1) / counts[rows]
        moves = ~(np.abs(now - before[rows]) < tol)
        before[rows] = now
        rows = rows[moves]
        if not len(rows):
            break
    joint = log_joint(np.arange(len(x)))
    return joint[..., 0] >= joint[..., 1], np.logaddexp(joint[..., 0], joint[..., 1])
