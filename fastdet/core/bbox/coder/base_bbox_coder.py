"""What every box coder has."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

from torch import Tensor

__all__ = ["BaseBBoxCoder", "check_pairs"]


class BaseBBoxCoder(metaclass=ABCMeta):
    """Boxes to regression targets, relative to priors, and back."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()  # configs may pass what a coder has no use for

    @abstractmethod
    def encode(self, bboxes: Any, gt_bboxes: Any) -> Any:
        """Targets that lead from ``bboxes`` to ``gt_bboxes``."""

    @abstractmethod
    def decode(self, bboxes: Any, bboxes_pred: Any) -> Any:
        """Boxes of ``bboxes`` and predictions."""


def check_pairs(coder: BaseBBoxCoder, priors: Tensor, boxes: Tensor, width: int = 4) -> None:
    """Hold priors and boxes to be as many, and to have ``width`` and 4 numbers.

    Raises:
        ValueError: they are not.
    """
    if priors.size(0) != boxes.size(0) or priors.size(-1) != width or boxes.size(-1) != 4:
        raise ValueError(f"{type(coder).__name__}: expected [N, {width}] and [N, 4], got "
                         f"{list(priors.shape)} and {list(boxes.shape)}")
