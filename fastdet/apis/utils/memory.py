"""Functions that run again with less of a GPU's memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from .logger import get_root_logger

__all__ = ["AvoidCUDAOOM", "AvoidOOM"]


def _cast(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tree.tree_map(lambda v: change(v) if isinstance(v, Tensor) else v, values)


def _to_half(t: Tensor) -> Tensor:
    return t.half() if t.is_floating_point() else t


class AvoidOOM:
    """Tries a function whose GPU has no memory left again: in half precision, then on the CPU.

    ``AvoidCUDAOOM.retry_if_cuda_oom`` decorates a function, or wraps it for one call.

    Args:
        to_cpu: try the CPU at last.
        test: go through every try, as if memory were short.
    """

    def __init__(self, to_cpu: bool = True, test: bool = False) -> None:
        self.to_cpu = to_cpu
        self.test = test

    def retry_if_cuda_oom(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function with the tries around it.

        Raises:
            ValueError: (when called) memory is short and no argument is a tensor.
            torch.OutOfMemoryError: (when called) every try has failed.
        """
        @functools.wraps(func)
        def run(*args: Any, **kwargs: Any) -> Any:
            if not self.test:
                for _ in range(2):
                    try:
                        return func(*args, **kwargs)
                    except torch.OutOfMemoryError:
                        torch.cuda.empty_cache()
            return self._with_less(func, args, kwargs)

        return run

    def _with_less(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        first = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if first is None:
            raise ValueError(f"{func} has no tensor among its arguments to cast or move")
        logger = get_root_logger()
        logger.warning("Attempting to copy inputs of %s to FP16 due to CUDA OOM", func)
        try:
            out = func(*_cast(args, _to_half), **_cast(kwargs, _to_half))
            if not self.test:
                return _cast(out, lambda t: t.to(first.dtype) if t.dtype == torch.half else t)
        except torch.OutOfMemoryError:
            logger.warning("Using FP16 still meet CUDA OOM")
        if not self.to_cpu:
            return func(*args, **kwargs)
        logger.warning("Attempting to copy inputs of %s to CPU due to CUDA OOM", func)
        out = func(*_cast(args, Tensor.cpu), **_cast(kwargs, Tensor.cpu))
        try:
            return _cast(out, lambda t: t.to(first.device))
        except torch.OutOfMemoryError:
            logger.warning("Cannot convert output to GPU due to CUDA OOM, the output is on CPU "
                           "now.")
            return out


#: With the usual settings.
AvoidCUDAOOM = AvoidOOM()
