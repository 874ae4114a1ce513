"""What an assigner returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["AssignResult"]


class AssignResult:
    """Which gt each candidate learns.

    Attributes:
        num_gts: gts there were.
        gt_inds: ``(N,)`` int64: -1 for neither, 0 for background, i + 1 for gt i.
        max_overlaps: ``(N,)``, the overlap with it.
        labels: ``(N,)``, its label, -1 without one; or ``None``.
        assign_metrics: ``(N,)``, how well prior and gt go together; of the task-aligned assigner.
    """

    assign_metrics: Tensor

    def __init__(self, num_gts: int, gt_inds: Tensor, max_overlaps: Tensor | None,
                 labels: Tensor | None = None) -> None:
        self.num_gts = num_gts
        self.gt_inds = gt_inds
        self.max_overlaps = max_overlaps
        self.labels = labels
        self._extra_properties: dict[str, Any] = {}

    @property
    def num_preds(self) -> int:
        """How many candidates there are."""
        return len(self.gt_inds)

    def set_extra_property(self, key: str, value: Any) -> None:
        """Keep something more.

        Raises:
            KeyError: ``key`` is taken.
        """
        if key in self.info:
            raise KeyError(f"AssignResult has {key!r} already")
        self._extra_properties[key] = value

    def get_extra_property(self, key: str) -> Any:
        """What :meth:`set_extra_property` kept, or ``None``."""
        return self._extra_properties.get(key)

    @property
    def info(self) -> dict[str, Any]:
        """All of it as a dict."""
        return {"num_gts": self.num_gts, "num_preds": self.num_preds, "gt_inds": self.gt_inds,
                "max_overlaps": self.max_overlaps, "labels": self.labels,
                **self._extra_properties}

    def __repr__(self) -> str:
        def shape(x: Tensor | None) -> Any:
            return None if x is None else tuple(x.shape)

        # MMDetection writes "name.shape=" only where there is one.
        parts = [f"num_gts={self.num_gts!r}"]
        for name in ("gt_inds", "max_overlaps", "labels"):
            value = getattr(self, name)
            parts.append(f"{name}={value!r}" if value is None else f"{name}.shape={shape(value)!r}")
        return f"<{type(self).__name__}({', '.join(parts)})>"

    @classmethod
    def random(cls, **kwargs: Any) -> AssignResult:
        """A made-up result, for tests.

        Args:
            kwargs: ``num_preds`` and ``num_gts`` (drawn by default), ``num_classes`` (20),
                ``p_ignore`` (0.3): the share of assigned candidates that are neither;
                ``p_assigned`` (0.5): of all that are assigned; ``p_use_label`` (0.5): how likely
                labels are; ``rng``: a seed, a ``RandomState`` or ``None``.
        """
        rng = kwargs.get("rng")
        if not isinstance(rng, np.random.RandomState):
            rng = np.random.RandomState(rng)
        num_gts, num_preds = kwargs.get("num_gts"), kwargs.get("num_preds")
        num_gts = int(rng.randint(0, 8)) if num_gts is None else num_gts
        num_preds = int(rng.randint(0, 16)) if num_preds is None else num_preds
        use_label = rng.rand() < kwargs.get("p_use_label", 0.5)
        gt_inds = np.zeros(num_preds, dtype=np.int64)
        overlaps = np.zeros(num_preds, dtype=np.float32)
        labels = np.zeros(num_preds, dtype=np.int64) if use_label or num_gts == 0 else None
        if num_gts:
            # Every gt is assigned to at most one candidate.
            chosen = rng.rand(num_preds) < kwargs.get("p_assigned", 0.5)
            chosen = np.flatnonzero(chosen)
            rng.shuffle(chosen)
            chosen = chosen[:num_gts]
            gt_inds[chosen] = rng.permutation(num_gts)[:len(chosen)] + 1
            overlaps[chosen] = rng.rand(len(chosen))
            ignored = chosen[rng.rand(len(chosen)) < kwargs.get("p_ignore", 0.3)]
            gt_inds[ignored] = -1
            if labels is not None:
                of_gts = rng.randint(0, kwargs.get("num_classes", 20), num_gts)
                labels = np.where(gt_inds > 0, of_gts[gt_inds - 1], -1)
        return cls(num_gts, torch.from_numpy(gt_inds), torch.from_numpy(overlaps),
                   None if labels is None else torch.from_numpy(labels))

    def add_gt_(self, gt_labels: Tensor) -> None:
        """Put the gts themselves before the candidates, each assigned to itself.

        Args:
            gt_labels: ``(G,)``.
        """
        own = torch.arange(1, len(gt_labels) + 1, dtype=torch.long, device=gt_labels.device)
        self.gt_inds = torch.cat([own, self.gt_inds])
        if self.max_overlaps is not None:
            self.max_overlaps = torch.cat(
                [self.max_overlaps.new_ones(len(gt_labels)), self.max_overlaps])
        if self.labels is not None:
            self.labels = torch.cat([gt_labels, self.labels])
