"""Batches of images that are all wide or all tall."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from fastdet.mmcv.runner import get_dist_info

__all__ = ["DistributedGroupSampler", "GroupSampler"]


def _flags(dataset: Any) -> np.ndarray:
    if not hasattr(dataset, "flag"):
        raise ValueError(f"{type(dataset).__name__} has no flag, the group of each image, which "
                         "batches are made by; data sets in test mode have none")
    return dataset.flag.astype(np.int64)


class GroupSampler(Sampler[int]):
    """A random order in which every run of a batch's length is of one group.

    Args:
        dataset: has ``flag``, the group of each image.
        samples_per_gpu: of a batch. Groups are filled up with images of theirs drawn again.
    """

    def __init__(self, dataset: Any, samples_per_gpu: int = 1) -> None:
        self.dataset = dataset
        self.samples_per_gpu = samples_per_gpu
        self.flag = _flags(dataset)
        self.group_sizes = np.bincount(self.flag)
        self.num_samples = sum(math.ceil(n / samples_per_gpu) * samples_per_gpu
                               for n in self.group_sizes.tolist())

    def __iter__(self) -> Iterator[int]:
        random = np.random  # the stream that MMDetection draws from
        n = self.samples_per_gpu
        groups = []
        for i, size in enumerate(self.group_sizes.tolist()):
            if size:
                members = np.flatnonzero(self.flag == i)
                random.shuffle(members)
                extra = math.ceil(size / n) * n - size
                groups.append(np.concatenate(
                    [members, random.choice(members, extra)]))
        runs = np.concatenate(groups).reshape(-1, n)
        order = runs[random.permutation(range(len(runs)))]
        return iter(order.reshape(-1).astype(np.int64).tolist())

    def __len__(self) -> int:
        return self.num_samples


class DistributedGroupSampler(Sampler[int]):
    """:class:`GroupSampler` for one of several processes: all draw the same order.

    Args:
        dataset: has ``flag``.
        samples_per_gpu: of a batch.
        num_replicas: how many processes there are; those of the run by default.
        rank: which one this is.
        seed: of the order, together with the epoch.
    """

    def __init__(self, dataset: Any, samples_per_gpu: int = 1, num_replicas: int | None = None,
                 rank: int | None = None, seed: int | None = 0) -> None:
        own_rank, world_size = get_dist_info()
        self.dataset = dataset
        self.samples_per_gpu = samples_per_gpu
        self.num_replicas = world_size if num_replicas is None else num_replicas
        self.rank = own_rank if rank is None else rank
        self.epoch = 0
        self.seed = 0 if seed is None else seed
        self.flag = _flags(dataset)
        self.group_sizes = np.bincount(self.flag)
        self.num_samples = sum(map(self._share, self.group_sizes.tolist()))
        self.total_size = self.num_samples * self.num_replicas

    def _share(self, size: int) -> int:
        """Samples of a group for one process."""
        return math.ceil(size / self.samples_per_gpu / self.num_replicas) * self.samples_per_gpu

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.epoch + self.seed)
        order: list[int] = []
        for i, size in enumerate(self.group_sizes.tolist()):
            if size:
                members = np.flatnonzero(self.flag == i)
                members = members[torch.randperm(size, generator=generator).numpy()]
                order += np.resize(members, self._share(size) * self.num_replicas).tolist()
        n = self.samples_per_gpu
        runs = torch.randperm(len(order) // n, generator=generator).tolist()
        order = [order[j] for i in runs for j in range(i * n, (i + 1) * n)]
        start = self.num_samples * self.rank
        return iter(order[start:start + self.num_samples])

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Draw another order in another epoch."""
        self.epoch = epoch
