"""Multiply-adds and parameters of a model, counted layer by layer as mmcv counts them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TextIO

import torch
from torch import Tensor, nn

__all__ = ["flops_to_string", "get_model_complexity_info", "params_to_string"]


def _conv(layer: Any, x: Tensor, out: Tensor) -> int:
    places = out.shape[0] * math.prod(out.shape[2:])
    per_place = math.prod(layer.kernel_size) * layer.in_channels * (
        layer.out_channels // layer.groups)
    return places * (per_place + (layer.out_channels if layer.bias is not None else 0))


def _deconv(layer: Any, x: Tensor, out: Tensor) -> int:
    per_place = math.prod(layer.kernel_size) * layer.in_channels * (
        layer.out_channels // layer.groups)
    bias = out.shape[0] * layer.out_channels * math.prod(out.shape[2:])
    return x.shape[0] * math.prod(x.shape[2:]) * per_place + (
        bias if layer.bias is not None else 0)


def _linear(layer: Any, x: Tensor, out: Tensor) -> int:
    return x.numel() * out.shape[-1]


def _norm(layer: Any, x: Tensor, out: Tensor) -> int:
    affine = getattr(layer, "affine", False) or getattr(layer, "elementwise_affine", False)
    return x.numel() * (2 if affine else 1)


def _of_input(layer: Any, x: Tensor, out: Tensor) -> int:
    return x.numel()


def _of_output(layer: Any, x: Tensor, out: Tensor) -> int:
    return out.numel()


def _upsample(layer: Any, x: Tensor, out: Tensor) -> int:
    return out[0].numel()


#: What a layer of exactly this class costs; others, and functions, are not counted.
_COSTS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], int]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    nn.ConvTranspose2d: _deconv,
    nn.Linear: _linear,
    **dict.fromkeys((nn.ReLU, nn.PReLU, nn.ELU, nn.LeakyReLU, nn.ReLU6), _of_output),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d,
                     nn.AvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
                     nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
                     nn.AdaptiveAvgPool3d), _of_input),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm,
                     nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LayerNorm),
                    _norm),
    nn.Upsample: _upsample,
}


def _count(model: nn.Module, run: Callable[[], Any]) -> dict[nn.Module, int]:
    """The cost of each layer in one run."""
    costs: dict[nn.Module, int] = {}

    def hook(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        costs[layer] = costs.get(layer, 0) + _COSTS[type(layer)](layer, args[0], out)

    handles = [m.register_forward_hook(hook) for m in model.modules() if type(m) in _COSTS]
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            run()
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return costs


def get_model_complexity_info(
        model: nn.Module, input_shape: tuple[int, ...], print_per_layer_stat: bool = True,
        as_strings: bool = True, input_constructor: Callable[..., Any] | None = None,
        flush: bool = False, ost: TextIO = sys.stdout) -> tuple[Any, Any]:
    """Count a model's multiply-adds and trainable parameters.

    Convolutions, linear layers, norms, poolings, ReLUs and ``nn.Upsample`` are counted, if they are
    of torch's own classes; functions and other layers are not. Numbers are mmcv's.

    Args:
        model: the model; it runs once, in eval mode.
        input_shape: shape of one input, without the batch, such as ``(3, 800, 1333)``.
        print_per_layer_stat: print a line for each module.
        as_strings: return ``'4.13 GFLOPs'`` and ``'25.56 M'`` instead of numbers.
        input_constructor: makes the keyword arguments of the model from ``input_shape``.
        flush: flush what is printed.
        ost: where to print.

    Returns:
        Multiply-adds and parameters.

    Raises:
        TypeError: ``input_shape`` is not a tuple, or ``model`` not a module.
        ValueError: ``input_shape`` is empty.
    """
    if not isinstance(input_shape, tuple) or not isinstance(model, nn.Module):
        raise TypeError("get_model_complexity_info takes a module and a tuple, got "
                        f"{type(model).__name__} and {input_shape!r}")
    if not input_shape:
        raise ValueError("input_shape must have at least one number, got ()")
    parameter = next(model.parameters(), torch.empty(()))
    if input_constructor is None:
        batch = parameter.new_zeros((1, *input_shape))
        costs = _count(model, lambda: model(batch))
    else:
        costs = _count(model, lambda: model(**input_constructor(input_shape)))
    flops = sum(costs.values())
    params = _parameters(model)
    if print_per_layer_stat:
        for name, module in model.named_modules():
            own = sum(costs.get(m, 0) for m in module.modules())
            share = 100 * own / flops if flops else 0.0
            print(f"{name or '(whole)'}: {type(module).__name__}, "
                  f"{params_to_string(_parameters(module), 'M', 3)}, "
                  f"{flops_to_string(own, precision=3)} ({share:.1f} %)", file=ost, flush=flush)
    return (flops_to_string(flops), params_to_string(params)) if as_strings else (flops, params)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _in_units(number: float, units: str | None, steps: tuple[tuple[float, str], ...],
              bare: str, precision: int) -> str:
    for size, name in steps:
        if name.upper() == (units or "").upper() or (units is None and number >= size):
            return f"{round(number / size, precision)} {units or name}"
    return f"{number}{bare}"


def flops_to_string(flops: float, units: str | None = "GFLOPs", precision: int | None = 2) -> str:
    """Multiply-adds in words: ``'4.13 GFLOPs'``; with ``units=None`` in the unit that fits."""
    steps = ((1e9, "GFLOPs"), (1e6, "MFLOPs"), (1e3, "KFLOPs"))
    return _in_units(flops, units, steps, " FLOPs", precision or 0)


def params_to_string(num_params: float, units: str | None = None, precision: int | None = 2
                     ) -> str:
    """A number of parameters in words: ``'25.56 M'``; with ``units=None`` in the unit that fits."""
    return _in_units(num_params, units, ((1e6, "M"), (1e3, "k")), "", precision or 0)
