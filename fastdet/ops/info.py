"""How the operators were compiled, as in ``mmcv.ops.info``: they were not."""

from __future__ import annotations

__all__ = ["get_compiler_version", "get_compiling_cuda_version", "get_onnxruntime_op_path"]


def get_compiler_version() -> str:
    """The compiler of the operators; they are Triton kernels and have none."""
    return "none"


def get_compiling_cuda_version() -> str:
    """The CUDA that the operators were compiled with; they are Triton kernels and have none."""
    return "none"


def get_onnxruntime_op_path() -> str:
    """The library of operators for ONNX Runtime: there is none."""
    return ""
