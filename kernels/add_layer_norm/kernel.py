"""Residual sum and layer normalisation in Triton, forward and backward.

A program owns whole rows, of ``C`` channels each: nothing is shared between rows but the weights.
Tensors are ``[rows, C]``, contiguous; a sample is ``rows_per_sample`` rows. Arithmetic is fp32.
"""

import triton
import triton.language as tl


@triton.jit
def _scales(scale_ptr, row, rows, rows_per_sample):
    """The factor on the branch of each row."""
    return tl.load(scale_ptr + row // rows_per_sample, mask=row < rows, other=0.0).to(tl.float32)


@triton.jit
def normalise(x, mask, weight_ptr, bias_ptr, offs_c, eps, C: tl.constexpr):
    """Layer normalisation of rows of fp32 numbers, zero off the mask; mean and 1 / deviation."""
    mean = tl.sum(x, 1) / C
    centred = tl.where(mask, x - mean[:, None], 0.0)
    over = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / C + eps)
    weight = tl.load(weight_ptr + offs_c, mask=offs_c < C, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + offs_c, mask=offs_c < C, other=0.0).to(tl.float32)
    return centred * over[:, None] * weight[None, :] + bias[None, :], mean, over


@triton.jit
def normalise_grad(x, grad, mask, mean, over, weight, C: tl.constexpr):
    """``y = (x - mean) / deviation``, and the gradient of the rows.

    With ``g = weight * grad`` it is ``(g - mean(g) - y * mean(g * y)) / deviation``.
    """
    y = tl.where(mask, (x - mean[:, None]) * over[:, None], 0.0)
    grad *= weight[None, :]
    along = tl.sum(grad * y, 1) / C
    return y, (grad - (tl.sum(grad, 1) / C)[:, None] - y * along[:, None]) * over[:, None]


@triton.jit(do_not_specialize=["rows", "rows_per_sample"])
def add_layer_norm_fwd_kernel(
        x_ptr, branch_ptr, scale_ptr, weight_ptr, bias_ptr, total_ptr, out_ptr, stats_ptr, eps,
        rows, rows_per_sample, C: tl.constexpr, HAS_BRANCH: tl.constexpr, HAS_SCALE: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """``total = x + scale * branch``, ``out`` its normalisation, stats mean and 1 / deviation.

    Grid ``(ceil(rows / BLOCK_M),)``; a program owns BLOCK_M rows. branch and total are touched with
    HAS_BRANCH only, scale ``[samples]`` with HAS_SCALE; stats ``[2, rows]`` fp32.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_c = tl.arange(0, BLOCK_C)
    mask = (row < rows)[:, None] & (offs_c < C)[None, :]
    at = row[:, None] * C + offs_c[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if HAS_BRANCH:
        branch = tl.load(branch_ptr + at, mask=mask, other=0.0).to(tl.float32)
        if HAS_SCALE:
            branch *= _scales(scale_ptr, row, rows, rows_per_sample)[:, None]
        total = (x + branch).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + at, total, mask=mask)
        x = total.to(tl.float32)  # as a reader of the sum would see it
    out, mean, over = normalise(x, mask, weight_ptr, bias_ptr, offs_c, eps, C)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(stats_ptr + row, mean, mask=row < rows)
    tl.store(stats_ptr + rows + row, over, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "rows_per_sample"])
def add_layer_norm_bwd_kernel(
        grad_total_ptr, grad_ptr, total_ptr, stats_ptr, weight_ptr, scale_ptr, dx_ptr, dbranch_ptr,
        partial_ptr, rows, rows_per_sample, C: tl.constexpr, HAS_TOTAL: tl.constexpr,
        HAS_BRANCH: tl.constexpr, HAS_SCALE: tl.constexpr, NEEDS_WEIGHT: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """dx, dbranch, and each program's sums for the gradients of weight and bias.

    ``dx`` is grad_total and what :func:`normalise_grad` gives, ``dbranch = scale * dx``.
    Grid ``(programs,)``; a program owns blocks ``pid, pid + programs, ...`` of BLOCK_M rows each.
    grad_total is read with HAS_TOTAL, dbranch written with HAS_BRANCH; partial
    ``[programs, 2, C]`` fp32 is written with NEEDS_WEIGHT.
    """
    pid = tl.program_id(0)
    offs_c = tl.arange(0, BLOCK_C)
    weight = tl.load(weight_ptr + offs_c, mask=offs_c < C, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    dbias = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for block in range(pid, tl.cdiv(rows, BLOCK_M), tl.num_programs(0)):
        row = tl.cast(block, tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = (row < rows)[:, None] & (offs_c < C)[None, :]
        at = row[:, None] * C + offs_c[None, :]
        total = tl.load(total_ptr + at, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
        mean = tl.load(stats_ptr + row, mask=row < rows, other=0.0)
        over = tl.load(stats_ptr + rows + row, mask=row < rows, other=0.0)
        y, dx = normalise_grad(total, grad, mask, mean, over, weight, C)
        if NEEDS_WEIGHT:
            dweight += grad * y
            dbias += grad
        if HAS_TOTAL:
            dx += tl.load(grad_total_ptr + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if HAS_BRANCH:
            if HAS_SCALE:
                dx *= _scales(scale_ptr, row, rows, rows_per_sample)[:, None]
            tl.store(dbranch_ptr + at, dx.to(dbranch_ptr.dtype.element_ty), mask=mask)
    if NEEDS_WEIGHT:
        at_c = partial_ptr + pid.to(tl.int64) * (2 * C) + offs_c
        tl.store(at_c, tl.sum(dweight, 0), mask=offs_c < C)
        tl.store(at_c + C, tl.sum(dbias, 0), mask=offs_c < C)
