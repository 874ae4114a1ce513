"""Triton kernels of multi-scale deformable attention, forward and backward.

One program owns BLOCK_Q queries of one head with all its D channels. Each sampled place is four
gathered rows of D channels, which lie together in memory; coordinates, interpolation and sums are
in fp32.

Shapes: value [B, K, HEADS, D]; sizes [L, 2] (height, width) and starts [L], integers; places
[B, Q, HEADS, L, P, 2] as (x, y) in units of the level; weights [B, Q, HEADS, L, P]. The first two
axes of value, places and weights have any strides (``_b`` and ``_n``), the others are contiguous;
out and grad [B, Q, HEADS * D] are contiguous. Gradients have the strides of what they belong to.
"""

import triton
import triton.language as tl


@triton.jit
def _level(sizes_ptr, starts_ptr, level, K):
    """Height, width and first row of a level; one that is not within the K rows has no pixels."""
    H = tl.load(sizes_ptr + level * 2).to(tl.int64)
    W = tl.load(sizes_ptr + level * 2 + 1).to(tl.int64)
    start = tl.load(starts_ptr + level).to(tl.int64)
    fits = (start >= 0) & (H > 0) & (W > 0) & (start + H * W <= K)
    H = tl.where(fits, H, 0).to(tl.int32)
    W = tl.where(fits, W, 0).to(tl.int32)
    return H, W, start.to(tl.int32)


@triton.jit
def _place(places_ptr, at, mask_q, H, W):
    """Where queries sample: the pixel above and left, and the fractions.

    A place that does not count, NaN too, lies at (-2, -2), where no corner is a pixel.
    """
    x = tl.load(places_ptr + at, mask=mask_q, other=-9.0).to(tl.float32) * W - 0.5
    y = tl.load(places_ptr + at + 1, mask=mask_q, other=-9.0).to(tl.float32) * H - 0.5
    counts = (x > -1) & (y > -1) & (x < W) & (y < H)
    x = tl.where(counts, x, -2.0)
    y = tl.where(counts, y, -2.0)
    left = tl.floor(x)
    top = tl.floor(y)
    return top.to(tl.int32), left.to(tl.int32), y - top, x - left


@triton.jit
def _corner(start, y, x, H, W, stride_n, offs_c, mask_c):
    """Offsets [BLOCK_Q, BLOCK_D] of one pixel for each query, and which are to be touched."""
    inside = (y >= 0) & (x >= 0) & (y < H) & (x < W)
    row = (start + y * W + x).to(tl.int64) * stride_n
    return row[:, None] + offs_c[None, :], inside[:, None] & mask_c[None, :]


@triton.jit
def _sample(value_ptr, start, y, x, H, W, stride_n, offs_c, mask_c):
    at, mask = _corner(start, y, x, H, W, stride_n, offs_c, mask_c)
    return tl.load(value_ptr + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["K", "Q"])
def multi_scale_deformable_attention_fwd_kernel(
    value_ptr,
    sizes_ptr,
    starts_ptr,
    places_ptr,
    weights_ptr,
    out_ptr,
    K,
    Q,
    stride_vb,
    stride_vn,
    stride_pb,
    stride_pn,
    stride_wb,
    stride_wn,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out[q, head] = sum over levels and points of weight * value between its pixels at the place.

    Grid: (cdiv(Q, BLOCK_Q) * HEADS, B), heads fastest, so that programs that run together read
    whole rows of places and weights.
    """
    pid = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    head = pid % HEADS
    offs_q = (pid // HEADS).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    mask_q = offs_q < Q
    offs_c = tl.arange(0, BLOCK_D)
    mask_c = offs_c < D
    value_ptr += b * stride_vb + head * D
    at_place = b * stride_pb + offs_q * stride_pn + head * (L * P * 2)
    at_weight = b * stride_wb + offs_q * stride_wn + head * (L * P)

    acc = tl.zeros([BLOCK_Q, BLOCK_D], dtype=tl.float32)
    for level in range(L):
        H, W, start = _level(sizes_ptr, starts_ptr, level, K)
        for point in tl.static_range(P):
            i = level * P + point
            y, x, fy, fx = _place(places_ptr, at_place + i * 2, mask_q, H, W)
            a = tl.load(weights_ptr + at_weight + i, mask=mask_q, other=0.0).to(tl.float32)
            v00 = _sample(value_ptr, start, y, x, H, W, stride_vn, offs_c, mask_c)
            v01 = _sample(value_ptr, start, y, x + 1, H, W, stride_vn, offs_c, mask_c)
            v10 = _sample(value_ptr, start, y + 1, x, H, W, stride_vn, offs_c, mask_c)
            v11 = _sample(value_ptr, start, y + 1, x + 1, H, W, stride_vn, offs_c, mask_c)
            acc += v00 * (a * (1 - fy) * (1 - fx))[:, None] + v01 * (a * (1 - fy) * fx)[:, None]
            acc += v10 * (a * fy * (1 - fx))[:, None] + v11 * (a * fy * fx)[:, None]
    at = ((b * Q + offs_q) * HEADS + head) * D
    tl.store(out_ptr + at[:, None] + offs_c[None, :], acc.to(out_ptr.dtype.element_ty),
             mask=mask_q[:, None] & mask_c[None, :])


@triton.jit
def _corner_grad(value_ptr, dvalue_ptr, scale, g, share, start, y, x, H, W, stride_n, offs_c,
                 mask_c, NEEDS_VALUE: tl.constexpr, NEEDS_PLACE: tl.constexpr,
                 FIXED: tl.constexpr):
    """One corner's part of the gradients: adds ``share * g`` to dvalue, returns sum_c g * value."""
    at, mask = _corner(start, y, x, H, W, stride_n, offs_c, mask_c)
    if NEEDS_VALUE:
        part = g * share[:, None]
        if FIXED:
            part = (part * scale).to(tl.int64)
        tl.atomic_add(dvalue_ptr + at, part, mask=mask, sem="relaxed")
    dot = tl.zeros_like(share)
    if NEEDS_PLACE:
        dot = tl.sum(g * tl.load(value_ptr + at, mask=mask, other=0.0).to(tl.float32), 1)
    return dot


@triton.jit(do_not_specialize=["K", "Q"])
def multi_scale_deformable_attention_bwd_kernel(
    value_ptr,
    sizes_ptr,
    starts_ptr,
    places_ptr,
    weights_ptr,
    grad_ptr,
    scale_ptr,
    dvalue_ptr,
    dplaces_ptr,
    dweights_ptr,
    K,
    Q,
    stride_vb,
    stride_vn,
    stride_pb,
    stride_pn,
    stride_wb,
    stride_wn,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    NEEDS_VALUE: tl.constexpr,
    NEEDS_PLACE: tl.constexpr,
    FIXED: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """All gradients, sampling again. Grid as forward.

    A program has the gradients of its places and weights to itself; that of value is scattered by
    atomic additions into dvalue, zeroed: fp32, or int64 in units of 1 / scale[0] with FIXED.
    """
    pid = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    head = pid % HEADS
    offs_q = (pid // HEADS).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    mask_q = offs_q < Q
    offs_c = tl.arange(0, BLOCK_D)
    mask_c = offs_c < D
    value_ptr += b * stride_vb + head * D
    dvalue_ptr += b * stride_vb + head * D
    at_place = b * stride_pb + offs_q * stride_pn + head * (L * P * 2)
    at_weight = b * stride_wb + offs_q * stride_wn + head * (L * P)
    at = ((b * Q + offs_q) * HEADS + head) * D
    g = tl.load(grad_ptr + at[:, None] + offs_c[None, :], mask=mask_q[:, None] & mask_c[None, :],
                other=0.0).to(tl.float32)
    scale = 1.0
    if FIXED:
        scale = tl.load(scale_ptr)

    for level in range(L):
        H, W, start = _level(sizes_ptr, starts_ptr, level, K)
        for point in tl.static_range(P):
            i = level * P + point
            y, x, fy, fx = _place(places_ptr, at_place + i * 2, mask_q, H, W)
            a = tl.load(weights_ptr + at_weight + i, mask=mask_q, other=0.0).to(tl.float32)
            d00 = _corner_grad(value_ptr, dvalue_ptr, scale, g, a * (1 - fy) * (1 - fx), start, y,
                               x, H, W, stride_vn, offs_c, mask_c, NEEDS_VALUE, NEEDS_PLACE, FIXED)
            d01 = _corner_grad(value_ptr, dvalue_ptr, scale, g, a * (1 - fy) * fx, start, y,
                               x + 1, H, W, stride_vn, offs_c, mask_c, NEEDS_VALUE, NEEDS_PLACE,
                               FIXED)
            d10 = _corner_grad(value_ptr, dvalue_ptr, scale, g, a * fy * (1 - fx), start, y + 1,
                               x, H, W, stride_vn, offs_c, mask_c, NEEDS_VALUE, NEEDS_PLACE, FIXED)
            d11 = _corner_grad(value_ptr, dvalue_ptr, scale, g, a * fy * fx, start, y + 1,
                               x + 1, H, W, stride_vn, offs_c, mask_c, NEEDS_VALUE, NEEDS_PLACE,
                               FIXED)
            if NEEDS_PLACE:
                dx = a * W * ((1 - fy) * (d01 - d00) + fy * (d11 - d10))
                dy = a * H * ((1 - fx) * (d10 - d00) + fx * (d11 - d01))
                da = (1 - fy) * ((1 - fx) * d00 + fx * d01) + fy * ((1 - fx) * d10 + fx * d11)
                # A place that does not count has no gradient, not even of a NaN.
                counts = x > -2
                dx = tl.where(counts, dx, 0.0)
                dy = tl.where(counts, dy, 0.0)
                element = dplaces_ptr.dtype.element_ty
                tl.store(dplaces_ptr + at_place + i * 2, dx.to(element), mask=mask_q)
                tl.store(dplaces_ptr + at_place + i * 2 + 1, dy.to(element), mask=mask_q)
                tl.store(dweights_ptr + at_weight + i, da.to(dweights_ptr.dtype.element_ty),
                         mask=mask_q)
