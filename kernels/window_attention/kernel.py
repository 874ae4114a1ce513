"""Window attention in Triton, forward and backward.

A program owns one tile of one head's scores (``BLOCK_M`` queries by ``BLOCK_N`` keys, of the
``T = WINDOW**2`` tokens of a window) and walks over windows ``slot, slot + slots, ...``. Its tile
of the relative position bias is read once and stays in registers, as does, in the backward, the
tile of its gradient. Channels go by chunks of ``BLOCK_D``: a head of one chunk is loaded once, one
of several again for each product. Nothing is padded, rolled, partitioned or masked in memory: a
window's place is turned into a token's address, a padded token is read from ``pad_ptr``, and only
real tokens are stored. Heads are the fastest axis of the grid, so that the programs that share the
cache lines of a token run together.

Scores are kept in units of ``log2(e)``, the softmax is in base 2. Keys past ``T`` get a bias of
-inf, queries past ``T`` are never stored and have no gradient. The axis that a program holds whole
is two blocks, as 144 = 128 + 16 is no power of two: BLOCK_N and REST_N of keys, or BLOCK_M and
REST_M of queries; the rest is 0 where one block holds all.
"""

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_MASK = tl.constexpr(-100.0 * 1.4426950408889634)  # MASK_VALUE, the shift mask


@triton.jit
def _program(heads, TILES: tl.constexpr):
    """This program's head, tile and slot: grid ``(heads * TILES * slots,)``."""
    pid = tl.program_id(0)
    rest = pid // heads
    return pid % heads, rest % TILES, rest // TILES


@triton.jit
def _tokens(win, offs_t, H, W, down, across, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Token number of each place of a window, -1 for a padded one, and whether it is real.

    Places past T are neither: they are zeros, whatever a padded token is.
    """
    image = win // (down * across)
    place = win % (down * across)
    r = place // across * WINDOW + offs_t // WINDOW + SHIFT
    c = place % across * WINDOW + offs_t % WINDOW + SHIFT
    if SHIFT > 0:
        r = tl.where(r >= down * WINDOW, r - down * WINDOW, r)
        c = tl.where(c >= across * WINDOW, c - across * WINDOW, c)
    inside = offs_t < WINDOW * WINDOW
    real = inside & (r < H) & (c < W)
    token = image.to(tl.int64) * H * W + r * W + c
    return tl.where(inside & ~real, -1, token), real


@triton.jit
def _load(ptr, token, real, stride, start, OPERAND: tl.constexpr, D: tl.constexpr,
          BLOCK_D: tl.constexpr):
    """``[places, BLOCK_D]`` of one head, channels from ``start``; zero where no token is real."""
    offs_d = start + tl.arange(0, BLOCK_D)
    mask = real[:, None] & (offs_d < D)[None, :]
    x = tl.load(ptr + token[:, None] * stride + offs_d[None, :], mask=mask, other=0.0)
    return x.to(OPERAND)


@triton.jit
def _load_padded(ptr, pad_ptr, token, real, stride, start, HAS_PAD: tl.constexpr,
                 OPERAND: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """As ``_load``, with the vector at ``pad_ptr`` for a padded token, which has number -1."""
    x = _load(ptr, token, real, stride, start, OPERAND, D, BLOCK_D)
    if HAS_PAD:
        offs_d = start + tl.arange(0, BLOCK_D)
        pad = tl.load(pad_ptr + offs_d, mask=offs_d < D, other=0.0).to(OPERAND)
        x = tl.where((token < 0)[:, None], pad[None, :], x)
    return x


@triton.jit
def _load_scaled(ptr, pad_ptr, scale, token, real, stride, start, HAS_PAD: tl.constexpr,
                 OPERAND: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """``scale * q``, rounded to the operand's type before the product, as torch rounds it."""
    q = _load_padded(ptr, pad_ptr, token, real, stride, start, HAS_PAD, OPERAND, D, BLOCK_D)
    return (q.to(tl.float32) * tl.cast(scale, tl.float32)).to(OPERAND)


@triton.jit
def _store(ptr, x, token, real, stride, start, D: tl.constexpr, BLOCK_D: tl.constexpr):
    offs_d = start + tl.arange(0, BLOCK_D)
    mask = real[:, None] & (offs_d < D)[None, :]
    tl.store(ptr + token[:, None] * stride + offs_d[None, :], x.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _bias(table_ptr, head, offs_m, offs_n, stride_tr, stride_th, WINDOW: tl.constexpr):
    """Bias of queries ``offs_m`` and keys ``offs_n`` times log2(e); -inf for keys past T."""
    T: tl.constexpr = WINDOW * WINDOW
    dr = offs_m[:, None] // WINDOW - offs_n[None, :] // WINDOW + WINDOW - 1
    dc = offs_m[:, None] % WINDOW - offs_n[None, :] % WINDOW + WINDOW - 1
    row = dr * (2 * WINDOW - 1) + dc
    inside = (offs_m < T)[:, None] & (offs_n < T)[None, :]
    bias = tl.load(table_ptr + row * stride_tr + head * stride_th, mask=inside, other=0.0)
    return tl.where((offs_n < T)[None, :], bias.to(tl.float32) * _LOG2E, float("-inf"))


@triton.jit
def _sides(offs, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Two bits: past the rolled border in the last row of windows, and in the last column."""
    EDGE: tl.constexpr = WINDOW - SHIFT
    return (offs >= EDGE * WINDOW).to(tl.int32) * 2 + (offs % WINDOW >= EDGE).to(tl.int32)


@triton.jit
def _scores(qkv_ptr, pad_ptr, scale, token_m, real_m, token_n, real_n, width,
            HAS_PAD: tl.constexpr, PAD_Q: tl.constexpr, OPERAND: tl.constexpr,
            PRECISION: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The first chunk of ``scale * q``, that of ``k``, and ``scale * q @ k^T`` of all chunks.

    Without PAD_Q a padded query is zero: its row of the scores is nobody's.
    """
    q = _load_scaled(qkv_ptr, pad_ptr, scale, token_m, real_m, 3 * width, 0, PAD_Q, OPERAND, D,
                     BLOCK_D)
    k = _load_padded(qkv_ptr + width, pad_ptr + width, token_n, real_n, 3 * width, 0, HAS_PAD,
                     OPERAND, D, BLOCK_D)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    for start in range(BLOCK_D, D, BLOCK_D):
        q_c = _load_scaled(qkv_ptr, pad_ptr, scale, token_m, real_m, 3 * width, start, PAD_Q,
                           OPERAND, D, BLOCK_D)
        k_c = _load_padded(qkv_ptr + width, pad_ptr + width, token_n, real_n, 3 * width, start,
                           HAS_PAD, OPERAND, D, BLOCK_D)
        s = tl.dot(q_c, tl.trans(k_c), s, input_precision=PRECISION)
    return q, k, s


@triton.jit
def _weights_grad(grad_ptr, v_ptr, pad_ptr, token_m, real_m, token_n, real_n, width,
                  HAS_PAD: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
                  D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The first chunk of dO, and ``dP = dO @ v^T`` of all chunks."""
    g = _load(grad_ptr, token_m, real_m, width, 0, OPERAND, D, BLOCK_D)
    v = _load_padded(v_ptr, pad_ptr, token_n, real_n, 3 * width, 0, HAS_PAD, OPERAND, D, BLOCK_D)
    dp = tl.dot(g, tl.trans(v), input_precision=PRECISION)
    for start in range(BLOCK_D, D, BLOCK_D):
        g_c = _load(grad_ptr, token_m, real_m, width, start, OPERAND, D, BLOCK_D)
        v_c = _load_padded(v_ptr, pad_ptr, token_n, real_n, 3 * width, start, HAS_PAD, OPERAND, D,
                           BLOCK_D)
        dp = tl.dot(g_c, tl.trans(v_c), dp, input_precision=PRECISION)
    return g, dp


@triton.jit
def _biased(s, bias, win, offs_m, offs_n, down, across, WINDOW: tl.constexpr,
            SHIFT: tl.constexpr):
    """``(s + bias + mask) * log2(e)``; only the last windows of a map have a mask."""
    s = s * _LOG2E + bias
    if SHIFT > 0:
        place = win % (down * across)
        last = ((place // across == down - 1).to(tl.int32) * 2
                + (place % across == across - 1).to(tl.int32))
        if last != 0:
            apart = _sides(offs_m, WINDOW, SHIFT)[:, None] ^ _sides(offs_n, WINDOW, SHIFT)[None, :]
            s += tl.where((apart & last) != 0, _MASK, 0.0)
    return s


@triton.jit
def _keep(seed, win, head, heads, dropout_p, offs_m, offs_n, WINDOW: tl.constexpr):
    """1 / (1 - p) where a weight is kept, else 0: one Philox key per window and head."""
    key = seed + tl.cast(win, tl.int64) * heads + head
    drawn = tl.rand(key, offs_m[:, None] * (WINDOW * WINDOW) + offs_n[None, :])
    p = tl.cast(dropout_p, tl.float32)
    return tl.where(drawn >= p, 1.0 / tl.maximum(1.0 - p, 1e-30), 0.0)


@triton.jit(do_not_specialize=["windows", "H", "W", "down", "across", "slots", "heads"])
def window_attention_fwd_kernel(
        qkv_ptr, table_ptr, pad_ptr, seed_ptr, out_ptr, windows, H, W, down, across, slots, heads,
        stride_tr, stride_th, scale, dropout_p, D: tl.constexpr, WINDOW: tl.constexpr,
        SHIFT: tl.constexpr, HAS_PAD: tl.constexpr, HAS_DROPOUT: tl.constexpr,
        PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
        REST_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """``out = dropout(softmax(scale * q @ k^T + bias + mask)) @ v`` for a tile of queries.

    Grid ``(heads * ceil(T / BLOCK_M) * slots,)``; a program owns one head's queries
    ``tile * BLOCK_M ...`` of every ``slots``-th window; its keys are a whole window.
    qkv ``[B, H * W, 3, heads, D]``; table ``[(2 * WINDOW - 1)**2, heads]`` strided; pad
    ``[3, heads, D]``; seed ``[1]`` int64; out ``[B, H * W, heads, D]``. pad is read with HAS_PAD,
    seed with HAS_DROPOUT only.
    """
    OPERAND: tl.constexpr = qkv_ptr.dtype.element_ty
    TILES: tl.constexpr = (WINDOW * WINDOW + BLOCK_M - 1) // BLOCK_M
    head, tile, slot = _program(heads, TILES)
    offs_m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    width = heads * D
    qkv_ptr += head * D
    pad_ptr += head * D
    out_ptr += head * D
    if HAS_DROPOUT:
        seed = tl.load(seed_ptr)

    bias = _bias(table_ptr, head, offs_m, offs_n, stride_tr, stride_th, WINDOW)
    if REST_N > 0:
        offs_r = BLOCK_N + tl.arange(0, REST_N)
        bias_r = _bias(table_ptr, head, offs_m, offs_r, stride_tr, stride_th, WINDOW)
    for win in range(slot, windows, slots):
        token_m, real_m = _tokens(win, offs_m, H, W, down, across, WINDOW, SHIFT)
        token_n, real_n = _tokens(win, offs_n, H, W, down, across, WINDOW, SHIFT)
        _q, _k, s = _scores(qkv_ptr, pad_ptr, scale, token_m, real_m, token_n, real_n, width,
                            HAS_PAD, False, OPERAND, PRECISION, D, BLOCK_D)
        if BLOCK_D >= D:  # asked for early: ahead of the softmax
            v = _load_padded(qkv_ptr + 2 * width, pad_ptr + 2 * width, token_n, real_n, 3 * width,
                             0, HAS_PAD, OPERAND, D, BLOCK_D)
        s = _biased(s, bias, win, offs_m, offs_n, down, across, WINDOW, SHIFT)
        top = tl.max(s, 1)
        if REST_N > 0:
            token_r, real_r = _tokens(win, offs_r, H, W, down, across, WINDOW, SHIFT)
            _q, _k, s_r = _scores(qkv_ptr, pad_ptr, scale, token_m, real_m, token_r, real_r, width,
                                  HAS_PAD, False, OPERAND, PRECISION, D, BLOCK_D)
            s_r = _biased(s_r, bias_r, win, offs_m, offs_r, down, across, WINDOW, SHIFT)
            top = tl.maximum(top, tl.max(s_r, 1))
            p_r = tl.exp2(s_r - top[:, None])
        p = tl.exp2(s - top[:, None])
        total = tl.sum(p, 1)
        if REST_N > 0:
            total += tl.sum(p_r, 1)
        over = 1.0 / total
        if HAS_DROPOUT:
            p *= _keep(seed, win, head, heads, dropout_p, offs_m, offs_n, WINDOW)
            if REST_N > 0:
                p_r *= _keep(seed, win, head, heads, dropout_p, offs_m, offs_r, WINDOW)
        p = p.to(OPERAND)
        for start in range(0, D, BLOCK_D):
            if BLOCK_D >= D:
                v_c = v
            else:
                v_c = _load_padded(qkv_ptr + 2 * width, pad_ptr + 2 * width, token_n, real_n,
                                 3 * width, start, HAS_PAD, OPERAND, D, BLOCK_D)
            out = tl.dot(p, v_c, input_precision=PRECISION)
            if REST_N > 0:
                v_r = _load_padded(qkv_ptr + 2 * width, pad_ptr + 2 * width, token_r, real_r,
                                   3 * width, start, HAS_PAD, OPERAND, D, BLOCK_D)
                out = tl.dot(p_r.to(OPERAND), v_r, out, input_precision=PRECISION)
            _store(out_ptr, out * over[:, None], token_m, real_m, width, start, D, BLOCK_D)


@triton.jit
def _store_tile(ptr, x, slot, head, heads, tile, offs_n, TILES: tl.constexpr,
                COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr):
    """A program's tile, columns offs_n of ``[slots, heads, TILES * BLOCK_M, COLUMNS]``."""
    row = ((slot.to(tl.int64) * heads + head) * TILES + tile) * BLOCK_M + tl.arange(0, BLOCK_M)
    tl.store(ptr + row[:, None] * COLUMNS + offs_n[None, :], x)


@triton.jit
def _may_have_pads(win, down, across):
    """False for windows that no padded token can reach: all but two rows and columns."""
    place = win % (down * across)
    return (place // across >= down - 2) | (place % across >= across - 2)


@triton.jit
def _pad_sum(x, offs_n, real_n, start, T: tl.constexpr, CHUNKS: tl.constexpr,
             BLOCK_D: tl.constexpr):
    """Sum of the rows of ``x`` that belong to padded tokens, as row ``start`` of the chunks."""
    total = tl.sum(tl.where(((offs_n < T) & ~real_n)[:, None], x, 0.0), 0)
    chunk = tl.arange(0, CHUNKS) * BLOCK_D == start
    return tl.where(chunk[:, None], total[None, :], 0.0)


@triton.jit
def _store_pad(ptr, slot, head, heads, part, x, D: tl.constexpr, CHUNKS: tl.constexpr,
               BLOCK_D: tl.constexpr):
    offs_d = tl.arange(0, CHUNKS)[:, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    row = (slot.to(tl.int64) * 2 + part) * heads + head
    tl.store(ptr + row * D + offs_d, x, mask=offs_d < D)


@triton.jit(do_not_specialize=["windows", "H", "W", "down", "across", "slots", "heads"])
def window_attention_bwd_kernel(
        qkv_ptr, table_ptr, pad_ptr, seed_ptr, grad_ptr, dqkv_ptr, dbias_ptr, dpad_ptr, windows, H,
        W, down, across, slots, heads, stride_tr, stride_th, scale, dropout_p, D: tl.constexpr,
        WINDOW: tl.constexpr, SHIFT: tl.constexpr, HAS_PAD: tl.constexpr,
        HAS_DROPOUT: tl.constexpr, NEEDS_BIAS: tl.constexpr, NEEDS_PAD: tl.constexpr,
        PRECISION: tl.constexpr, CHUNKS: tl.constexpr, BLOCK_M: tl.constexpr,
        BLOCK_D: tl.constexpr):
    """All gradients of windows of at most 64 tokens in one pass; P is computed again.

    With ``P`` the weights, ``dP = dO @ v^T``, ``dS = P * (dP - rowsum(P * dP))``:
    ``dq = scale * dS @ k``, ``dk = dS^T @ (scale * q)``, ``dv = P^T @ dO``.
    Grid ``(heads * slots,)``; a program owns one head of every ``slots``-th window, whole.
    grad (dO) ``[B, H * W, heads, D]``; dqkv as qkv; dbias ``[slots, heads, BLOCK_M, BLOCK_M]``
    fp32, each program's sum of dS (with NEEDS_BIAS); dpad ``[slots, 2, heads, D]`` fp32, its sum
    of dk and dv over padded tokens (with NEEDS_PAD); the rest as in the forward.
    """
    T: tl.constexpr = WINDOW * WINDOW
    OPERAND: tl.constexpr = qkv_ptr.dtype.element_ty
    head, _, slot = _program(heads, 1)
    offs_t = tl.arange(0, BLOCK_M)
    width = heads * D
    qkv_ptr += head * D
    dqkv_ptr += head * D
    pad_ptr += head * D
    grad_ptr += head * D
    if HAS_DROPOUT:
        seed = tl.load(seed_ptr)

    bias = _bias(table_ptr, head, offs_t, offs_t, stride_tr, stride_th, WINDOW)
    dbias = tl.zeros([BLOCK_M, BLOCK_M], tl.float32)
    dpad_k = tl.zeros([CHUNKS, BLOCK_D], tl.float32)
    dpad_v = tl.zeros([CHUNKS, BLOCK_D], tl.float32)
    for win in range(slot, windows, slots):
        token, real = _tokens(win, offs_t, H, W, down, across, WINDOW, SHIFT)
        q, k, s = _scores(qkv_ptr, pad_ptr, scale, token, real, token, real, width,
                          HAS_PAD, HAS_PAD, OPERAND, PRECISION, D, BLOCK_D)
        s = _biased(s, bias, win, offs_t, offs_t, down, across, WINDOW, SHIFT)
        p = tl.exp2(s - tl.max(s, 1)[:, None])
        p *= (1.0 / tl.sum(p, 1))[:, None]
        p = tl.where((offs_t < T)[:, None], p, 0.0)  # zeros times an infinite key are NaN
        weights = p
        if HAS_DROPOUT:
            keep = _keep(seed, win, head, heads, dropout_p, offs_t, offs_t, WINDOW)
            weights *= keep
        dp = tl.zeros([BLOCK_M, BLOCK_M], tl.float32)
        for start in range(0, D, BLOCK_D):
            g = _load(grad_ptr, token, real, width, start, OPERAND, D, BLOCK_D)
            v = _load_padded(qkv_ptr + 2 * width, pad_ptr + 2 * width, token, real, 3 * width,
                             start, HAS_PAD, OPERAND, D, BLOCK_D)
            dp = tl.dot(g, tl.trans(v), dp, input_precision=PRECISION)
            dv = tl.dot(tl.trans(weights.to(OPERAND)), g, input_precision=PRECISION)
            _store(dqkv_ptr + 2 * width, dv, token, real, 3 * width, start, D, BLOCK_D)
            if NEEDS_PAD:
                if _may_have_pads(win, down, across):
                    dpad_v += _pad_sum(dv, offs_t, real, start, T, CHUNKS, BLOCK_D)
        if HAS_DROPOUT:
            dp *= keep
        ds = p * (dp - tl.sum(p * dp, 1)[:, None])
        if NEEDS_BIAS:
            dbias += ds
        ds = ds.to(OPERAND)
        for start in range(0, D, BLOCK_D):
            q_c, k_c = q, k  # all of them where a head is one chunk
            if BLOCK_D < D:
                q_c = _load_scaled(qkv_ptr, pad_ptr, scale, token, real, 3 * width, start, HAS_PAD,
                                   OPERAND, D, BLOCK_D)
                k_c = _load_padded(qkv_ptr + width, pad_ptr + width, token, real, 3 * width, start,
                                 HAS_PAD, OPERAND, D, BLOCK_D)
            dq = tl.dot(ds, k_c, input_precision=PRECISION) * tl.cast(scale, tl.float32)
            _store(dqkv_ptr, dq, token, real, 3 * width, start, D, BLOCK_D)
            dk = tl.dot(tl.trans(ds), q_c, input_precision=PRECISION)
            _store(dqkv_ptr + width, dk, token, real, 3 * width, start, D, BLOCK_D)
            if NEEDS_PAD:
                if _may_have_pads(win, down, across):
                    dpad_k += _pad_sum(dk, offs_t, real, start, T, CHUNKS, BLOCK_D)

    if NEEDS_BIAS:
        _store_tile(dbias_ptr, dbias, slot, head, heads, 0, offs_t, 1, BLOCK_M, BLOCK_M)
    if NEEDS_PAD:
        _store_pad(dpad_ptr, slot, head, heads, 0, dpad_k, D, CHUNKS, BLOCK_D)
        _store_pad(dpad_ptr, slot, head, heads, 1, dpad_v, D, CHUNKS, BLOCK_D)


@triton.jit(do_not_specialize=["windows", "H", "W", "down", "across", "slots", "heads"])
def window_attention_bwd_q_kernel(
        qkv_ptr, table_ptr, pad_ptr, seed_ptr, grad_ptr, dqkv_ptr, dbias_ptr, stats_ptr, windows,
        H, W, down, across, slots, heads, stride_tr, stride_th, scale, dropout_p,
        D: tl.constexpr, WINDOW: tl.constexpr, SHIFT: tl.constexpr, HAS_PAD: tl.constexpr,
        HAS_DROPOUT: tl.constexpr, NEEDS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, REST_N: tl.constexpr,
        BLOCK_D: tl.constexpr):
    """dq, the bias' gradient and the rows' statistics, for windows of more than 64 tokens.

    Grid and ownership as in the forward; dbias fp32 ``[slots, heads, tiles * BLOCK_M, BLOCK_N +
    REST_N]``, of which a program writes its rows; stats fp32 ``[windows, heads, 2, T]``: the
    scores' log2-sum-exp2 and ``rowsum(P * dP)``, which ``window_attention_bwd_kv_kernel`` reads.
    Else as ``window_attention_bwd_kernel``.
    """
    T: tl.constexpr = WINDOW * WINDOW
    OPERAND: tl.constexpr = qkv_ptr.dtype.element_ty
    TILES: tl.constexpr = (T + BLOCK_M - 1) // BLOCK_M
    head, tile, slot = _program(heads, TILES)
    offs_m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    width = heads * D
    qkv_ptr += head * D
    dqkv_ptr += head * D
    pad_ptr += head * D
    grad_ptr += head * D
    if HAS_DROPOUT:
        seed = tl.load(seed_ptr)

    bias = _bias(table_ptr, head, offs_m, offs_n, stride_tr, stride_th, WINDOW)
    dbias = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if REST_N > 0:
        offs_r = BLOCK_N + tl.arange(0, REST_N)
        bias_r = _bias(table_ptr, head, offs_m, offs_r, stride_tr, stride_th, WINDOW)
        dbias_r = tl.zeros([BLOCK_M, REST_N], tl.float32)
    for win in range(slot, windows, slots):
        token_m, real_m = _tokens(win, offs_m, H, W, down, across, WINDOW, SHIFT)
        token_n, real_n = _tokens(win, offs_n, H, W, down, across, WINDOW, SHIFT)
        _q, k, s = _scores(qkv_ptr, pad_ptr, scale, token_m, real_m, token_n, real_n, width,
                           HAS_PAD, HAS_PAD, OPERAND, PRECISION, D, BLOCK_D)
        s = _biased(s, bias, win, offs_m, offs_n, down, across, WINDOW, SHIFT)
        top = tl.max(s, 1)
        if REST_N > 0:
            token_r, real_r = _tokens(win, offs_r, H, W, down, across, WINDOW, SHIFT)
            _q, k_r, s_r = _scores(qkv_ptr, pad_ptr, scale, token_m, real_m, token_r, real_r,
                                   width, HAS_PAD, HAS_PAD, OPERAND, PRECISION, D, BLOCK_D)
            s_r = _biased(s_r, bias_r, win, offs_m, offs_r, down, across, WINDOW, SHIFT)
            top = tl.maximum(top, tl.max(s_r, 1))
            p_r = tl.exp2(s_r - top[:, None])
        p = tl.exp2(s - top[:, None])
        total = tl.sum(p, 1)
        if REST_N > 0:
            total += tl.sum(p_r, 1)
            p_r *= (1.0 / total)[:, None]
        p *= (1.0 / total)[:, None]
        _g, dp = _weights_grad(grad_ptr, qkv_ptr + 2 * width, pad_ptr + 2 * width, token_m, real_m,
                               token_n, real_n, width, HAS_PAD, OPERAND, PRECISION, D, BLOCK_D)
        if HAS_DROPOUT:
            dp *= _keep(seed, win, head, heads, dropout_p, offs_m, offs_n, WINDOW)
        delta = tl.sum(p * dp, 1)
        if REST_N > 0:
            _g, dp_r = _weights_grad(grad_ptr, qkv_ptr + 2 * width, pad_ptr + 2 * width, token_m,
                                     real_m, token_r, real_r, width, HAS_PAD, OPERAND, PRECISION,
                                     D, BLOCK_D)
            if HAS_DROPOUT:
                dp_r *= _keep(seed, win, head, heads, dropout_p, offs_m, offs_r, WINDOW)
            delta += tl.sum(p_r * dp_r, 1)
            ds_r = p_r * (dp_r - delta[:, None])
            if NEEDS_BIAS:
                dbias_r += ds_r
        stats = stats_ptr + (tl.cast(win, tl.int64) * heads + head) * (2 * T)
        tl.store(stats + offs_m, top + tl.log2(total), mask=offs_m < T)
        tl.store(stats + T + offs_m, delta, mask=offs_m < T)
        ds = p * (dp - delta[:, None])
        if NEEDS_BIAS:
            dbias += ds
        ds = ds.to(OPERAND)
        for start in range(0, D, BLOCK_D):
            k_c = k
            if BLOCK_D < D:
                k_c = _load_padded(qkv_ptr + width, pad_ptr + width, token_n, real_n, 3 * width,
                                 start, HAS_PAD, OPERAND, D, BLOCK_D)
            dq = tl.dot(ds, k_c, input_precision=PRECISION)
            if REST_N > 0:
                k_c = k_r
                if BLOCK_D < D:
                    k_c = _load_padded(qkv_ptr + width, pad_ptr + width, token_r, real_r,
                                       3 * width, start, HAS_PAD, OPERAND, D, BLOCK_D)
                dq = tl.dot(ds_r.to(OPERAND), k_c, dq, input_precision=PRECISION)
            dq *= tl.cast(scale, tl.float32)
            _store(dqkv_ptr, dq, token_m, real_m, 3 * width, start, D, BLOCK_D)

    if NEEDS_BIAS:
        _store_tile(dbias_ptr, dbias, slot, head, heads, tile, offs_n, TILES, BLOCK_N + REST_N,
                    BLOCK_M)
        if REST_N > 0:
            _store_tile(dbias_ptr, dbias_r, slot, head, heads, tile, offs_r, TILES,
                        BLOCK_N + REST_N, BLOCK_M)


@triton.jit
def _queries(qkv_ptr, pad_ptr, grad_ptr, stats_ptr, seed, bias, scale, dropout_p, win, head, heads,
             offs_m, token_n, real_n, offs_n, H, W, down, across, width, WINDOW: tl.constexpr,
             SHIFT: tl.constexpr, HAS_PAD: tl.constexpr, HAS_DROPOUT: tl.constexpr,
             OPERAND: tl.constexpr, PRECISION: tl.constexpr, D: tl.constexpr,
             BLOCK_D: tl.constexpr):
    """Of a block of queries: tokens, P with dropout, dS, and the first chunks of dO and q."""
    T: tl.constexpr = WINDOW * WINDOW
    token_m, real_m = _tokens(win, offs_m, H, W, down, across, WINDOW, SHIFT)
    q, _k, s = _scores(qkv_ptr, pad_ptr, scale, token_m, real_m, token_n, real_n, width,
                       HAS_PAD, HAS_PAD, OPERAND, PRECISION, D, BLOCK_D)
    s = _biased(s, bias, win, offs_m, offs_n, down, across, WINDOW, SHIFT)
    stats = stats_ptr + (tl.cast(win, tl.int64) * heads + head) * (2 * T)
    lse = tl.load(stats + offs_m, mask=offs_m < T, other=0.0)
    delta = tl.load(stats + T + offs_m, mask=offs_m < T, other=0.0)
    p = tl.exp2(s - lse[:, None])
    p = tl.where((offs_m < T)[:, None], p, 0.0)  # zeros times an infinite key are NaN
    g, dp = _weights_grad(grad_ptr, qkv_ptr + 2 * width, pad_ptr + 2 * width, token_m, real_m,
                          token_n, real_n, width, HAS_PAD, OPERAND, PRECISION, D, BLOCK_D)
    weights = p
    if HAS_DROPOUT:
        keep = _keep(seed, win, head, heads, dropout_p, offs_m, offs_n, WINDOW)
        weights *= keep
        dp *= keep
    ds = p * (dp - delta[:, None])
    return token_m, real_m, weights.to(OPERAND), ds.to(OPERAND), g, q


@triton.jit(do_not_specialize=["windows", "H", "W", "down", "across", "slots", "heads"])
def window_attention_bwd_kv_kernel(
        qkv_ptr, table_ptr, pad_ptr, seed_ptr, grad_ptr, stats_ptr, dqkv_ptr, dpad_ptr, windows, H,
        W, down, across, slots, heads, stride_tr, stride_th, scale, dropout_p, D: tl.constexpr,
        WINDOW: tl.constexpr, SHIFT: tl.constexpr, HAS_PAD: tl.constexpr,
        HAS_DROPOUT: tl.constexpr, NEEDS_PAD: tl.constexpr, PRECISION: tl.constexpr,
        CHUNKS: tl.constexpr, BLOCK_M: tl.constexpr, REST_M: tl.constexpr, BLOCK_N: tl.constexpr,
        BLOCK_D: tl.constexpr):
    """dk and dv of a tile of keys, for windows of more than 64 tokens.

    Grid ``(heads * ceil(T / BLOCK_N) * slots,)``; a program owns one head's keys
    ``tile * BLOCK_N ...`` of every ``slots``-th window; its queries are a whole window.
    stats from ``window_attention_bwd_q_kernel``; dpad ``[slots * tiles, 2, heads, D]`` fp32.
    """
    T: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (T + BLOCK_N - 1) // BLOCK_N
    OPERAND: tl.constexpr = qkv_ptr.dtype.element_ty
    head, tile, slot = _program(heads, TILES)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    width = heads * D
    qkv_ptr += head * D
    dqkv_ptr += head * D
    pad_ptr += head * D
    grad_ptr += head * D
    seed = tl.cast(0, tl.int64)
    if HAS_DROPOUT:
        seed = tl.load(seed_ptr)

    bias = _bias(table_ptr, head, offs_m, offs_n, stride_tr, stride_th, WINDOW)
    if REST_M > 0:
        offs_r = BLOCK_M + tl.arange(0, REST_M)
        bias_r = _bias(table_ptr, head, offs_r, offs_n, stride_tr, stride_th, WINDOW)
    dpad_k = tl.zeros([CHUNKS, BLOCK_D], tl.float32)
    dpad_v = tl.zeros([CHUNKS, BLOCK_D], tl.float32)
    for win in range(slot, windows, slots):
        token_n, real_n = _tokens(win, offs_n, H, W, down, across, WINDOW, SHIFT)
        token_m, real_m, weights, ds, g, q = _queries(
            qkv_ptr, pad_ptr, grad_ptr, stats_ptr, seed, bias, scale, dropout_p, win, head, heads,
            offs_m, token_n, real_n, offs_n, H, W, down, across, width, WINDOW, SHIFT, HAS_PAD,
            HAS_DROPOUT, OPERAND, PRECISION, D, BLOCK_D)
        if REST_M > 0:
            token_r, real_r, weights_r, ds_r, g_r, q_r = _queries(
                qkv_ptr, pad_ptr, grad_ptr, stats_ptr, seed, bias_r, scale, dropout_p, win, head,
                heads, offs_r, token_n, real_n, offs_n, H, W, down, across, width, WINDOW, SHIFT,
                HAS_PAD, HAS_DROPOUT, OPERAND, PRECISION, D, BLOCK_D)
        for start in range(0, D, BLOCK_D):
            g_c, q_c = g, q
            if BLOCK_D < D:
                g_c = _load(grad_ptr, token_m, real_m, width, start, OPERAND, D, BLOCK_D)
                q_c = _load_scaled(qkv_ptr, pad_ptr, scale, token_m, real_m, 3 * width, start,
                                   HAS_PAD, OPERAND, D, BLOCK_D)
            dv = tl.dot(tl.trans(weights), g_c, input_precision=PRECISION)
            dk = tl.dot(tl.trans(ds), q_c, input_precision=PRECISION)
            if REST_M > 0:
                g_c, q_c = g_r, q_r
                if BLOCK_D < D:
                    g_c = _load(grad_ptr, token_r, real_r, width, start, OPERAND, D, BLOCK_D)
                    q_c = _load_scaled(qkv_ptr, pad_ptr, scale, token_r, real_r, 3 * width, start,
                                       HAS_PAD, OPERAND, D, BLOCK_D)
                dv = tl.dot(tl.trans(weights_r), g_c, dv, input_precision=PRECISION)
                dk = tl.dot(tl.trans(ds_r), q_c, dk, input_precision=PRECISION)
            _store(dqkv_ptr + 2 * width, dv, token_n, real_n, 3 * width, start, D, BLOCK_D)
            _store(dqkv_ptr + width, dk, token_n, real_n, 3 * width, start, D, BLOCK_D)
            if NEEDS_PAD:
                if _may_have_pads(win, down, across):
                    dpad_v += _pad_sum(dv, offs_n, real_n, start, T, CHUNKS, BLOCK_D)
                    dpad_k += _pad_sum(dk, offs_n, real_n, start, T, CHUNKS, BLOCK_D)

    if NEEDS_PAD:
        _store_pad(dpad_ptr, slot * TILES + tile, head, heads, 0, dpad_k, D, CHUNKS, BLOCK_D)
        _store_pad(dpad_ptr, slot * TILES + tile, head, heads, 1, dpad_v, D, CHUNKS, BLOCK_D)


@triton.jit(do_not_specialize=["slots", "heads"])
def window_attention_bwd_table_kernel(
        dbias_ptr, dtable_ptr, slots, heads, WINDOW: tl.constexpr, ROWS: tl.constexpr,
        COLUMNS: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_N: tl.constexpr):
    """``dtable[row, head]``: the sum of dbias over slots and over the (query, key) of that row.

    Grid ``((2 * WINDOW - 1)**2 * heads,)``; a program owns one entry and sums in a fixed order.
    dbias ``[slots, heads, ROWS, COLUMNS]`` fp32, both at least T;
    dtable ``[(2 * WINDOW - 1)**2, heads]``.
    """
    T: tl.constexpr = WINDOW * WINDOW
    pid = tl.program_id(0)
    head, row = pid % heads, pid // heads
    offs_s = tl.arange(0, BLOCK_S)
    offs_n = tl.arange(0, BLOCK_N)
    r = offs_n // WINDOW + row // (2 * WINDOW - 1) - (WINDOW - 1)
    c = offs_n % WINDOW + row % (2 * WINDOW - 1) - (WINDOW - 1)
    mask_n = (offs_n < T) & (r >= 0) & (r < WINDOW) & (c >= 0) & (c < WINDOW)
    pair = (r * WINDOW + c) * COLUMNS + offs_n
    total = tl.zeros([BLOCK_S, BLOCK_N], tl.float32)
    for start in range(0, slots, BLOCK_S):
        s = start + offs_s
        at = (s.to(tl.int64) * heads + head) * (ROWS * COLUMNS)
        total += tl.load(dbias_ptr + at[:, None] + pair[None, :],
                         mask=(s < slots)[:, None] & mask_n[None, :], other=0.0)
    tl.store(dtable_ptr + pid, tl.sum(tl.sum(total, 1), 0).to(dtable_ptr.dtype.element_ty))
