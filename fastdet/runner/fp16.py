"""Half precision per method, switched by ``fp16_enabled``, as in ``mmcv.runner``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["LossScaler", "auto_fp16", "cast_tensor_type", "force_fp32", "patch_forward_method",
           "patch_norm_fp32", "wrap_fp16_model"]


def cast_tensor_type(inputs: Any, src_type: torch.dtype, dst_type: torch.dtype) -> Any:
    """``inputs`` with its tensors cast, however nested in dicts, lists and tuples.

    Args:
        inputs: anything; what is no tensor stays.
        src_type: dtype of the tensors that are cast; others stay.
        dst_type: what they are cast to.
    """
    return _cast(inputs, src_type, dst_type)


def _cast(value: Any, source: torch.dtype, target: torch.dtype) -> Any:
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


def wrap_fp16_model(model: nn.Module) -> None:
    """Switch on half precision in every module that has ``fp16_enabled``.

    Their decorated methods then run under autocast; the weights stay in fp32.
    """
    for module in model.modules():
        if hasattr(module, "fp16_enabled"):
            module.fp16_enabled = True  # type: ignore[assignment]


def patch_norm_fp32(module: nn.Module) -> nn.Module:
    """Give all norms of a half-precision model fp32 parameters; change it in place.

    Returns:
        ``module``.
    """
    for part in module.modules():
        if isinstance(part, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
            part.float()
        if isinstance(part, nn.GroupNorm):  # unlike batch norms it takes no fp16 input then
            part.forward = patch_forward_method(  # type: ignore[method-assign]
                part.forward, torch.half, torch.float)
    return module


def patch_forward_method(func: Callable[..., Any], src_type: torch.dtype, dst_type: torch.dtype,
                         convert_output: bool = True) -> Callable[..., Any]:
    """A function that casts tensors among its arguments, calls ``func`` and casts them back.

    Args:
        func: the function.
        src_type: dtype of the arguments that are cast.
        dst_type: what they are cast to.
        convert_output: cast ``dst_type`` in the result to ``src_type``.
    """

    @functools.wraps(func)
    def forward(*args: Any, **kwargs: Any) -> Any:
        out = func(*_cast(args, src_type, dst_type), **_cast(kwargs, src_type, dst_type))
        return _cast(out, dst_type, src_type) if convert_output else out

    return forward


class LossScaler:
    """A scale of the loss that halves when gradients overflow and doubles when they do not.

    ``torch.amp.GradScaler`` does this on the GPU; :class:`Fp16OptimizerHook` uses that one.

    Args:
        init_scale: the first scale.
        mode: ``'dynamic'``, or ``'static'`` for one that stays.
        scale_factor: by which it changes.
        scale_window: iterations without overflow after which it grows.
    """

    def __init__(self, init_scale: float = 2 ** 32, mode: str = "dynamic",
                 scale_factor: float = 2.0, scale_window: int = 1000) -> None:
        if mode not in ("dynamic", "static"):
            raise AssertionError(f"mode can only be dynamic or static, got {mode!r}")
        self.cur_scale = init_scale
        self.cur_iter = 0
        self.mode = mode
        self.last_overflow_iter = -1
        self.scale_factor = scale_factor
        self.scale_window = scale_window

    def has_overflow(self, params: Iterable[nn.Parameter]) -> bool:
        """Whether a gradient holds an infinity or a NaN; never in the mode ``'static'``."""
        return self.mode == "dynamic" and any(
            p.grad is not None and not torch.isfinite(p.grad).all() for p in params)

    def update_scale(self, overflow: bool) -> None:
        """Change the scale after an iteration."""
        if self.mode == "dynamic":
            if overflow:
                self.cur_scale = max(self.cur_scale / self.scale_factor, 1)
                self.last_overflow_iter = self.cur_iter
            elif (self.cur_iter - self.last_overflow_iter) % self.scale_window == 0:
                self.cur_scale *= self.scale_factor
        self.cur_iter += 1

    @property
    def loss_scale(self) -> float:
        """The scale."""
        return self.cur_scale

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        return dict(vars(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        vars(self).update({k: v for k, v in state_dict.items() if k in vars(self)})
