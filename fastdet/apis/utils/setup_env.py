"""Threads and start method of loading processes."""

from __future__ import annotations

import os
import platform
import warnings
from typing import Any

import torch.multiprocessing as mp

__all__ = ["setup_multi_processes"]


def setup_multi_processes(cfg: Any) -> None:
    """Set what a config says of its processes, and one thread for each of several loaders.

    Args:
        cfg: ``mp_start_method`` (``'fork'`` by default), ``opencv_num_threads`` (0), and
            ``data.workers_per_gpu``; ``OMP_NUM_THREADS`` and ``MKL_NUM_THREADS`` are set to 1
            where they are not set and there are several workers.
    """
    if platform.system() != "Windows":
        method = cfg.get("mp_start_method", "fork")
        current = mp.get_start_method(allow_none=True)
        if current is not None and current != method:
            warnings.warn(f"multi-processing start method `{method}` is different from the "
                          f"previous setting `{current}`. It will be force set to `{method}`",
                          stacklevel=2)
        mp.set_start_method(method, force=True)
    import cv2

    cv2.setNumThreads(cfg.get("opencv_num_threads", 0))
    data = cfg.data
    workers = data.get("workers_per_gpu", 1)
    if "train_dataloader" in data:
        workers = max(data["train_dataloader"].get("workers_per_gpu", 1), workers)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if name not in os.environ and workers > 1:
            warnings.warn(f"{name} is set to 1 for each process, so that {workers} loading "
                          "processes do not overload the machine; set it yourself for another "
                          "number", stacklevel=2)
            os.environ[name] = "1"
