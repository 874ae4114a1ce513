"""Seeds of data-loader workers, as in ``mmcv.utils.seed``."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["worker_init_fn"]


def worker_init_fn(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """Seed ``random``, ``np.random`` and torch by ``num_workers * rank + worker_id + seed``."""
    worker_seed = num_workers * rank + worker_id + seed
    np.random.seed(worker_seed)  # noqa: NPY002 -- the stream that pipelines draw from
    random.seed(worker_seed)
    torch.manual_seed(worker_seed)
