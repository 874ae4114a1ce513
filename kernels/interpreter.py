"""Mends to Triton's CPU interpreter, applied when a kernel is first launched under it."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


@cache
def mend() -> None:
    """All the mends, once."""
    _mend_bfloat16()
    _mend_booleans()


def _mend_booleans() -> None:
    """Give the interpreter of Triton 3.3 the type of booleans, which ``|`` and ``~`` ask for."""
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    if hasattr(InterpreterBuilder, "get_int1_ty"):
        return
    ones = InterpreterBuilder.get_all_ones_value

    def all_ones(self: Any, kind: Any) -> Any:
        if kind.scalar == tl.int1:
            return TensorHandle(torch.ones(1, dtype=torch.bool).numpy(), tl.int1)
        return ones(self, kind)

    InterpreterBuilder.get_int1_ty = lambda self: tl.int1
    InterpreterBuilder.get_all_ones_value = all_ones


def _mend_bfloat16() -> None:
    """Give the interpreter the bfloat16 of a GPU.

    The interpreter of Triton 3.9 and before truncates float32 to bfloat16
    (``InterpreterBuilder.cast_impl`` passes no rounding mode to ``_convert_float``), where hardware
    rounds to nearest, ties to even; and ``create_dot`` multiplies the bit patterns of bfloat16
    operands as integers. This can go when Triton's own tests cover both.
    """
    from triton import language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float
    dot = interpreter.InterpreterBuilder.create_dot

    def rounded(data: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        if source != tl.float32 or target != tl.bfloat16:
            return convert(data, source, target, rounding_mode)
        bits = torch.from_numpy(data.copy()).bfloat16().view(torch.int16)
        return bits.numpy().view("uint16")

    def widened(self: Any, a: Any, b: Any, *args: Any) -> Any:
        a, b = (self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x
                for x in (a, b))
        return dot(self, a, b, *args)

    interpreter._convert_float = rounded
    interpreter.InterpreterBuilder.create_dot = widened
