"""GELU on load, linear layer and residual in Triton, forward and backward.

Tensors are rows of tokens, contiguous; a sample is ``rows_per_sample`` rows. The activation is
computed in fp32 and rounded to the type of ``hidden``, as torch stores it; products accumulate in
fp32. ``gelu(x) = x * cdf(x)`` of the normal distribution, by the error function.

The ``N`` channels of the result are two blocks, N_0 and N_1 wide, as 192 = 128 + 64 is no power of
two; N_1 is 0 where one holds them all.
"""

import triton
import triton.language as tl

_SQRT_HALF = tl.constexpr(0.7071067811865476)
_DENSITY = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)


@triton.jit
def _scales(scale_ptr, row, rows, rows_per_sample):
    """The factor on the product of each row."""
    return tl.load(scale_ptr + row // rows_per_sample, mask=row < rows, other=0.0).to(tl.float32)


@triton.jit
def _finish(acc, bias_ptr, residual_ptr, scale_ptr, out_ptr, row, offs_n, rows, rows_per_sample,
            N: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
            HAS_SCALE: tl.constexpr):
    """Bias, scale and residual of one block of channels, which is then stored."""
    if HAS_BIAS:
        acc += tl.load(bias_ptr + offs_n, mask=offs_n < N, other=0.0).to(tl.float32)[None, :]
    if HAS_SCALE:
        acc *= _scales(scale_ptr, row, rows, rows_per_sample)[:, None]
    mask = (row < rows)[:, None] & (offs_n < N)[None, :]
    at = row[:, None] * N + offs_n[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "rows_per_sample"])
def gelu_linear_fwd_kernel(
        hidden_ptr, weight_ptr, bias_ptr, residual_ptr, scale_ptr, out_ptr, rows, rows_per_sample,
        N: tl.constexpr, K: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
        HAS_SCALE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, N_0: tl.constexpr,
        N_1: tl.constexpr):
    """``out = residual + scale * (gelu(hidden) @ weight^T + bias)``.

    Grid ``(ceil(rows / BLOCK_M),)``; a program owns BLOCK_M rows, so that hidden ``[rows, K]`` is
    read once. weight ``[N, K]`` has the type of hidden.
    """
    OPERAND: tl.constexpr = hidden_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_k = tl.arange(0, BLOCK_K)
    offs_0 = tl.arange(0, N_0)
    acc_0 = tl.zeros([BLOCK_M, N_0], tl.float32)
    if N_1 > 0:
        offs_1 = N_0 + tl.arange(0, N_1)
        acc_1 = tl.zeros([BLOCK_M, N_1], tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + offs_k
        x = tl.load(hidden_ptr + row[:, None] * K + k[None, :],
                    mask=(row < rows)[:, None] & (k < K)[None, :], other=0.0).to(tl.float32)
        x = (x * (0.5 + 0.5 * tl.erf(x * _SQRT_HALF))).to(OPERAND)
        w = tl.load(weight_ptr + offs_0[None, :] * K + k[:, None],
                    mask=(k < K)[:, None] & (offs_0 < N)[None, :], other=0.0)
        acc_0 = tl.dot(x, w, acc_0)
        if N_1 > 0:
            w = tl.load(weight_ptr + offs_1[None, :] * K + k[:, None],
                        mask=(k < K)[:, None] & (offs_1 < N)[None, :], other=0.0)
            acc_1 = tl.dot(x, w, acc_1)
    _finish(acc_0, bias_ptr, residual_ptr, scale_ptr, out_ptr, row, offs_0, rows, rows_per_sample,
            N, HAS_BIAS, HAS_RESIDUAL, HAS_SCALE)
    if N_1 > 0:
        _finish(acc_1, bias_ptr, residual_ptr, scale_ptr, out_ptr, row, offs_1, rows,
                rows_per_sample, N, HAS_BIAS, HAS_RESIDUAL, HAS_SCALE)


@triton.jit
def _grad(grad_ptr, scale_ptr, dout_ptr, row, offs_n, rows, rows_per_sample, N: tl.constexpr,
          HAS_SCALE: tl.constexpr, NEEDS_OUT: tl.constexpr, OPERAND: tl.constexpr):
    """One block of channels of ``scale * grad``, rounded to the operand's type, and stored."""
    mask = (row < rows)[:, None] & (offs_n < N)[None, :]
    at = row[:, None] * N + offs_n[None, :]
    grad = tl.load(grad_ptr + at, mask=mask, other=0.0)
    if HAS_SCALE:
        grad = grad.to(tl.float32) * _scales(scale_ptr, row, rows, rows_per_sample)[:, None]
    grad = grad.to(OPERAND)
    if NEEDS_OUT:
        tl.store(dout_ptr + at, grad, mask=mask)
    return grad


@triton.jit(do_not_specialize=["rows", "rows_per_sample"])
def gelu_linear_bwd_kernel(
        grad_ptr, hidden_ptr, weight_ptr, scale_ptr, dhidden_ptr, act_ptr, dout_ptr, rows,
        rows_per_sample, N: tl.constexpr, K: tl.constexpr, HAS_SCALE: tl.constexpr,
        NEEDS_ACT: tl.constexpr, NEEDS_OUT: tl.constexpr, BLOCK_M: tl.constexpr,
        BLOCK_K: tl.constexpr, N_0: tl.constexpr, N_1: tl.constexpr):
    """``dhidden = (scale * grad @ weight) * gelu'(hidden)``, and what the weight's gradient reads.

    Grid ``(ceil(rows / BLOCK_M),)``; a program owns BLOCK_M rows, whose grad it reads once. act is
    ``gelu(hidden)`` again, with NEEDS_ACT; dout is ``scale * grad`` in the type of hidden, with
    NEEDS_OUT.
    """
    OPERAND: tl.constexpr = hidden_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_0 = tl.arange(0, N_0)
    grad_0 = _grad(grad_ptr, scale_ptr, dout_ptr, row, offs_0, rows, rows_per_sample, N, HAS_SCALE,
                   NEEDS_OUT, OPERAND)
    if N_1 > 0:
        offs_1 = N_0 + tl.arange(0, N_1)
        grad_1 = _grad(grad_ptr, scale_ptr, dout_ptr, row, offs_1, rows, rows_per_sample, N,
                       HAS_SCALE, NEEDS_OUT, OPERAND)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        mask = (row < rows)[:, None] & (k < K)[None, :]
        at = row[:, None] * K + k[None, :]
        x = tl.load(hidden_ptr + at, mask=mask, other=0.0).to(tl.float32)
        w = tl.load(weight_ptr + offs_0[:, None] * K + k[None, :],
                    mask=(offs_0 < N)[:, None] & (k < K)[None, :], other=0.0)
        dact = tl.dot(grad_0, w)
        if N_1 > 0:
            w = tl.load(weight_ptr + offs_1[:, None] * K + k[None, :],
                        mask=(offs_1 < N)[:, None] & (k < K)[None, :], other=0.0)
            dact = tl.dot(grad_1, w, dact)
        cdf = 0.5 + 0.5 * tl.erf(x * _SQRT_HALF)
        dx = dact * (cdf + x * (_DENSITY * tl.exp(-0.5 * x * x)))
        tl.store(dhidden_ptr + at, dx.to(OPERAND), mask=mask)
        if NEEDS_ACT:
            tl.store(act_ptr + at, (x * cdf).to(OPERAND), mask=mask)
