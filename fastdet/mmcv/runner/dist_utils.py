"""Processes of a job, as in ``mmcv.runner.dist_utils``."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing as mp

__all__ = ["allreduce_grads", "allreduce_params", "get_dist_info", "init_dist", "master_only"]


def get_dist_info() -> tuple[int, int]:
    """The rank of this process and the number of processes; ``(0, 1)`` for a single one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def master_only(func: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: call the function on rank 0 alone; elsewhere it gives ``None``."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs) if get_dist_info()[0] == 0 else None

    return wrapper


def init_dist(launcher: str, backend: str = "nccl", **kwargs: Any) -> None:
    """Start ``torch.distributed`` from what a launcher left in the environment.

    Args:
        launcher: ``'pytorch'`` (torchrun: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``), ``'mpi'``
            (``OMPI_COMM_WORLD_*``) or ``'slurm'`` (``SLURM_*``; ``port`` may be given, and else
            ``MASTER_PORT`` or 29500 is taken).
        backend: ``'nccl'``, ``'gloo'`` …; with CUDA each process takes the GPU of its local rank.
        kwargs: as for ``torch.distributed.init_process_group``.

    Raises:
        ValueError: an unknown launcher.
        KeyError: the launcher's variables are not set; the missing one is named.
    """
    if mp.get_start_method(allow_none=True) is None:
        mp.set_start_method("spawn")
    starts = {"pytorch": _pytorch, "mpi": _mpi, "slurm": _slurm}
    if launcher not in starts:
        raise ValueError(f"Invalid launcher type: {launcher}; known are {', '.join(starts)}")
    local_rank, kwargs = starts[launcher](kwargs)
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    dist.init_process_group(backend=backend, **kwargs)


def _variable(name: str, launcher: str) -> str:
    if name not in os.environ:
        raise KeyError(f"the launcher {launcher} sets the environment variable {name}, "
                       "which is not there; was the script started by it?")
    return os.environ[name]


def _pytorch(kwargs: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    rank = int(_variable("RANK", "pytorch"))
    return int(os.environ.get("LOCAL_RANK", rank)), kwargs


def _mpi(kwargs: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    os.environ.setdefault("MASTER_PORT", "29500")
    _variable("MASTER_ADDR", "mpi")
    os.environ["WORLD_SIZE"] = _variable("OMPI_COMM_WORLD_SIZE", "mpi")
    os.environ["RANK"] = _variable("OMPI_COMM_WORLD_RANK", "mpi")
    return int(_variable("OMPI_COMM_WORLD_LOCAL_RANK", "mpi")), kwargs


def _slurm(kwargs: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    kwargs = dict(kwargs)
    port = kwargs.pop("port", None)
    rank = int(_variable("SLURM_PROCID", "slurm"))
    tasks = _variable("SLURM_NTASKS", "slurm")
    if port is not None:
        os.environ["MASTER_PORT"] = str(port)
    elif "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = "29500"
    if "MASTER_ADDR" not in os.environ:
        nodes = _variable("SLURM_NODELIST", "slurm")
        if shutil.which("scontrol") is None:
            raise FileNotFoundError("the launcher slurm needs the program scontrol to find the "
                                    "first node, or the environment variable MASTER_ADDR")
        shown = subprocess.run(["scontrol", "show", "hostname", nodes], check=True,
                               capture_output=True, text=True)
        os.environ["MASTER_ADDR"] = shown.stdout.split()[0]
    local = rank % torch.cuda.device_count() if torch.cuda.is_available() else 0
    local = int(os.environ.get("SLURM_LOCALID", local))
    os.environ.update(WORLD_SIZE=tasks, RANK=str(rank), LOCAL_RANK=str(local))
    return local, kwargs


def _allreduce(tensors: list[torch.Tensor], coalesce: bool, bucket_size_mb: int) -> None:
    """Average tensors over the processes, in place."""
    _, world_size = get_dist_info()
    if world_size == 1 or not tensors:
        return
    groups = [[t] for t in tensors]
    if coalesce:
        by_type: dict[Any, list[torch.Tensor]] = {}
        for t in tensors:
            by_type.setdefault((t.dtype, t.device), []).append(t)
        limit = bucket_size_mb * 1024 * 1024 if bucket_size_mb > 0 else float("inf")
        groups = []
        for same in by_type.values():
            groups.append([])
            size = 0
            for t in same:
                nbytes = t.numel() * t.element_size()
                if groups[-1] and size + nbytes > limit:
                    groups.append([])
                    size = 0
                groups[-1].append(t)
                size += nbytes
    for group in groups:
        flat = torch.cat([t.flatten() for t in group])
        if flat.is_floating_point():
            flat.div_(world_size)
            dist.all_reduce(flat)
        else:  # a count of batches, say
            dist.all_reduce(flat)
            flat.div_(world_size, rounding_mode="floor")
        for t, part in zip(group, flat.split([t.numel() for t in group])):
            t.copy_(part.view_as(t))


def allreduce_params(params: Any, coalesce: bool = True, bucket_size_mb: int = -1) -> None:
    """Average parameters (or buffers) over the processes.

    Args:
        params: the tensors.
        coalesce: send many in one message.
        bucket_size_mb: size of a message in MiB; all of one type in one by default.
    """
    _allreduce([p.data for p in params], coalesce, bucket_size_mb)


def allreduce_grads(params: Any, coalesce: bool = True, bucket_size_mb: int = -1) -> None:
    """Average the gradients of parameters over the processes; see :func:`allreduce_params`."""
    grads = [p.grad.data for p in params if p.requires_grad and p.grad is not None]
    _allreduce(grads, coalesce, bucket_size_mb)
