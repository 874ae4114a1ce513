"""Batches without end, for training that counts iterations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

from fastdet.core.utils import sync_random_seed
from fastdet.mmcv.runner import get_dist_info
from fastdet.utils.distribution import get_device

from .group_sampler import _flags

__all__ = ["InfiniteBatchSampler", "InfiniteGroupBatchSampler"]


class InfiniteBatchSampler(Sampler[list[int]]):
    """Batches of a stream of shuffled epochs that all processes share.

    Args:
        dataset: the data set.
        batch_size: of one process.
        world_size: how many processes there are; those of the run by default.
        rank: which one this is.
        seed: the same in all processes; drawn by the first where it is ``None``.
        shuffle: else every epoch is in the data set's order.
    """

    def __init__(self, dataset: Any, batch_size: int = 1, world_size: int | None = None,
                 rank: int | None = None, seed: int | None = 0, shuffle: bool = True) -> None:
        own_rank, own_world = get_dist_info()
        self.rank = own_rank if rank is None else rank
        self.world_size = own_world if world_size is None else world_size
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = sync_random_seed(seed, get_device())
        self.shuffle = shuffle
        self.size = len(dataset)
        self.indices = itertools.islice(self._stream(), self.rank, None, self.world_size)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        while True:
            yield from (torch.randperm(self.size, generator=generator).tolist() if self.shuffle
                        else range(self.size))

    def _group(self, index: int) -> int:
        return 0

    def __iter__(self) -> Iterator[list[int]]:
        waiting: dict[int, list[int]] = {}
        for index in self.indices:
            batch = waiting.setdefault(self._group(index), [])
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch[:]
                batch.clear()

    def __len__(self) -> int:
        """Of the data set: a runner counts its epochs by it."""
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """A stream without end has no epochs: nothing changes."""


class InfiniteGroupBatchSampler(InfiniteBatchSampler):
    """:class:`InfiniteBatchSampler` with batches of one group; the data set has ``flag``."""

    def __init__(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        self.flag = _flags(dataset)

    def _group(self, index: int) -> int:
        return int(self.flag[index])
