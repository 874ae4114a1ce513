"""Batches and data-parallel models, as in ``mmcv.parallel``."""

from .collate import collate
from .data_container import DataContainer
from .data_parallel import MMDataParallel
from .distributed import MMDistributedDataParallel
from .registry import MODULE_WRAPPERS
from .scatter_gather import scatter, scatter_kwargs
from .utils import is_module_wrapper

__all__ = [
    "DataContainer", "MMDataParallel", "MMDistributedDataParallel", "MODULE_WRAPPERS", "collate",
    "is_module_wrapper", "scatter", "scatter_kwargs",
]

for _name in ("MMDataParallel", "MMDistributedDataParallel"):
    MODULE_WRAPPERS.register_module(module=globals()[_name])
