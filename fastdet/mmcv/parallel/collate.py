"""Samples to a batch, as in ``mmcv.parallel.collate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.utils.data.dataloader import default_collate

from .data_container import DataContainer

__all__ = ["collate"]


def _stacked(samples: Sequence[DataContainer]) -> Tensor:
    """The samples' tensors, their last ``pad_dims`` dimensions padded to the largest, stacked."""
    first = samples[0]
    for sample in samples:
        if not isinstance(sample.data, Tensor):
            raise TypeError("DataContainer(stack=True) must hold a tensor, "
                            f"got {type(sample.data).__name__}")
    n = first.pad_dims
    if n is None:
        return default_collate([s.data for s in samples])
    shapes = [tuple(s.data.shape) for s in samples]
    if len(shapes[0]) <= n or len({(len(s), s[:len(s) - n]) for s in shapes}) > 1:
        raise ValueError(f"the tensors of a batch may differ in their last {n} dimensions alone "
                         f"and must have more than these, got the shapes {shapes}")
    largest = [max(s[-d] for s in shapes) for d in range(1, n + 1)]
    padded = []
    for sample in samples:
        missing = [(0, largest[d - 1] - sample.data.shape[-d]) for d in range(1, n + 1)]
        padded.append(F.pad(sample.data, sum(missing, ()), value=sample.padding_value))
    return default_collate(padded)


def collate(batch: Sequence[Any], samples_per_gpu: int = 1) -> Any:
    """Put samples together, a group of ``samples_per_gpu`` for each GPU.

    In containers (dicts, lists) samples are put together item by item. A :class:`DataContainer`
    becomes one that holds a list with an entry for each GPU: a stacked tensor (``stack``), or a
    list of the samples' data. Anything else goes through torch's ``default_collate``.

    Args:
        batch: the samples.
        samples_per_gpu: samples in a group.

    Raises:
        TypeError: ``batch`` is no sequence, or data to be stacked is no tensor.
        ValueError: shapes differ where they are not padded.
    """
    if not isinstance(batch, Sequence):
        raise TypeError(f"{type(batch)} is not supported: a batch is a sequence of samples.")
    first = batch[0]
    if isinstance(first, DataContainer):
        groups = [batch[i:i + samples_per_gpu] for i in range(0, len(batch), samples_per_gpu)]
        if first.cpu_only or not first.stack:
            data: list[Any] = [[s.data for s in group] for group in groups]
        else:
            data = [_stacked(group) for group in groups]
        return DataContainer(data, first.stack, first.padding_value, cpu_only=first.cpu_only)
    if isinstance(first, Sequence) and not isinstance(first, str | bytes):
        return [collate(samples, samples_per_gpu) for samples in zip(*batch)]
    if isinstance(first, Mapping):
        return {key: collate([d[key] for d in batch], samples_per_gpu) for key in first}
    return default_collate(list(batch))
