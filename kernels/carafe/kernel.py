"""Triton kernels of CARAFE, forward and backward.

A program owns a run of source pixels, counted through the rows of the map, and as many channels of
one group as fit, as [channels, lanes]. A source pixel has four lanes, one for each output pixel:
the 2 x 2 of S = 2, or with S = 3 and 4 the columns of one of its S rows (S = 1: one lane). A value
that was loaded once is multiplied into all of them.

Weights, before or after the pixel shuffle, stand by tap (``stride_mt``), source row and row in it
(``stride_my``, ``stride_mi``), source column and column in it (``stride_mx``, ``stride_mj``).
lse, the log of the sum of a softmax, is [B, G, S H, S W] fp32. Offsets within an image are int32.
"""

import triton
import triton.language as tl

#: What changes with the size of the map, for which no kernel is compiled anew: no access is wider
#: for a stride that is known to be even where pixels are counted through rows. Strides from column
#: to column are those of the memory format.
_SIZES = ["H", "W", *(f"stride_{of}" for of in "xb xc xh ob oc oh mb mt my mi mj".split())]


@triton.jit
def _run(pid, W, BLOCK_P: tl.constexpr, LANES: tl.constexpr):
    """Rows and columns of BLOCK_P source pixels, each LANES times."""
    first = pid * BLOCK_P
    column = (first % W).to(tl.int32) + tl.arange(0, BLOCK_P * LANES) // LANES
    return (first // W).to(tl.int32) + column // W, column % W


@triton.jit
def _output_lanes(pid, W, S: tl.constexpr, LANES: tl.constexpr, BLOCK_P: tl.constexpr):
    """Source row and column of each lane, and which row and column of the S x S there."""
    ROWS: tl.constexpr = 1 if S == 2 else S  # programs that share a run, one a row of results
    y, x = _run(pid.to(tl.int64) // ROWS, W, BLOCK_P, LANES)
    lane = tl.arange(0, BLOCK_P * LANES) % LANES
    if S == 2:
        i, j = lane // 2, lane % 2
    else:
        i, j = pid % ROWS, lane
    return y, x, i, j


@triton.jit
def _aligned(offsets, RUN: tl.constexpr, ALIGNED: tl.constexpr):
    """Tell the compiler that each RUN of offsets [C, M] is one aligned access."""
    if ALIGNED and RUN > 1:
        offsets = tl.multiple_of(tl.max_contiguous(offsets, [1, RUN]), [1, RUN])
    return offsets


@triton.jit
def _spread(value, LANES: tl.constexpr):
    """[C, P] to [C, P LANES]."""
    if LANES == 4:
        value = tl.interleave(value, value)
        value = tl.interleave(value, value)
    return value


@triton.jit
def _weight(ptr, on_map, lse, NORMALIZE: tl.constexpr):
    weight = tl.load(ptr, mask=on_map, other=0.0).to(tl.float32)
    if NORMALIZE:
        weight = tl.exp(weight - lse)
    return weight


@triton.jit(do_not_specialize=_SIZES)
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
    ALIGNED: tl.constexpr,  # the S columns of a source pixel in out are one aligned access
    EVEN_C: tl.constexpr,  # the blocks of channels are full
    BLOCK_T: tl.constexpr,  # a power of two, >= K K
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out[Y, X] = sum over taps of weight * x[Y // S + ty - K // 2, X // S + tx - K // 2].

    Grid: (cdiv(H W, BLOCK_P) * (1 if S = 2 else S), cdiv(C / G, BLOCK_C), B G).
    """
    LANES: tl.constexpr = 1 if S == 1 else 4
    pid_m = tl.program_id(0)
    pid_c = tl.program_id(1).to(tl.int64)
    pid_bg = tl.program_id(2).to(tl.int64)
    b, g = pid_bg // G, pid_bg % G
    y, x, i, j = _output_lanes(pid_m, W, S, LANES, BLOCK_P)
    on_map = (y < H) & (j < 3) if S == 3 else y < H
    Y, X = y.to(tl.int64) * S + i, x * S + j
    mask_ptr += b * stride_mb + g * (K * K) * stride_mt
    at_mask = (y.to(tl.int64) * stride_my + i * stride_mi + x * stride_mx + j * stride_mj
               ).to(tl.int32)

    lse = 0.0
    if NORMALIZE:
        tap = tl.arange(0, BLOCK_T)[:, None]
        m = tl.load(mask_ptr + tap * stride_mt + at_mask[None, :],
                    mask=on_map[None, :] & (tap < K * K), other=0.0).to(tl.float32)
        m = tl.where(tap < K * K, m, float("-inf"))
        top = tl.max(m, 0)
        lse = top + tl.log(tl.sum(tl.exp(m - top[None, :]), 0))
        if pid_c == 0:
            stat = lse_ptr + pid_bg * (H.to(tl.int64) * S) * (W * S) + Y * (W * S) + X
            tl.store(stat, lse, mask=on_map)

    offs_c = pid_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = (offs_c < C // G)[:, None] | (EVEN_C == 1)
    channel = (g * (C // G) + offs_c)[:, None]
    row, column = _run(pid_m.to(tl.int64) // (1 if S == 2 else S), W, BLOCK_P, 1)
    x_ptr += b * stride_xb
    at = (channel * stride_xc
          + (row.to(tl.int64) * stride_xh + column * stride_xw)[None, :]).to(tl.int32)
    acc = tl.zeros([BLOCK_C, BLOCK_P * LANES], dtype=tl.float32)
    for tap in range(K * K):
        dy, dx = tap // K - K // 2, tap % K - K // 2
        inside = (row + dy >= 0) & (row + dy < H) & (column + dx >= 0) & (column + dx < W)
        value = tl.load(x_ptr + (dy * stride_xh + dx * stride_xw) + at,
                        mask=inside[None, :] & mask_c, other=0.0).to(tl.float32)
        acc += _weight(mask_ptr + at_mask, on_map, lse, NORMALIZE)[None, :] * _spread(value, LANES)
        mask_ptr += stride_mt
    out = b * stride_ob + channel * stride_oc + (Y * stride_oh + X * stride_ow)[None, :]
    tl.store(out_ptr + _aligned(out, S, ALIGNED), acc.to(out_ptr.dtype.element_ty),
             mask=on_map[None, :] & mask_c)


@triton.jit(do_not_specialize=_SIZES)
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
    EVEN_C: tl.constexpr,
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
    mask_c = (offs_c < C // G)[:, None] | (EVEN_C == 1)
    channel = (g * (C // G) + offs_c)[:, None]

    grad_ptr += b * stride_gb
    at_grad = (channel * stride_gc
               + (y.to(tl.int64) * S * stride_gh + (x * S + lane) * stride_gw)[None, :])
    at_grad = _aligned(at_grad.to(tl.int32), LANES, ALIGNED)
    at_mask = (y.to(tl.int64) * stride_my + x * stride_mx + lane * stride_mj).to(tl.int32)
    at_lse = (y.to(tl.int64) * S * (W * S) + x * S + lane).to(tl.int32)

    acc = tl.zeros([BLOCK_C, BLOCK_P * LANES], dtype=tl.float32)
    for tap in range(K * K):
        dy, dx = K // 2 - tap // K, K // 2 - tap % K  # to the pixel that has this one as its tap
        inside = (y + dy >= 0) & (y + dy < H) & (x + dx >= 0) & (x + dx < W)
        for i in tl.static_range(S):
            for j in tl.static_range(0, S, LANES):
                shift = (dy * S + i) * stride_gh + (dx * S + j) * stride_gw
                if ALIGNED:
                    shift = tl.multiple_of(shift, LANES)
                grad = tl.load(grad_ptr + shift + at_grad, mask=inside[None, :] & mask_c,
                               other=0.0).to(tl.float32)
                lse = 0.0
                if NORMALIZE:
                    lse = tl.load(lse_ptr + ((dy * S + i) * (W * S) + dx * S + j) + at_lse,
                                  mask=inside, other=0.0)
                shift_m = dy * stride_my + dx * stride_mx + i * stride_mi + j * stride_mj
                weight = _weight(mask_ptr + shift_m + at_mask, inside, lse, NORMALIZE)
                acc += weight[None, :] * grad
        mask_ptr += stride_mt
    if LANES > 1:
        acc = tl.sum(tl.reshape(acc, [BLOCK_C, BLOCK_P, LANES]), 2)
    y, x = _run(run, W, BLOCK_P, 1)
    out = (dx_ptr + b * stride_xb + channel * stride_xc
           + (y.to(tl.int64) * stride_xh + x * stride_xw)[None, :])
    tl.store(out, acc.to(dx_ptr.dtype.element_ty), mask=(y < H)[None, :] & mask_c)


@triton.jit(do_not_specialize=[*_SIZES, "stride_gb", "stride_gc", "stride_gh"])
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
    ALIGNED: tl.constexpr,
    EVEN_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """dweight[tap] = sum over channels of grad * x[tap]; with NORMALIZE through the softmax.

    The gradients of BLOCK_C channels stay in registers while the taps pass; what each tap gives
    goes into its row of [BLOCK_T, lanes], where the softmax is then made again.
    Grid: (cdiv(H W, BLOCK_P) * (1 if S = 2 else S), B G).
    """
    LANES: tl.constexpr = 1 if S == 1 else 4
    pid_m = tl.program_id(0)
    pid_bg = tl.program_id(1).to(tl.int64)
    b, g = pid_bg // G, pid_bg % G
    y, x, i, j = _output_lanes(pid_m, W, S, LANES, BLOCK_P)
    on_map = (y < H) & (j < 3) if S == 3 else y < H
    row, column = _run(pid_m.to(tl.int64) // (1 if S == 2 else S), W, BLOCK_P, 1)
    tap_of_row = tl.arange(0, BLOCK_T)[:, None]
    x_ptr += b * stride_xb
    at_grad = (y.to(tl.int64) * S + i) * stride_gh + (x * S + j) * stride_gw
    dweight = tl.zeros([BLOCK_T, BLOCK_P * LANES], dtype=tl.float32)
    for start in range(0, C // G, BLOCK_C):
        offs_c = start + tl.arange(0, BLOCK_C)
        mask_c = (offs_c < C // G)[:, None] | (EVEN_C == 1)
        channel = (g * (C // G) + offs_c)[:, None]
        of_grad = _aligned(b * stride_gb + channel * stride_gc + at_grad[None, :], S, ALIGNED)
        grad = tl.load(grad_ptr + of_grad, mask=mask_c & on_map[None, :],
                       other=0.0).to(tl.float32)
        at = (channel * stride_xc
              + (row.to(tl.int64) * stride_xh + column * stride_xw)[None, :]).to(tl.int32)
        for tap in range(K * K):
            dy, dx = tap // K - K // 2, tap % K - K // 2
            inside = (row + dy >= 0) & (row + dy < H) & (column + dx >= 0) & (column + dx < W)
            value = tl.load(x_ptr + (dy * stride_xh + dx * stride_xw) + at,
                            mask=inside[None, :] & mask_c, other=0.0).to(tl.float32)
            total = tl.sum(grad * _spread(value, LANES), 0)
            dweight += tl.where(tap_of_row == tap, total[None, :], 0.0)

    at = (b * stride_mb + g * (K * K) * stride_mt + y.to(tl.int64) * stride_my + i * stride_mi
          + x * stride_mx + j * stride_mj)[None, :] + tap_of_row * stride_mt
    mask = on_map[None, :] & (tap_of_row < K * K)
    if NORMALIZE:
        m = tl.load(mask_ptr + at, mask=mask, other=0.0).to(tl.float32)
        m = tl.where(tap_of_row < K * K, m, float("-inf"))
        e = tl.exp(m - tl.max(m, 0)[None, :])
        weight = e * (1 / tl.sum(e, 0))[None, :]
        dweight = weight * (dweight - tl.sum(weight * dweight, 0)[None, :])
    tl.store(dmask_ptr + at, dweight.to(dmask_ptr.dtype.element_ty), mask=mask)
