"""``mmcv.device.mlu.distributed``."""

from . import MLUDistributedDataParallel

__all__ = ["MLUDistributedDataParallel"]
