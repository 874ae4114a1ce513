"""Export of operators that old torch could not export, as in ``mmcv.onnx.symbolic``."""

from __future__ import annotations

import warnings

__all__ = ["register_extra_symbolics"]


def register_extra_symbolics(opset: int = 11) -> None:
    """Nothing to register: today's torch exports all of these operators by itself.

    Args:
        opset: the ONNX opset that will be asked for.
    """
    warnings.warn("register_extra_symbolics has no effect: torch exports these operators by "
                  "itself", DeprecationWarning, stacklevel=2)
