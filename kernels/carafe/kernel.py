"""Triton kernels of CARAFE, forward and backward.

A program owns a run of source pixels, counted through the rows of the map, and as many channels of
one group as fit. A source value that was loaded once is multiplied into all S columns of a row of
its output pixels, with S = 2 into both rows: SUB accumulators of [channels, pixels].

Weights, before or after the pixel shuffle, stand by tap (``stride_mt``), source row and row in it
(``stride_my``, ``stride_mi``), source column and column in it (``stride_mx``, ``stride_mj``).
lse, the log of the sum of a softmax, is [B, G, S H, S W] fp32.
"""

import triton
import triton.language as tl


@triton.jit
def _run(pid, W, BLOCK_P: tl.constexpr, LANES: tl.constexpr):
    """Rows (int64) and columns of BLOCK_P source pixels, each LANES times."""
    first = pid * BLOCK_P
    column = (first % W).to(tl.int32) + tl.arange(0, BLOCK_P * LANES) // LANES
    return first // W + column // W, column % W


@triton.jit
def _aligned(offsets, LANES: tl.constexpr, ALIGNED: tl.constexpr):
    """Tell the compiler that each run of LANES offsets [C, M] is one aligned access."""
    if ALIGNED and LANES > 1:
        offsets = tl.multiple_of(tl.max_contiguous(offsets, [1, LANES]), [1, LANES])
    return offsets


@triton.jit
def _softmax_sums(ptr, stride_mt, on_map, K: tl.constexpr, BLOCK_T: tl.constexpr):
    """Maximum and sum over the taps of ``ptr`` [P]."""
    tap = tl.arange(0, BLOCK_T)[:, None]
    m = tl.load(ptr[None, :] + tap * stride_mt, mask=on_map[None, :] & (tap < K * K),
                other=0.0).to(tl.float32)
    m = tl.where(tap < K * K, m, float("-inf"))
    top = tl.max(m, 0)
    return top, tl.sum(tl.exp(m - top[None, :]), 0)


@triton.jit
def _weight(ptr, on_map, top, scale, NORMALIZE: tl.constexpr):
    weight = tl.load(ptr, mask=on_map, other=0.0).to(tl.float32)
    if NORMALIZE:
        weight = tl.exp(weight - top) * scale
    return weight


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
    ALIGNED: tl.constexpr,  # the S columns of a source pixel are one aligned access
    BLOCK_T: tl.constexpr,  # a power of two, >= K K
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out[Y, X] = sum over taps of weight * x[Y // S + ty - K // 2, X // S + tx - K // 2].

    Grid: (cdiv(H W, BLOCK_P) * (1 if S = 2 else S), cdiv(C / G, BLOCK_C), B G).
    """
    SUB: tl.constexpr = 4 if S == 2 else S
    ROWS: tl.constexpr = 1 if S == 2 else S  # programs that share a run, one a row of results
    pid_c = tl.program_id(1).to(tl.int64)
    pid_bg = tl.program_id(2).to(tl.int64)
    b, g = pid_bg // G, pid_bg % G
    first_i = tl.program_id(0) % ROWS
    run = tl.program_id(0).to(tl.int64) // ROWS
    y, x = _run(run, W, BLOCK_P, 1)
    on_map = y < H
    mask_ptr += b * stride_mb + g * (K * K) * stride_mt + first_i * stride_mi
    m0 = mask_ptr + y * stride_my + x * stride_mx
    m1 = m0 + stride_mj
    m2 = m0 + (stride_mi if S == 2 else 2 * stride_mj)
    m3 = m2 + stride_mj

    top0, top1, top2, top3 = 0.0, 0.0, 0.0, 0.0
    scale0, scale1, scale2, scale3 = 1.0, 1.0, 1.0, 1.0
    if NORMALIZE:
        top0, total0 = _softmax_sums(m0, stride_mt, on_map, K, BLOCK_T)
        top1, total1, top2, total2, top3, total3 = top0, total0, top0, total0, top0, total0
        if SUB > 1:
            top1, total1 = _softmax_sums(m1, stride_mt, on_map, K, BLOCK_T)
            top2, total2 = _softmax_sums(m2, stride_mt, on_map, K, BLOCK_T)
        if SUB > 3:
            top3, total3 = _softmax_sums(m3, stride_mt, on_map, K, BLOCK_T)
        if pid_c == 0:
            stat = (lse_ptr + pid_bg * (H.to(tl.int64) * S) * (W * S) + (y * S + first_i) * (W * S)
                    + x * S)
            stat2 = stat + (W * S if S == 2 else 2)
            tl.store(stat, top0 + tl.log(total0), mask=on_map)
            if SUB > 1:
                tl.store(stat + 1, top1 + tl.log(total1), mask=on_map)
                tl.store(stat2, top2 + tl.log(total2), mask=on_map)
            if SUB > 3:
                tl.store(stat2 + 1, top3 + tl.log(total3), mask=on_map)
        scale0, scale1, scale2, scale3 = 1 / total0, 1 / total1, 1 / total2, 1 / total3

    offs_c = pid_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = (offs_c < C // G)[:, None]
    channel = (g * (C // G) + offs_c)[:, None]
    source = (x_ptr + b * stride_xb + channel * stride_xc
              + (y * stride_xh + x * stride_xw)[None, :])
    a0 = tl.zeros([BLOCK_C, BLOCK_P], dtype=tl.float32)
    a1 = tl.zeros([BLOCK_C, BLOCK_P], dtype=tl.float32)
    a2 = tl.zeros([BLOCK_C, BLOCK_P], dtype=tl.float32)
    a3 = tl.zeros([BLOCK_C, BLOCK_P], dtype=tl.float32)
    for tap in range(K * K):
        dy, dx = tap // K - K // 2, tap % K - K // 2
        inside = (y + dy >= 0) & (y + dy < H) & (x + dx >= 0) & (x + dx < W)
        value = tl.load(source + (dy * stride_xh + dx * stride_xw), mask=inside[None, :] & mask_c,
                        other=0.0).to(tl.float32)
        a0 += _weight(m0, on_map, top0, scale0, NORMALIZE)[None, :] * value
        m0 += stride_mt
        if SUB > 1:
            a1 += _weight(m1, on_map, top1, scale1, NORMALIZE)[None, :] * value
            a2 += _weight(m2, on_map, top2, scale2, NORMALIZE)[None, :] * value
            m1 += stride_mt
            m2 += stride_mt
        if SUB > 3:
            a3 += _weight(m3, on_map, top3, scale3, NORMALIZE)[None, :] * value
            m3 += stride_mt

    LANES: tl.constexpr = 1 if S == 3 else S
    py, px = _run(run, W, BLOCK_P, LANES)
    stored = (py < H)[None, :] & mask_c
    column = px * S + tl.arange(0, BLOCK_P * LANES) % LANES
    out = (b * stride_ob + channel * stride_oc
           + ((py * S + first_i) * stride_oh + column * stride_ow)[None, :])
    out = _aligned(out, LANES, ALIGNED)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    if S == 1:
        tl.store(out_ptr + out, a0.to(dtype), mask=stored)
    elif S == 2:
        tl.store(out_ptr + out, tl.interleave(a0.to(dtype), a1.to(dtype)), mask=stored)
        out = _aligned(out + stride_oh, LANES, ALIGNED)
        tl.store(out_ptr + out, tl.interleave(a2.to(dtype), a3.to(dtype)), mask=stored)
    elif S == 3:
        tl.store(out_ptr + out, a0.to(dtype), mask=stored)
        tl.store(out_ptr + out + stride_ow, a1.to(dtype), mask=stored)
        tl.store(out_ptr + out + 2 * stride_ow, a2.to(dtype), mask=stored)
    else:
        even, odd = tl.interleave(a0, a2), tl.interleave(a1, a3)
        tl.store(out_ptr + out, tl.interleave(even.to(dtype), odd.to(dtype)), mask=stored)


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
    ALIGNED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """dx gathers from the output pixels that a source pixel went to: no atomics, one order.

    A lane has one column of a source pixel's output; with S = 3 one after the other.
    Grid: (cdiv(H W, BLOCK_P), cdiv(C / G, BLOCK_C), B G).
    """
    LANES: tl.constexpr = 1 if S == 3 else S
    pid_bg = tl.program_id(2).to(tl.int64)
    b, g = pid_bg // G, pid_bg % G
    run = tl.program_id(0).to(tl.int64)
    y, x = _run(run, W, BLOCK_P, LANES)
    lane = tl.arange(0, BLOCK_P * LANES) % LANES
    mask_ptr += b * stride_mb + g * (K * K) * stride_mt
    lse_ptr += pid_bg * (H.to(tl.int64) * S) * (W * S)
    offs_c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = (offs_c < C // G)[:, None]
    channel = (g * (C // G) + offs_c)[:, None]

    at_grad = (b * stride_gb + channel * stride_gc
               + (y * S * stride_gh + (x * S + lane) * stride_gw)[None, :])
    mask_ptr += y * stride_my + x * stride_mx + lane * stride_mj
    lse_ptr += y * S * (W * S) + x * S + lane

    acc = tl.zeros([BLOCK_C, BLOCK_P * LANES], dtype=tl.float32)
    for tap in range(K * K):
        dy, dx = K // 2 - tap // K, K // 2 - tap % K  # to the pixel that has this one as its tap
        inside = (y + dy >= 0) & (y + dy < H) & (x + dx >= 0) & (x + dx < W)
        at_mask = mask_ptr + (dy * stride_my + dx * stride_mx)
        for i in tl.static_range(S):
            for j in tl.static_range(0, S, LANES):
                at = _aligned(at_grad + ((dy * S + i) * stride_gh + (dx * S + j) * stride_gw),
                              LANES, ALIGNED)
                grad = tl.load(grad_ptr + at, mask=inside[None, :] & mask_c,
                               other=0.0).to(tl.float32)
                lse = 0.0
                if NORMALIZE:
                    lse = tl.load(lse_ptr + ((dy * S + i) * (W * S) + dx * S + j), mask=inside,
                                  other=0.0)
                weight = _weight(at_mask + (i * stride_mi + j * stride_mj), inside, lse, 1.0,
                                 NORMALIZE)
                acc += weight[None, :] * grad
        mask_ptr += stride_mt
    if LANES > 1:
        acc = tl.sum(tl.reshape(acc, [BLOCK_C, BLOCK_P, LANES]), 2)
    y, x = _run(run, W, BLOCK_P, 1)
    out = dx_ptr + b * stride_xb + channel * stride_xc + (y * stride_xh + x * stride_xw)[None, :]
    tl.store(out, acc.to(dx_ptr.dtype.element_ty), mask=(y < H)[None, :] & mask_c)


@triton.jit
def _load_grad(ptr, channel, mask, stride_gc):
    return tl.load(ptr[None, :] + channel * stride_gc, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _store_dmask(dmask_ptr, mask_ptr, at, stride_mt, dweight, on_map, K: tl.constexpr,
                 NORMALIZE: tl.constexpr, BLOCK_T: tl.constexpr):
    """Write the gradient [BLOCK_T, P] of the weights, with NORMALIZE through their softmax."""
    tap = tl.arange(0, BLOCK_T)[:, None]
    at = at[None, :] + tap * stride_mt
    mask = on_map[None, :] & (tap < K * K)
    if NORMALIZE:
        m = tl.load(mask_ptr + at, mask=mask, other=0.0).to(tl.float32)
        m = tl.where(tap < K * K, m, float("-inf"))
        e = tl.exp(m - tl.max(m, 0)[None, :])
        weight = e * (1 / tl.sum(e, 0))[None, :]
        dweight = weight * (dweight - tl.sum(weight * dweight, 0)[None, :])
    tl.store(dmask_ptr + at, dweight.to(dmask_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["H", "W"])
def carafe_bwd_mask_kernel(
    x_ptr,
    mask_ptr,
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
    stride_gb,
    stride_gc,
    stride_gh,
    stride_gw,
    K: tl.constexpr,
    S: tl.constexpr,
    NORMALIZE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """dweight[tap] = sum over channels of grad * x[tap]; with NORMALIZE through the softmax.

    The gradients of BLOCK_C channels stay in registers while the taps pass; what each tap gives
    goes into its row of [BLOCK_T, P].
    Grid: (cdiv(H W, BLOCK_P) * (1 if S = 2 else S), B G).
    """
    SUB: tl.constexpr = 4 if S == 2 else S
    ROWS: tl.constexpr = 1 if S == 2 else S
    pid_bg = tl.program_id(1).to(tl.int64)
    b, g = pid_bg // G, pid_bg % G
    first_i = tl.program_id(0) % ROWS
    y, x = _run(tl.program_id(0).to(tl.int64) // ROWS, W, BLOCK_P, 1)
    on_map = y < H
    row_of = tl.arange(0, BLOCK_T)[:, None]
    d0 = tl.zeros([BLOCK_T, BLOCK_P], dtype=tl.float32)
    d1 = tl.zeros([BLOCK_T, BLOCK_P], dtype=tl.float32)
    d2 = tl.zeros([BLOCK_T, BLOCK_P], dtype=tl.float32)
    d3 = tl.zeros([BLOCK_T, BLOCK_P], dtype=tl.float32)
    grads = (grad_ptr + b * stride_gb + (y * S + first_i) * stride_gh + x * S * stride_gw)
    third = stride_gh if S == 2 else 2 * stride_gw
    for start in range(0, C // G, BLOCK_C):
        offs_c = start + tl.arange(0, BLOCK_C)
        mask_c = (offs_c < C // G)[:, None]
        channel = (g * (C // G) + offs_c)[:, None]
        mask = mask_c & on_map[None, :]
        g0 = _load_grad(grads, channel, mask, stride_gc)
        g1, g2, g3 = g0, g0, g0
        if SUB > 1:
            g1 = _load_grad(grads + stride_gw, channel, mask, stride_gc)
            g2 = _load_grad(grads + third, channel, mask, stride_gc)
        if SUB > 3:
            g3 = _load_grad(grads + third + stride_gw, channel, mask, stride_gc)
        source = (x_ptr + b * stride_xb + channel * stride_xc
                  + (y * stride_xh + x * stride_xw)[None, :])
        for tap in range(K * K):
            dy, dx = tap // K - K // 2, tap % K - K // 2
            inside = (y + dy >= 0) & (y + dy < H) & (x + dx >= 0) & (x + dx < W)
            value = tl.load(source + (dy * stride_xh + dx * stride_xw),
                            mask=inside[None, :] & mask_c, other=0.0).to(tl.float32)
            mine = row_of == tap
            d0 += tl.where(mine, tl.sum(g0 * value, 0)[None, :], 0.0)
            if SUB > 1:
                d1 += tl.where(mine, tl.sum(g1 * value, 0)[None, :], 0.0)
                d2 += tl.where(mine, tl.sum(g2 * value, 0)[None, :], 0.0)
            if SUB > 3:
                d3 += tl.where(mine, tl.sum(g3 * value, 0)[None, :], 0.0)

    at = (b * stride_mb + g * (K * K) * stride_mt + y * stride_my + first_i * stride_mi
          + x * stride_mx)
    _store_dmask(dmask_ptr, mask_ptr, at, stride_mt, d0, on_map, K, NORMALIZE, BLOCK_T)
    if SUB > 1:
        at2 = at + (stride_mi if S == 2 else 2 * stride_mj)
        _store_dmask(dmask_ptr, mask_ptr, at + stride_mj, stride_mt, d1, on_map, K, NORMALIZE,
                     BLOCK_T)
        _store_dmask(dmask_ptr, mask_ptr, at2, stride_mt, d2, on_map, K, NORMALIZE, BLOCK_T)
        if SUB > 3:
            _store_dmask(dmask_ptr, mask_ptr, at2 + stride_mj, stride_mt, d3, on_map, K, NORMALIZE,
                         BLOCK_T)
