"""Spatial-reduction attention: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import dtype_reason, next_power_of_2, partial_sums
from ..dispatch import Reason, use_triton
from ..launch import capability, dot_precision, launch, num_sms
from .cpu import spatial_reduction_attention_cpu

__all__ = ["can_run_spatial_reduction_attention", "spatial_reduction_attention"]


def can_run_spatial_reduction_attention(q: Tensor, kv: Tensor, num_heads: int,
                                        dropout_p: float = 0.0) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    if reason := dtype_reason(q):
        return reason
    d = q.shape[2] // num_heads
    if not 8 <= d <= 128:
        return f"its kernels take heads of 8 to 128 channels, not {d}"
    if d > 64 and dropout_p > 0:  # the random numbers do not fit the registers beside them
        return f"its kernels take heads of at most 64 channels with dropout, not {d}"
    return None


class _Config(NamedTuple):
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    per_sm: int  # programs whose registers and shared memory a multiprocessor has room for


def _config(kind: str, d: int, dtype: torch.dtype, device: torch.device, dropout: bool
            ) -> _Config:
    """Tile of queries by keys and launch options of one kernel: ``fwd``, ``dq`` or ``dkv``."""
    card = capability(device)
    hip, wide = card == (0, 0), d > 64
    if dtype == torch.float32:
        # NVIDIA's tensor cores have no IEEE fp32: small tiles keep the operands in registers.
        if hip:
            return _Config(16, 64, 8, 1, 1) if kind == "dkv" else _Config(64, 32, 4, 2, 2)
        if wide and kind != "fwd":
            return _Config(32, 32, 8, 1, 2) if kind == "dkv" else _Config(64, 16, 8, 1, 2)
        if kind == "dkv":
            return _Config(32, 64, 8, 1, 2)
        # Without a second stage TF32 spills there.
        stages = 2 if kind == "dq" and card[0] == 8 and dot_precision(dtype) == "tf32" else 1
        return _Config(64, 32, 8, stages, 2)
    if kind == "fwd":
        # 64 KB of shared memory a program on AMD's cards, 99 KB on 8.6, 8.9 and 12.x.
        little = wide and (hip or card in ((8, 6), (8, 9)) or card[0] == 12)
        return _Config(128, 64, 8, 2 if little else 3, 1)
    if kind == "dq":
        return _Config(64 if hip and dropout else 128, 32 if wide else 64, 8, 2, 1)
    if dropout or (hip and wide):  # random numbers are registers, too
        return _Config(32, 64, 8, 1 if hip else 2, 1)
    if wide or card[0] in (8, 12):
        return _Config(64, 64, 8, 2, 1)
    return _Config(64, 64, 4, 2, {0: 1, 10: 3}.get(card[0], 2))


@lru_cache(maxsize=1024)
def _splits(n_q: int, tiles: int, block_m: int, places: int) -> tuple[int, int]:
    """Into how many parts dK and dV split the queries, and the queries of a part.

    The split whose waves of programs take least: a wave costs the queries of a part, and two tiles
    more to begin and to end. No part is shorter than four tiles; of equals, the fewest parts.

    Args:
        n_q: queries.
        tiles: programs of one part.
        block_m: queries of a tile.
        places: programs that the device holds at once.
    """
    best = (0, 1, 0)
    for wanted in range(1, max(1, min(n_q // (4 * block_m), 4 * places // max(1, tiles))) + 1):
        rows = max(1, -(-n_q // (wanted * block_m))) * block_m
        splits = max(1, -(-n_q // rows))
        cost = -(-splits * tiles // places) * (rows + 2 * block_m)
        if wanted == 1 or cost < best[0]:
            best = (cost, splits, rows)
    return best[1], best[2]


def _common(q: Tensor, num_heads: int, dropout_p: float) -> dict[str, Any]:
    d = q.shape[2] // num_heads
    return {"D": d, "BLOCK_D": next_power_of_2(d, 16),
            "HAS_DROPOUT": int(dropout_p > 0), "PRECISION": dot_precision(q.dtype)}


def _transpose(q: Tensor) -> int:
    """Whether products run without tensor cores: IEEE fp32 on an NVIDIA GPU."""
    return int(q.dtype == torch.float32 and dot_precision(q.dtype) == "ieee"
               and capability(q.device) != (0, 0))


@operator(
    "spatial_reduction_attention",
    "(Tensor q, Tensor kv, Tensor? seed, SymInt num_heads, float scale, float dropout_p) "
    "-> (Tensor, Tensor)")
def _forward(q: Tensor, kv: Tensor, seed: Tensor | None, num_heads: int, scale: float,
             dropout_p: float) -> tuple[Tensor, Tensor]:
    from .kernel import spatial_reduction_attention_fwd_kernel

    q, kv = q.contiguous(), kv.contiguous()
    b, n_q, _ = q.shape
    out = torch.empty_like(q)
    lse = torch.empty(b, num_heads, n_q, dtype=torch.float32, device=q.device)
    options = _common(q, num_heads, dropout_p)
    config = _config("fwd", options["D"], q.dtype, q.device, dropout_p > 0)
    launch(spatial_reduction_attention_fwd_kernel, (-(-n_q // config.block_m), b * num_heads),
           q, kv, seed, out, lse, n_q, kv.shape[1], num_heads, scale * math.log2(math.e),
           dropout_p, device=q.device, **options, TRANSPOSE=_transpose(q), BLOCK_M=config.block_m,
           BLOCK_N=config.block_n, num_warps=config.num_warps, num_stages=config.num_stages)
    return out, lse


@_forward.register_fake
def _(q: Tensor, kv: Tensor, seed: Tensor | None, num_heads: int, scale: float,
      dropout_p: float) -> tuple[Tensor, Tensor]:
    return (torch.empty_like(q, memory_format=torch.contiguous_format),
            q.new_empty(q.shape[0], num_heads, q.shape[1], dtype=torch.float32))


@operator(
    "spatial_reduction_attention_backward",
    "(Tensor grad, Tensor q, Tensor kv, Tensor? seed, Tensor out, Tensor lse, SymInt num_heads, "
    "float scale, float dropout_p) -> (Tensor, Tensor)")
def _backward(grad: Tensor, q: Tensor, kv: Tensor, seed: Tensor | None, out: Tensor, lse: Tensor,
              num_heads: int, scale: float, dropout_p: float) -> tuple[Tensor, Tensor]:
    from . import kernel

    grad, q, kv = grad.contiguous(), q.contiguous(), kv.contiguous()
    b, n_q, _ = q.shape
    n_k, heads, device = kv.shape[1], b * num_heads, q.device
    options = _common(q, num_heads, dropout_p)
    scale_log2 = scale * math.log2(math.e)

    delta = torch.empty_like(lse)
    launch(kernel.spatial_reduction_attention_bwd_delta_kernel, (-(-n_q // 64), heads), out, grad,
           delta, n_q, num_heads, device=device, D=options["D"], BLOCK_M=64,
           BLOCK_D=options["BLOCK_D"], num_warps=4)

    dq = torch.empty_like(q)
    config = _config("dq", options["D"], q.dtype, device, dropout_p > 0)
    launch(kernel.spatial_reduction_attention_bwd_dq_kernel, (-(-n_q // config.block_m), heads),
           q, kv, grad, lse, delta, seed, dq, n_q, n_k, num_heads, scale, scale_log2, dropout_p,
           device=device, **options, TRANSPOSE=_transpose(q), BLOCK_M=config.block_m,
           BLOCK_N=config.block_n, num_warps=config.num_warps, num_stages=config.num_stages)

    dkv = torch.empty_like(kv)
    config = _config("dkv", options["D"], q.dtype, device, dropout_p > 0)
    tiles = -(-n_k // config.block_n)
    splits, rows = _splits(n_q, tiles * heads, config.block_m, config.per_sm * num_sms(device))
    # One split writes the result itself; several leave partial sums that are added in order.
    partial = dkv if splits == 1 else partial_sums((splits, *kv.shape), device)
    launch(kernel.spatial_reduction_attention_bwd_dkv_kernel, (tiles, heads, splits),
           q, kv, grad, lse, delta, seed, partial, n_q, n_k, num_heads, rows, kv.numel(), scale,
           scale_log2, dropout_p, device=device, **options, BLOCK_M=config.block_m,
           BLOCK_N=config.block_n, num_warps=config.num_warps, num_stages=config.num_stages)
    if splits > 1:
        launch(kernel.spatial_reduction_attention_bwd_sum_kernel, (-(-kv.numel() // 1024),),
               partial, dkv, kv.numel(), splits, device=device, BLOCK=1024, num_warps=4)
    return dq, dkv


@_backward.register_fake
def _(grad: Tensor, q: Tensor, kv: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return (torch.empty_like(q, memory_format=torch.contiguous_format),
            torch.empty_like(kv, memory_format=torch.contiguous_format))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, kv, seed, *ctx.rest = inputs
    ctx.save_for_backward(q, kv, seed, *output)
    ctx.mark_non_differentiable(output[1])


def _autograd(ctx: Any, grad: Tensor, _lse_grad: Tensor) -> tuple[Any, ...]:
    return (*_backward(grad, *ctx.saved_tensors, *ctx.rest), None, None, None, None)


_forward.register_autograd(_autograd, setup_context=_setup_context)


def spatial_reduction_attention(q: Tensor, kv: Tensor, num_heads: int, *,
                                scale: float | None = None, dropout_p: float = 0.0) -> Tensor:
    """Attention of many queries over few keys (PVT, arXiv 2102.12122).

    Args:
        q: [B, N_q, C] queries.
        kv: [B, N_k, 2C] keys and values side by side, as one projection makes them.
        num_heads: heads; head h owns channels h C / num_heads to (h + 1) C / num_heads.
        scale: of the products; (C / num_heads)^-1/2 by default.
        dropout_p: probability with which an attention weight is dropped.

    Returns:
        [B, N_q, C], before the output projection.

    Raises:
        ValueError: shapes, data types or devices do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    name = "spatial_reduction_attention"
    if q.dim() != 3 or kv.dim() != 3 or kv.shape[0] != q.shape[0] or \
            kv.shape[2] != 2 * q.shape[2]:
        raise ValueError(f"{name}: expected q [B, N_q, C] and kv [B, N_k, 2C], got "
                         f"{list(q.shape)} and {list(kv.shape)}")
    if q.dtype != kv.dtype or not q.is_floating_point() or q.device != kv.device:
        raise ValueError(f"{name}: q and kv must be floating-point of one type on one device, got "
                         f"{q.dtype} on {q.device} and {kv.dtype} on {kv.device}")
    if num_heads < 1 or q.shape[2] % num_heads:
        raise ValueError(f"{name}: {q.shape[2]} channels do not divide by {num_heads} heads")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"{name}: dropout_p must lie in [0, 1), got {dropout_p}")
    if scale is None:
        scale = (q.shape[2] // num_heads) ** -0.5
    reason = can_run_spatial_reduction_attention(q, kv, num_heads, dropout_p)
    if not use_triton(name, q.device, reason):
        return spatial_reduction_attention_cpu(q, kv, num_heads, scale, dropout_p)
    seed = None
    if dropout_p > 0:  # drawn on the device: no synchronisation, and manual_seed holds
        seed = torch.randint(2**31, (1,), dtype=torch.int64, device=q.device)
    return _forward(q, kv, seed, num_heads, scale, dropout_p)[0]
