"""Depthwise 3x3 convolution of tokens in Triton, forward and backward.

Tokens are a map row by row, ``[B * H, W, C]``, contiguous. A program owns BLOCK_C channels of
BLOCK_P pairs of rows and walks along a span of columns. In each column it loads the four rows that
a pair needs, one step ahead; the two columns before stay in registers, so that an element is loaded
twice and not nine times. Pairs of all samples follow one another, and small maps fill a block too.
Names: columns left, middle, right and next of rows 0 to 3, of which 1 and 2 are the pair. Sums are
in fp32; the padding is zeros.
"""

import triton
import triton.language as tl

_SQRT_HALF = tl.constexpr(0.7071067811865476)
_DENSITY = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)


@triton.jit
def _pairs(B, H, W, C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Channels [BLOCK_C], offsets [BLOCK_P, BLOCK_C] of row 1 in column 0, and masks of four rows.
    """
    CHANNELS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    offs_c = (pid % CHANNELS) * BLOCK_C + tl.arange(0, BLOCK_C)
    pair = (pid // CHANNELS).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    of_sample = (H + 1) // 2
    b = pair // of_sample
    y = ((pair - b * of_sample) * 2).to(tl.int32)
    at = ((b * H + y) * W)[:, None] * C + offs_c[None, :]
    mask_c = (offs_c < C)[None, :]
    return (offs_c, at, ((b < B) & (y > 0))[:, None] & mask_c, (b < B)[:, None] & mask_c,
            ((b < B) & (y + 1 < H))[:, None] & mask_c, ((b < B) & (y + 2 < H))[:, None] & mask_c)


@triton.jit
def _column(ptr, at, row, col, end, mask_0, mask_1, mask_2, mask_3):
    """Four rows in one column, zeros outside the map and from column ``end`` on."""
    col = tl.full([1, 1], col, tl.int32)  # the interpreter makes no mask of a scalar
    inside = (col >= 0) & (col < end)
    return (tl.load(ptr + (at - row), mask=mask_0 & inside, other=0.0),
            tl.load(ptr + at, mask=mask_1 & inside, other=0.0),
            tl.load(ptr + (at + row), mask=mask_2 & inside, other=0.0),
            tl.load(ptr + (at + 2 * row), mask=mask_3 & inside, other=0.0))


@triton.jit
def _tap(weight_ptr, offs_c, K: tl.constexpr, C: tl.constexpr):
    return tl.load(weight_ptr + offs_c * 9 + K, mask=offs_c < C, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _taps(weight_ptr, offs_c, C: tl.constexpr):
    """The nine weights, each [1, BLOCK_C]."""
    return (_tap(weight_ptr, offs_c, 0, C), _tap(weight_ptr, offs_c, 1, C),
            _tap(weight_ptr, offs_c, 2, C), _tap(weight_ptr, offs_c, 3, C),
            _tap(weight_ptr, offs_c, 4, C), _tap(weight_ptr, offs_c, 5, C),
            _tap(weight_ptr, offs_c, 6, C), _tap(weight_ptr, offs_c, 7, C),
            _tap(weight_ptr, offs_c, 8, C))


@triton.jit
def _three(acc, left, middle, right, w_0, w_1, w_2):
    acc += left.to(tl.float32) * w_0
    acc += middle.to(tl.float32) * w_1
    acc += right.to(tl.float32) * w_2
    return acc


@triton.jit
def _nine(acc, l_0, l_1, l_2, m_0, m_1, m_2, r_0, r_1, r_2, w_0, w_1, w_2, w_3, w_4, w_5, w_6, w_7,
          w_8):
    """``acc`` and the products of three rows in three columns."""
    acc = _three(acc, l_0, m_0, r_0, w_0, w_1, w_2)
    acc = _three(acc, l_1, m_1, r_1, w_3, w_4, w_5)
    return _three(acc, l_2, m_2, r_2, w_6, w_7, w_8)


@triton.jit
def _finish(acc, grad_ptr, out_ptr, at, mask, GELU: tl.constexpr, HAS_GRAD: tl.constexpr):
    """The activation, or its gradient, of one row of the result, which is then stored."""
    if GELU:
        cdf = 0.5 + 0.5 * tl.erf(acc * _SQRT_HALF)
        if HAS_GRAD:
            grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
            acc = grad * (cdf + acc * (_DENSITY * tl.exp(-0.5 * acc * acc)))
        else:
            acc *= cdf
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["B", "H", "W", "span"])
def depthwise_conv_tokens_fwd_kernel(
        x_ptr, weight_ptr, bias_ptr, grad_ptr, out_ptr, B, H, W, span, C: tl.constexpr,
        HAS_BIAS: tl.constexpr, GELU: tl.constexpr, HAS_GRAD: tl.constexpr, BLOCK_P: tl.constexpr,
        BLOCK_C: tl.constexpr):
    """``out = conv(x) + bias``, with GELU ``gelu`` of it, with HAS_GRAD ``grad * gelu'`` of it.

    Grid ``(channel blocks * ceil(B * ceil(H / 2) / BLOCK_P), ceil(W / span))``; channel blocks, of
    which a token is whole, are neighbours. weight ``[C, 9]``, bias ``[C]``; grad has the shape of
    x.
    """
    offs_c, at, mask_0, mask_1, mask_2, mask_3 = _pairs(B, H, W, C, BLOCK_P, BLOCK_C)
    w_0, w_1, w_2, w_3, w_4, w_5, w_6, w_7, w_8 = _taps(weight_ptr, offs_c, C)
    start = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    if HAS_BIAS:
        start += tl.load(bias_ptr + offs_c, mask=offs_c < C, other=0.0).to(tl.float32)[None, :]
    row = tl.cast(W, tl.int64) * C
    first = tl.program_id(1) * span
    end = tl.minimum(first + span + 1, W)  # the last column needs the one to its right
    at += tl.cast(first, tl.int64) * C
    l_0, l_1, l_2, l_3 = _column(x_ptr, at - C, row, first - 1, W, mask_0, mask_1, mask_2, mask_3)
    m_0, m_1, m_2, m_3 = _column(x_ptr, at, row, first, W, mask_0, mask_1, mask_2, mask_3)
    r_0, r_1, r_2, r_3 = _column(x_ptr, at + C, row, first + 1, W, mask_0, mask_1, mask_2, mask_3)
    for col in range(first, tl.minimum(first + span, W)):
        n_0, n_1, n_2, n_3 = _column(x_ptr, at + 2 * C, row, col + 2, end, mask_0, mask_1, mask_2,
                                     mask_3)
        acc = _nine(start, l_0, l_1, l_2, m_0, m_1, m_2, r_0, r_1, r_2, w_0, w_1, w_2, w_3, w_4,
                    w_5, w_6, w_7, w_8)
        _finish(acc, grad_ptr, out_ptr, at, mask_1, GELU, HAS_GRAD)
        acc = _nine(start, l_1, l_2, l_3, m_1, m_2, m_3, r_1, r_2, r_3, w_0, w_1, w_2, w_3, w_4,
                    w_5, w_6, w_7, w_8)
        _finish(acc, grad_ptr, out_ptr, at + row, mask_2, GELU, HAS_GRAD)
        l_0, l_1, l_2, l_3 = m_0, m_1, m_2, m_3
        m_0, m_1, m_2, m_3 = r_0, r_1, r_2, r_3
        r_0, r_1, r_2, r_3 = n_0, n_1, n_2, n_3
        at += C


@triton.jit
def _both(acc, x_1, grad_1, x_2, grad_2):
    """``acc`` and the products of the pair's two rows."""
    acc += x_1 * grad_1.to(tl.float32)
    acc += x_2 * grad_2.to(tl.float32)
    return acc


@triton.jit
def _store_sums(partial_ptr, sums, offs_c, K: tl.constexpr, C: tl.constexpr):
    tl.store(partial_ptr + offs_c * 9 + K, tl.sum(sums, 0), mask=offs_c < C)


@triton.jit(do_not_specialize=["B", "H", "W", "span"])
def depthwise_conv_tokens_bwd_kernel(
        x_ptr, weight_ptr, grad_ptr, dx_ptr, partial_ptr, B, H, W, span, C: tl.constexpr,
        NEEDS_X: tl.constexpr, NEEDS_WEIGHT: tl.constexpr, BLOCK_P: tl.constexpr,
        BLOCK_C: tl.constexpr):
    """dx by the transposed convolution, and each program's sums for the gradients of the rest.

    ``dx[q] = sum_k weight[k] grad[q - k]`` and ``dweight[k] = sum_q x[q] grad[q - k]`` read the
    same nine gradients around a token, so that x needs no neighbours. Grid as forward; partial is
    ``[programs of the same channels, 10 C]`` fp32, ``[C, 9]`` of weight before ``[C]`` of bias,
    and written with NEEDS_WEIGHT.
    """
    offs_c, at, mask_0, mask_1, mask_2, mask_3 = _pairs(B, H, W, C, BLOCK_P, BLOCK_C)
    w_8, w_7, w_6, w_5, w_4, w_3, w_2, w_1, w_0 = _taps(weight_ptr, offs_c, C)  # turned round
    zero = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    s_0, s_1, s_2, s_3, s_4, s_5, s_6, s_7, s_8, s_bias = (
        zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)
    row = tl.cast(W, tl.int64) * C
    first = tl.program_id(1) * span
    end = tl.minimum(first + span + 1, W)
    at += tl.cast(first, tl.int64) * C
    l_0, l_1, l_2, l_3 = _column(grad_ptr, at - C, row, first - 1, W, mask_0, mask_1, mask_2,
                                 mask_3)
    m_0, m_1, m_2, m_3 = _column(grad_ptr, at, row, first, W, mask_0, mask_1, mask_2, mask_3)
    r_0, r_1, r_2, r_3 = _column(grad_ptr, at + C, row, first + 1, W, mask_0, mask_1, mask_2,
                                 mask_3)
    for col in range(first, tl.minimum(first + span, W)):
        n_0, n_1, n_2, n_3 = _column(grad_ptr, at + 2 * C, row, col + 2, end, mask_0, mask_1,
                                     mask_2, mask_3)
        if NEEDS_WEIGHT:
            x_1 = tl.load(x_ptr + at, mask=mask_1, other=0.0)
            x_2 = tl.load(x_ptr + (at + row), mask=mask_2, other=0.0)
        if NEEDS_X:
            acc = _nine(zero, l_0, l_1, l_2, m_0, m_1, m_2, r_0, r_1, r_2, w_0, w_1, w_2, w_3, w_4,
                        w_5, w_6, w_7, w_8)
            tl.store(dx_ptr + at, acc.to(dx_ptr.dtype.element_ty), mask=mask_1)
            acc = _nine(zero, l_1, l_2, l_3, m_1, m_2, m_3, r_1, r_2, r_3, w_0, w_1, w_2, w_3, w_4,
                        w_5, w_6, w_7, w_8)
            tl.store(dx_ptr + (at + row), acc.to(dx_ptr.dtype.element_ty), mask=mask_2)
        if NEEDS_WEIGHT:
            x_1 = x_1.to(tl.float32)
            x_2 = x_2.to(tl.float32)
            s_8 = _both(s_8, x_1, l_0, x_2, l_1)
            s_7 = _both(s_7, x_1, m_0, x_2, m_1)
            s_6 = _both(s_6, x_1, r_0, x_2, r_1)
            s_5 = _both(s_5, x_1, l_1, x_2, l_2)
            s_4 = _both(s_4, x_1, m_1, x_2, m_2)
            s_3 = _both(s_3, x_1, r_1, x_2, r_2)
            s_2 = _both(s_2, x_1, l_2, x_2, l_3)
            s_1 = _both(s_1, x_1, m_2, x_2, m_3)
            s_0 = _both(s_0, x_1, r_2, x_2, r_3)
            s_bias += m_1.to(tl.float32) + m_2.to(tl.float32)
        l_0, l_1, l_2, l_3 = m_0, m_1, m_2, m_3
        m_0, m_1, m_2, m_3 = r_0, r_1, r_2, r_3
        r_0, r_1, r_2, r_3 = n_0, n_1, n_2, n_3
        at += C
    if NEEDS_WEIGHT:
        CHANNELS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
        part = (tl.program_id(0) // CHANNELS) * tl.num_programs(1) + tl.program_id(1)
        partial_ptr += part.to(tl.int64) * (10 * C)
        _store_sums(partial_ptr, s_0, offs_c, 0, C)
        _store_sums(partial_ptr, s_1, offs_c, 1, C)
        _store_sums(partial_ptr, s_2, offs_c, 2, C)
        _store_sums(partial_ptr, s_3, offs_c, 3, C)
        _store_sums(partial_ptr, s_4, offs_c, 4, C)
        _store_sums(partial_ptr, s_5, offs_c, 5, C)
        _store_sums(partial_ptr, s_6, offs_c, 6, C)
        _store_sums(partial_ptr, s_7, offs_c, 7, C)
        _store_sums(partial_ptr, s_8, offs_c, 8, C)
        tl.store(partial_ptr + 9 * C + offs_c, tl.sum(s_bias, 0), mask=offs_c < C)
