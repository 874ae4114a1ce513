"""What an assigner is."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

__all__ = ["BaseAssigner"]


class BaseAssigner(metaclass=ABCMeta):
    """Decides which gt each candidate box learns."""

    @abstractmethod
    def assign(self, bboxes: Any, gt_bboxes: Any, gt_bboxes_ignore: Any = None,
               gt_labels: Any = None) -> Any:
        """Assign candidates to gts.

        Args:
            bboxes: ``(N, 4)`` candidates.
            gt_bboxes: ``(G, 4)``.
            gt_bboxes_ignore: ``(I, 4)`` regions without labels.
            gt_labels: ``(G,)``.

        Returns:
            An :class:`AssignResult`.
        """
