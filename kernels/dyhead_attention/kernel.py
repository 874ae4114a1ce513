"""Triton kernels of DyHead's combination and dynamic ReLU, all levels in every launch.

Maps, tiles, statistics and words are those of ``kernels/dyhead_convs/kernel.py``. A resize's
weights sum to one, so a resized norm is an affine function of the resized input, and all that
stands between maps and combination is one factor per branch, image and channel, and one constant.
By level and image, plane = L B C, in float32:

  moments  [3 branches, 3, L, B, C]: mean, sum of squared deviations, mean after the resize
  factors  [4, L, B, C]: of the branches 0, 1, 2 less their means, and the constant
  mean     [L, B, C]: of the combination
  coeffs   [L, B, 4, C]: dynamic ReLU's a1, b1, a2, b2 before they are centred
  gates    [pixels of all levels, C]: the gradient of the combination before the dynamic ReLU
  sums     [4, L, B, C]: that gradient times each resized branch less its mean, and alone
  back     [3 branches, 4, L, B, C]: what to multiply the resize's adjoint of the gradient, that of
           ones, and the map less its mean with, and the constant; in sum the map's gradient
  partial  [L, B, 8, C]: gradients of weight and bias of each norm, of the attention's weight, and
           of its bias in channel 0
"""

import triton
import triton.language as tl

from ..dyhead_convs.kernel import (
    convolution_of,
    first_output,
    grid_of,
    outputs_of_one,
    part_of,
    pick,
    pixels_of,
    size_of,
)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "B"])
def dyhead_attention_moments_kernel(stats_ptr, parts_ptr, moments_ptr, w0, w1, w2, w3, w4, tiles, B,
                                    L: tl.constexpr, C: tl.constexpr, BLOCK_P: tl.constexpr,
                                    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """Moments of whole maps from those of their tiles of BLOCK_P pixels; zeros where no map is.

    Grid: (3 branches L B, cdiv(C, BLOCK_C)); one program owns BLOCK_C channels of one map.
    """
    pid = tl.program_id(0)
    image = pid % B
    level = pid // B % L
    branch = pid // B // L
    h, w = size_of(w0)
    others = tiles - tl.cdiv(h * w, BLOCK_P)
    # The result of high has the grid of the coarser level.
    grid = tl.minimum(tl.where(branch == 2, level + 1, level), L - 1)
    exists = (branch == 0) | ((branch == 1) & (level > 0)) | ((branch == 2) & (level < L - 1))
    first = branch * others
    for i in tl.static_range(L - 1):
        h, w = size_of(w0 if i == 0 else w1 if i == 1 else w2 if i == 2 else w3)
        first += tl.where(i < grid, tl.cdiv(h * w, BLOCK_P), 0)
    h, w = size_of(pick(grid, w0, w1, w2, w3, w4, L))
    area = h * w
    n = tl.where(exists, tl.cdiv(area, BLOCK_P), 0)
    h, w = size_of(pick(level, w0, w1, w2, w3, w4, L))
    every = tiles + 2 * others
    row = image.to(tl.int64) * every + first
    offs_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < C
    stats_ptr += row * (3 * C) + offs_c
    pivot = tl.load(stats_ptr, mask=offs_c < tl.where(exists, C, 0), other=0.0)
    offs_t = tl.arange(0, BLOCK_T)

    off = tl.zeros([BLOCK_C], tl.float32)
    for start in range(0, n, BLOCK_T):
        t = start + offs_t
        count = tl.minimum(area - t * BLOCK_P, BLOCK_P).to(tl.float32)
        mask = (t < n)[:, None] & mask_c[None, :]
        mean = tl.load(stats_ptr[None, :] + (t * (3 * C))[:, None], mask=mask, other=0.0)
        off += tl.sum(tl.where(mask, (mean - pivot[None, :]) * count[:, None], 0.0), 0)
    whole = pivot + off / tl.maximum(area, 1)
    spread = tl.zeros([BLOCK_C], tl.float32)
    after = tl.zeros([BLOCK_C], tl.float32)
    for start in range(0, n, BLOCK_T):
        t = start + offs_t
        count = tl.minimum(area - t * BLOCK_P, BLOCK_P).to(tl.float32)
        mask = (t < n)[:, None] & mask_c[None, :]
        at = stats_ptr[None, :] + (t * (3 * C))[:, None]
        apart = tl.load(at, mask=mask, other=0.0) - whole[None, :]
        part = tl.load(at + C, mask=mask, other=0.0) + apart * apart * count[:, None]
        spread += tl.sum(tl.where(mask, part, 0.0), 0)
        if branch == 2:
            total = tl.load(parts_ptr + row + t, mask=t < n, other=0.0)
            part = tl.load(at + 2 * C, mask=mask, other=0.0) + apart * total[:, None]
            after += tl.sum(tl.where(mask, part, 0.0), 0)
    plane = tl.cast(L * C, tl.int64) * B
    moments_ptr += branch * 3 * plane + (level * B + image) * C + offs_c
    tl.store(moments_ptr, whole, mask=mask_c)
    tl.store(moments_ptr + plane, spread, mask=mask_c)
    tl.store(moments_ptr + 2 * plane, whole + after / (h * w), mask=mask_c)


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


@triton.jit
def _areas(level, w0, w1, w2, w3, w4, L: tl.constexpr):
    """Pixels of a level and of the coarser one, and the share of one branch."""
    H, W = size_of(pick(level, w0, w1, w2, w3, w4, L))
    h, w = size_of(pick(tl.minimum(level + 1, L - 1), w0, w1, w2, w3, w4, L))
    branches = 1 + (level > 0).to(tl.int32) + (level < L - 1).to(tl.int32)
    return H * W, h * w, 1.0 / branches.to(tl.float32)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "B", "eps", "add", "divisor", "least",
                               "most"])
def dyhead_attention_factors_kernel(moments_ptr, mid_weight, mid_bias, low_weight, low_bias,
                                    high_weight, high_bias, attention_ptr, attention_bias_ptr,
                                    factors_ptr, mean_ptr, w0, w1, w2, w3, w4, B, eps, add, divisor,
                                    least, most, L: tl.constexpr, C: tl.constexpr, CG: tl.constexpr,
                                    BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr):
    """From moments to factors, and the mean of the combination.

    Grid: (L B,); one program owns one image of one level.
    """
    pid = tl.program_id(0)
    level = pid // B
    plane = tl.cast(L * C, tl.int64) * B
    area, area_high, share = _areas(level, w0, w1, w2, w3, w4, L)
    group = tl.arange(0, BLOCK_G)[:, None]
    inside = tl.arange(0, BLOCK_C)[None, :]
    chan = group * CG + inside
    mask = (inside < CG) & (chan < C)
    at = pid * C + chan
    attention = tl.load(attention_ptr + chan, mask=mask, other=0.0).to(tl.float32)
    attention_bias = tl.load(attention_bias_ptr).to(tl.float32)
    constant, mean = _forward(
        moments_ptr, mid_weight, mid_bias, factors_ptr, attention, attention_bias, at, chan, mask,
        plane, area, area, eps, add, divisor, least, most, share, CG)
    if level > 0:
        c, m = _forward(
            moments_ptr + 3 * plane, low_weight, low_bias, factors_ptr + plane, attention,
            attention_bias, at, chan, mask, plane, area, area, eps, add, divisor, least, most,
            share, CG)
        constant += c
        mean += m
    else:  # there is no finer level
        tl.store(factors_ptr + plane + at, 0.0, mask=mask)
    if level < L - 1:
        c, m = _forward(
            moments_ptr + 6 * plane, high_weight, high_bias, factors_ptr + 2 * plane, attention,
            attention_bias, at, chan, mask, plane, area, area_high, eps, add, divisor, least, most,
            share, CG)
        constant += c
        mean += m
    else:
        tl.store(factors_ptr + 2 * plane + at, 0.0, mask=mask)
    tl.store(factors_ptr + 3 * plane + at, constant, mask=mask)
    tl.store(mean_ptr + at, mean, mask=mask)


# --- over the maps ------------------------------------------------------------------------------

@triton.jit
def _rows(maps_ptr, row, offs_c, mask, C):
    return tl.load(maps_ptr + row[:, None] * C + offs_c[None, :], mask=mask, other=0.0
                   ).to(tl.float32)


@triton.jit
def _resized(maps_ptr, row, y, x, H, W, h, w, offs_c, mask, C):
    """Pixels (y, x) of the [H, W] map that the [h, w] map from ``row`` on becomes, corners
    aligned."""
    y = y.to(tl.float32) * ((h - 1).to(tl.float32) / tl.maximum(H - 1, 1))
    x = x.to(tl.float32) * ((w - 1).to(tl.float32) / tl.maximum(W - 1, 1))
    y0 = tl.minimum(y.to(tl.int32), h - 1)
    x0 = tl.minimum(x.to(tl.int32), w - 1)
    y1 = tl.minimum(y0 + 1, h - 1)
    x1 = tl.minimum(x0 + 1, w - 1)
    fy = (y - y0.to(tl.float32))[:, None]
    fx = (x - x0.to(tl.float32))[:, None]
    top = ((1 - fx) * _rows(maps_ptr, row + y0 * w + x0, offs_c, mask, C)
           + fx * _rows(maps_ptr, row + y0 * w + x1, offs_c, mask, C))
    bottom = ((1 - fx) * _rows(maps_ptr, row + y1 * w + x0, offs_c, mask, C)
              + fx * _rows(maps_ptr, row + y1 * w + x1, offs_c, mask, C))
    return (1 - fy) * top + fy * bottom


@triton.jit
def _less_mean(moments_ptr, value, at, mask_c):
    return value - tl.load(moments_ptr + at, mask=mask_c, other=0.0)[None, :]


@triton.jit
def _branches(maps_ptr, moments_ptr, image, level, before, p, real, y, x, H, W, offs_c, mask_c,
              w0, w1, w2, w3, w4, pixels, B, L: tl.constexpr, C: tl.constexpr):
    """The branches of a tile less their means, zero where there is none, and where the tile's
    channels lie in a plane of the tables."""
    mask = real[:, None] & mask_c[None, :]
    plane = tl.cast(L * C, tl.int64) * B
    at = (level * B + image) * C + offs_c
    row = B * before.to(tl.int64) + image * (H * W) + p
    mid = _less_mean(moments_ptr, _rows(maps_ptr, row, offs_c, mask, C), at, mask_c)
    low = tl.zeros_like(mid)
    high = tl.zeros_like(mid)
    h, w = size_of(w0)
    others = pixels - h * w
    if level > 0:
        low = _less_mean(moments_ptr + 3 * plane,
                         _rows(maps_ptr, row + B * others.to(tl.int64), offs_c, mask, C), at,
                         mask_c)
    if level < L - 1:
        h, w = size_of(pick(level + 1, w0, w1, w2, w3, w4, L))
        first = B * (2 * others + before + H * W).to(tl.int64) + image * (h * w)
        high = _less_mean(moments_ptr + 6 * plane,
                          _resized(maps_ptr, first, y, x, H, W, h, w, offs_c, mask, C), at,
                          mask_c)
    return mid, low, high, at, plane


@triton.jit
def _combination(factors_ptr, mid, low, high, level, at, plane, mask_c, L: tl.constexpr):
    out = mid * tl.load(factors_ptr + at, mask=mask_c, other=0.0)[None, :]
    if level > 0:
        out += low * tl.load(factors_ptr + plane + at, mask=mask_c, other=0.0)[None, :]
    if level < L - 1:
        out += high * tl.load(factors_ptr + 2 * plane + at, mask=mask_c, other=0.0)[None, :]
    return out + tl.load(factors_ptr + 3 * plane + at, mask=mask_c, other=0.0)[None, :]


@triton.jit
def _lines(coeffs_ptr, level, image, B, offs_c, mask_c, C: tl.constexpr):
    """Slopes and offsets of the two lines of each channel."""
    at = coeffs_ptr + (level * B + image) * (4 * C) + offs_c
    a1 = (tl.load(at, mask=mask_c, other=0.0) - 0.5) * 2.0 + 1.0
    b1 = tl.load(at + C, mask=mask_c, other=0.0) - 0.5
    a2 = (tl.load(at + 2 * C, mask=mask_c, other=0.0) - 0.5) * 2.0
    b2 = tl.load(at + 3 * C, mask=mask_c, other=0.0) - 0.5
    return a1[None, :], b1[None, :], a2[None, :], b2[None, :]


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "pixels", "B"])
def dyhead_attention_fwd_kernel(maps_ptr, moments_ptr, factors_ptr, coeffs_ptr, o0, o1, o2, o3, o4,
                                w0, w1, w2, w3, w4, tiles, pixels, B, L: tl.constexpr,
                                C: tl.constexpr, LAST: tl.constexpr, BLOCK_P: tl.constexpr,
                                BLOCK_C: tl.constexpr):
    """out = the larger of two lines of the combination: branches less means times factors.

    Grid: (B tiles, cdiv(C, BLOCK_C)); one program owns BLOCK_P pixels of BLOCK_C channels. Results
    per level [B, C, P], or [B, P, C] with LAST.
    """
    pid = tl.program_id(0)
    t, level, before, H, W = grid_of(pid % tiles, w0, w1, w2, w3, w4, L, BLOCK_P)
    image = (pid // tiles).to(tl.int64)
    p, real, y, x = pixels_of(t, H, W, BLOCK_P)
    offs_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < C
    mid, low, high, at, plane = _branches(
        maps_ptr, moments_ptr, image, level, before, p, real, y, x, H, W, offs_c, mask_c, w0, w1,
        w2, w3, w4, pixels, B, L, C)
    out = _combination(factors_ptr, mid, low, high, level, at, plane, mask_c, L)
    a1, b1, a2, b2 = _lines(coeffs_ptr, level, image, B, offs_c, mask_c, C)
    out = tl.maximum(out * a1 + b1, out * a2 + b2, propagate_nan=tl.PropagateNan.ALL)
    out_ptr = pick(level, o0, o1, o2, o3, o4, L) + image * (H * W * C)
    if LAST:
        to = p[:, None] * C + offs_c[None, :]
    else:
        to = p[:, None] + offs_c[None, :] * (H * W)
    tl.store(out_ptr + to, out.to(out_ptr.dtype.element_ty), mask=real[:, None] & mask_c[None, :])


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "pixels", "B"])
def dyhead_attention_gates_kernel(maps_ptr, moments_ptr, factors_ptr, coeffs_ptr, g0, g1, g2, g3,
                                  g4, gates_ptr, tile_sums_ptr, w0, w1, w2, w3, w4, tiles, pixels,
                                  B, L: tl.constexpr, C: tl.constexpr, LAST: tl.constexpr,
                                  BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """The gradient through the dynamic ReLU, and the sums of each tile.

    On a tie both lines get half of the gradient, and all of it where one of them is NaN, as
    torch's maximum has it. Grid as that of the forward, gradients as its results. tile_sums [B,
    tiles, 8, C]: of the gradient times mid, low and high, and alone; of a1, b1, a2 and b2.
    """
    pid = tl.program_id(0)
    t, level, before, H, W = grid_of(pid % tiles, w0, w1, w2, w3, w4, L, BLOCK_P)
    image = (pid // tiles).to(tl.int64)
    p, real, y, x = pixels_of(t, H, W, BLOCK_P)
    offs_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < C
    mask = real[:, None] & mask_c[None, :]
    mid, low, high, at, plane = _branches(
        maps_ptr, moments_ptr, image, level, before, p, real, y, x, H, W, offs_c, mask_c, w0, w1,
        w2, w3, w4, pixels, B, L, C)
    out = _combination(factors_ptr, mid, low, high, level, at, plane, mask_c, L)
    a1, b1, a2, b2 = _lines(coeffs_ptr, level, image, B, offs_c, mask_c, C)
    grad_ptr = pick(level, g0, g1, g2, g3, g4, L) + image * (H * W * C)
    if LAST:
        of = p[:, None] * C + offs_c[None, :]
    else:  # its pixels follow one another, but then all would be computed in that order
        of = tl.max_contiguous(p[:, None] + offs_c[None, :] * (H * W), [1, 1])
    grad = tl.load(grad_ptr + of, mask=mask, other=0.0).to(tl.float32)
    u = out * a1 + b1
    v = out * a2 + b2
    share = tl.where(u == v, grad * 0.5, grad)
    first = tl.where(u < v, 0.0, share)
    second = tl.where(u > v, 0.0, share)
    gate = first * a1 + second * a2
    row = B * before.to(tl.int64) + image * (H * W) + p
    tl.store(gates_ptr + row[:, None] * C + offs_c[None, :], gate, mask=mask)
    to = tile_sums_ptr + pid.to(tl.int64) * (8 * C) + offs_c
    tl.store(to, tl.sum(tl.where(mask, gate * mid, 0.0), 0), mask=mask_c)
    tl.store(to + C, tl.sum(tl.where(mask, gate * low, 0.0), 0), mask=mask_c)
    tl.store(to + 2 * C, tl.sum(tl.where(mask, gate * high, 0.0), 0), mask=mask_c)
    tl.store(to + 3 * C, tl.sum(tl.where(mask, gate, 0.0), 0), mask=mask_c)
    tl.store(to + 4 * C, tl.sum(tl.where(mask, first * out, 0.0), 0) * 2.0, mask=mask_c)
    tl.store(to + 5 * C, tl.sum(tl.where(mask, first, 0.0), 0), mask=mask_c)
    tl.store(to + 6 * C, tl.sum(tl.where(mask, second * out, 0.0), 0) * 2.0, mask=mask_c)
    tl.store(to + 7 * C, tl.sum(tl.where(mask, second, 0.0), 0), mask=mask_c)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "B"])
def dyhead_attention_sums_kernel(tile_sums_ptr, sums_ptr, dcoeffs_ptr, w0, w1, w2, w3, w4, tiles, B,
                                 L: tl.constexpr, C: tl.constexpr, BLOCK_P: tl.constexpr,
                                 BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sums of whole levels from those of their tiles, in one order: sums, and dcoeffs as coeffs.

    Grid: (L B, cdiv(8 C, BLOCK_C)).
    """
    pid = tl.program_id(0)
    image = pid % B
    level = pid // B
    first = level * 0
    for i in tl.static_range(L - 1):
        h, w = size_of(w0 if i == 0 else w1 if i == 1 else w2 if i == 2 else w3)
        first += tl.where(i < level, tl.cdiv(h * w, BLOCK_P), 0)
    h, w = size_of(pick(level, w0, w1, w2, w3, w4, L))
    n = tl.cdiv(h * w, BLOCK_P)
    offs = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = offs < 8 * C
    tile_sums_ptr += (image.to(tl.int64) * tiles + first) * (8 * C) + offs
    total = tl.zeros([BLOCK_C], tl.float32)
    for start in range(0, n, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        part = tl.load(tile_sums_ptr[None, :] + (t * (8 * C))[:, None],
                       mask=(t < n)[:, None] & mask[None, :], other=0.0)
        total += tl.sum(part, 0)
    plane = tl.cast(L * C, tl.int64) * B
    tl.store(sums_ptr + offs // C * plane + pid * C + offs % C, total, mask=offs < 4 * C)
    tl.store(dcoeffs_ptr + pid.to(tl.int64) * (4 * C) + offs - 4 * C, total,
             mask=mask & (offs >= 4 * C))


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


@triton.jit
def _nothing(partial_ptr, chan, mask, C: tl.constexpr):
    zero = tl.zeros(chan.shape, tl.float32)
    tl.store(partial_ptr + chan, zero, mask=mask)
    tl.store(partial_ptr + C + chan, zero, mask=mask)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "B", "eps", "add", "divisor", "least",
                               "most"])
def dyhead_attention_back_kernel(moments_ptr, mid_weight, mid_bias, low_weight, low_bias,
                                 high_weight, high_bias, attention_ptr, attention_bias_ptr,
                                 sums_ptr, dmean_ptr, back_ptr, partial_ptr, w0, w1, w2, w3, w4, B,
                                 eps, add, divisor, least, most, L: tl.constexpr, C: tl.constexpr,
                                 CG: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr):
    """From sums to the factors of the maps' gradients, and each image's gradients of parameters.

    Grid: (L B,); one program owns one image of one level.
    """
    pid = tl.program_id(0)
    level = pid // B
    plane = tl.cast(L * C, tl.int64) * B
    area, area_high, share = _areas(level, w0, w1, w2, w3, w4, L)
    group = tl.arange(0, BLOCK_G)[:, None]
    inside = tl.arange(0, BLOCK_C)[None, :]
    chan = group * CG + inside
    mask = (inside < CG) & (chan < C)
    at = pid * C + chan
    attention = tl.load(attention_ptr + chan, mask=mask, other=0.0).to(tl.float32)
    attention_bias = tl.load(attention_bias_ptr).to(tl.float32)
    grad_mean = tl.load(dmean_ptr + at, mask=mask, other=0.0)
    alone = tl.load(sums_ptr + 3 * plane + at, mask=mask, other=0.0) + grad_mean
    partial_ptr += pid.to(tl.int64) * 8 * C
    grad_attention, grad_logit = _backward(
        moments_ptr, mid_weight, mid_bias, sums_ptr, back_ptr, partial_ptr, alone, grad_mean,
        attention, attention_bias, at, chan, mask, plane, area, area, eps, add, divisor, least,
        most, share, C, CG)
    if level > 0:
        g, s = _backward(
            moments_ptr + 3 * plane, low_weight, low_bias, sums_ptr + plane, back_ptr + 4 * plane,
            partial_ptr + 2 * C, alone, grad_mean, attention, attention_bias, at, chan, mask, plane,
            area, area, eps, add, divisor, least, most, share, C, CG)
        grad_attention += g
        grad_logit += s
    else:
        _nothing(partial_ptr + 2 * C, chan, mask, C)
    if level < L - 1:
        g, s = _backward(
            moments_ptr + 6 * plane, high_weight, high_bias, sums_ptr + 2 * plane,
            back_ptr + 8 * plane, partial_ptr + 4 * C, alone, grad_mean, attention, attention_bias,
            at, chan, mask, plane, area, area_high, eps, add, divisor, least, most, share, C, CG)
        grad_attention += g
        grad_logit += s
    else:
        _nothing(partial_ptr + 4 * C, chan, mask, C)
    tl.store(partial_ptr + 6 * C + chan, grad_attention, mask=mask)
    tl.store(partial_ptr + 7 * C + chan, tl.where(chan == 0, grad_logit, 0.0), mask=mask)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "pixels", "B"])
def dyhead_attention_bwd_kernel(maps_ptr, moments_ptr, gates_ptr, back_ptr, dmaps_ptr, w0, w1, w2,
                                w3, w4, tiles, pixels, B, L: tl.constexpr, C: tl.constexpr,
                                BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Gradients of the maps; each pixel of high collects from the outputs it has a part in.

    Grid: (B tiles of all maps, cdiv(C, BLOCK_C)); one program owns BLOCK_P pixels of BLOCK_C
    channels.
    """
    h, w = size_of(w0)
    every = 3 * tiles - 2 * tl.cdiv(h * w, BLOCK_P)
    pid = tl.program_id(0)
    image = (pid // every).to(tl.int64)
    branch, t, level, before, h, w, row = convolution_of(pid % every, tiles, pixels, w0, w1, w2, w3,
                                                         w4, L, BLOCK_P)
    p, real, y, x = pixels_of(t, h, w, BLOCK_P)
    offs_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < C
    mask = real[:, None] & mask_c[None, :]
    grad = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    ones = tl.full([BLOCK_P], 1.0, tl.float32)
    if branch == 2:
        ones = tl.zeros([BLOCK_P], tl.float32)
        level -= 1
        H, W = size_of(pick(level, w0, w1, w2, w3, w4, L))
        first = B * (before - H * W).to(tl.int64) + image * (H * W)
        y_first = first_output(y, h, H)
        x_first = first_output(x, w, W)
        for i in range(outputs_of_one(h, H)):
            y_part = part_of(y, y_first + i, h, H)
            for j in range(outputs_of_one(w, W)):
                part = tl.where(real, y_part * part_of(x, x_first + j, w, W), 0.0)
                at = first + (y_first + i) * W + x_first + j
                here = (part > 0)[:, None] & mask_c[None, :]
                grad += part[:, None] * _rows(gates_ptr, at, offs_c, here, C)
                ones += part
    else:
        grad = _rows(gates_ptr, B * before.to(tl.int64) + image * (h * w) + p, offs_c, mask, C)
    plane = tl.cast(L * C, tl.int64) * B
    at = (level * B + image) * C + offs_c
    rows = B * row.to(tl.int64) + image * (h * w) + p
    value = _less_mean(moments_ptr + branch * 3 * plane, _rows(maps_ptr, rows, offs_c, mask, C), at,
                       mask_c)
    back_ptr += branch * 4 * plane + at
    out = tl.load(back_ptr, mask=mask_c, other=0.0)[None, :] * grad
    out += tl.load(back_ptr + plane, mask=mask_c, other=0.0)[None, :] * ones[:, None]
    out += tl.load(back_ptr + 2 * plane, mask=mask_c, other=0.0)[None, :] * value
    out += tl.load(back_ptr + 3 * plane, mask=mask_c, other=0.0)[None, :]
    tl.store(dmaps_ptr + rows[:, None] * C + offs_c[None, :], out.to(dmaps_ptr.dtype.element_ty),
             mask=mask)
