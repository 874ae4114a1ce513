"""The focal losses: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..autograd import operator
from ..common import DTYPES, dtype_reason, next_power_of_2
from ..dispatch import Reason, tracing, use_triton
from ..launch import Program, launch
from .cpu import focal_sum
from .reference import focal_reference, softmax_focal_reference

__all__ = ["can_run_focal_losses", "gaussian_focal_loss", "quality_focal_loss",
           "sigmoid_focal_loss", "softmax_focal_loss", "varifocal_loss"]

BLOCK, STEPS = 1024, 4
#: Rows of at most so many classes fit one softmax program.
MAX_CLASSES = 16384
#: MMDetection adds it to ``avg_factor``, against images without a target.
EPS = torch.finfo(torch.float32).eps


def can_run_focal_losses(x: Tensor, *others: Tensor | None) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can.

    Args:
        x: the prediction.
        others: target, values and weight.
    """
    if x.dtype not in DTYPES:
        return dtype_reason(x)
    for one in others:
        if one is not None:
            if one.dtype not in DTYPES and one.is_floating_point():
                return dtype_reason(one)
            if one.requires_grad and torch.is_grad_enabled():
                return "its kernels have no gradient in targets and weights"
    return None


def _whole(exponent: float) -> int:
    return int(exponent) if exponent in (0, 1, 2, 3, 4) else -1


@lru_cache(maxsize=512)
def _program(kind: str, classes: int, first: float, second: float, target_dim: int,
             weight_dim: int, has_values: bool, has_grad: bool, has_out: bool, has_dx: bool,
             has_sums: bool) -> Program:
    from .kernel import focal_losses_kernel

    return Program(focal_losses_kernel, C=classes, KIND=kind, FIRST=_whole(first),
                   SECOND=_whole(second) if kind == "gaussian" else -1, LABELS=target_dim == 1,
                   WEIGHT=("", "row", "element")[weight_dim], BLOCK=BLOCK, STEPS=STEPS,
                   num_warps=4, HAS_VALUES=has_values, HAS_GRAD=has_grad, HAS_OUT=has_out,
                   HAS_DX=has_dx, HAS_SUMS=has_sums)


def _launch(kind: str, x: Tensor, target: Tensor, values: Tensor | None, weight: Tensor | None,
            first: float, second: float, grad: Tensor | None, out: Tensor | None,
            dx: Tensor | None, sums: Tensor | None) -> None:
    program = _program(kind, x.shape[1], first, second, target.dim(),
                       0 if weight is None else weight.dim(), values is not None,
                       grad is not None, out is not None, dx is not None, sums is not None)
    size = x.numel()
    program((-(-size // (BLOCK * STEPS)),), x.contiguous(), target.contiguous(),
            None if values is None else values.contiguous(),
            None if weight is None else weight.contiguous(),
            None if grad is None else grad.contiguous(), out, dx, sums, size, first, second,
            device=x.device)


# ------------------------------------------------------------------ one loss per element
@operator("focal_losses", "(str kind, Tensor x, Tensor target, Tensor? values, Tensor? weight, "
          "float first, float second) -> Tensor")
def _each(kind: str, x: Tensor, target: Tensor, values: Tensor | None, weight: Tensor | None,
          first: float, second: float) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch(kind, x, target, values, weight, first, second, None, out, None, None)
    return out


@operator("focal_losses_backward", "(str kind, Tensor grad, Tensor x, Tensor target, "
          "Tensor? values, Tensor? weight, float first, float second) -> Tensor")
def _each_backward(kind: str, grad: Tensor, x: Tensor, target: Tensor, values: Tensor | None,
                   weight: Tensor | None, first: float, second: float) -> Tensor:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch(kind, x, target, values, weight, first, second, grad, None, dx, None)
    return dx


@_each.register_fake
def _(kind: str, x: Tensor, target: Tensor, values: Tensor | None, weight: Tensor | None,
      first: float, second: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_each_backward.register_fake
def _(kind: str, grad: Tensor, x: Tensor, target: Tensor, values: Tensor | None,
      weight: Tensor | None, first: float, second: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _each_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    kind, *tensors, first, second = inputs
    ctx.save_for_backward(*tensors)
    ctx.rest = kind, first, second


def _each_autograd(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    kind, first, second = ctx.rest
    dx = _each_backward(kind, grad, *ctx.saved_tensors, first, second)
    return None, dx, None, None, None, None, None


_each.register_autograd(_each_autograd, setup_context=_each_setup)


# ------------------------------------------------------------------ their sum
def _slope_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the derivative kept for backward: fp16 would lose what the loss scale is to save."""
    return torch.float32 if dtype == torch.float16 else dtype


_SUM = ("(str kind, Tensor x, Tensor target, Tensor? values, Tensor? weight, float first, "
        "float second, bool with_slope, Tensor? over, float? count) -> (Tensor, Tensor)")


def _divided(total: Tensor, over: Tensor | None, count: float | None) -> Tensor:
    if over is not None:
        return total / over
    return total if count is None else total / count


@operator("focal_losses_sum", _SUM, saved=1)
def _sum(kind: str, x: Tensor, target: Tensor, values: Tensor | None, weight: Tensor | None,
         first: float, second: float, with_slope: bool, over: Tensor | None, count: float | None
         ) -> tuple[Tensor, Tensor]:
    """The sum, divided by one or the other if given, and its derivative in x before the division.

    The derivative is empty if not wanted. The division is here because each node of autograd's
    takes the host as long as a launch.
    """
    sums = x.new_empty(-(-x.numel() // (BLOCK * STEPS)), dtype=torch.float32)
    slope = x.new_empty(x.shape if with_slope else 0, dtype=_slope_dtype(x.dtype))
    _launch(kind, x, target, values, weight, first, second, None, None,
            slope if with_slope else None, sums)
    return _divided(_cast(sums.sum(), x.dtype), over, count), slope


@operator("focal_losses_sum_torch", _SUM, saved=1)
def _sum_torch(kind: str, x: Tensor, target: Tensor, values: Tensor | None,
               weight: Tensor | None, first: float, second: float, with_slope: bool,
               over: Tensor | None, count: float | None) -> tuple[Tensor, Tensor]:
    """The same on the CPU."""
    slope = torch.empty(x.shape if with_slope else 0, dtype=_slope_dtype(x.dtype), device=x.device)
    total = focal_sum(kind, x, target, values, weight, first, second,
                      slope if with_slope else None)
    return _divided(_cast(total, x.dtype), over, count), slope


@_sum.register_fake
@_sum_torch.register_fake
def _(kind: str, x: Tensor, target: Tensor, values: Tensor | None, weight: Tensor | None,
      first: float, second: float, with_slope: bool, over: Tensor | None, count: float | None
      ) -> tuple[Tensor, Tensor]:
    return (_divided(x.new_empty(()), over, count),
            x.new_empty(x.shape if with_slope else 0, dtype=_slope_dtype(x.dtype)))


def _cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t if t.dtype == dtype else t.to(dtype)  # which takes as long as an operator


def _sum_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, x, *_, over, ctx.count = inputs
    ctx.save_for_backward(output[1], over)
    ctx.dtype = x.dtype
    ctx.set_materialize_grads(False)


#: Says so where a second derivative is taken.
_FIRST_ONLY = ("the focal losses' sums have a first derivative only; for a second one take the "
               "losses of reduction='none' under the torch backend")


def _sum_autograd(ctx: Any, grad: Tensor | None, again: Tensor | None = None) -> tuple[Any, ...]:
    if again is not None:
        raise RuntimeError(_FIRST_ONLY)
    dx = None
    if grad is not None:
        slope, over = ctx.saved_tensors
        grad = _divided(grad, over, ctx.count)
        if grad.dim():
            grad = grad.sum()
        dx = _cast(slope * _cast(_cast(grad, ctx.dtype), slope.dtype), ctx.dtype)
        if torch.is_grad_enabled() and not tracing():
            dx = torch._C._functions.DelayedError(_FIRST_ONLY, 1)(dx.detach().requires_grad_())
    return None, dx, None, None, None, None, None, None, None, None


_sum.register_autograd(_sum_autograd, setup_context=_sum_setup)
_sum_torch.register_autograd(_sum_autograd, setup_context=_sum_setup)


# ------------------------------------------------------------------ softmax
def _launch_softmax(x: Tensor, labels: Tensor, weight: Tensor | None, grad: Tensor | None,
                    gamma: float, alpha: float, out: Tensor) -> None:
    from .kernel import softmax_focal_kernel

    n, c = x.shape
    wide = next_power_of_2(c, 16)
    rows = max(1, 4096 // wide)
    launch(softmax_focal_kernel, (-(-n // rows),), x.contiguous(), labels.contiguous(),
           None if weight is None else weight.contiguous(),
           None if grad is None else grad.contiguous(), out, n, c, gamma, alpha, device=x.device,
           WHOLE=_whole(gamma), HAS_WEIGHT=weight is not None, HAS_GRAD=grad is not None,
           BLOCK_N=rows, BLOCK_C=wide, num_warps=8)


@operator("softmax_focal_loss",
          "(Tensor x, Tensor labels, Tensor? weight, float gamma, float alpha) -> Tensor")
def _softmax(x: Tensor, labels: Tensor, weight: Tensor | None, gamma: float, alpha: float
             ) -> Tensor:
    out = torch.empty(x.shape[0], dtype=x.dtype, device=x.device)
    _launch_softmax(x, labels, weight, None, gamma, alpha, out)
    return out


@operator("softmax_focal_loss_backward", "(Tensor grad, Tensor x, Tensor labels, Tensor? weight, "
          "float gamma, float alpha) -> Tensor")
def _softmax_backward(grad: Tensor, x: Tensor, labels: Tensor, weight: Tensor | None,
                      gamma: float, alpha: float) -> Tensor:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch_softmax(x, labels, weight, grad, gamma, alpha, dx)
    return dx


@_softmax.register_fake
def _(x: Tensor, labels: Tensor, weight: Tensor | None, gamma: float, alpha: float) -> Tensor:
    return x.new_empty(x.shape[0])


@_softmax_backward.register_fake
def _(grad: Tensor, x: Tensor, labels: Tensor, weight: Tensor | None, gamma: float, alpha: float
      ) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _softmax_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, labels, weight, ctx.gamma, ctx.alpha = inputs
    ctx.save_for_backward(x, labels, weight)


def _softmax_autograd(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _softmax_backward(grad, *ctx.saved_tensors, ctx.gamma, ctx.alpha), None, None, None, None


_softmax.register_autograd(_softmax_autograd, setup_context=_softmax_setup)


# ------------------------------------------------------------------ public functions
def _check(name: str, reduction: str, avg_factor: float | Tensor | None) -> None:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{name}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if reduction == "sum" and avg_factor is not None:
        raise ValueError(f'{name}: avg_factor can not be used with reduction="sum"')


def _run(name: str, kind: str, x: Tensor, target: Tensor, values: Tensor | None,
         weight: Tensor | None, first: float, second: float, reduction: str,
         count: int, avg_factor: float | Tensor | None) -> Tensor:
    """Check, and compute the losses [N, C], or reduce them as MMDetection does.

    Args:
        name: the loss, for messages.
        kind: the kernels' name of it.
        x: the prediction.
        target: labels or a target for each element.
        values: the target at the label.
        weight: of rows or elements.
        first: an exponent.
        second: another, or a factor.
        reduction: of the losses.
        count: what ``'mean'`` divides the sum by where there is no ``avg_factor``.
        avg_factor: what it divides by else.
    """
    shape, device = x.shape, x.device
    if not x.is_floating_point() or len(shape) != 2:
        raise ValueError(f"{name}: pred must be floating-point [N, C], got {x.dtype} "
                         f"{list(shape)}")
    n, c = shape
    if target.shape not in (shape, shape[:1]) or target.device != device or (
            target.dim() == 1 and target.is_floating_point()):
        raise ValueError(f"{name}: target must be integer labels [{n}] or [{n}, {c}] on "
                         f"{device}, got {target.dtype} {list(target.shape)} on "
                         f"{target.device}")
    if weight is not None and (weight.shape not in (shape, shape[:1]) or weight.device != device):
        raise ValueError(f"{name}: weight must be [{n}] or [{n}, {c}] on {device}, got "
                         f"{list(weight.shape)} on {weight.device}")
    first, second = float(first), float(second)
    triton = use_triton("focal_losses", device, can_run_focal_losses(x, target, values, weight))
    traced = tracing()
    fused = triton or (device.type == "cpu" and not traced
                       and not any(one is not None and one.requires_grad
                                   for one in (target, values, weight)))
    if reduction == "none" or not fused:
        loss = (_each if triton else focal_reference)(kind, x, target, values, weight, first,
                                                      second)
        if reduction == "none":
            return loss
        loss, wanted = loss.sum(), False
    over: Tensor | None = None
    divisor: float | None = None
    if reduction == "mean":
        if avg_factor is None:
            divisor = count
        elif isinstance(avg_factor, Tensor):
            over = avg_factor + EPS
        else:
            divisor = avg_factor + EPS
    # A compiler fuses the division itself, and it may have a gradient of its own.
    within = fused and not traced and (over is None or not over.requires_grad)
    if fused:
        wanted = x.requires_grad and torch.is_grad_enabled()
        loss = (_sum if triton else _sum_torch)(
            kind, x, target, values, weight, first, second, wanted, over if within else None,
            None if divisor is None or not within else float(divisor))
    return loss if within else _divided(loss, over, divisor)


def sigmoid_focal_loss(pred: Tensor, target: Tensor, weight: Tensor | None = None,
                       gamma: float = 2.0, alpha: float = 0.25, reduction: str = "mean",
                       avg_factor: float | Tensor | None = None) -> Tensor:
    """Focal loss of independent classes (`arXiv 1708.02002 <https://arxiv.org/abs/1708.02002>`_).

    Args:
        pred: logits [N, C].
        target: integer labels [N], of which those off 0..C-1 are background, or [N, C] in [0, 1].
        weight: [N] or [N, C].
        gamma: exponent of the focus on hard examples.
        alpha: weight of targets, against 1 - alpha of the background.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides the sum by, instead of N C.

    Returns:
        [N, C] for ``'none'``, else a scalar.

    Raises:
        ValueError: shapes, data types, devices or the reduction do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    name = "sigmoid_focal_loss"
    _check(name, reduction, avg_factor)
    return _run(name, "sigmoid", pred, target, None, weight, gamma, alpha, reduction,
                pred.numel(), avg_factor)


def quality_focal_loss(pred: Tensor, target: tuple[Tensor, Tensor], weight: Tensor | None = None,
                       beta: float = 2.0, reduction: str = "mean",
                       avg_factor: float | Tensor | None = None) -> Tensor:
    """Focal loss towards a quality (`arXiv 2006.04388 <https://arxiv.org/abs/2006.04388>`_).

    Args:
        pred: logits [N, C].
        target: integer labels [N], of which those off 0..C-1 are background, and qualities [N] in
            [0, 1], the target at the label.
        weight: [N].
        beta: exponent of the distance from the target.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides the sum by, instead of N.

    Returns:
        [N], summed over classes, for ``'none'``, else a scalar.

    Raises:
        ValueError: shapes, data types, devices or the reduction do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    name = "quality_focal_loss"
    _check(name, reduction, avg_factor)
    if len(target) != 2 or target[0].dim() != 1 or target[0].shape != target[1].shape:
        raise ValueError(f"{name}: target must be labels [N] and qualities [N], got "
                         f"{[list(one.shape) for one in target]}")
    if weight is not None and weight.dim() != 1:
        raise ValueError(f"{name}: weight must be [N], got {list(weight.shape)}")
    labels, quality = target
    loss = _run(name, "quality", pred, labels, quality, weight, beta, 0.0, reduction, len(pred),
                avg_factor)
    return loss.sum(1) if reduction == "none" else loss


def varifocal_loss(pred: Tensor, target: Tensor, weight: Tensor | None = None, alpha: float = 0.75,
                   gamma: float = 2.0, iou_weighted: bool = True, reduction: str = "mean",
                   avg_factor: float | Tensor | None = None) -> Tensor:
    """Focal loss of backgrounds alone (`arXiv 2008.13367 <https://arxiv.org/abs/2008.13367>`_).

    Args:
        pred: logits [N, C].
        target: [N, C], the overlap of a class's box with its object, zero for background.
        weight: [N] or [N, C].
        alpha: weight of the background.
        gamma: exponent of the focus on hard backgrounds.
        iou_weighted: weigh objects by their target, rather than by one.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides the sum by, instead of N C.

    Returns:
        [N, C] for ``'none'``, else a scalar.

    Raises:
        ValueError: shapes, data types, devices or the reduction do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    name = "varifocal_loss"
    _check(name, reduction, avg_factor)
    if target.shape != pred.shape:
        raise ValueError(f"{name}: target must be {list(pred.shape)} like pred, got "
                         f"{list(target.shape)}")
    kind = "varifocal" if iou_weighted else "varifocal_plain"
    return _run(name, kind, pred, target, None, weight, gamma, alpha, reduction, pred.numel(),
                avg_factor)


def gaussian_focal_loss(pred: Tensor, gaussian_target: Tensor, weight: Tensor | None = None,
                        alpha: float = 2.0, gamma: float = 4.0, reduction: str = "mean",
                        avg_factor: float | Tensor | None = None) -> Tensor:
    """Focal loss of heatmaps (`arXiv 1808.01244 <https://arxiv.org/abs/1808.01244>`_).

    Args:
        pred: probabilities, of any shape.
        gaussian_target: in [0, 1], of the same shape; exactly one at the centres.
        weight: of the same shape.
        alpha: exponent of the focus on hard examples.
        gamma: exponent that spares the surroundings of a centre.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides the sum by, instead of the number of elements.

    Returns:
        Of the shape of ``pred`` for ``'none'``, else a scalar.

    Raises:
        ValueError: shapes, data types, devices or the reduction do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    name = "gaussian_focal_loss"
    _check(name, reduction, avg_factor)
    for what, one in (("gaussian_target", gaussian_target), ("weight", weight)):
        if one is not None and one.shape != pred.shape:
            raise ValueError(f"{name}: {what} must be {list(pred.shape)} like pred, got "
                             f"{list(one.shape)}")
    loss = _run(name, "gaussian", pred.reshape(-1, 1), gaussian_target.reshape(-1, 1), None,
                None if weight is None else weight.reshape(-1, 1), gamma, alpha, reduction,
                pred.numel(), avg_factor)
    return loss.view(pred.shape) if reduction == "none" else loss


def softmax_focal_loss(pred: Tensor, target: Tensor, weight: Tensor | None = None,
                       gamma: float = 2.0, alpha: float = 0.25, reduction: str = "mean") -> Tensor:
    """Focal loss of exclusive classes: -alpha (1 - p)^gamma log(p) of the label's probability.

    Args:
        pred: logits [N, C].
        target: int64 labels [N] in 0..C-1; a negative one has no loss.
        weight: [C], by label.
        gamma: exponent of the focus on hard examples.
        alpha: factor.
        reduction: ``'none'``, ``'mean'`` (over N) or ``'sum'``.

    Returns:
        [N] for ``'none'``, else a scalar.

    Raises:
        ValueError: shapes, data types, devices or the reduction do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    name = "softmax_focal_loss"
    _check(name, reduction, None)
    if pred.dim() != 2 or not pred.is_floating_point():
        raise ValueError(f"{name}: pred must be floating-point [N, C], got {pred.dtype} "
                         f"{list(pred.shape)}")
    for what, one, shape in (("target", target, pred.shape[:1]), ("weight", weight,
                                                                  pred.shape[1:])):
        if one is not None and (one.shape != shape or one.device != pred.device):
            raise ValueError(f"{name}: {what} must be {list(shape)} on {pred.device}, got "
                             f"{list(one.shape)} on {one.device}")
    reason = can_run_focal_losses(pred, weight)
    if reason is None and pred.shape[1] > MAX_CLASSES:
        reason = f"its kernel takes at most {MAX_CLASSES} classes, not {pred.shape[1]}"
    triton = use_triton("focal_losses", pred.device, reason)
    loss = (_softmax if triton else softmax_focal_reference)(pred, target, weight, float(gamma),
                                                             float(alpha))
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / len(pred)
