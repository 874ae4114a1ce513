"""``mmcv.device.mps.data_parallel``."""

from . import MPSDataParallel

__all__ = ["MPSDataParallel"]
