"""``mmcv.device.mps``: the wrapper imports and says that it does not work when used."""

from ..._absent import absent_class
from ...parallel import MMDataParallel

__all__ = ["MPSDataParallel"]

MPSDataParallel = absent_class(
    "mmcv.device.mps.MPSDataParallel",
    "fastdet runs on CPUs and on NVIDIA and AMD GPUs; use MMDataParallel there", MMDataParallel)
