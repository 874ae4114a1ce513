"""Triton kernels of dynamic ReLU, forward and backward.

x, out, grad and dx are [B, C, H W], contiguous; coeffs and dcoeffs are [B, 4, C].
"""

import triton
import triton.language as tl


@triton.jit
def _lines(coeffs_ptr, row, C):
    """Slopes and offsets of the two lines of one image and channel."""
    at = coeffs_ptr + (row // C) * (4 * C) + row % C
    a1 = (tl.load(at).to(tl.float32) - 0.5) * 2.0 + 1.0
    b1 = tl.load(at + C).to(tl.float32) - 0.5
    a2 = (tl.load(at + 2 * C).to(tl.float32) - 0.5) * 2.0
    b2 = tl.load(at + 3 * C).to(tl.float32) - 0.5
    return a1, b1, a2, b2


@triton.jit(do_not_specialize=["area"])
def dyrelu_fwd_kernel(x_ptr, coeffs_ptr, out_ptr, C, area, BLOCK: tl.constexpr):
    """out = max(a1 x + b1, a2 x + b2).

    Grid: (B C, cdiv(H W, BLOCK)); one program owns BLOCK pixels of one channel.
    """
    row = tl.program_id(0).to(tl.int64)
    offs = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < area
    a1, b1, a2, b2 = _lines(coeffs_ptr, row, C)
    x = tl.load(x_ptr + row * area + offs, mask=mask, other=0.0).to(tl.float32)
    out = tl.maximum(x * a1 + b1, x * a2 + b2, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out_ptr + row * area + offs, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["area"])
def dyrelu_bwd_kernel(x_ptr, coeffs_ptr, grad_ptr, dx_ptr, dcoeffs_ptr, C, area,
                      BLOCK: tl.constexpr):
    """dx = grad times the slope in force; dcoeffs = sums over the pixels, in one order.

    On a tie both lines get half of the gradient, and all of it where one of them is NaN, as
    torch's maximum has it.
    Grid: (B C,); one program owns one channel of one image.
    """
    row = tl.program_id(0).to(tl.int64)
    a1, b1, a2, b2 = _lines(coeffs_ptr, row, C)
    da1 = tl.zeros([BLOCK], dtype=tl.float32)
    db1 = tl.zeros([BLOCK], dtype=tl.float32)
    da2 = tl.zeros([BLOCK], dtype=tl.float32)
    db2 = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, area, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        mask = offs < area
        at = row * area + offs
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
        u = x * a1 + b1
        v = x * a2 + b2
        share = tl.where(u == v, grad * 0.5, grad)
        first = tl.where(u < v, 0.0, share)
        second = tl.where(u > v, 0.0, share)
        da1 += first * x
        db1 += first
        da2 += second * x
        db2 += second
        dx = first * a1 + second * a2
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    out = dcoeffs_ptr + (row // C) * (4 * C) + row % C
    dtype: tl.constexpr = dcoeffs_ptr.dtype.element_ty
    tl.store(out, (tl.sum(da1) * 2.0).to(dtype))
    tl.store(out + C, tl.sum(db1).to(dtype))
    tl.store(out + 2 * C, (tl.sum(da2) * 2.0).to(dtype))
    tl.store(out + 3 * C, tl.sum(db2).to(dtype))
