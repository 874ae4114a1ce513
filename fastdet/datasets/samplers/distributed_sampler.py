"""The images dealt out to processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DistributedSampler as _DistributedSampler

from fastdet.core.utils import sync_random_seed
from fastdet.utils.distribution import get_device

__all__ = ["DistributedSampler"]


class DistributedSampler(_DistributedSampler):
    """torch's, with one seed for all processes, and any number of repetitions.

    Args:
        dataset, num_replicas, rank, shuffle: see there.
        seed: drawn by the first process where it is ``None``.
    """

    def __init__(self, dataset: Any, num_replicas: int | None = None, rank: int | None = None,
                 shuffle: bool = True, seed: int | None = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle)
        self.seed = sync_random_seed(seed, get_device())

    def _length(self) -> int:
        images: Any = self.dataset
        return len(images)

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed(self.epoch + self.seed)
            order = torch.randperm(self._length(), generator=generator).tolist()
        else:
            order = list(range(self._length()))
        order = (order * math.ceil(self.total_size / len(order)))[:self.total_size]
        return iter(order[self.rank:self.total_size:self.num_replicas])
