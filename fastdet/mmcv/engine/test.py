"""A model over a data set, in one process or several, as in ``mmcv.engine.test``."""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from ..runner.dist_utils import get_dist_info
from ..utils.path import mkdir_or_exist
from ..utils.progressbar import ProgressBar

__all__ = ["collect_results_cpu", "collect_results_gpu", "multi_gpu_test", "run_model",
           "run_shared", "single_gpu_test"]


@torch.no_grad()
def run_model(model: nn.Module, data_loader: Any, keep: Callable[[Any, list[Any]], list[Any]]
              = lambda data, batch: batch, rank: int = 0, world_size: int = 1,
              **kwargs: Any) -> list[Any]:
    """What is kept of the model's results over a loader, with a progress bar on rank 0.

    Args:
        model: returns a list of results for a batch.
        data_loader: batches as dicts; its ``dataset`` has a length.
        keep: makes of a batch and its results what is kept.
        rank, world_size: of this process, where several share the data set.
        kwargs: for the model, beside the batch.
    """
    model.eval()
    size = len(data_loader.dataset)
    results: list[Any] = []
    bar = ProgressBar(size) if rank == 0 else None
    for data in data_loader:
        batch = model(return_loss=False, **kwargs, **data)
        results += keep(data, batch)
        if bar is not None:  # the last batches of all processes may hold more than is left
            bar.update(max(1, min(len(batch) * world_size, size - bar.completed)))
    return results


def run_shared(model: nn.Module, data_loader: Any, tmpdir: str | None, gpu_collect: bool,
               **kwargs: Any) -> list[Any] | None:
    """:func:`run_model` on every process's part, put together on rank 0; ``None`` elsewhere."""
    rank, world_size = get_dist_info()
    results = run_model(model, data_loader, rank=rank, world_size=world_size, **kwargs)
    size = len(data_loader.dataset)
    if gpu_collect:
        return collect_results_gpu(results, size)
    return collect_results_cpu(results, size, tmpdir)


def single_gpu_test(model: nn.Module, data_loader: Any) -> list[Any]:
    """The model's results, ``model(return_loss=False, **data)``, one for each sample.

    Args:
        model, data_loader: see :func:`run_model`.
    """
    return run_model(model, data_loader)


def multi_gpu_test(model: nn.Module, data_loader: Any, tmpdir: str | None = None,
                   gpu_collect: bool = False) -> list[Any] | None:
    """:func:`single_gpu_test` of every process's part, put together in the data set's order.

    Args:
        model, data_loader: of this process; its sampler deals samples out in turn.
        tmpdir: a folder that all processes reach; one of rank 0 by default.
        gpu_collect: send the results through ``torch.distributed`` instead.

    Returns:
        All results on rank 0, ``None`` elsewhere.
    """
    return run_shared(model, data_loader, tmpdir, gpu_collect)


def _in_order(parts: list[list[Any]], size: int) -> list[Any]:
    """The first ``size`` results of parts whose samples were dealt out in turn."""
    absent = object()
    turns = itertools.zip_longest(*parts, fillvalue=absent)
    return [r for r in itertools.chain.from_iterable(turns) if r is not absent][:size]


def collect_results_cpu(result_part: list[Any], size: int,
                        tmpdir: str | None = None) -> list[Any] | None:
    """Put the parts of all processes together by files in a folder.

    Args:
        result_part: this process's results.
        size: length of the data set; what a sampler added beyond it is dropped.
        tmpdir: a folder that all processes reach, which is removed afterwards; one that rank 0
            makes by default.

    Returns:
        All results on rank 0, ``None`` elsewhere.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return result_part[:size]
    if tmpdir is None:
        shared = [tempfile.mkdtemp() if rank == 0 else None]
        dist.broadcast_object_list(shared)
        tmpdir = str(shared[0])
    mkdir_or_exist(tmpdir)
    with open(os.path.join(tmpdir, f"part_{rank}.pkl"), "wb") as f:
        pickle.dump(result_part, f)
    dist.barrier()
    if rank != 0:
        return None
    parts = []
    for i in range(world_size):
        with open(os.path.join(tmpdir, f"part_{i}.pkl"), "rb") as f:
            parts.append(pickle.load(f))  # written above, by this job
    shutil.rmtree(tmpdir)
    return _in_order(parts, size)


def collect_results_gpu(result_part: list[Any], size: int) -> list[Any] | None:
    """Put the parts of all processes together through ``torch.distributed``.

    Args:
        result_part, size: see :func:`collect_results_cpu`.

    Returns:
        All results on rank 0, ``None`` elsewhere.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return result_part[:size]
    parts: list[Any] = [None] * world_size
    dist.all_gather_object(parts, result_part)
    return _in_order(parts, size) if rank == 0 else None
