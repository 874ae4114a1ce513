"""Merging of 2 x 2 tokens and their layer normalisation in Triton, forward and backward.

Tokens are maps ``[B, H, W, C]``, contiguous; merged ones ``[B * h * w, 4 * C]``, of h = ceil(H / 2)
lines and w = ceil(W / 2) columns, the four numbers of a channel beside each other. A program owns
BLOCK_M of a line of them. Beyond the map there are zeros. Arithmetic is fp32.
"""

import triton
import triton.language as tl

from ..add_layer_norm.kernel import normalise, normalise_grad


@triton.jit
def _locate(block, H, W, BLOCK_M: tl.constexpr):
    """Merged tokens of a block: which they are, their columns, the first token of each, its line.
    """
    h, w = (H + 1) // 2, (W + 1) // 2
    across = tl.cdiv(w, BLOCK_M)
    line = tl.cast(block // across, tl.int64)
    column = block % across * BLOCK_M + tl.arange(0, BLOCK_M)
    top = line % h * 2
    return line * w + column, column, (line // h * H + top) * W + column * 2, top


@triton.jit
def _at(first, column, top, H, W, r: tl.constexpr, c: tl.constexpr, C: tl.constexpr,
        BLOCK_C: tl.constexpr):
    """Places of the tokens of row r and column c of each window, and whether they are there."""
    offs_c = tl.arange(0, BLOCK_C)
    there = column * 2 + c < tl.where(top + r < H, W, 0)  # below the map a line has no columns
    return (first + r * W + c)[:, None] * C + offs_c[None, :], \
        there[:, None] & (offs_c < C)[None, :]


@triton.jit
def _token(x_ptr, first, column, top, H, W, r: tl.constexpr, c: tl.constexpr, C: tl.constexpr,
           BLOCK_C: tl.constexpr):
    at, mask = _at(first, column, top, H, W, r, c, C, BLOCK_C)
    return tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _windows(x_ptr, first, column, top, H, W, C: tl.constexpr, BLOCK_M: tl.constexpr,
             BLOCK_C: tl.constexpr):
    """``[BLOCK_M, 4 * BLOCK_C]`` numbers: channel slowest, then row and column of the window."""
    left = tl.join(_token(x_ptr, first, column, top, H, W, 0, 0, C, BLOCK_C),
                   _token(x_ptr, first, column, top, H, W, 1, 0, C, BLOCK_C))
    right = tl.join(_token(x_ptr, first, column, top, H, W, 0, 1, C, BLOCK_C),
                    _token(x_ptr, first, column, top, H, W, 1, 1, C, BLOCK_C))
    return tl.reshape(tl.join(left, right), [BLOCK_M, 4 * BLOCK_C])


@triton.jit
def _store(x_ptr, x, first, column, top, H, W, r: tl.constexpr, c: tl.constexpr, C: tl.constexpr,
           BLOCK_C: tl.constexpr):
    at, mask = _at(first, column, top, H, W, r, c, C, BLOCK_C)
    tl.store(x_ptr + at, x.to(x_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["H", "W", "rows"])
def merge_layer_norm_fwd_kernel(
        x_ptr, weight_ptr, bias_ptr, out_ptr, stats_ptr, eps, H, W, rows, C: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """out, the normalisation of merged tokens; stats, mean and 1 / deviation.

    Grid ``(B * h * ceil(w / BLOCK_M),)``. out ``[rows, 4 * C]``, stats ``[2, rows]`` fp32; weight
    and bias ``[4 * C]``.
    """
    row, column, first, top = _locate(tl.program_id(0), H, W, BLOCK_M)
    offs_c = tl.arange(0, 4 * BLOCK_C)
    there = column < (W + 1) // 2
    mask = there[:, None] & (offs_c < 4 * C)[None, :]
    x = _windows(x_ptr, first, column, top, H, W, C, BLOCK_M, BLOCK_C)
    out, mean, over = normalise(x, mask, weight_ptr, bias_ptr, offs_c, eps, 4 * C)
    tl.store(out_ptr + row[:, None] * (4 * C) + offs_c[None, :],
             out.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(stats_ptr + row, mean, mask=there)
    tl.store(stats_ptr + rows + row, over, mask=there)


@triton.jit(do_not_specialize=["H", "W", "rows", "blocks"])
def merge_layer_norm_bwd_kernel(
        grad_ptr, x_ptr, stats_ptr, weight_ptr, dx_ptr, partial_ptr, H, W, rows, blocks,
        C: tl.constexpr, NEEDS_WEIGHT: tl.constexpr, BLOCK_M: tl.constexpr,
        BLOCK_C: tl.constexpr):
    """dx, and each program's sums for the gradients of weight and bias.

    Every token is of one window, whose program writes its gradient. Grid ``(programs,)``; a program
    owns blocks ``pid, pid + programs, ...``. partial ``[programs, 2, 4 * C]`` fp32 is written with
    NEEDS_WEIGHT.
    """
    pid = tl.program_id(0)
    offs_c = tl.arange(0, 4 * BLOCK_C)
    weight = tl.load(weight_ptr + offs_c, mask=offs_c < 4 * C, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK_M, 4 * BLOCK_C], tl.float32)
    dbias = tl.zeros([BLOCK_M, 4 * BLOCK_C], tl.float32)
    for block in range(pid, blocks, tl.num_programs(0)):
        row, column, first, top = _locate(block, H, W, BLOCK_M)
        there = column < (W + 1) // 2
        mask = there[:, None] & (offs_c < 4 * C)[None, :]
        grad = tl.load(grad_ptr + row[:, None] * (4 * C) + offs_c[None, :], mask=mask,
                       other=0.0).to(tl.float32)
        mean = tl.load(stats_ptr + row, mask=there, other=0.0)
        over = tl.load(stats_ptr + rows + row, mask=there, other=0.0)
        x = _windows(x_ptr, first, column, top, H, W, C, BLOCK_M, BLOCK_C)
        y, dx = normalise_grad(x, grad, mask, mean, over, weight, 4 * C)
        if NEEDS_WEIGHT:
            dweight += grad * y
            dbias += grad
        left, right = tl.split(tl.reshape(dx, [BLOCK_M, BLOCK_C, 2, 2]))
        dx_00, dx_10 = tl.split(left)
        dx_01, dx_11 = tl.split(right)
        _store(dx_ptr, dx_00, first, column, top, H, W, 0, 0, C, BLOCK_C)
        _store(dx_ptr, dx_01, first, column, top, H, W, 0, 1, C, BLOCK_C)
        _store(dx_ptr, dx_10, first, column, top, H, W, 1, 0, C, BLOCK_C)
        _store(dx_ptr, dx_11, first, column, top, H, W, 1, 1, C, BLOCK_C)
    if NEEDS_WEIGHT:
        at_c = partial_ptr + pid.to(tl.int64) * (8 * C) + offs_c
        tl.store(at_c, tl.sum(dweight, 0), mask=offs_c < 4 * C)
        tl.store(at_c + 4 * C, tl.sum(dbias, 0), mask=offs_c < 4 * C)
