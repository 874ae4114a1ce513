"""Images drawn by class, so that rare classes are seen as often as common ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from fastdet.mmcv.runner import get_dist_info

__all__ = ["ClassAwareSampler"]


class _Cycle(Iterator[int]):
    """The data in a random order, again and again in another one.

    The first order is drawn at once: the draws of many cycles share a generator.
    """

    def __init__(self, data: Sequence[int], generator: torch.Generator) -> None:
        self.data = data
        self.generator = generator
        self._draw()

    def _draw(self) -> None:
        order = torch.randperm(len(self.data), generator=self.generator).tolist()
        self.left = order[::-1]

    def __next__(self) -> int:
        if not self.left:
            self._draw()
        return self.data[self.left.pop()]


class ClassAwareSampler(Sampler[int]):
    """Class-aware sampling (Shen et al., arXiv:1512.05830).

    Args:
        dataset: has ``get_cat2imgs``.
        samples_per_gpu: of a batch.
        num_replicas: how many processes there are; those of the run by default.
        rank: which one this is.
        seed: of the order, together with the epoch.
        num_sample_class: images that are drawn for a class when its turn comes.
    """

    def __init__(self, dataset: Any, samples_per_gpu: int = 1, num_replicas: int | None = None,
                 rank: int | None = None, seed: int | None = 0, num_sample_class: int = 1) -> None:
        if not isinstance(num_sample_class, int) or num_sample_class <= 0:
            raise ValueError(f"num_sample_class must be a positive integer, got "
                             f"{num_sample_class!r}")
        own_rank, world_size = get_dist_info()
        self.dataset = dataset
        self.samples_per_gpu = samples_per_gpu
        self.num_replicas = world_size if num_replicas is None else num_replicas
        self.rank = own_rank if rank is None else rank
        self.epoch = 0
        self.seed = 0 if seed is None else seed
        self.num_sample_class = num_sample_class
        self.cat_dict = dataset.get_cat2imgs()
        self.num_samples = math.ceil(
            len(dataset) / self.num_replicas / samples_per_gpu) * samples_per_gpu
        self.total_size = self.num_samples * self.num_replicas
        self.valid_cat_inds = [i for i, imgs in enumerate(self.cat_dict.values()) if len(imgs)]
        self.num_classes = len(self.valid_cat_inds)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.epoch + self.seed)
        classes = _Cycle(self.valid_cat_inds, generator)
        images = {i: _Cycle(self.cat_dict[i], generator) for i in self.valid_cat_inds}
        order: list[int] = []
        while len(order) < self.total_size:
            images_of = images[next(classes)]
            order += [next(images_of) for _ in range(self.num_sample_class)]
        start = self.num_samples * self.rank
        return iter(order[:self.total_size][start:start + self.num_samples])

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Draw another order in another epoch."""
        self.epoch = epoch
