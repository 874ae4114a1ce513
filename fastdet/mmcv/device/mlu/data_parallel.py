"""``mmcv.device.mlu.data_parallel``."""

from . import MLUDataParallel

__all__ = ["MLUDataParallel"]
