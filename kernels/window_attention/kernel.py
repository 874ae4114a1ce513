"""Window attention in Triton, forward and backward.

A program owns one head of the windows ``slot, slot + slots, ...``, whole. Of windows of at most 64
tokens (``T = WINDOW**2``) it holds all scores at once; their bias stays in registers, as does in
the backward the sum of its gradient. Channels go by chunks of ``BLOCK_D``: a head of one chunk is
loaded once, one of several again for each product. The ``long`` kernels take what does not fit
registers so: longer windows, wide heads and dropout. They keep a window's keys and let blocks of
``BLOCK_M`` queries pass by; the bias is expanded once for all programs and read for each window.
Nothing is padded, rolled, partitioned or masked in memory: a window's place is turned into a
token's address, a padded token is read from ``pad_ptr``, and only real tokens are stored. Heads are
the fastest axis of the grid, so that the programs that share the cache lines of a token run
together.

Scores are kept in units of ``log2(e)``, the softmax is in base 2. Keys past ``T`` get a bias of
-inf, queries past ``T`` are never stored and have no gradient. Keys of long windows are two blocks,
BLOCK_N and REST_N, as 144 = 128 + 16 is no power of two; REST_N is 0 where one holds all.
"""

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_MASK = tl.constexpr(-100.0 * 1.4426950408889634)  # MASK_VALUE, the shift mask


@triton.jit
def _program(heads):
    """This program's head and slot: grid ``(heads * slots,)``."""
    pid = tl.program_id(0)
    return pid % heads, pid // heads


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
def _scores(qkv_ptr, pad_ptr, scale, token, real, width, HAS_PAD: tl.constexpr,
            PAD_Q: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, D: tl.constexpr,
            BLOCK_D: tl.constexpr):
    """The first chunk of ``scale * q``, that of ``k``, and ``scale * q @ k^T`` of all chunks.

    Without PAD_Q a padded query is zero: its row of the scores is nobody's.
    """
    q = _load_scaled(qkv_ptr, pad_ptr, scale, token, real, 3 * width, 0, PAD_Q, OPERAND, D,
                     BLOCK_D)
    k = _load_padded(qkv_ptr + width, pad_ptr + width, token, real, 3 * width, 0, HAS_PAD,
                     OPERAND, D, BLOCK_D)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    for start in range(BLOCK_D, D, BLOCK_D):
        q_c = _load_scaled(qkv_ptr, pad_ptr, scale, token, real, 3 * width, start, PAD_Q, OPERAND,
                           D, BLOCK_D)
        k_c = _load_padded(qkv_ptr + width, pad_ptr + width, token, real, 3 * width, start,
                           HAS_PAD, OPERAND, D, BLOCK_D)
        s = tl.dot(q_c, tl.trans(k_c), s, input_precision=PRECISION)
    return q, k, s


@triton.jit
def _last(win, down, across):
    """Two bits: whether a window is in the last row of windows, and in the last column."""
    place = win % (down * across)
    return ((place // across == down - 1).to(tl.int32) * 2
            + (place % across == across - 1).to(tl.int32))


@triton.jit
def _mask(last, offs_m, offs_n, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """-100 * log2(e) between two sides of a rolled border, else 0; ``last`` from ``_last``."""
    apart = _sides(offs_m, WINDOW, SHIFT)[:, None] ^ _sides(offs_n, WINDOW, SHIFT)[None, :]
    return tl.where((apart & last) != 0, _MASK, 0.0)


@triton.jit
def _biased(s, bias, win, offs_t, down, across, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """``(s + bias + mask) * log2(e)``; only the last windows of a map have a mask."""
    s = s * _LOG2E + bias
    if SHIFT > 0:
        last = _last(win, down, across)
        if last != 0:
            s += _mask(last, offs_t, offs_t, WINDOW, SHIFT)
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
        qkv_ptr, table_ptr, pad_ptr, out_ptr, windows, H, W, down, across, slots, heads, stride_tr,
        stride_th, scale, D: tl.constexpr, WINDOW: tl.constexpr, SHIFT: tl.constexpr,
        HAS_PAD: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
        BLOCK_D: tl.constexpr):
    """``out = softmax(scale * q @ k^T + bias + mask) @ v`` of at most 64 tokens a window.

    Grid ``(heads * slots,)``; a program owns one head of every ``slots``-th window.
    qkv ``[B, H * W, 3, heads, D]``; table ``[(2 * WINDOW - 1)**2, heads]`` strided; pad
    ``[3, heads, D]``, read with HAS_PAD only; out ``[B, H * W, heads, D]``.
    """
    OPERAND: tl.constexpr = qkv_ptr.dtype.element_ty
    head, slot = _program(heads)
    offs_t = tl.arange(0, BLOCK_M)
    width = heads * D
    qkv_ptr += head * D
    pad_ptr += head * D
    out_ptr += head * D

    bias = _bias(table_ptr, head, offs_t, offs_t, stride_tr, stride_th, WINDOW)
    for win in range(slot, windows, slots):
        token, real = _tokens(win, offs_t, H, W, down, across, WINDOW, SHIFT)
        _q, _k, s = _scores(qkv_ptr, pad_ptr, scale, token, real, width, HAS_PAD, False, OPERAND,
                            PRECISION, D, BLOCK_D)
        if BLOCK_D >= D:  # asked for early: ahead of the softmax
            v = _load_padded(qkv_ptr + 2 * width, pad_ptr + 2 * width, token, real, 3 * width, 0,
                             HAS_PAD, OPERAND, D, BLOCK_D)
        s = _biased(s, bias, win, offs_t, down, across, WINDOW, SHIFT)
        p = tl.exp2(s - tl.max(s, 1)[:, None])
        over = 1.0 / tl.sum(p, 1)
        p = p.to(OPERAND)
        for start in range(0, D, BLOCK_D):
            if BLOCK_D >= D:
                v_c = v
            else:
                v_c = _load_padded(qkv_ptr + 2 * width, pad_ptr + 2 * width, token, real,
                                   3 * width, start, HAS_PAD, OPERAND, D, BLOCK_D)
            out = tl.dot(p, v_c, input_precision=PRECISION)
            _store(out_ptr, out * over[:, None], token, real, width, start, D, BLOCK_D)


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
        qkv_ptr, table_ptr, pad_ptr, grad_ptr, dqkv_ptr, dbias_ptr, dpad_ptr, windows, H, W, down,
        across, slots, heads, stride_tr, stride_th, scale, D: tl.constexpr, WINDOW: tl.constexpr,
        SHIFT: tl.constexpr, HAS_PAD: tl.constexpr, NEEDS_BIAS: tl.constexpr,
        NEEDS_PAD: tl.constexpr, PRECISION: tl.constexpr, CHUNKS: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
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
    head, slot = _program(heads)
    offs_t = tl.arange(0, BLOCK_M)
    width = heads * D
    qkv_ptr += head * D
    dqkv_ptr += head * D
    pad_ptr += head * D
    grad_ptr += head * D

    bias = _bias(table_ptr, head, offs_t, offs_t, stride_tr, stride_th, WINDOW)
    dbias = tl.zeros([BLOCK_M, BLOCK_M], tl.float32)
    dpad_k = tl.zeros([CHUNKS, BLOCK_D], tl.float32)
    dpad_v = tl.zeros([CHUNKS, BLOCK_D], tl.float32)
    for win in range(slot, windows, slots):
        token, real = _tokens(win, offs_t, H, W, down, across, WINDOW, SHIFT)
        q, k, s = _scores(qkv_ptr, pad_ptr, scale, token, real, width, HAS_PAD, HAS_PAD, OPERAND,
                          PRECISION, D, BLOCK_D)
        s = _biased(s, bias, win, offs_t, down, across, WINDOW, SHIFT)
        p = tl.exp2(s - tl.max(s, 1)[:, None])
        p *= (1.0 / tl.sum(p, 1))[:, None]
        p = tl.where((offs_t < T)[:, None], p, 0.0)  # zeros times an infinite key are NaN
        dp = tl.zeros([BLOCK_M, BLOCK_M], tl.float32)
        for start in range(0, D, BLOCK_D):
            g = _load(grad_ptr, token, real, width, start, OPERAND, D, BLOCK_D)
            v = _load_padded(qkv_ptr + 2 * width, pad_ptr + 2 * width, token, real, 3 * width,
                             start, HAS_PAD, OPERAND, D, BLOCK_D)
            dp = tl.dot(g, tl.trans(v), dp, input_precision=PRECISION)
            dv = tl.dot(tl.trans(p.to(OPERAND)), g, input_precision=PRECISION)
            _store(dqkv_ptr + 2 * width, dv, token, real, 3 * width, start, D, BLOCK_D)
            if NEEDS_PAD:
                if _may_have_pads(win, down, across):
                    dpad_v += _pad_sum(dv, offs_t, real, start, T, CHUNKS, BLOCK_D)
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
        row = (slot.to(tl.int64) * heads + head) * BLOCK_M + offs_t
        tl.store(dbias_ptr + row[:, None] * BLOCK_M + offs_t[None, :], dbias)
    if NEEDS_PAD:
        _store_pad(dpad_ptr, slot, head, heads, 0, dpad_k, D, CHUNKS, BLOCK_D)
        _store_pad(dpad_ptr, slot, head, heads, 1, dpad_v, D, CHUNKS, BLOCK_D)


@triton.jit
def window_attention_bias_kernel(
        table_ptr, bias_ptr, heads, stride_tr, stride_th, WINDOW: tl.constexpr,
        SHIFT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr,
        BLOCK_N: tl.constexpr):
    """``(bias + mask) * log2(e)`` of every query and key, for each kind of window.

    Grid ``(kinds * heads * ROWS / BLOCK_M,)``; kinds are what ``_last`` tells, four with a shift
    and one without. A program owns BLOCK_M rows of bias ``[kinds, heads, ROWS, COLUMNS]`` fp32.
    """
    pid = tl.program_id(0)
    group = pid // (ROWS // BLOCK_M)  # kind * heads + head
    offs_m = pid % (ROWS // BLOCK_M) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    bias = _bias(table_ptr, group % heads, offs_m, offs_n, stride_tr, stride_th, WINDOW)
    if SHIFT > 0:
        bias += _mask(group // heads, offs_m, offs_n, WINDOW, SHIFT)
    at = (group.to(tl.int64) * ROWS + offs_m)[:, None] * COLUMNS + offs_n[None, :]
    tl.store(bias_ptr + at, bias, mask=(offs_n < COLUMNS)[None, :])


@triton.jit
def _of_window(bias_ptr, win, head, heads, down, across, TILE: tl.constexpr, SHIFT: tl.constexpr):
    """Where the bias of a window's kind and head begins; TILE is its size."""
    group = head.to(tl.int64)
    if SHIFT > 0:
        group += _last(win, down, across) * heads
    return bias_ptr + group * TILE


@triton.jit
def _keys(qkv_ptr, pad_ptr, win, offs_n, H, W, down, across, width, WINDOW: tl.constexpr,
          SHIFT: tl.constexpr, HAS_PAD: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Token numbers, whether they are real, k and v of a block of keys."""
    OPERAND: tl.constexpr = qkv_ptr.dtype.element_ty
    token, real = _tokens(win, offs_n, H, W, down, across, WINDOW, SHIFT)
    k = _load_padded(qkv_ptr + width, pad_ptr + width, token, real, 3 * width, 0, HAS_PAD,
                     OPERAND, D, BLOCK_D)
    v = _load_padded(qkv_ptr + 2 * width, pad_ptr + 2 * width, token, real, 3 * width, 0, HAS_PAD,
                     OPERAND, D, BLOCK_D)
    return token, real, k, v


@triton.jit
def _read_scores(q, k, bias_ptr, PRECISION: tl.constexpr):
    """``(q @ k^T + bias + mask) * log2(e)`` of a block of queries and of keys."""
    return tl.dot(q, tl.trans(k), input_precision=PRECISION) * _LOG2E + tl.load(bias_ptr)


@triton.jit
def _softmax(s, s_r, REST_N: tl.constexpr):
    """Both blocks of P, not yet divided, and what to multiply them with."""
    top = tl.max(s, 1)
    if REST_N > 0:
        top = tl.maximum(top, tl.max(s_r, 1))
        s_r = tl.exp2(s_r - top[:, None])
    s = tl.exp2(s - top[:, None])
    total = tl.sum(s, 1)
    if REST_N > 0:
        total += tl.sum(s_r, 1)
    return s, s_r, 1.0 / total


@triton.jit(do_not_specialize=["windows", "H", "W", "down", "across", "slots", "heads"])
def window_attention_fwd_long_kernel(
        qkv_ptr, bias_ptr, pad_ptr, seed_ptr, out_ptr, windows, H, W, down, across, slots, heads,
        scale, dropout_p, D: tl.constexpr, WINDOW: tl.constexpr, SHIFT: tl.constexpr,
        HAS_PAD: tl.constexpr, HAS_DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, REST_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """``dropout(softmax(scale * q @ k^T + bias + mask)) @ v``, some queries at a time.

    As ``window_attention_fwd_kernel``; bias from ``window_attention_bias_kernel``; seed ``[1]``
    int64, read with HAS_DROPOUT only.
    """
    T: tl.constexpr = WINDOW * WINDOW
    OPERAND: tl.constexpr = qkv_ptr.dtype.element_ty
    COLUMNS: tl.constexpr = BLOCK_N + REST_N
    TILE: tl.constexpr = (T + BLOCK_M - 1) // BLOCK_M * BLOCK_M * COLUMNS
    head, slot = _program(heads)
    offs_n = tl.arange(0, BLOCK_N)
    if REST_N > 0:
        offs_r = BLOCK_N + tl.arange(0, REST_N)
    width = heads * D
    qkv_ptr += head * D
    pad_ptr += head * D
    out_ptr += head * D
    if HAS_DROPOUT:
        seed = tl.load(seed_ptr)

    for win in range(slot, windows, slots):
        _, _, k, v = _keys(qkv_ptr, pad_ptr, win, offs_n, H, W, down, across, width, WINDOW, SHIFT,
                           HAS_PAD, D, BLOCK_D)
        if REST_N > 0:
            _, _, k_r, v_r = _keys(qkv_ptr, pad_ptr, win, offs_r, H, W, down, across, width,
                                   WINDOW, SHIFT, HAS_PAD, D, BLOCK_D)
        of_window = _of_window(bias_ptr, win, head, heads, down, across, TILE, SHIFT)
        for start in range(0, T, BLOCK_M):
            offs_m = start + tl.arange(0, BLOCK_M)
            row = of_window + offs_m[:, None] * COLUMNS
            token, real = _tokens(win, offs_m, H, W, down, across, WINDOW, SHIFT)
            q = _load_scaled(qkv_ptr, pad_ptr, scale, token, real, 3 * width, 0, False, OPERAND, D,
                             BLOCK_D)
            s = _read_scores(q, k, row + offs_n[None, :], PRECISION)
            s_r = s
            if REST_N > 0:
                s_r = _read_scores(q, k_r, row + offs_r[None, :], PRECISION)
            p, p_r, over = _softmax(s, s_r, REST_N)
            if HAS_DROPOUT:
                p *= _keep(seed, win, head, heads, dropout_p, offs_m, offs_n, WINDOW)
                if REST_N > 0:
                    p_r *= _keep(seed, win, head, heads, dropout_p, offs_m, offs_r, WINDOW)
            out = tl.dot(p.to(OPERAND), v, input_precision=PRECISION)
            if REST_N > 0:
                out = tl.dot(p_r.to(OPERAND), v_r, out, input_precision=PRECISION)
            _store(out_ptr, out * over[:, None], token, real, width, 0, D, BLOCK_D)


@triton.jit
def _add_dv(p, dp, g, dv, seed, win, head, heads, dropout_p, offs_m, offs_n, WINDOW: tl.constexpr,
            HAS_DROPOUT: tl.constexpr, PRECISION: tl.constexpr):
    """dP with dropout, ``rowsum(P * dP)``, and dv with ``P^T @ dO`` added."""
    weights = p
    if HAS_DROPOUT:
        keep = _keep(seed, win, head, heads, dropout_p, offs_m, offs_n, WINDOW)
        weights *= keep
        dp *= keep
    dv = tl.dot(tl.trans(weights.to(g.dtype)), g, dv, input_precision=PRECISION)
    return dp, tl.sum(p * dp, 1), dv


@triton.jit
def _add_dk(ds, q, dk, PRECISION: tl.constexpr):
    """dk with ``dS^T @ (scale * q)`` added."""
    return tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision=PRECISION)


@triton.jit
def _add(ptr, x, first):
    """Add to memory that nobody else adds to, and nobody has written before the first time."""
    tl.store(ptr, tl.where(first, 0.0, tl.load(ptr)) + x)


@triton.jit
def _store_keys(dqkv_ptr, dk, dv, win, token, real, offs_n, dpad_k, dpad_v, down, across, width,
                WINDOW: tl.constexpr, NEEDS_PAD: tl.constexpr, D: tl.constexpr,
                BLOCK_D: tl.constexpr):
    """Store dk and dv of a block of keys; returns the sums over padded tokens, theirs added."""
    T: tl.constexpr = WINDOW * WINDOW
    _store(dqkv_ptr + width, dk, token, real, 3 * width, 0, D, BLOCK_D)
    _store(dqkv_ptr + 2 * width, dv, token, real, 3 * width, 0, D, BLOCK_D)
    if NEEDS_PAD:
        if _may_have_pads(win, down, across):
            dpad_k += _pad_sum(dk, offs_n, real, 0, T, 1, BLOCK_D)
            dpad_v += _pad_sum(dv, offs_n, real, 0, T, 1, BLOCK_D)
    return dpad_k, dpad_v


@triton.jit(do_not_specialize=["windows", "H", "W", "down", "across", "slots", "heads"])
def window_attention_bwd_long_kernel(
        qkv_ptr, bias_ptr, pad_ptr, seed_ptr, grad_ptr, dqkv_ptr, dbias_ptr, dpad_ptr, windows, H,
        W, down, across, slots, heads, scale, dropout_p, D: tl.constexpr, WINDOW: tl.constexpr,
        SHIFT: tl.constexpr, HAS_PAD: tl.constexpr, HAS_DROPOUT: tl.constexpr,
        NEEDS_BIAS: tl.constexpr, NEEDS_PAD: tl.constexpr, PRECISION: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, REST_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """As ``window_attention_bwd_kernel``, with dropout, some queries at a time.

    dk and dv of a window stay in registers. dbias fp32 ``[slots, heads, ROWS, COLUMNS]`` does not
    fit them: each program adds to its own, which the second-level cache holds. bias from
    ``window_attention_bias_kernel``.
    """
    T: tl.constexpr = WINDOW * WINDOW
    OPERAND: tl.constexpr = qkv_ptr.dtype.element_ty
    COLUMNS: tl.constexpr = BLOCK_N + REST_N
    TILE: tl.constexpr = (T + BLOCK_M - 1) // BLOCK_M * BLOCK_M * COLUMNS
    head, slot = _program(heads)
    width = heads * D
    qkv_ptr += head * D
    dqkv_ptr += head * D
    pad_ptr += head * D
    grad_ptr += head * D
    dbias_ptr += (slot.to(tl.int64) * heads + head) * TILE
    seed = tl.cast(0, tl.int64)
    if HAS_DROPOUT:
        seed = tl.load(seed_ptr)

    dpad_k = tl.zeros([1, BLOCK_D], tl.float32)
    dpad_v = tl.zeros([1, BLOCK_D], tl.float32)
    for win in range(slot, windows, slots):
        # 0, but the compiler does not know: what follows from places is computed for each window
        # again, where keeping it takes the registers of the products.
        zero = tl.minimum(win, 0)
        offs_n = zero + tl.arange(0, BLOCK_N)
        token_n, real_n, k, v = _keys(qkv_ptr, pad_ptr, win, offs_n, H, W, down, across, width,
                                      WINDOW, SHIFT, HAS_PAD, D, BLOCK_D)
        dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        if REST_N > 0:
            offs_r = zero + BLOCK_N + tl.arange(0, REST_N)
            token_r, real_r, k_r, v_r = _keys(qkv_ptr, pad_ptr, win, offs_r, H, W, down, across,
                                              width, WINDOW, SHIFT, HAS_PAD, D, BLOCK_D)
            dk_r = tl.zeros([REST_N, BLOCK_D], tl.float32)
            dv_r = tl.zeros([REST_N, BLOCK_D], tl.float32)
        of_window = _of_window(bias_ptr, win, head, heads, down, across, TILE, SHIFT)
        for start in range(0, T, BLOCK_M):
            offs_m = start + tl.arange(0, BLOCK_M)
            row = offs_m[:, None] * COLUMNS
            token, real = _tokens(win, offs_m, H, W, down, across, WINDOW, SHIFT)
            q = _load_scaled(qkv_ptr, pad_ptr, scale, token, real, 3 * width, 0, HAS_PAD, OPERAND,
                             D, BLOCK_D)
            g = _load(grad_ptr, token, real, width, 0, OPERAND, D, BLOCK_D)
            s = _read_scores(q, k, of_window + row + offs_n[None, :], PRECISION)
            dp = tl.dot(g, tl.trans(v), input_precision=PRECISION)
            s_r = s
            if REST_N > 0:
                s_r = _read_scores(q, k_r, of_window + row + offs_r[None, :], PRECISION)
                dp_r = tl.dot(g, tl.trans(v_r), input_precision=PRECISION)
            p, p_r, over = _softmax(s, s_r, REST_N)
            p *= over[:, None]
            if T % BLOCK_M != 0:  # zeros times an infinite key are NaN
                p = tl.where((offs_m < T)[:, None], p, 0.0)
            dp, delta, dv = _add_dv(p, dp, g, dv, seed, win, head, heads, dropout_p, offs_m,
                                    offs_n, WINDOW, HAS_DROPOUT, PRECISION)
            if REST_N > 0:
                p_r *= over[:, None]
                if T % BLOCK_M != 0:
                    p_r = tl.where((offs_m < T)[:, None], p_r, 0.0)
                dp_r, delta_r, dv_r = _add_dv(p_r, dp_r, g, dv_r, seed, win, head, heads,
                                              dropout_p, offs_m, offs_r, WINDOW, HAS_DROPOUT,
                                              PRECISION)
                delta += delta_r
            ds = p * (dp - delta[:, None])
            dk = _add_dk(ds, q, dk, PRECISION)
            dq = tl.dot(ds.to(OPERAND), k, input_precision=PRECISION)
            if REST_N > 0:
                ds_r = p_r * (dp_r - delta[:, None])
                dk_r = _add_dk(ds_r, q, dk_r, PRECISION)
                dq = tl.dot(ds_r.to(OPERAND), k_r, dq, input_precision=PRECISION)
            dq *= tl.cast(scale, tl.float32)
            _store(dqkv_ptr, dq, token, real, 3 * width, 0, D, BLOCK_D)
            if NEEDS_BIAS:
                tl.debug_barrier()  # what this thread loads another may have stored
                _add(dbias_ptr + row + offs_n[None, :], ds, win == slot)
                if REST_N > 0:
                    _add(dbias_ptr + row + offs_r[None, :], ds_r, win == slot)
        dpad_k, dpad_v = _store_keys(dqkv_ptr, dk, dv, win, token_n, real_n, offs_n, dpad_k,
                                     dpad_v, down, across, width, WINDOW, NEEDS_PAD, D, BLOCK_D)
        if REST_N > 0:
            dpad_k, dpad_v = _store_keys(dqkv_ptr, dk_r, dv_r, win, token_r, real_r, offs_r,
                                         dpad_k, dpad_v, down, across, width, WINDOW, NEEDS_PAD, D,
                                         BLOCK_D)

    if NEEDS_PAD:
        _store_pad(dpad_ptr, slot, head, heads, 0, dpad_k, D, 1, BLOCK_D)
        _store_pad(dpad_ptr, slot, head, heads, 1, dpad_v, D, 1, BLOCK_D)


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
