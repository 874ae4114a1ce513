"""Triton kernels of spatial-reduction attention, forward and backward.

Flash attention (arXiv 2205.14135, 2307.08691) for N_q much larger than N_k. Scores live in
registers; the softmax is computed in base 2, with ``scale_log2 = scale * log2(e)``.

Shapes: q, out, grad, dq are [B, N_Q, C]; kv is [B, N_K, 2C] with the keys before the values; head h
owns channels h * D to (h + 1) * D of each. lse and delta are [B, heads, N_Q] fp32.
"""

import triton
import triton.language as tl


@triton.jit
def _keep(seed, offs_m, offs_n, N_K, dropout_p):
    """The dropout mask of a tile: a function of the seed and the position alone."""
    offsets = offs_m[:, None] * N_K + offs_n[None, :]
    return tl.rand(seed, offsets) >= dropout_p


@triton.jit
def _fwd_tile(acc, total, top, q, k_ptrs, v_ptrs, start, N_K, stride_kv, seed, offs_m, offs_n,
              mask_d, scale_log2, dropout_p, MASKED: tl.constexpr, HAS_DROPOUT: tl.constexpr,
              PRECISION: tl.constexpr, TRANSPOSE: tl.constexpr):
    """One step of the online softmax: the keys from ``start``."""
    step = tl.cast(start, tl.int64) * stride_kv
    if MASKED:
        mask_kv = (start + offs_n < N_K)[:, None] & mask_d[None, :]
    else:
        mask_kv = mask_d[None, :]
    k = tl.load(k_ptrs + step, mask=mask_kv, other=0.0)
    v = tl.load(v_ptrs + step, mask=mask_kv, other=0.0)
    if TRANSPOSE:
        # Without tensor cores a product holds its first operand in registers: let that be the
        # tile that changes, or q spills.
        s = tl.trans(tl.dot(k, tl.trans(q), input_precision=PRECISION)) * scale_log2
    else:
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
    if MASKED:
        s = tl.where((start + offs_n < N_K)[None, :], s, float("-inf"))
    new_top = tl.maximum(top, tl.max(s, 1))
    # Where every score so far is -inf, so is the top, and -inf - -inf would be NaN for good.
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    shrink = tl.exp2(top - base)
    p = tl.exp2(s - base[:, None])
    total = total * shrink + tl.sum(p, 1)
    if HAS_DROPOUT:
        p = tl.where(_keep(seed, offs_m, start + offs_n, N_K, dropout_p), p, 0.0)
    acc = acc * shrink[:, None]
    acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, total, new_top


@triton.jit(do_not_specialize=["N_Q", "N_K"])
def spatial_reduction_attention_fwd_kernel(
    q_ptr,
    kv_ptr,
    seed_ptr,  # int64, one element; read with HAS_DROPOUT alone
    out_ptr,
    lse_ptr,
    N_Q,
    N_K,
    num_heads,
    scale_log2,
    dropout_p,
    D: tl.constexpr,
    HAS_DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out = dropout(softmax(scale q k^T)) v and lse = log2 of the softmax's denominator.

    Grid: (cdiv(N_Q, BLOCK_M), B * heads); one program owns BLOCK_M queries of one head.
    """
    pid_m = tl.program_id(0)
    pid_bh = tl.program_id(1).to(tl.int64)
    b, h = pid_bh // num_heads, pid_bh % num_heads
    C = tl.cast(num_heads, tl.int64) * D
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    mask_d = offs_d < D
    mask_q = (offs_m < N_Q)[:, None] & mask_d[None, :]
    rows = (b * N_Q + offs_m) * C + h * D
    q = tl.load(q_ptr + rows[:, None] + offs_d[None, :], mask=mask_q, other=0.0)
    k_ptrs = kv_ptr + (b * N_K + offs_n)[:, None] * (2 * C) + h * D + offs_d[None, :]
    v_ptrs = k_ptrs + C
    seed = tl.cast(0, tl.int64)
    if HAS_DROPOUT:
        seed = tl.load(seed_ptr) + pid_bh

    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    whole = N_K // BLOCK_N * BLOCK_N
    for start in range(0, whole, BLOCK_N):
        acc, total, top = _fwd_tile(acc, total, top, q, k_ptrs, v_ptrs, start, N_K, 2 * C, seed,
                                    offs_m, offs_n, mask_d, scale_log2, dropout_p, False,
                                    HAS_DROPOUT, PRECISION, TRANSPOSE)
    if whole < N_K:
        acc, total, top = _fwd_tile(acc, total, top, q, k_ptrs, v_ptrs, whole, N_K, 2 * C, seed,
                                    offs_m, offs_n, mask_d, scale_log2, dropout_p, True,
                                    HAS_DROPOUT, PRECISION, TRANSPOSE)
    if HAS_DROPOUT:
        acc = acc / (1.0 - dropout_p)
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + rows[:, None] + offs_d[None, :], out, mask=mask_q)
    tl.store(lse_ptr + pid_bh * N_Q + offs_m, top + tl.log2(total), mask=offs_m < N_Q)


@triton.jit(do_not_specialize=["N_Q"])
def spatial_reduction_attention_bwd_delta_kernel(
    out_ptr,
    grad_ptr,
    delta_ptr,
    N_Q,
    num_heads,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """delta = sum over a head's channels of out * grad. Grid: (cdiv(N_Q, BLOCK_M), B * heads)."""
    pid_m = tl.program_id(0)
    pid_bh = tl.program_id(1).to(tl.int64)
    b, h = pid_bh // num_heads, pid_bh % num_heads
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)
    at = ((b * N_Q + offs_m) * num_heads + h)[:, None] * D + offs_d[None, :]
    mask = (offs_m < N_Q)[:, None] & (offs_d < D)[None, :]
    out = tl.load(out_ptr + at, mask=mask, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(delta_ptr + pid_bh * N_Q + offs_m, tl.sum(out * grad, 1), mask=offs_m < N_Q)


@triton.jit
def _dq_tile(dq, q, grad, lse, delta, k_ptrs, v_ptrs, start, N_K, stride_kv, seed, offs_m, offs_n,
             mask_d, scale_log2, dropout_p, MASKED: tl.constexpr, HAS_DROPOUT: tl.constexpr,
             PRECISION: tl.constexpr, TRANSPOSE: tl.constexpr):
    """Add to dq / scale what the keys from ``start`` give."""
    step = tl.cast(start, tl.int64) * stride_kv
    if MASKED:
        mask_kv = (start + offs_n < N_K)[:, None] & mask_d[None, :]
    else:
        mask_kv = mask_d[None, :]
    k = tl.load(k_ptrs + step, mask=mask_kv, other=0.0)
    v = tl.load(v_ptrs + step, mask=mask_kv, other=0.0)
    if TRANSPOSE:
        # Without tensor cores a product holds its first operand in registers: let that be the
        # tile that changes, or q and grad spill.
        s = tl.trans(tl.dot(k, tl.trans(q), input_precision=PRECISION))
        dp = tl.trans(tl.dot(v, tl.trans(grad), input_precision=PRECISION))
    else:
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        dp = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
    p = tl.exp2(s * scale_log2 - lse[:, None])
    if HAS_DROPOUT:
        keep = _keep(seed, offs_m, start + offs_n, N_K, dropout_p)
        dp = tl.where(keep, dp / (1.0 - dropout_p), 0.0)
    # A key beyond the end is zero, so what stands in its column of ds adds nothing.
    ds = p * (dp - delta[:, None])
    return tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)


@triton.jit(do_not_specialize=["N_Q", "N_K"])
def spatial_reduction_attention_bwd_dq_kernel(
    q_ptr,
    kv_ptr,
    grad_ptr,
    lse_ptr,
    delta_ptr,
    seed_ptr,
    dq_ptr,
    N_Q,
    N_K,
    num_heads,
    scale,
    scale_log2,
    dropout_p,
    D: tl.constexpr,
    HAS_DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """dq = scale ds k with ds = p (dp - delta). Grid and ownership as in the forward."""
    pid_m = tl.program_id(0)
    pid_bh = tl.program_id(1).to(tl.int64)
    b, h = pid_bh // num_heads, pid_bh % num_heads
    C = tl.cast(num_heads, tl.int64) * D
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    mask_m = offs_m < N_Q
    mask_d = offs_d < D
    mask_q = mask_m[:, None] & mask_d[None, :]
    at = ((b * N_Q + offs_m) * C + h * D)[:, None] + offs_d[None, :]
    q = tl.load(q_ptr + at, mask=mask_q, other=0.0)
    grad = tl.load(grad_ptr + at, mask=mask_q, other=0.0)
    lse = tl.load(lse_ptr + pid_bh * N_Q + offs_m, mask=mask_m, other=0.0)
    delta = tl.load(delta_ptr + pid_bh * N_Q + offs_m, mask=mask_m, other=0.0)
    k_ptrs = kv_ptr + (b * N_K + offs_n)[:, None] * (2 * C) + h * D + offs_d[None, :]
    v_ptrs = k_ptrs + C
    seed = tl.cast(0, tl.int64)
    if HAS_DROPOUT:
        seed = tl.load(seed_ptr) + pid_bh

    dq = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    whole = N_K // BLOCK_N * BLOCK_N
    for start in range(0, whole, BLOCK_N):
        dq = _dq_tile(dq, q, grad, lse, delta, k_ptrs, v_ptrs, start, N_K, 2 * C, seed, offs_m,
                      offs_n, mask_d, scale_log2, dropout_p, False, HAS_DROPOUT, PRECISION,
                      TRANSPOSE)
    if whole < N_K:
        dq = _dq_tile(dq, q, grad, lse, delta, k_ptrs, v_ptrs, whole, N_K, 2 * C, seed, offs_m,
                      offs_n, mask_d, scale_log2, dropout_p, True, HAS_DROPOUT, PRECISION,
                      TRANSPOSE)
    tl.store(dq_ptr + at, (dq * scale).to(dq_ptr.dtype.element_ty), mask=mask_q)


@triton.jit(do_not_specialize=["N_Q", "N_K", "rows_per_split"])
def spatial_reduction_attention_bwd_dkv_kernel(
    q_ptr,
    kv_ptr,
    grad_ptr,
    lse_ptr,
    delta_ptr,
    seed_ptr,
    partial_ptr,  # [splits, B, N_K, 2C]
    N_Q,
    N_K,
    num_heads,
    rows_per_split,  # queries of one split, a multiple of BLOCK_M
    stride_split,
    scale,
    scale_log2,
    dropout_p,
    D: tl.constexpr,
    HAS_DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """dk = scale ds^T q and dv = p^T grad over one split of the queries.

    Grid: (cdiv(N_K, BLOCK_N), B * heads, splits); one program owns BLOCK_N keys of one head and
    walks the queries of its split. Keys are few, so without the splits the grid would leave most
    of a GPU idle: 17 programs per image for stage 1 of a PVT at 800 x 1344.
    """
    pid_n = tl.program_id(0)
    pid_bh = tl.program_id(1).to(tl.int64)
    pid_s = tl.program_id(2)
    b, h = pid_bh // num_heads, pid_bh % num_heads
    C = tl.cast(num_heads, tl.int64) * D
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    mask_d = offs_d < D
    mask_kv = (offs_n < N_K)[:, None] & mask_d[None, :]
    at = (b * N_K + offs_n)[:, None] * (2 * C) + h * D + offs_d[None, :]
    k = tl.load(kv_ptr + at, mask=mask_kv, other=0.0)
    v = tl.load(kv_ptr + at + C, mask=mask_kv, other=0.0)
    seed = tl.cast(0, tl.int64)
    if HAS_DROPOUT:
        seed = tl.load(seed_ptr) + pid_bh

    dk = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    first = pid_s * rows_per_split
    for start in range(first, tl.minimum(first + rows_per_split, N_Q), BLOCK_M):
        offs_m = start + tl.arange(0, BLOCK_M)
        mask_m = offs_m < N_Q
        rows = ((b * N_Q + offs_m) * C + h * D)[:, None] + offs_d[None, :]
        mask_q = mask_m[:, None] & mask_d[None, :]
        q = tl.load(q_ptr + rows, mask=mask_q, other=0.0)
        grad = tl.load(grad_ptr + rows, mask=mask_q, other=0.0)
        lse = tl.load(lse_ptr + pid_bh * N_Q + offs_m, mask=mask_m, other=0.0)
        delta = tl.load(delta_ptr + pid_bh * N_Q + offs_m, mask=mask_m, other=0.0)
        pt = tl.exp2(tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale_log2 - lse[None, :])
        pt = tl.where(mask_m[None, :], pt, 0.0)  # also where an infinite key makes 0 * inf of it
        dpt = tl.dot(v, tl.trans(grad), input_precision=PRECISION)
        kept = pt
        if HAS_DROPOUT:
            keep = tl.trans(_keep(seed, offs_m, offs_n, N_K, dropout_p))
            kept = tl.where(keep, pt / (1.0 - dropout_p), 0.0)
            dpt = tl.where(keep, dpt / (1.0 - dropout_p), 0.0)
        dv = tl.dot(kept.to(grad.dtype), grad, dv, input_precision=PRECISION)
        dst = pt * (dpt - delta[None, :])
        dk = tl.dot(dst.to(q.dtype), q, dk, input_precision=PRECISION)
    out = partial_ptr + tl.cast(pid_s, tl.int64) * stride_split + at
    tl.store(out, (dk * scale).to(partial_ptr.dtype.element_ty), mask=mask_kv)
    tl.store(out + C, dv.to(partial_ptr.dtype.element_ty), mask=mask_kv)


@triton.jit(do_not_specialize=["numel", "splits"])
def spatial_reduction_attention_bwd_sum_kernel(
    partial_ptr,  # [splits, numel] fp32
    dkv_ptr,  # [numel]
    numel,
    splits,
    BLOCK: tl.constexpr,
):
    """dkv = the sum over the splits, in their order. Grid: (cdiv(numel, BLOCK),)."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < numel
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for split in range(splits):
        at = tl.cast(split, tl.int64) * numel + offs
        total += tl.load(partial_ptr + at, mask=mask, other=0.0)
    tl.store(dkv_ptr + offs, total.to(dkv_ptr.dtype.element_ty), mask=mask)
