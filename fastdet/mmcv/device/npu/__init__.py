"""``mmcv.device.npu``: the wrappers import and say that they do not work when used."""

from ..._absent import absent_class
from ...parallel import MMDataParallel, MMDistributedDataParallel

__all__ = ["NPUDataParallel", "NPUDistributedDataParallel"]

_WHY = "fastdet runs on CPUs and on NVIDIA and AMD GPUs; use MMDataParallel there"

NPUDataParallel = absent_class("mmcv.device.npu.NPUDataParallel", _WHY, MMDataParallel)
NPUDistributedDataParallel = absent_class(
    "mmcv.device.npu.NPUDistributedDataParallel", _WHY, MMDistributedDataParallel)
