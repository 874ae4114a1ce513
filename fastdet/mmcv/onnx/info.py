"""ONNX Runtime's custom operators, as in ``mmcv.onnx.info``."""

from __future__ import annotations

__all__ = ["is_custom_op_loaded"]


def is_custom_op_loaded() -> bool:
    """Whether mmcv's custom operators for ONNX Runtime or TensorRT are loaded: never."""
    return False
