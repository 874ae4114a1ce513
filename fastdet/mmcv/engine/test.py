"""Running a model over a data set, as in ``mmcv.engine.test``."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from ..runner.dist_utils import get_dist_info
from ..utils.path import mkdir_or_exist
from ..utils.progressbar import ProgressBar

__all__ = ["collect_results_cpu", "collect_results_gpu", "multi_gpu_test", "single_gpu_test"]


@torch.no_grad()
def single_gpu_test(model: nn.Module, data_loader: Any) -> list[Any]:
    """The model's results on a data set, in its order.

    Args:
        model: called as ``model(return_loss=False, **batch)``; gives a list with one result for
            each sample.
        data_loader: the batches; ``data_loader.dataset`` says how many samples there are.
    """
    model.eval()
    results: list[Any] = []
    bar = ProgressBar(len(data_loader.dataset))
    for batch in data_loader:
        result = model(return_loss=False, **batch)
        results.extend(result)
        for _ in result:
            bar.update()
    return results


@torch.no_grad()
def multi_gpu_test(model: nn.Module, data_loader: Any, tmpdir: str | None = None,
                   gpu_collect: bool = False) -> list[Any] | None:
    """The results of all processes on a data set that a ``DistributedSampler`` divides.

    Args:
        model, data_loader: see :func:`single_gpu_test`.
        tmpdir: a folder that all processes share, see :func:`collect_results_cpu`.
        gpu_collect: collect by the process group instead.

    Returns:
        All results on rank 0, ``None`` elsewhere.
    """
    model.eval()
    results: list[Any] = []
    rank, world_size = get_dist_info()
    size = len(data_loader.dataset)
    bar = ProgressBar(size) if rank == 0 else None
    for batch in data_loader:
        result = model(return_loss=False, **batch)
        results.extend(result)
        if bar is not None:
            # The last batch may be filled up with samples that come twice.
            for _ in range(min(len(result) * world_size, size - bar.completed)):
                bar.update()
    if gpu_collect:
        return collect_results_gpu(results, size)
    return collect_results_cpu(results, size, tmpdir)


def _in_order(parts: list[list[Any]], size: int) -> list[Any]:
    """Results in the data set's order: sample ``i`` went to rank ``i % world_size``."""
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)][:size]


def collect_results_cpu(result_part: list[Any], size: int,
                        tmpdir: str | None = None) -> list[Any] | None:
    """Collect results through files.

    Args:
        result_part: this process's.
        size: samples of the data set; what a sampler has added is cut off.
        tmpdir: a folder that all processes share, which is removed; a new one below
            ``.dist_test`` by default.

    Returns:
        All results in the data set's order on rank 0, ``None`` elsewhere.
    """
    rank, world_size = get_dist_info()
    if tmpdir is None:
        if rank == 0:
            mkdir_or_exist(".dist_test")
        names = [tempfile.mkdtemp(dir=".dist_test") if rank == 0 else None]
        if world_size > 1:
            dist.broadcast_object_list(names, src=0)
        tmpdir = names[0]
    assert tmpdir is not None
    mkdir_or_exist(tmpdir)
    with open(os.path.join(tmpdir, f"part_{rank}.pkl"), "wb") as f:
        pickle.dump(result_part, f, protocol=pickle.HIGHEST_PROTOCOL)
    if world_size > 1:
        dist.barrier()
    if rank != 0:
        return None
    parts = []
    for i in range(world_size):
        with open(os.path.join(tmpdir, f"part_{i}.pkl"), "rb") as f:
            parts.append(pickle.load(f))
    shutil.rmtree(tmpdir)
    return _in_order(parts, size)


def collect_results_gpu(result_part: list[Any], size: int) -> list[Any] | None:
    """Collect results by the process group; see :func:`collect_results_cpu`."""
    rank, world_size = get_dist_info()
    if world_size == 1:
        return _in_order([result_part], size)
    parts: list[Any] = [None] * world_size
    dist.all_gather_object(parts, result_part)
    return _in_order(parts, size) if rank == 0 else None
