"""Which accelerators torch has here, as in ``mmcv.utils.device_type``."""

from __future__ import annotations

import importlib.util

import torch

__all__ = ["IS_IPU_AVAILABLE", "IS_MLU_AVAILABLE", "IS_MPS_AVAILABLE", "IS_NPU_AVAILABLE",
           "is_ipu_available", "is_mlu_available", "is_mps_available", "is_npu_available"]


def is_ipu_available() -> bool:
    """Whether Graphcore's ``poptorch`` is installed."""
    return importlib.util.find_spec("poptorch") is not None


def is_mlu_available() -> bool:
    """Whether torch was extended for Cambricon's devices, and there is one."""
    return hasattr(torch, "is_mlu_available") and torch.is_mlu_available()


def is_mps_available() -> bool:
    """Whether torch can use Apple's Metal."""
    return torch.backends.mps.is_available()


def is_npu_available() -> bool:
    """Whether torch was extended for Ascend's devices, and there is one."""
    return hasattr(torch, "npu") and torch.npu.is_available()


IS_IPU_AVAILABLE = is_ipu_available()
IS_MLU_AVAILABLE = is_mlu_available()
IS_MPS_AVAILABLE = is_mps_available()
IS_NPU_AVAILABLE = is_npu_available()
