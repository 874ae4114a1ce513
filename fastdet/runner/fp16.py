"""Half precision per method, switched by ``fp16_enabled``, as in ``mmcv.runner``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["auto_fp16", "force_fp32"]


def _cast(value: Any, source: torch.dtype, target: torch.dtype) -> Any:
    """``value`` with every tensor of dtype ``source`` in it, however nested, cast."""
    if isinstance(value, torch.Tensor):
        return value.to(target) if value.dtype == source else value
    if isinstance(value, Mapping):
        return type(value)({k: _cast(v, source, target) for k, v in value.items()})  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_cast(v, source, target) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(_cast(v, source, target) for v in value)
    return value


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _at_precision(source: torch.dtype, target: torch.dtype, autocast: bool,
                  apply_to: Iterable[str] | None, cast_back: bool,
                  supported: tuple[type, ...]) -> Callable[..., Any]:
    """A decorator: cast arguments, set autocast on or off, and maybe cast the result back."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        names = inspect.getfullargspec(method).args
        chosen = set(names[1:] if apply_to is None else apply_to)

        @functools.wraps(method)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(self, supported):
                raise TypeError(f"{method.__qualname__} is decorated for methods of "
                                f"{', '.join(c.__name__ for c in supported)}, not of "
                                f"{type(self).__name__}")
            if not getattr(self, "fp16_enabled", False):
                return method(self, *args, **kwargs)
            cast_args = [_cast(v, source, target) if n in chosen else v
                         for n, v in zip(names[1:], args)] + list(args[len(names) - 1:])
            kwargs = {n: _cast(v, source, target) if n in chosen else v
                      for n, v in kwargs.items()}
            first = next(_tensors([*cast_args, *kwargs.values()]), None)
            device = "cuda" if first is None else first.device.type
            with torch.autocast(device, dtype=torch.float16, enabled=autocast):
                out = method(self, *cast_args, **kwargs)
            return _cast(out, target, source) if cast_back else out

        return wrapper

    return decorate


def auto_fp16(apply_to: Iterable[str] | None = None, out_fp32: bool = False,
              supported_types: tuple[type, ...] = (nn.Module,)) -> Callable[..., Any]:
    """Run a method in half precision when its object's ``fp16_enabled`` is true.

    The fp32 tensors among the arguments become fp16 and the body runs under ``torch.autocast``.
    While ``fp16_enabled`` is false or absent the method runs as if it were not decorated.

    Args:
        apply_to: names of the arguments to cast; all positional ones by default.
        out_fp32: cast fp16 tensors in the result to fp32.
        supported_types: classes whose methods may be decorated.

    Raises:
        TypeError: (when called) the object is of none of ``supported_types``.
    """
    return _at_precision(torch.float32, torch.float16, True, apply_to, out_fp32, supported_types)


def force_fp32(apply_to: Iterable[str] | None = None, out_fp16: bool = False
               ) -> Callable[..., Any]:
    """Run a method in fp32 when its object's ``fp16_enabled`` is true.

    The fp16 tensors among the arguments become fp32 and autocast is off in the body. While
    ``fp16_enabled`` is false or absent the method runs as if it were not decorated.

    Args:
        apply_to: names of the arguments to cast; all positional ones by default.
        out_fp16: cast fp32 tensors in the result to fp16.

    Raises:
        TypeError: (when called) the object is not an ``nn.Module``.
    """
    return _at_precision(torch.float16, torch.float32, False, apply_to, out_fp16, (nn.Module,))
