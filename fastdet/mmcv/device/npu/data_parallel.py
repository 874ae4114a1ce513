"""``mmcv.device.npu.data_parallel``."""

from . import NPUDataParallel

__all__ = ["NPUDataParallel"]
