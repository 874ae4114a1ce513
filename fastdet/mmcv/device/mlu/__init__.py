"""``mmcv.device.mlu``: the wrappers import and say that they do not work when used."""

from ..._absent import absent_class
from ...parallel import MMDataParallel, MMDistributedDataParallel

__all__ = ["MLUDataParallel", "MLUDistributedDataParallel"]

_WHY = "fastdet runs on CPUs and on NVIDIA and AMD GPUs; use MMDataParallel there"

MLUDataParallel = absent_class("mmcv.device.mlu.MLUDataParallel", _WHY, MMDataParallel)
MLUDistributedDataParallel = absent_class(
    "mmcv.device.mlu.MLUDistributedDataParallel", _WHY, MMDistributedDataParallel)
