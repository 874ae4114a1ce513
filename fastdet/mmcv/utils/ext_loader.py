"""mmcv's compiled operators by name, as in ``mmcv.utils.ext_loader``.

Code that brings its own ``autograd.Function`` asks ``load_ext`` for the functions of mmcv's C++
extension. Those of :data:`OPERATORS` are served by our operators, with mmcv's calling convention:
results go into tensors that the caller allocated. Any other name can be asked for and raises when
it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fastdet.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

__all__ = ["OPERATORS", "check_ops_exist", "load_ext"]


def ms_deform_attn_forward(value: Tensor, value_spatial_shapes: Tensor,
                           value_level_start_index: Tensor, sampling_locations: Tensor,
                           attention_weights: Tensor, im2col_step: int = 64) -> Tensor:
    """Multi-scale deformable attention; shapes as in :mod:`fastdet.ops.multi_scale_deform_attn`."""
    with torch.no_grad():
        return MultiScaleDeformableAttnFunction.apply(
            value, value_spatial_shapes, value_level_start_index, sampling_locations,
            attention_weights, im2col_step)


def ms_deform_attn_backward(value: Tensor, value_spatial_shapes: Tensor,
                            value_level_start_index: Tensor, sampling_locations: Tensor,
                            attention_weights: Tensor, grad_output: Tensor, grad_value: Tensor,
                            grad_sampling_loc: Tensor, grad_attn_weight: Tensor,
                            im2col_step: int = 64) -> None:
    """Gradients of :func:`ms_deform_attn_forward`, added into the last three tensors."""
    inputs = [t.detach().requires_grad_()
              for t in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        out = MultiScaleDeformableAttnFunction.apply(
            inputs[0], value_spatial_shapes, value_level_start_index, inputs[1], inputs[2],
            im2col_step)
        grads = torch.autograd.grad(out, inputs, grad_output.view_as(out))
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads):
        target.add_(grad)


#: What :func:`load_ext` serves.
OPERATORS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (ms_deform_attn_forward, ms_deform_attn_backward)
}


def check_ops_exist() -> bool:
    """Whether there are operators: yes, ours."""
    return True


def _missing(name: str) -> Callable[..., Any]:
    def call(*_args: Any, **_kwargs: Any) -> Any:
        raise NotImplementedError(
            f"mmcv's compiled function {name} has no counterpart here; served are "
            f"{', '.join(OPERATORS)}, and the modules and functions of mmcv.ops")

    call.__name__ = call.__qualname__ = name
    return call


def load_ext(name: str, funcs: Sequence[str]) -> SimpleNamespace:
    """The functions ``funcs`` of mmcv's extension as attributes of one object.

    Args:
        name: the extension's name, ``'_ext'``.
        funcs: the functions' names. One that is not in :data:`OPERATORS` raises
            NotImplementedError when it is called.
    """
    return SimpleNamespace(__name__=name, **{f: OPERATORS.get(f) or _missing(f) for f in funcs})
