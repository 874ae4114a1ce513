"""Triton kernels of CARAFE, forward and backward.

Every sum over taps is a product of matrices. For a run of output pixels in one row, the weights of
the taps in one source row form a band matrix, [output pixels, source pixels], that is zero where a
source pixel is no tap of the output pixel; times [source pixels, channels] it gives that row's
part of the output. The band wastes multiply-adds (the source pixels of a run are more than k) and
saves loads: a source row is read once per run instead of once per tap, by tensor cores. What is
not finite would reach all of a run through the zeros of the band: it is added on its own.

The weight of tap (ty, tx) at output pixel (Y, X) of group g stands at ``(g k^2 + ty k + tx) *
stride_mt + Y // s * stride_my + Y % s * stride_mi + X // s * stride_mx + X % s * stride_mj``, which
covers weights before and after the pixel shuffle. lse is [B, G, s H, s W] fp32.
"""

import triton
import triton.language as tl


@triton.jit
def _weight_offsets(Y, X, tap, S: tl.constexpr, stride_mt, stride_my, stride_mi, stride_mx,
                    stride_mj):
    return (tap * stride_mt + (Y // S) * stride_my + (Y % S) * stride_mi + (X // S) * stride_mx
            + (X % S) * stride_mj)


@triton.jit
def _band_product(weight, band, x, acc, PRECISION: tl.constexpr, BLOCK_K: tl.constexpr):
    """acc + weight x, where ``weight`` [M, K] is zero, and counts for nothing, outside ``band``."""
    wild = x - x != 0  # NaN or infinite
    acc = tl.dot(weight.to(x.dtype), tl.where(wild, tl.zeros_like(x), x), acc,
                 input_precision=PRECISION)
    if tl.max(tl.max(wild.to(tl.int32), 1), 0) > 0:
        place = tl.arange(0, BLOCK_K)
        for i in range(BLOCK_K):
            row = (place == i)[:, None] & wild
            column = (place == i)[None, :] & band
            value = tl.sum(tl.where(row, x.to(tl.float32), 0.0), 0)
            times = tl.sum(tl.where(column, weight, 0.0), 1)
            both = ((tl.max(column.to(tl.int32), 1) > 0)[:, None]
                    & (tl.max(row.to(tl.int32), 0) > 0)[None, :])
            acc += tl.where(both, times[:, None] * value[None, :], 0.0)
    return acc


@triton.jit(do_not_specialize=["H", "W"])
def carafe_fwd_kernel(
    x_ptr,  # [B, C, H, W], any strides
    mask_ptr,
    out_ptr,  # [B, C, S H, S W], any strides
    lse_ptr,
    H,
    W,
    C,
    G,
    stride_xb,
    stride_xc,
    stride_xh,
    stride_xw,
    stride_mb,
    stride_mt,
    stride_my,
    stride_mi,
    stride_mx,
    stride_mj,
    stride_ob,
    stride_oc,
    stride_oh,
    stride_ow,
    K: tl.constexpr,
    S: tl.constexpr,
    NORMALIZE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,  # output pixels of one row
    BLOCK_K: tl.constexpr,  # source pixels that their taps reach
    BLOCK_C: tl.constexpr,
):
    """out[Y, X] = sum over taps of weight * x[Y // S + ty - K // 2, X // S + tx - K // 2].

    Grid: (S H * cdiv(S W, BLOCK_M), cdiv(C / G, BLOCK_C), B G); one program owns BLOCK_M pixels of
    one output row and BLOCK_C channels of one group.
    """
    pid_m = tl.program_id(0).to(tl.int64)
    pid_c = tl.program_id(1).to(tl.int64)
    pid_bg = tl.program_id(2).to(tl.int64)
    b, g = pid_bg // G, pid_bg % G
    blocks = tl.cdiv(W * S, BLOCK_M)
    Y = pid_m // blocks
    first = (pid_m % blocks) * BLOCK_M
    X = first + tl.arange(0, BLOCK_M)
    n = first // S - K // 2 + tl.arange(0, BLOCK_K)
    tx = n[None, :] - (X // S)[:, None] + K // 2
    band = (tx >= 0) & (tx < K) & (X < W * S)[:, None]
    mask_ptr += b * stride_mb + g * (K * K) * stride_mt
    stat = pid_bg * (H.to(tl.int64) * S) * (W * S) + Y * (W * S) + X

    lse = tl.zeros([BLOCK_M], dtype=tl.float32)
    if NORMALIZE:
        top = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
        total = tl.zeros([BLOCK_M], dtype=tl.float32)
        for ty in range(K):
            at = _weight_offsets(Y, X[:, None], ty * K + tx, S, stride_mt, stride_my, stride_mi,
                                 stride_mx, stride_mj)
            m = tl.load(mask_ptr + at, mask=band, other=float("-inf")).to(tl.float32)
            m = tl.where((X < W * S)[:, None], m, 0.0)  # no NaN in rows that are not stored
            new_top = tl.maximum(top, tl.max(m, 1))
            total = total * tl.exp(top - new_top) + tl.sum(tl.exp(m - new_top[:, None]), 1)
            top = new_top
        lse = top + tl.log(total)
        if pid_c == 0:
            tl.store(lse_ptr + stat, lse, mask=X < W * S)

    offs_c = pid_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < C // G
    channel = g * (C // G) + offs_c
    acc = tl.zeros([BLOCK_M, BLOCK_C], dtype=tl.float32)
    for ty in range(K):
        row = Y // S + ty - K // 2
        at = _weight_offsets(Y, X[:, None], ty * K + tx, S, stride_mt, stride_my, stride_mi,
                             stride_mx, stride_mj)
        if NORMALIZE:
            m = tl.load(mask_ptr + at, mask=band, other=float("-inf")).to(tl.float32)
            weight = tl.where(band, tl.exp(m - lse[:, None]), 0.0)
        else:
            weight = tl.load(mask_ptr + at, mask=band, other=0.0).to(tl.float32)
        width = tl.where((row >= 0) & (row < H), W, 0)  # a row off the map has no pixels
        inside = (n >= 0) & (n < width)
        source = x_ptr + b * stride_xb + row * stride_xh + n[:, None] * stride_xw
        x = tl.load(source + channel[None, :] * stride_xc, mask=inside[:, None] & mask_c[None, :],
                    other=0.0)
        acc = _band_product(weight, band, x, acc, PRECISION, BLOCK_K)
    out = out_ptr + b * stride_ob + Y * stride_oh + X[:, None] * stride_ow
    tl.store(out + channel[None, :] * stride_oc, acc.to(out_ptr.dtype.element_ty),
             mask=(X < W * S)[:, None] & mask_c[None, :])


@triton.jit(do_not_specialize=["H", "W"])
def carafe_bwd_x_kernel(
    grad_ptr,  # [B, C, S H, S W], any strides
    mask_ptr,
    lse_ptr,
    dx_ptr,  # [B, C, H, W], any strides
    H,
    W,
    C,
    G,
    stride_gb,
    stride_gc,
    stride_gh,
    stride_gw,
    stride_mb,
    stride_mt,
    stride_my,
    stride_mi,
    stride_mx,
    stride_mj,
    stride_xb,
    stride_xc,
    stride_xh,
    stride_xw,
    K: tl.constexpr,
    S: tl.constexpr,
    NORMALIZE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,  # source pixels of one row
    BLOCK_K: tl.constexpr,  # output pixels of one row that have one of them as a tap
    BLOCK_C: tl.constexpr,
):
    """dx gathers from the output pixels that a source pixel went to: no atomics, one order.

    Grid: (H * cdiv(W, BLOCK_M), cdiv(C / G, BLOCK_C), B G).
    """
    pid_m = tl.program_id(0).to(tl.int64)
    pid_c = tl.program_id(1).to(tl.int64)
    pid_bg = tl.program_id(2).to(tl.int64)
    b, g = pid_bg // G, pid_bg % G
    blocks = tl.cdiv(W, BLOCK_M)
    y = pid_m // blocks
    first = (pid_m % blocks) * BLOCK_M
    n = first + tl.arange(0, BLOCK_M)
    X = (first - K // 2) * S + tl.arange(0, BLOCK_K)
    # X may be negative here, and integer division truncates: shift by K rows, then back.
    tx = n[:, None] - ((X + K * S) // S - K)[None, :] + K // 2
    inside_x = (X >= 0) & (X < W * S)
    band = (tx >= 0) & (tx < K) & inside_x[None, :] & (n < W)[:, None]
    X = tl.where(inside_x, X, 0)
    mask_ptr += b * stride_mb + g * (K * K) * stride_mt
    lse_ptr += pid_bg * (H.to(tl.int64) * S) * (W * S)
    offs_c = pid_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < C // G
    channel = g * (C // G) + offs_c

    acc = tl.zeros([BLOCK_M, BLOCK_C], dtype=tl.float32)
    for step in range(K * S):
        ty = step // S
        row = y - ty + K // 2
        if (row >= 0) & (row < H):
            Y = row * S + step % S
            at = _weight_offsets(Y, X[None, :], ty * K + tx, S, stride_mt, stride_my, stride_mi,
                                 stride_mx, stride_mj)
            if NORMALIZE:
                lse = tl.load(lse_ptr + Y * (W * S) + X, mask=inside_x, other=0.0)
                m = tl.load(mask_ptr + at, mask=band, other=float("-inf")).to(tl.float32)
                weight = tl.where(band, tl.exp(m - lse[None, :]), 0.0)
            else:
                weight = tl.load(mask_ptr + at, mask=band, other=0.0).to(tl.float32)
            source = grad_ptr + b * stride_gb + Y * stride_gh + X[:, None] * stride_gw
            grad = tl.load(source + channel[None, :] * stride_gc,
                           mask=inside_x[:, None] & mask_c[None, :], other=0.0)
            acc = _band_product(weight, band, grad, acc, PRECISION, BLOCK_K)
    out = dx_ptr + b * stride_xb + y * stride_xh + n[:, None] * stride_xw
    tl.store(out + channel[None, :] * stride_xc, acc.to(dx_ptr.dtype.element_ty),
             mask=(n < W)[:, None] & mask_c[None, :])


@triton.jit(do_not_specialize=["H", "W"])
def carafe_bwd_mask_kernel(
    x_ptr,
    mask_ptr,
    out_ptr,
    lse_ptr,
    grad_ptr,
    dmask_ptr,  # strides of the weights
    H,
    W,
    C,
    G,
    stride_xb,
    stride_xc,
    stride_xh,
    stride_xw,
    stride_mb,
    stride_mt,
    stride_my,
    stride_mi,
    stride_mx,
    stride_mj,
    stride_ob,
    stride_oc,
    stride_oh,
    stride_ow,
    stride_gb,
    stride_gc,
    stride_gh,
    stride_gw,
    K: tl.constexpr,
    S: tl.constexpr,
    NORMALIZE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """dweight[tap] = sum over channels of grad * x[tap]; with NORMALIZE through the softmax.

    The softmax needs sum_tap weight * dweight, which is sum_c grad * out.
    Grid: (S H * cdiv(S W, BLOCK_M), B G); one program owns all taps of BLOCK_M output pixels.
    """
    pid_m = tl.program_id(0).to(tl.int64)
    pid_bg = tl.program_id(1).to(tl.int64)
    b, g = pid_bg // G, pid_bg % G
    blocks = tl.cdiv(W * S, BLOCK_M)
    Y = pid_m // blocks
    first = (pid_m % blocks) * BLOCK_M
    X = first + tl.arange(0, BLOCK_M)
    mask_x = X < W * S
    n = first // S - K // 2 + tl.arange(0, BLOCK_K)
    tx = n[None, :] - (X // S)[:, None] + K // 2
    band = (tx >= 0) & (tx < K) & mask_x[:, None]
    mask_ptr += b * stride_mb + g * (K * K) * stride_mt
    dmask_ptr += b * stride_mb + g * (K * K) * stride_mt
    grads = grad_ptr + b * stride_gb + Y * stride_gh + X[:, None] * stride_gw
    offs_c = tl.arange(0, BLOCK_C)

    delta = tl.zeros([BLOCK_M], dtype=tl.float32)
    lse = tl.zeros([BLOCK_M], dtype=tl.float32)
    if NORMALIZE:
        outs = out_ptr + b * stride_ob + Y * stride_oh + X[:, None] * stride_ow
        for start in range(0, C // G, BLOCK_C):
            channel = (g * (C // G) + start + offs_c)[None, :]
            mask = mask_x[:, None] & (start + offs_c < C // G)[None, :]
            grad = tl.load(grads + channel * stride_gc, mask=mask, other=0.0).to(tl.float32)
            out = tl.load(outs + channel * stride_oc, mask=mask, other=0.0).to(tl.float32)
            delta += tl.sum(grad * out, 1)
        stat = pid_bg * (H.to(tl.int64) * S) * (W * S) + Y * (W * S) + X
        lse = tl.load(lse_ptr + stat, mask=mask_x, other=0.0)

    for ty in range(K):
        row = Y // S + ty - K // 2
        width = tl.where((row >= 0) & (row < H), W, 0)  # a row off the map has no pixels
        inside = (n >= 0) & (n < width)
        sources = x_ptr + b * stride_xb + row * stride_xh + n[None, :] * stride_xw
        acc = tl.zeros([BLOCK_M, BLOCK_K], dtype=tl.float32)
        for start in range(0, C // G, BLOCK_C):
            channel = g * (C // G) + start + offs_c
            mask_c = start + offs_c < C // G
            grad = tl.load(grads + channel[None, :] * stride_gc,
                           mask=mask_x[:, None] & mask_c[None, :], other=0.0)
            x = tl.load(sources + channel[:, None] * stride_xc,
                        mask=inside[None, :] & mask_c[:, None], other=0.0)
            acc = tl.dot(grad, x, acc, input_precision=PRECISION)
        at = _weight_offsets(Y, X[:, None], ty * K + tx, S, stride_mt, stride_my, stride_mi,
                             stride_mx, stride_mj)
        if NORMALIZE:
            m = tl.load(mask_ptr + at, mask=band, other=0.0).to(tl.float32)
            acc = tl.exp(m - lse[:, None]) * (acc - delta[:, None])
        tl.store(dmask_ptr + at, acc.to(dmask_ptr.dtype.element_ty), mask=band)
