"""Other accelerators, as in ``mmcv.device``."""

from . import mlu, mps, npu
from .utils import get_device

__all__ = ["get_device", "mlu", "mps", "npu"]
