"""``mmcv.device.npu.distributed``."""

from . import NPUDistributedDataParallel

__all__ = ["NPUDistributedDataParallel"]
