"""Triton kernels of DyHead's combination, forward and backward.

Maps are [B, C, pixels], contiguous; the branches are 0 (mid, the level's own), 1 (low, of the finer
level, of the same size) and 2 (high, of the coarser level, resized). A resize's weights sum to one,
so a resized norm is an affine function of the resized input, and all that stands between inputs and
result is one factor per branch, image and channel, and one constant. In float32:

  moments  [3 branches, 3, B, C]: mean, sum of squared deviations, mean after the resize
  factors  [4, B, C]: of the branches 0, 1, 2 less their means, and the constant
  sums     [4, B, C]: the result's gradient times each resized branch less its mean, and alone
  back     [3 branches, 4, B, C]: what to multiply the resize's adjoint of the gradient, that of
           ones, and the input less its mean with, and the constant; in sum the input's gradient
  partial  [B, 8, C]: gradients of weight and bias of each norm, of the attention's weight, and of
           its bias in channel 0
"""

import triton
import triton.language as tl


@triton.jit
def _resized(x_ptr, offs, mask, H, W, h, w):
    """Elements ``offs`` of the [H, W] map that an [h, w] map becomes, corners aligned."""
    y = (offs // W).to(tl.float32) * ((h - 1).to(tl.float32) / tl.maximum(H - 1, 1))
    x = (offs % W).to(tl.float32) * ((w - 1).to(tl.float32) / tl.maximum(W - 1, 1))
    y0 = tl.minimum(y.to(tl.int32), h - 1)
    x0 = tl.minimum(x.to(tl.int32), w - 1)
    y1 = tl.minimum(y0 + 1, h - 1)
    x1 = tl.minimum(x0 + 1, w - 1)
    fy = y - y0.to(tl.float32)
    fx = x - x0.to(tl.float32)
    a = tl.load(x_ptr + y0 * w + x0, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(x_ptr + y0 * w + x1, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(x_ptr + y1 * w + x0, mask=mask, other=0.0).to(tl.float32)
    d = tl.load(x_ptr + y1 * w + x1, mask=mask, other=0.0).to(tl.float32)
    return (1 - fy) * ((1 - fx) * a + fx * b) + fy * ((1 - fx) * c + fx * d)


@triton.jit
def _first_output(n, size_in, size_out):
    """Along one axis, the first output of the resize that input ``n`` has a part in."""
    first = (n - 1) * (size_out - 1) // tl.maximum(size_in - 1, 1) + 1
    return tl.where(n == 0, 0, first)


@triton.jit
def _part(n, at, size_in, size_out):
    """The part that input ``n`` has in output ``at``."""
    place = at.to(tl.float32) * ((size_in - 1).to(tl.float32) / tl.maximum(size_out - 1, 1))
    part = tl.maximum(1.0 - tl.abs(place - n.to(tl.float32)), 0.0)
    return tl.where(at < size_out, part, 0.0)


@triton.jit
def _moments(x_ptr, out_ptr, plane, area, BLOCK: tl.constexpr):
    """Store the moments of a channel; sums are of what exceeds the mean of its first block."""
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < area, other=0.0).to(tl.float32)
    pivot = tl.sum(x) / tl.minimum(area, BLOCK)
    first = tl.zeros([BLOCK], dtype=tl.float32)
    second = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, area, BLOCK):
        mask = start + offs < area
        x = tl.load(x_ptr + start + offs, mask=mask, other=0.0).to(tl.float32)
        x = tl.where(mask, x - pivot, 0.0)
        first += x
        second += x * x
    off = tl.sum(first) / area
    tl.store(out_ptr, pivot + off)
    spread = tl.sum(second) - off * off * area
    tl.store(out_ptr + plane, tl.maximum(spread, 0.0, propagate_nan=tl.PropagateNan.ALL))
    return pivot + off


@triton.jit(do_not_specialize=["H", "W", "h", "w", "rows", "cols", "second"])
def dyhead_combine_moments_kernel(mid_ptr, low_ptr, high_ptr, moments_ptr, plane, H, W, h, w, rows,
                                  cols, second, BLOCK: tl.constexpr):
    """Moments of all branches.

    Grid: (B C, branches); one program owns one channel of one image of one branch: ``second`` is
    the branch at 1 of the second axis. An input has a part in up to ``rows`` x ``cols`` outputs.
    """
    row = tl.program_id(0).to(tl.int64)
    branch = tl.program_id(1)
    branch = tl.where(branch == 1, second, branch)
    out_ptr = moments_ptr + branch * 3 * plane + row
    if branch < 2:
        x_ptr = mid_ptr + row * H * W
        if branch == 1:
            x_ptr = low_ptr + row * H * W
        tl.store(out_ptr + 2 * plane, _moments(x_ptr, out_ptr, plane, H * W, BLOCK))
    else:
        x_ptr = high_ptr + row * h * w
        mean = _moments(x_ptr, out_ptr, plane, h * w, BLOCK)
        acc = tl.zeros([BLOCK], dtype=tl.float32)
        for start in range(0, h * w, BLOCK):
            offs = start + tl.arange(0, BLOCK)
            mask = offs < h * w
            y = offs // w
            x = offs % w
            y_first = _first_output(y, h, H)
            x_first = _first_output(x, w, W)
            y_parts = tl.zeros([BLOCK], dtype=tl.float32)
            x_parts = tl.zeros([BLOCK], dtype=tl.float32)
            for i in range(rows):
                y_parts += _part(y, y_first + i, h, H)
            for i in range(cols):
                x_parts += _part(x, x_first + i, w, W)
            value = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
            acc += tl.where(mask, (value - mean) * y_parts * x_parts, 0.0)
        tl.store(out_ptr + 2 * plane, mean + tl.sum(acc) / (H * W))


@triton.jit
def _norm(moments_ptr, weight_ptr, bias_ptr, at, chan, mask, plane, count, eps, CG: tl.constexpr):
    """The norm of one branch of one image.

    Returns, as [groups, channels of a group], the channels' means less the group's, what the
    resize adds to them, the group's 1 / std, and the norm's weight and bias.
    """
    mean = tl.load(moments_ptr + at, mask=mask, other=0.0)
    spread = tl.load(moments_ptr + plane + at, mask=mask, other=0.0)
    shift = tl.load(moments_ptr + 2 * plane + at, mask=mask, other=0.0) - mean
    weight = tl.load(weight_ptr + chan, mask=mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + chan, mask=mask, other=0.0).to(tl.float32)
    group = (tl.sum(mean, 1) / CG)[:, None]
    off = tl.where(mask, mean - group, 0.0)
    var = (tl.sum(spread / count + off * off, 1) / CG)[:, None]
    rstd = 1.0 / tl.sqrt_rn(var + tl.cast(eps, tl.float32))
    return off, shift, rstd, weight, bias


@triton.jit
def _mean_after(off, rstd, weight, bias, mask, resized):
    """The channels' means after the norm and the resize.

    An infinite weight makes a channel of both infinities, whose mean is NaN, and so does a resize
    of an infinite one, which multiplies some of it with zero.
    """
    after = weight * off * rstd + bias
    lost = (weight - weight != 0) | (resized & (bias - bias != 0))
    return tl.where(mask, tl.where(lost, float("nan"), after), 0.0)


@triton.jit
def _scale(logit, add, divisor, least, most):
    """HSigmoid of a ReLU, and its derivative as torch has it: 0 at 0, whole at the clamps.

    NaN passes, and has no derivative.
    """
    linear = (tl.where(logit <= 0, 0.0, logit) + add) / divisor
    slope = tl.where((logit > 0) & (linear >= least) & (linear <= most), 1.0 / divisor, 0.0)
    return tl.where(linear < least, least, tl.where(linear > most, most, linear)), slope


@triton.jit
def _forward(moments_ptr, weight_ptr, bias_ptr, factor_ptr, attention, attention_bias, at, chan,
             mask, plane, area, count, eps, add, divisor, least, most, share, CG: tl.constexpr):
    """Store the factor of one branch; return its part of the constant and of the mean."""
    off, shift, rstd, weight, bias = _norm(moments_ptr, weight_ptr, bias_ptr, at, chan, mask,
                                                  plane, count, eps, CG)
    after = _mean_after(off + shift, rstd, weight, bias, mask, count != area)
    scale, _ = _scale(tl.sum(attention * after) + attention_bias, add, divisor, least, most)
    scale *= share
    factor = scale * weight * rstd
    tl.store(factor_ptr + at, factor, mask=mask)
    return scale * bias + factor * off, scale * after


@triton.jit(do_not_specialize=["area", "area_high", "eps", "add", "divisor", "least", "most"])
def dyhead_combine_factors_kernel(moments_ptr, mid_weight, mid_bias, low_weight, low_bias,
                                  high_weight, high_bias, attention_ptr, attention_bias_ptr,
                                  factors_ptr, mean_ptr, plane, area, area_high, eps, add, divisor,
                                  least, most, C: tl.constexpr, CG: tl.constexpr,
                                  HAS_LOW: tl.constexpr, HAS_HIGH: tl.constexpr,
                                  BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr):
    """From moments to factors, and the mean of the result.

    Grid: (B,); one program owns one image.
    """
    image = tl.program_id(0)
    group = tl.arange(0, BLOCK_G)[:, None]
    inside = tl.arange(0, BLOCK_C)[None, :]
    chan = group * CG + inside
    mask = (inside < CG) & (chan < C)
    at = image * C + chan
    attention = tl.load(attention_ptr + chan, mask=mask, other=0.0).to(tl.float32)
    attention_bias = tl.load(attention_bias_ptr).to(tl.float32)
    share: tl.constexpr = 1.0 / (1 + HAS_LOW + HAS_HIGH)
    constant, mean = _forward(
        moments_ptr, mid_weight, mid_bias, factors_ptr, attention, attention_bias, at, chan, mask,
        plane, area, area, eps, add, divisor, least, most, share, CG)
    if HAS_LOW:
        c, m = _forward(
            moments_ptr + 3 * plane, low_weight, low_bias, factors_ptr + plane, attention,
            attention_bias, at, chan, mask, plane, area, area, eps, add, divisor, least, most,
            share, CG)
        constant += c
        mean += m
    if HAS_HIGH:
        c, m = _forward(
            moments_ptr + 6 * plane, high_weight, high_bias, factors_ptr + 2 * plane, attention,
            attention_bias, at, chan, mask, plane, area, area_high, eps, add, divisor, least, most,
            share, CG)
        constant += c
        mean += m
    tl.store(factors_ptr + 3 * plane + at, constant, mask=mask)
    tl.store(mean_ptr + at, mean.to(mean_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["H", "W", "h", "w"])
def dyhead_combine_fwd_kernel(mid_ptr, low_ptr, high_ptr, moments_ptr, factors_ptr, out_ptr, plane,
                              H, W, h, w, HAS_LOW: tl.constexpr, HAS_HIGH: tl.constexpr,
                              BLOCK: tl.constexpr):
    """out = the branches less their means times their factors, plus the constant.

    Grid: (B C, cdiv(H W, BLOCK)); one program owns BLOCK pixels of one channel.
    """
    row = tl.program_id(0).to(tl.int64)
    offs = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < H * W
    at = row * H * W + offs
    x = tl.load(mid_ptr + at, mask=mask, other=0.0).to(tl.float32)
    out = (x - tl.load(moments_ptr + row)) * tl.load(factors_ptr + row)
    if HAS_LOW:
        x = tl.load(low_ptr + at, mask=mask, other=0.0).to(tl.float32)
        out += (x - tl.load(moments_ptr + 3 * plane + row)) * tl.load(factors_ptr + plane + row)
    if HAS_HIGH:
        x = _resized(high_ptr + row * h * w, offs, mask, H, W, h, w)
        out += (x - tl.load(moments_ptr + 6 * plane + row)) * tl.load(factors_ptr + 2 * plane + row)
    out += tl.load(factors_ptr + 3 * plane + row)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["H", "W", "h", "w"])
def dyhead_combine_sums_kernel(grad_ptr, mid_ptr, low_ptr, high_ptr, moments_ptr, sums_ptr, plane,
                               H, W, h, w, HAS_LOW: tl.constexpr, HAS_HIGH: tl.constexpr,
                               BLOCK: tl.constexpr):
    """Sums of the gradient, alone and times each branch, in one order.

    Grid: (B C,); one program owns one channel of one image.
    """
    row = tl.program_id(0).to(tl.int64)
    mid_mean = tl.load(moments_ptr + row)
    low_mean = tl.load(moments_ptr + 3 * plane + row) if HAS_LOW else 0.0
    high_mean = tl.load(moments_ptr + 6 * plane + row) if HAS_HIGH else 0.0
    alone = tl.zeros([BLOCK], dtype=tl.float32)
    mid_sum = tl.zeros([BLOCK], dtype=tl.float32)
    low_sum = tl.zeros([BLOCK], dtype=tl.float32)
    high_sum = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, H * W, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        mask = offs < H * W
        at = row * H * W + offs
        grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
        alone += grad
        mid_sum += grad * (tl.load(mid_ptr + at, mask=mask, other=0.0).to(tl.float32) - mid_mean)
        if HAS_LOW:
            low_sum += grad * (tl.load(low_ptr + at, mask=mask, other=0.0).to(tl.float32)
                               - low_mean)
        if HAS_HIGH:
            high_sum += grad * (_resized(high_ptr + row * h * w, offs, mask, H, W, h, w)
                                - high_mean)
    tl.store(sums_ptr + row, tl.sum(mid_sum))
    tl.store(sums_ptr + plane + row, tl.sum(low_sum))
    tl.store(sums_ptr + 2 * plane + row, tl.sum(high_sum))
    tl.store(sums_ptr + 3 * plane + row, tl.sum(alone))


@triton.jit
def _backward(moments_ptr, weight_ptr, bias_ptr, sums_ptr, back_ptr, partial_ptr, alone, grad_mean,
              attention, attention_bias, at, chan, mask, plane, area, count, eps, add, divisor,
              least, most, share, C: tl.constexpr, CG: tl.constexpr):
    """Store what the backward of one branch needs; return its part of the attention's gradients."""
    off, shift, rstd, weight, bias = _norm(moments_ptr, weight_ptr, bias_ptr, at, chan, mask,
                                                  plane, count, eps, CG)
    after = _mean_after(off + shift, rstd, weight, bias, mask, count != area)
    scale, slope = _scale(tl.sum(attention * after) + attention_bias, add, divisor, least, most)
    scale *= share
    times = tl.load(sums_ptr + at, mask=mask, other=0.0) + grad_mean * shift
    grad_scale = share * tl.sum(tl.where(
        mask, weight * rstd * times + (weight * off * rstd + bias) * alone, 0.0))
    grad_logit = tl.where(slope == 0, 0.0, grad_scale * slope)  # NaN or not
    grad_after = grad_logit * attention
    grad_bias = scale * alone + grad_after
    grad_weight = rstd * (scale * times + grad_after * shift + off * grad_bias)
    # A norm's input gets its gradient less the group's mean of it, and less that along the input.
    flat = (tl.sum(tl.where(mask, weight * grad_bias, 0.0), 1) / (CG * count))[:, None]
    along = (tl.sum(tl.where(mask, weight * grad_weight, 0.0), 1) / (CG * count))[:, None]
    tl.store(back_ptr + at, weight * rstd * scale, mask=mask)
    tl.store(back_ptr + plane + at, weight * rstd * (scale * grad_mean + grad_after) / area,
             mask=mask)
    tl.store(back_ptr + 2 * plane + at, tl.broadcast_to(-rstd * rstd * along, at.shape), mask=mask)
    tl.store(back_ptr + 3 * plane + at, -rstd * (flat + rstd * off * along), mask=mask)
    tl.store(partial_ptr + chan, grad_weight, mask=mask)
    tl.store(partial_ptr + C + chan, grad_bias, mask=mask)
    return grad_logit * after, grad_logit


@triton.jit(do_not_specialize=["area", "area_high", "eps", "add", "divisor", "least", "most"])
def dyhead_combine_back_kernel(moments_ptr, mid_weight, mid_bias, low_weight, low_bias, high_weight,
                               high_bias, attention_ptr, attention_bias_ptr, sums_ptr,
                               grad_mean_ptr, back_ptr, partial_ptr, plane, area, area_high, eps,
                               add, divisor, least, most, C: tl.constexpr, CG: tl.constexpr,
                               HAS_LOW: tl.constexpr, HAS_HIGH: tl.constexpr,
                               BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr):
    """From sums to the factors of the inputs' gradients, and each image's gradients of parameters.

    Grid: (B,); one program owns one image.
    """
    image = tl.program_id(0)
    group = tl.arange(0, BLOCK_G)[:, None]
    inside = tl.arange(0, BLOCK_C)[None, :]
    chan = group * CG + inside
    mask = (inside < CG) & (chan < C)
    at = image * C + chan
    attention = tl.load(attention_ptr + chan, mask=mask, other=0.0).to(tl.float32)
    attention_bias = tl.load(attention_bias_ptr).to(tl.float32)
    grad_mean = tl.load(grad_mean_ptr + at, mask=mask, other=0.0).to(tl.float32)
    alone = tl.load(sums_ptr + 3 * plane + at, mask=mask, other=0.0) + grad_mean
    share: tl.constexpr = 1.0 / (1 + HAS_LOW + HAS_HIGH)
    partial_ptr += image.to(tl.int64) * 8 * C
    grad_attention, grad_logit = _backward(
        moments_ptr, mid_weight, mid_bias, sums_ptr, back_ptr, partial_ptr, alone, grad_mean,
        attention, attention_bias, at, chan, mask, plane, area, area, eps, add, divisor, least,
        most, share, C, CG)
    if HAS_LOW:
        g, s = _backward(
            moments_ptr + 3 * plane, low_weight, low_bias, sums_ptr + plane, back_ptr + 4 * plane,
            partial_ptr + 2 * C, alone, grad_mean, attention, attention_bias, at, chan, mask, plane,
            area, area, eps, add, divisor, least, most, share, C, CG)
        grad_attention += g
        grad_logit += s
    else:
        tl.store(partial_ptr + 2 * C + chan, tl.zeros_like(alone), mask=mask)
        tl.store(partial_ptr + 3 * C + chan, tl.zeros_like(alone), mask=mask)
    if HAS_HIGH:
        g, s = _backward(
            moments_ptr + 6 * plane, high_weight, high_bias, sums_ptr + 2 * plane,
            back_ptr + 8 * plane, partial_ptr + 4 * C, alone, grad_mean, attention, attention_bias,
            at, chan, mask, plane, area, area_high, eps, add, divisor, least, most, share, C, CG)
        grad_attention += g
        grad_logit += s
    else:
        tl.store(partial_ptr + 4 * C + chan, tl.zeros_like(alone), mask=mask)
        tl.store(partial_ptr + 5 * C + chan, tl.zeros_like(alone), mask=mask)
    tl.store(partial_ptr + 6 * C + chan, grad_attention, mask=mask)
    tl.store(partial_ptr + 7 * C + chan, tl.where(chan == 0, grad_logit, 0.0), mask=mask)


@triton.jit
def _store_grad(out_ptr, x_ptr, grad, ones, mean_ptr, back_ptr, plane, at, mask):
    """Store the gradient of a branch from the adjoints of the gradient and of ones."""
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32) - tl.load(mean_ptr)
    out = (tl.load(back_ptr) * grad + tl.load(back_ptr + plane) * ones
           + tl.load(back_ptr + 2 * plane) * x + tl.load(back_ptr + 3 * plane))
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["H", "W", "h", "w", "rows", "cols", "blocks"])
def dyhead_combine_bwd_kernel(grad_ptr, mid_ptr, low_ptr, high_ptr, moments_ptr, back_ptr,
                              mid_grad_ptr, low_grad_ptr, high_grad_ptr, plane, H, W, h, w, rows,
                              cols, blocks, HAS_LOW: tl.constexpr, HAS_HIGH: tl.constexpr,
                              BLOCK: tl.constexpr):
    """Gradients of the inputs; each pixel of high collects from the outputs it has a part in.

    Grid: (B C, cdiv(H W, BLOCK) + cdiv(h w, BLOCK)); one program owns BLOCK pixels of one channel,
    the first ``blocks`` along the second axis those of mid and low, the others those of high.
    """
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    if block < blocks:
        offs = block * BLOCK + tl.arange(0, BLOCK)
        mask = offs < H * W
        at = row * H * W + offs
        grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
        _store_grad(mid_grad_ptr, mid_ptr, grad, 1.0, moments_ptr + row, back_ptr + row, plane,
                    at, mask)
        if HAS_LOW:
            _store_grad(low_grad_ptr, low_ptr, grad, 1.0, moments_ptr + 3 * plane + row,
                        back_ptr + 4 * plane + row, plane, at, mask)
    elif HAS_HIGH:
        offs = (block - blocks) * BLOCK + tl.arange(0, BLOCK)
        mask = offs < h * w
        y = offs // w
        x = offs % w
        y_first = _first_output(y, h, H)
        x_first = _first_output(x, w, W)
        grad = tl.zeros([BLOCK], dtype=tl.float32)
        ones = tl.zeros([BLOCK], dtype=tl.float32)
        for i in range(rows):
            y_part = _part(y, y_first + i, h, H)
            for j in range(cols):
                part = tl.where(mask, y_part * _part(x, x_first + j, w, W), 0.0)
                at = row * H * W + (y_first + i) * W + x_first + j
                grad += part * tl.load(grad_ptr + at, mask=part > 0, other=0.0).to(tl.float32)
                ones += part
        _store_grad(high_grad_ptr, high_ptr, grad, ones, moments_ptr + 6 * plane + row,
                    back_ptr + 8 * plane + row, plane, row * h * w + offs, mask)
