"""Dynamic convolution: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import autocasting, dtype_reason, next_power_of_2, options
from ..dispatch import Reason, tracing, use_triton
from ..launch import Prepared, capability, dot_precision, program
from .reference import dynamic_conv_reference

__all__ = ["can_run_dynamic_conv", "dynamic_conv"]

MAX_FEAT = 128


def can_run_dynamic_conv(x: Tensor, params: Tensor, feat: int) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    if reason := dtype_reason(x, params):
        return reason
    if feat > MAX_FEAT:
        return f"its kernels take up to {MAX_FEAT} inner channels, not {feat}"
    return None


class _Config(NamedTuple):
    block_s: int
    block_k: int
    block_f: int
    block_o: int
    num_warps: int
    num_stages: int


def _config(kind: str, size: int, feat: int, out: int, dtype: torch.dtype,
            card: tuple[int, int]) -> _Config:
    """Tile of rows, chunks of input and output channels and launch options of ``fwd`` or ``bwd``.

    ``fwd`` takes all output channels at once where p_out fits into shared memory beside the rest.
    """
    block_f, block_o, rows = (next_power_of_2(n, 16) for n in (feat, out, size))
    room = (64 if card[0] else 32) * 1024
    if kind == "fwd" and block_f * block_o * dtype.itemsize > room:
        block_o = 64
    if dtype == torch.float32:
        # No tensor cores in IEEE precision: short tiles keep the operands in registers.
        if kind == "bwd":
            return _Config(16, 16, block_f, min(32, block_o), 8, 2)
        return _Config(16, 16, block_f, block_o, 8, 2)
    if kind == "bwd":
        # Four warps: Triton gives each warp rows of its own where products are chained, and eight
        # would hold 64 rows twice. 64 rows fill the registers; they pay where they are all rows.
        most = 64 if size <= 64 and block_f <= 64 else 32
        return _Config(min(most, rows), 64, block_f, min(32, block_o), 4, 3)
    return _Config(min(64 if block_o <= 256 else 32, rows), 64, block_f, block_o, 8, 3)


class _Plan(NamedTuple):
    """What a launch has in common with all of the same sizes, whatever the number of proposals."""

    step: Prepared  # takes a grid: tiles for each proposal
    tiles: int  # of a proposal's rows; with no rows one, which writes that the gradients are zero


@lru_cache(maxsize=512)
def _plan(kind: str, channels: int, size: int, feat: int, out: int, dtype: torch.dtype,
          card: tuple[int, int], precision: str, strides: tuple[int, ...],
          epsilons: tuple[float, ...], **needs: int) -> _Plan:
    from . import kernel

    config = _config(kind, size, feat, out, dtype, card)
    tiles = max(1, -(-size // config.block_s))
    if kind == "bwd":
        needs["WHOLE"] = int(tiles == 1)  # then the one program makes the parameters' gradient
    step = program(getattr(kernel, f"dynamic_conv_{kind}_kernel"), IN=channels, FEAT=feat,
                   OUT=out, PRECISION=precision, **needs, **options(config))
    return _Plan(step.at((tiles,), size, tiles, *strides, *epsilons), tiles)


def _rows(params: Tensor) -> Tensor:
    """``params`` with each proposal's numbers contiguous."""
    return params if params.stride(1) == 1 else params.contiguous()


@operator(
    "dynamic_conv",
    "(Tensor x, Tensor params, Tensor w_in, Tensor b_in, Tensor w_out, Tensor b_out, float eps_in, "
    "float eps_out, ScalarType out_dtype) -> (Tensor, Tensor)", saved=1)
def _forward(x: Tensor, params: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor,
             eps_in: float, eps_out: float, out_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n, channels, size = x.shape
    feat, out = w_in.numel(), w_out.numel()
    params = _rows(params)
    result = x.new_empty(n, size, out, dtype=out_dtype)
    stats = x.new_empty(n, size, 2, dtype=torch.float32)
    device, dtype = x.device, params.dtype
    plan = _plan("fwd", channels, size, feat, out, dtype, capability(device), dot_precision(dtype),
                 (*x.stride(), params.stride(0)), (eps_in, eps_out))
    plan.step(x, params, w_in.contiguous(), b_in.contiguous(), w_out.contiguous(),
              b_out.contiguous(), result, stats, device=device, grid=(n * plan.tiles,))
    return result, stats


@_forward.register_fake
def _(x: Tensor, params: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor,
      eps_in: float, eps_out: float, out_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n, _, size = x.shape
    return (x.new_empty(n, size, w_out.numel(), dtype=out_dtype),
            x.new_empty(n, size, 2, dtype=torch.float32))


@operator(
    "dynamic_conv_backward",
    "(Tensor grad, Tensor x, Tensor params, Tensor w_in, Tensor b_in, Tensor w_out, Tensor b_out, "
    "Tensor stats, float eps_in, bool needs_x, bool needs_params, bool needs_norm) "
    "-> (Tensor, Tensor, Tensor)")
def _backward(grad: Tensor, x: Tensor, params: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor,
              b_out: Tensor, stats: Tensor, eps_in: float, needs_x: bool, needs_params: bool,
              needs_norm: bool) -> tuple[Tensor, Tensor, Tensor]:
    n, channels, size = x.shape
    feat, out = w_in.numel(), w_out.numel()
    params = _rows(params)
    device, dtype = x.device, params.dtype
    dx = torch.empty_like(x) if needs_x else x.new_empty(0, 0, 0)
    dparams = params.new_empty(params.shape if needs_params else 0)
    plan = _plan("bwd", channels, size, feat, out, dtype, capability(device), dot_precision(dtype),
                 (*x.stride(), params.stride(0), *dx.stride()), (eps_in,), HAS_DX=int(needs_x),
                 HAS_DPARAMS=int(needs_params), HAS_DNORM=int(needs_norm))
    spill = needs_params and plan.tiles > 1  # what a tile leaves for the parameters' gradient
    h = df = dy = dparams
    if spill:
        h, df, dy = (params.new_empty(n, size, width) for width in (feat, feat, out))
    dnorm = params.new_empty((n * plan.tiles if needs_norm else 0, 2 * (feat + out)),
                             dtype=torch.float32)
    plan.step(grad.contiguous(), x, params, w_in.contiguous(), b_in.contiguous(),
              w_out.contiguous(), b_out.contiguous(), stats, dx, dparams, h, df, dy, dnorm,
              device=device, grid=(n * plan.tiles,))
    if spill:  # plain products: the vendor's library has nothing to learn from us
        dp_in, dp_out = dparams.split([channels * feat, feat * out], dim=1)
        torch.bmm(x.to(params.dtype), df, out=dp_in.view(n, channels, feat))
        torch.bmm(h.transpose(1, 2), dy, out=dp_out.view(n, feat, out))
    return dx, dparams, dnorm.sum(0)


@_backward.register_fake
def _(grad: Tensor, x: Tensor, params: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor,
      b_out: Tensor, stats: Tensor, eps_in: float, needs_x: bool, needs_params: bool,
      needs_norm: bool) -> tuple[Tensor, Tensor, Tensor]:
    return (torch.empty_like(x) if needs_x else x.new_empty(0, 0, 0),
            params.new_empty(params.shape if needs_params else 0),
            params.new_empty(2 * (w_in.numel() + w_out.numel()), dtype=torch.float32))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.eps_in, _, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for it


def _autograd(ctx: Any, grad: Tensor, _stats: None = None) -> tuple[Any, ...]:
    needs_x, needs_params, *needs_norm = ctx.needs_input_grad[:6]
    tensors = ctx.saved_tensors
    dx, dparams, dnorm = _backward(grad, *tensors, ctx.eps_in, needs_x, needs_params,
                                   any(needs_norm))
    return (dx if needs_x else None, dparams if needs_params else None,
            *_of_norms(dnorm, tensors[2:6], needs_norm), None, None, None)


def _of_norms(total: Tensor, norms: Sequence[Tensor], needs: Sequence[bool]) -> list[Any]:
    """The gradients of the norms' parameters, which lie one behind the other."""
    if not any(needs):
        return [None] * 4
    w_in, b_in, w_out, b_out = norms
    dtypes = (w_in.dtype, b_in.dtype, w_out.dtype, b_out.dtype)
    if dtypes.count(dtypes[0]) == 4 and total.dtype != dtypes[0]:
        total = total.to(dtypes[0])  # all at once
    feat, out = w_in.shape[0], w_out.shape[0]
    return [None if not needed else part if part.dtype == dtype else part.to(dtype)
            for part, dtype, needed in
            zip(total.split_with_sizes((feat, feat, out, out)), dtypes, needs)]


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _check(x: Tensor, params: Tensor, norms: Sequence[Tensor], autocast: torch.dtype | None
           ) -> None:
    """Refuse sizes, types and devices that do not fit; ``autocast`` casts to, where it is on."""
    name = "dynamic_conv"
    if x.dim() != 3 or any(t.dim() != 1 or t.numel() == 0 for t in norms):
        raise ValueError(f"{name}: x must be [N, in, S] and the norms' parameters vectors, got "
                         f"{list(x.shape)} and {[list(t.shape) for t in norms]}")
    feat, feat_bias, out, out_bias = (t.numel() for t in norms)
    if feat_bias != feat or out_bias != out:
        raise ValueError(f"{name}: norms of {feat} and {out} channels have biases of "
                         f"{feat_bias} and {out_bias}")
    want = [x.shape[0], x.shape[1] * feat + feat * out]
    if list(params.shape) != want:
        raise ValueError(f"{name}: params must be {want} for x {list(x.shape)}, {feat} inner and "
                         f"{out} output channels, got {list(params.shape)}")
    if any(t.device != x.device for t in (params, *norms)):
        raise ValueError(f"{name}: x is on {x.device}, params on {params.device}, the norms on "
                         f"{', '.join(str(t.device) for t in norms)}")
    if autocast is None and x.dtype != params.dtype:
        raise ValueError(f"{name}: x is {x.dtype}, params {params.dtype}; they may differ only "
                         "under autocast")
    dtype = _product(params.dtype, autocast)
    if not _norm_types(dtype, *(t.dtype for t in norms)):
        raise ValueError(f"{name}: params is {dtype}, the norms "
                         f"{', '.join(str(t.dtype) for t in norms)}; expected the same "
                         "floating-point type, or float32 norms beside a half type")


def _product(dtype: torch.dtype, autocast: torch.dtype | None) -> torch.dtype:
    return dtype if autocast is None or dtype != torch.float32 else autocast


def _norm_types(dtype: torch.dtype, *norms: torch.dtype) -> bool:
    wide = torch.promote_types(dtype, torch.float32)
    return dtype.is_floating_point and all(norm in (dtype, wide) for norm in norms)


@lru_cache(maxsize=512)
def _widths(dtype: torch.dtype, device: torch.device, *norms: Any) -> tuple[int, int] | None:
    """Inner and output channels of norms that fit each other and ``dtype``, else ``None``.

    Args:
        dtype: type of the products.
        device: of ``x``.
        norms: shapes, then types, then devices of the norms' parameters.
    """
    w_in, b_in, w_out, b_out = norms[:4]
    if len(w_in) == len(w_out) == 1 and w_in == b_in and w_out == b_out and \
            0 not in (*w_in, *w_out) and _norm_types(dtype, *norms[4:8]) and \
            all(on == device for on in norms[8:]):
        return w_in[0], w_out[0]
    return None


def dynamic_conv(x: Tensor, params: Tensor, norm_in_weight: Tensor, norm_in_bias: Tensor,
                 norm_out_weight: Tensor, norm_out_bias: Tensor, eps_in: float = 1e-5,
                 eps_out: float = 1e-5, *, out_dtype: torch.dtype | None = None) -> Tensor:
    """Two 1x1 convolutions, each with LayerNorm and ReLU, whose weights each proposal brings along.

    relu(norm_out(relu(norm_in(x^T p_in)) p_out)), the interaction of Sparse R-CNN
    (arXiv 2011.12450, section 3.2). Products take the type of ``params`` and accumulate in
    float32 if that is a half type, and so do the norms. Under autocast ``x`` may have another type
    than ``params``, and float32 ``params`` are cast as autocast casts the operands of a product.

    Args:
        x: [N, in, S], the S places of each proposal's region.
        params: [N, in * feat + feat * out], p_in [in, feat] before p_out [feat, out].
        norm_in_weight: [feat], of the type of ``params``, or float32 beside a half type.
        norm_in_bias: [feat], likewise.
        norm_out_weight: [out], likewise.
        norm_out_bias: [out], likewise.
        eps_in: added to the variance in the first norm.
        eps_out: added to the variance in the second norm.
        out_dtype: type of the result; by default that of ``norm_out_weight``.

    Returns:
        [N, S, out].

    Raises:
        ValueError: sizes, data types or devices do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    w_in, b_in, w_out, b_out = norm_in_weight, norm_in_bias, norm_out_weight, norm_out_bias
    device, dtype = x.device, params.dtype
    autocast = torch.get_autocast_dtype(device.type) if autocasting(device) else None
    widths = None if tracing() else _widths(
        _product(dtype, autocast), device, w_in.shape, b_in.shape, w_out.shape, b_out.shape,
        w_in.dtype, b_in.dtype, w_out.dtype, b_out.dtype,
        w_in.device, b_in.device, w_out.device, b_out.device)
    # The number of proposals may be another each time.
    if widths is None or x.dim() != 3 or params.device != device or (
            autocast is None and x.dtype != dtype) or params.shape != (
            x.shape[0], (x.shape[1] + widths[1]) * widths[0]):
        _check(x, params, (w_in, b_in, w_out, b_out), autocast)
    if autocast is not None and dtype == torch.float32:
        params = params.to(autocast)
    out_dtype = out_dtype or w_out.dtype
    reason = can_run_dynamic_conv(x, params, w_in.shape[0])
    if not use_triton("dynamic_conv", device, reason):
        return dynamic_conv_reference(x, params, w_in, b_in, w_out, b_out, eps_in, eps_out,
                                      out_dtype)
    return _forward(x, params, w_in, b_in, w_out, b_out, float(eps_in), float(eps_out),
                    out_dtype)
