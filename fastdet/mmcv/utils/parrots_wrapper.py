"""Base classes and facts of torch under the names of ``mmcv.utils.parrots_wrapper``."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _MaxPoolNd,
)
from torch.utils.data import DataLoader

__all__ = [
    "TORCH_VERSION", "DataLoader", "PoolDataLoader", "SyncBatchNorm", "_AdaptiveAvgPoolNd",
    "_AdaptiveMaxPoolNd", "_AvgPoolNd", "_BatchNorm", "_ConvNd", "_ConvTransposeMixin",
    "_InstanceNorm", "_MaxPoolNd", "_get_cuda_home", "get_build_config", "is_cuda_available",
    "is_rocm_pytorch",
]

TORCH_VERSION = torch.__version__
PoolDataLoader = DataLoader
_ConvTransposeMixin = _ConvTransposeNd


def is_cuda_available() -> bool:
    """Whether torch can use a CUDA or ROCm device."""
    return torch.cuda.is_available()


def is_rocm_pytorch() -> bool:
    """Whether this torch was built for ROCm."""
    return torch.version.hip is not None


def get_build_config() -> str:
    """How torch was built."""
    return torch.__config__.show()


def _get_cuda_home() -> str | None:
    from torch.utils import cpp_extension

    return cpp_extension.ROCM_HOME if is_rocm_pytorch() else cpp_extension.CUDA_HOME


def __getattr__(name: str) -> Any:
    # What asks the driver or imports setuptools waits until somebody wants it.
    if name == "IS_CUDA_AVAILABLE":
        return is_cuda_available()
    if name == "CUDA_HOME":
        return _get_cuda_home()
    if name in ("BuildExtension", "CUDAExtension", "CppExtension"):
        from torch.utils import cpp_extension

        return getattr(cpp_extension, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
