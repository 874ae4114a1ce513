"""Proposals of a batch, padded, that also read as one tensor for each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["Proposals"]


class Proposals(Sequence[Tensor]):
    """Proposals of B images.

    As a sequence it is what MMDetection passes between stages, ``[n, 4 or more]`` of each image;
    reading it so copies the counts to the host once.

    Args:
        boxes: [B, K, 4 or more], corners first.
        counts: [B], how many each image has.
    """

    def __init__(self, boxes: Tensor, counts: Tensor) -> None:
        self.boxes = boxes
        self.counts = counts
        self._lengths: list[int] | None = None

    @classmethod
    def pad(cls, each: Sequence[Tensor]) -> Proposals:
        """Pad what each image has; one that is padded already is returned as it is."""
        if isinstance(each, Proposals):
            return each
        width = max(len(one) for one in each)
        boxes = each[0].new_zeros((len(each), width, each[0].shape[-1]))
        for i, one in enumerate(each):
            boxes[i, :len(one)] = one
        counts = torch.tensor([len(one) for one in each]).to(boxes.device, non_blocking=True)
        return cls(boxes, counts)

    @property
    def valid(self) -> Tensor:
        """[B, K], which rows are proposals."""
        return torch.arange(self.boxes.shape[1], device=self.boxes.device) < self.counts[:, None]

    def _own(self) -> list[int]:
        if self._lengths is None:
            self._lengths = self.counts.tolist()
        return self._lengths

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        return self.boxes[i, :self._own()[i]]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))
