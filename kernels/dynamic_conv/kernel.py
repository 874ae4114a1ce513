"""Triton kernels of the dynamic convolution, forward and backward.

For one proposal, with x [IN, S], p_in [IN, FEAT] and p_out [FEAT, OUT]:

    h = relu(norm_in(x^T p_in))      [S, FEAT]
    out = relu(norm_out(h p_out))    [S, OUT]

Rows of a tile beyond S are zero in x and in the gradient; where parameters are not finite they
become NaN, so what sums over rows leaves them out. Columns beyond FEAT and OUT are zero in the
parameters and are kept out of the norms' sums. NaN goes through ReLU and its backward as in torch.
"""

import triton
import triton.language as tl


@triton.jit
def _load_x(x_ptr, offs_c, offs_s, stride_xc, stride_xs, S, IN: tl.constexpr):
    """Some channels of the rows ``offs_s`` of one proposal, [channels, BLOCK_S]."""
    mask = (offs_c < IN)[:, None] & (offs_s < S)[None, :]
    channels, rows = offs_c.to(tl.int64)[:, None], offs_s.to(tl.int64)[None, :]
    return tl.load(x_ptr + channels * stride_xc + rows * stride_xs, mask=mask, other=0.0)


@triton.jit
def _load_p(p_ptr, offs_r, offs_c, R: tl.constexpr, C: tl.constexpr):
    """A tile of one of a proposal's weights [R, C]."""
    mask = (offs_r < R)[:, None] & (offs_c < C)[None, :]
    return tl.load(p_ptr + (offs_r[:, None] * C + offs_c[None, :]), mask=mask, other=0.0)


@triton.jit
def _product(x_ptr, p_ptr, stride_xc, stride_xs, offs_k, offs_s, offs_f, S, IN: tl.constexpr,
             FEAT: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_F: tl.constexpr,
             BLOCK_K: tl.constexpr, PRECISION: tl.constexpr):
    """x^T p_in for one tile of rows, fp32 [BLOCK_S, BLOCK_F]."""
    acc = tl.zeros([BLOCK_S, BLOCK_F], dtype=tl.float32)
    for start in range(0, IN, BLOCK_K):
        p = _load_p(p_ptr, start + offs_k, offs_f, IN, FEAT)
        x = _load_x(x_ptr, start + offs_k, offs_s, stride_xc, stride_xs, S, IN)
        acc = tl.dot(tl.trans(x.to(p.dtype)), p, acc, input_precision=PRECISION)
    return acc


@triton.jit
def _normalize(t, mask, eps, C: tl.constexpr):
    """(t - mean) * rstd over the C columns of ``mask``; mean; rstd = 1 / sqrt(var + eps)."""
    mean = tl.sum(t, 1) / C
    t = tl.where(mask[None, :], t - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(t * t, 1) / C + tl.cast(eps, tl.float32))
    return t * rstd[:, None], mean, rstd


@triton.jit
def _load_affine(w_ptr, b_ptr, offs, mask):
    """Weight and bias of a norm as fp32 rows."""
    w = tl.load(w_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    return w[None, :], b[None, :]


@triton.jit
def _relu(t):
    return tl.maximum(t, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _store_out(hat, w_ptr, b_ptr, out_ptr, offs_s, offs_o, mask_s, OUT: tl.constexpr):
    """Some columns of relu(hat w + b)."""
    mask_o = offs_o < OUT
    w, b = _load_affine(w_ptr, b_ptr, offs_o, mask_o)
    out = _relu(hat * w + b).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + (offs_s[:, None] * OUT + offs_o[None, :]), out,
             mask=mask_s[:, None] & mask_o[None, :])


@triton.jit
def dynamic_conv_fwd_kernel(
    x_ptr,  # [N, IN, S], any strides
    params_ptr,  # [N, IN * FEAT + FEAT * OUT], rows contiguous
    w_in_ptr,  # [FEAT]
    b_in_ptr,  # [FEAT]
    w_out_ptr,  # [OUT]
    b_out_ptr,  # [OUT]
    out_ptr,  # [N, S, OUT]
    stats_ptr,  # [N, S, 2] fp32, mean and rstd of the second norm
    S,
    tiles,  # cdiv(S, BLOCK_S)
    stride_xn,
    stride_xc,
    stride_xs,
    stride_pn,
    eps_in,
    eps_out,
    IN: tl.constexpr,
    FEAT: tl.constexpr,
    OUT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """out = relu(norm_out(relu(norm_in(x^T p_in)) p_out)).

    Grid: (N * tiles,); one program owns BLOCK_S rows of one proposal, and all their channels.
    Where BLOCK_O holds all output channels the second product is made once, else twice: for the
    norm's statistics, which chunks of columns merge (Chan et al. 1979), and for the result.
    """
    pid = tl.program_id(0).to(tl.int64)
    n = pid // tiles
    offs_s = (pid % tiles).to(tl.int32) * BLOCK_S + tl.arange(0, BLOCK_S)
    offs_k = tl.arange(0, BLOCK_K)
    offs_f = tl.arange(0, BLOCK_F)
    mask_f = offs_f < FEAT
    x_ptr += n * stride_xn
    params_ptr += n * stride_pn

    f = _product(x_ptr, params_ptr, stride_xc, stride_xs, offs_k, offs_s, offs_f, S, IN, FEAT,
                 BLOCK_S, BLOCK_F, BLOCK_K, PRECISION)
    hat, _, _ = _normalize(f, mask_f, eps_in, FEAT)
    w, b = _load_affine(w_in_ptr, b_in_ptr, offs_f, mask_f)
    h = tl.where(mask_f[None, :], _relu(hat * w + b), 0.0).to(params_ptr.dtype.element_ty)

    p_out_ptr = params_ptr + IN * FEAT
    out_ptr += n * S * OUT
    offs_o = tl.arange(0, BLOCK_O)
    mask_s = offs_s < S
    if OUT <= BLOCK_O:
        y = tl.dot(h, _load_p(p_out_ptr, offs_f, offs_o, FEAT, OUT), input_precision=PRECISION)
        hat, mean, rstd = _normalize(y, offs_o < OUT, eps_out, OUT)
        _store_out(hat, w_out_ptr, b_out_ptr, out_ptr, offs_s, offs_o, mask_s, OUT)
    else:
        mean = tl.zeros([BLOCK_S], dtype=tl.float32)
        square = tl.zeros([BLOCK_S], dtype=tl.float32)
        for start in range(0, OUT, BLOCK_O):
            p = _load_p(p_out_ptr, offs_f, start + offs_o, FEAT, OUT)
            y = tl.dot(h, p, input_precision=PRECISION)
            width = tl.minimum(OUT - start, BLOCK_O).to(tl.float32)
            middle = tl.sum(y, 1) / width
            y = tl.where((start + offs_o < OUT)[None, :], y - middle[:, None], 0.0)
            delta = middle - mean
            share = width / (start + width)
            mean += delta * share
            square += tl.sum(y * y, 1) + delta * delta * (start * share)
        rstd = tl.rsqrt(square / OUT + tl.cast(eps_out, tl.float32))
        for start in range(0, OUT, BLOCK_O):
            p = _load_p(p_out_ptr, offs_f, start + offs_o, FEAT, OUT)
            y = tl.dot(h, p, input_precision=PRECISION)
            _store_out((y - mean[:, None]) * rstd[:, None], w_out_ptr, b_out_ptr, out_ptr, offs_s,
                       start + offs_o, mask_s, OUT)
    stats_ptrs = stats_ptr + (n * S + offs_s) * 2
    tl.store(stats_ptrs, mean, mask=mask_s)
    tl.store(stats_ptrs + 1, rstd, mask=mask_s)


@triton.jit
def _norm_out_backward(h, p, mean, rstd, grad_ptr, w_ptr, b_ptr, offs_s, offs_o, mask_s,
                       OUT: tl.constexpr, PRECISION: tl.constexpr):
    """Some columns: normalised h p, the gradient behind ReLU, and that times the norm's weight."""
    mask_o = offs_o < OUT
    hat = (tl.dot(h, p, input_precision=PRECISION) - mean[:, None]) * rstd[:, None]
    w, b = _load_affine(w_ptr, b_ptr, offs_o, mask_o)
    grad = tl.load(grad_ptr + (offs_s[:, None] * OUT + offs_o[None, :]),
                   mask=mask_s[:, None] & mask_o[None, :], other=0.0).to(tl.float32)
    grad = tl.where(hat * w + b <= 0, 0.0, grad)
    return hat, grad, grad * w


@triton.jit
def dynamic_conv_bwd_kernel(
    grad_ptr,  # [N, S, OUT]
    x_ptr,
    params_ptr,
    w_in_ptr,
    b_in_ptr,
    w_out_ptr,
    b_out_ptr,
    stats_ptr,
    dx_ptr,  # [N, IN, S]; written with HAS_DX
    dparams_ptr,  # as params, contiguous; written with WHOLE
    h_ptr,  # [N, S, FEAT]; this and the next two are written without WHOLE
    df_ptr,  # [N, S, FEAT], gradient of x^T p_in
    dy_ptr,  # [N, S, OUT], gradient of h p_out
    dnorm_ptr,  # [N * tiles, 2 * FEAT + 2 * OUT] fp32: w_in, b_in, w_out, b_out
    S,
    tiles,
    stride_xn,
    stride_xc,
    stride_xs,
    stride_pn,
    stride_dxn,
    stride_dxc,
    stride_dxs,
    eps_in,
    IN: tl.constexpr,
    FEAT: tl.constexpr,
    OUT: tl.constexpr,
    HAS_DX: tl.constexpr,
    HAS_DPARAMS: tl.constexpr,
    HAS_DNORM: tl.constexpr,
    WHOLE: tl.constexpr,  # one tile holds all rows: the parameters' gradient is made here
    PRECISION: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Everything between the gradient of the result and those of x, params and the norms.

    Both products are computed again, the second twice, BLOCK_O columns at a time: once for the two
    row sums that the second norm's backward needs, once to use them. Grid and ownership as in the
    forward. A tile of the rows cannot finish the parameters' gradient, which sums over rows:
    without WHOLE it leaves the factors of p_in's (x df) and of p_out's (h^T dy).
    """
    pid = tl.program_id(0).to(tl.int64)
    n = pid // tiles
    offs_s = (pid % tiles).to(tl.int32) * BLOCK_S + tl.arange(0, BLOCK_S)
    offs_k = tl.arange(0, BLOCK_K)
    offs_f = tl.arange(0, BLOCK_F)
    mask_s, mask_f = offs_s < S, offs_f < FEAT
    mask_sf = mask_s[:, None] & mask_f[None, :]
    at_f = offs_s[:, None] * FEAT + offs_f[None, :]
    grad_ptr += n * S * OUT
    x_ptr += n * stride_xn
    params_ptr += n * stride_pn
    p_out_ptr = params_ptr + IN * FEAT
    dx_ptr += n * stride_dxn
    dparams_ptr += n * (IN * FEAT + FEAT * OUT)
    dnorm_ptr += pid * (2 * FEAT + 2 * OUT)

    f = _product(x_ptr, params_ptr, stride_xc, stride_xs, offs_k, offs_s, offs_f, S, IN, FEAT,
                 BLOCK_S, BLOCK_F, BLOCK_K, PRECISION)
    hat, _, rstd_in = _normalize(f, mask_f, eps_in, FEAT)
    w_in, b_in = _load_affine(w_in_ptr, b_in_ptr, offs_f, mask_f)
    h = tl.where(mask_sf, _relu(hat * w_in + b_in), 0.0).to(params_ptr.dtype.element_ty)
    stats_ptrs = stats_ptr + (n * S + offs_s) * 2
    mean_out = tl.load(stats_ptrs, mask=mask_s, other=0.0)
    rstd_out = tl.load(stats_ptrs + 1, mask=mask_s, other=0.0)

    total = tl.zeros([BLOCK_S], dtype=tl.float32)
    along = tl.zeros([BLOCK_S], dtype=tl.float32)
    for start in range(0, OUT, BLOCK_O):
        offs_o = start + tl.arange(0, BLOCK_O)
        p = _load_p(p_out_ptr, offs_f, offs_o, FEAT, OUT)
        y_hat, grad, dy_hat = _norm_out_backward(
            h, p, mean_out, rstd_out, grad_ptr, w_out_ptr, b_out_ptr, offs_s, offs_o, mask_s, OUT,
            PRECISION)
        total += tl.sum(dy_hat, 1)
        along += tl.sum(dy_hat * y_hat, 1)
        if HAS_DNORM:
            dw_ptrs = dnorm_ptr + 2 * FEAT + offs_o
            tl.store(dw_ptrs, tl.sum(grad * y_hat, 0), mask=offs_o < OUT)
            tl.store(dw_ptrs + OUT, tl.sum(grad, 0), mask=offs_o < OUT)
    total /= OUT
    along /= OUT

    dh = tl.zeros([BLOCK_S, BLOCK_F], dtype=tl.float32)
    for start in range(0, OUT, BLOCK_O):
        offs_o = start + tl.arange(0, BLOCK_O)
        mask_o = offs_o < OUT
        p = _load_p(p_out_ptr, offs_f, offs_o, FEAT, OUT)
        y_hat, grad, dy_hat = _norm_out_backward(
            h, p, mean_out, rstd_out, grad_ptr, w_out_ptr, b_out_ptr, offs_s, offs_o, mask_s, OUT,
            PRECISION)
        dy = rstd_out[:, None] * (dy_hat - total[:, None] - y_hat * along[:, None])
        dy = tl.where(mask_s[:, None] & mask_o[None, :], dy, 0.0).to(p.dtype)
        dh = tl.dot(dy, tl.trans(p), dh, input_precision=PRECISION)
        if HAS_DPARAMS:
            if WHOLE:
                dp = tl.dot(tl.trans(h), dy, input_precision=PRECISION)
                tl.store(dparams_ptr + IN * FEAT + (offs_f[:, None] * OUT + offs_o[None, :]),
                         dp.to(dparams_ptr.dtype.element_ty),
                         mask=mask_f[:, None] & mask_o[None, :])
            else:
                tl.store(dy_ptr + n * S * OUT + (offs_s[:, None] * OUT + offs_o[None, :]), dy,
                         mask=mask_s[:, None] & mask_o[None, :])

    dh = tl.where((hat * w_in + b_in <= 0) | (mask_s == 0)[:, None], 0.0, dh)
    if HAS_DNORM:
        tl.store(dnorm_ptr + offs_f, tl.sum(dh * hat, 0), mask=mask_f)
        tl.store(dnorm_ptr + FEAT + offs_f, tl.sum(dh, 0), mask=mask_f)
    dh *= w_in
    df = dh - (tl.sum(dh, 1) / FEAT)[:, None] - hat * (tl.sum(dh * hat, 1) / FEAT)[:, None]
    df = tl.where(mask_sf, rstd_in[:, None] * df, 0.0).to(h.dtype)
    if HAS_DPARAMS and not WHOLE:
        tl.store(h_ptr + n * S * FEAT + at_f, h, mask=mask_sf)
        tl.store(df_ptr + n * S * FEAT + at_f, df, mask=mask_sf)

    # One loop for each gradient: the addresses of both at once would take all registers.
    if HAS_DX:
        for start in range(0, IN, BLOCK_K):
            offs_c = start + offs_k
            p_in = _load_p(params_ptr, offs_c, offs_f, IN, FEAT)
            dx = tl.dot(p_in, tl.trans(df), input_precision=PRECISION)
            tl.store(dx_ptr + offs_c.to(tl.int64)[:, None] * stride_dxc
                     + offs_s.to(tl.int64)[None, :] * stride_dxs, dx.to(dx_ptr.dtype.element_ty),
                     mask=(offs_c < IN)[:, None] & mask_s[None, :])
    if HAS_DPARAMS and WHOLE:
        for start in range(0, IN, BLOCK_K):
            offs_c = start + offs_k
            x = _load_x(x_ptr, offs_c, offs_s, stride_xc, stride_xs, S, IN)
            dp_in = tl.dot(x.to(df.dtype), df, input_precision=PRECISION)
            tl.store(dparams_ptr + (offs_c[:, None] * FEAT + offs_f[None, :]),
                     dp_in.to(dparams_ptr.dtype.element_ty),
                     mask=(offs_c < IN)[:, None] & mask_f[None, :])
