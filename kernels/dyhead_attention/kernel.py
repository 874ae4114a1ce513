"""Triton kernels of DyHead's combination and dynamic ReLU, all levels in every launch.

Maps, tiles, statistics and words are those of ``kernels/dyhead_convs/kernel.py``. A resize's
weights sum to one, so a resized norm is an affine function of the resized input, and all that
stands between maps and combination is one factor per branch, image and channel, and one constant.
In float32, one after the other, a plane being L B C numbers by level and image:

  tables
    moments  [3 branches, 3, L, B, C]: mean, sum of squared deviations, mean after the resize
    factors  [4, L, B, C]: of the branches 0, 1, 2 less their means, and the constant
    mean     [L, B, C]: of the combination
    coeffs   [L, B, 4, C]: dynamic ReLU's a1, b1, a2, b2 before they are clamped and centred
    hidden   [L, B, D]: the layer between these and the mean
  scratch, of the backward
    sums     [4, L, B, C]: the gradient of the combination times each resized branch less its mean,
             and alone
    back     [3 branches, 4, L, B, C]: what to multiply the resize's adjoint of the gradient, that
             of ones, and the map less its mean with, and the constant; in sum the map's gradient
    dmean    [L, B, C]
    dcoeffs  [L, B, 4, C]
    partial  [L, B, 8, C]: gradients of weight and bias of each norm, of the attention's weight,
             and of its bias in channel 0
    dhidden  [L, B, D]
  gates      [pixels of all levels, C]: the gradient of the combination before the dynamic ReLU
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

# Planes before what tables hold after the moments, and scratch after the sums.
FACTORS, MEAN, COEFFS, HIDDEN = (tl.constexpr(n) for n in (9, 13, 14, 18))
BACK, DMEAN, DCOEFFS, PARTIAL, DHIDDEN = (tl.constexpr(n) for n in (4, 16, 17, 21, 29))


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "B"])
def dyhead_attention_moments_kernel(stats_ptr, tables_ptr, w0, w1, w2, w3, w4, tiles, B,
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
    parts_ptr = stats_ptr + tl.cast(3 * C * every, tl.int64) * B
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
    tables_ptr += branch * 3 * plane + (level * B + image) * C + offs_c
    tl.store(tables_ptr, whole, mask=mask_c)
    tl.store(tables_ptr + plane, spread, mask=mask_c)
    tl.store(tables_ptr + 2 * plane, whole + after / (h * w), mask=mask_c)


@triton.jit
def _clamped(x, LEAST: tl.constexpr, MOST: tl.constexpr):
    return tl.where(x < LEAST, LEAST, tl.where(x > MOST, MOST, x))  # NaN passes


@triton.jit
def _image(w0, w1, w2, w3, w4, B, L: tl.constexpr, C: tl.constexpr, CG: tl.constexpr,
           BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr):
    """What a program that owns one image of one level wants to know.

    Returns the level; a plane's size; channels as [groups, channels of a group], which are real,
    and where they lie in a plane; pixels of the level and of the coarser one; a branch's share.
    """
    pid = tl.program_id(0)
    level = pid // B
    inside = tl.arange(0, BLOCK_C)[None, :]
    chan = tl.arange(0, BLOCK_G)[:, None] * CG + inside
    H, W = size_of(pick(level, w0, w1, w2, w3, w4, L))
    h, w = size_of(pick(tl.minimum(level + 1, L - 1), w0, w1, w2, w3, w4, L))
    branches = 1 + (level > 0).to(tl.int32) + (level < L - 1).to(tl.int32)
    return (level, tl.cast(L * C, tl.int64) * B, chan, (inside < CG) & (chan < C),
            pid.to(tl.int64) * C + chan, H * W, h * w, 1.0 / branches.to(tl.float32))


@triton.jit
def _exists(k, level, L: tl.constexpr):
    return (k == 0) | ((k == 1) & (level > 0)) | ((k == 2) & (level < L - 1))


@triton.jit
def _branch(k: tl.constexpr, tables_ptr, mid_weight, mid_bias, low_weight, low_bias, high_weight,
            high_bias, attention, attention_bias, at, chan, mask, plane, area, area_high,
            CG: tl.constexpr, EPS: tl.constexpr, ADD: tl.constexpr, DIVISOR: tl.constexpr,
            LEAST: tl.constexpr, MOST: tl.constexpr):
    """The norm of a branch of one image, and the scale that the branch gets.

    Returns, as [groups, channels of a group], the channels' means less the group's, what the resize
    adds to them, the group's 1 / std, the norm's weight and bias, and the channels' means after
    both; the scale, an HSigmoid of a ReLU, and its derivative as torch has it: 0 at 0, whole at the
    clamps. NaN passes, and has no derivative.
    """
    count = area_high if k == 2 else area
    weight_ptr = mid_weight if k == 0 else low_weight if k == 1 else high_weight
    bias_ptr = mid_bias if k == 0 else low_bias if k == 1 else high_bias
    moments_ptr = tables_ptr + 3 * k * plane + at
    mean = tl.load(moments_ptr, mask=mask, other=0.0)
    spread = tl.load(moments_ptr + plane, mask=mask, other=0.0)
    shift = tl.load(moments_ptr + 2 * plane, mask=mask, other=0.0) - mean
    weight = tl.load(weight_ptr + chan, mask=mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + chan, mask=mask, other=0.0).to(tl.float32)
    off = tl.where(mask, mean - (tl.sum(mean, 1) / CG)[:, None], 0.0)
    rstd = 1.0 / tl.sqrt_rn((tl.sum(spread / count + off * off, 1) / CG)[:, None] + EPS)
    # An infinite weight makes a channel of both infinities, whose mean is NaN, and so does a resize
    # of an infinite one, which multiplies some of it with zero.
    lost = (weight - weight != 0) | ((count != area) & (bias - bias != 0))
    after = tl.where(lost, float("nan"), weight * (off + shift) * rstd + bias)
    after = tl.where(mask, after, 0.0)
    logit = tl.sum(attention * after) + attention_bias
    linear = (tl.where(logit <= 0, 0.0, logit) + ADD) / DIVISOR
    slope = tl.where((logit > 0) & (linear >= LEAST) & (linear <= MOST), 1.0 / DIVISOR, 0.0)
    return off, shift, rstd, weight, bias, after, _clamped(linear, LEAST, MOST), slope


@triton.jit
def _product(weight_ptr, x_ptr, offs, N: tl.constexpr, K: tl.constexpr, STEP_N: tl.constexpr,
             STEP_K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """Rows ``offs`` of the matrix [N, K] of these steps times the vector x."""
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for k in range(0, K, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + offs_k, mask=offs_k < K, other=0.0)
        weight = tl.load(weight_ptr + offs[:, None] * STEP_N + offs_k[None, :] * STEP_K,
                         mask=(offs < N)[:, None] & (offs_k < K)[None, :], other=0.0)
        total += weight.to(tl.float32) * x[None, :]
    return tl.sum(total, 1)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "B"])
def dyhead_attention_factors_kernel(tables_ptr, mid_weight, mid_bias, low_weight, low_bias,
                                    high_weight, high_bias, attention_ptr, attention_bias_ptr,
                                    squeeze_ptr, squeeze_bias_ptr, excite_ptr, excite_bias_ptr, w0,
                                    w1, w2, w3, w4, B, L: tl.constexpr, C: tl.constexpr,
                                    CG: tl.constexpr, D: tl.constexpr, EPS: tl.constexpr,
                                    SCALE_ADD: tl.constexpr, SCALE_DIVISOR: tl.constexpr,
                                    SCALE_LEAST: tl.constexpr, SCALE_MOST: tl.constexpr,
                                    RELU_ADD: tl.constexpr, RELU_DIVISOR: tl.constexpr,
                                    BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr,
                                    BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr):
    """From moments to factors, to the mean of the combination, to coefficients.

    Grid: (L B,); one program owns one image of one level. squeeze [D, C], excite [4 C, D].
    """
    level, plane, chan, mask, at, area, area_high, share = _image(w0, w1, w2, w3, w4, B, L, C, CG,
                                                                  BLOCK_G, BLOCK_C)
    attention = tl.load(attention_ptr + chan, mask=mask, other=0.0).to(tl.float32)
    attention_bias = tl.load(attention_bias_ptr).to(tl.float32)
    factors_ptr = tables_ptr + FACTORS * plane + at
    constant = tl.zeros([BLOCK_G, BLOCK_C], tl.float32)
    mean = tl.zeros([BLOCK_G, BLOCK_C], tl.float32)
    for k in tl.static_range(3):
        factor = tl.zeros([BLOCK_G, BLOCK_C], tl.float32)
        if _exists(k, level, L):
            off, _, rstd, weight, bias, after, scale, _ = _branch(
                k, tables_ptr, mid_weight, mid_bias, low_weight, low_bias, high_weight, high_bias,
                attention, attention_bias, at, chan, mask, plane, area, area_high, CG, EPS,
                SCALE_ADD, SCALE_DIVISOR, SCALE_LEAST, SCALE_MOST)
            scale *= share
            factor = scale * weight * rstd
            constant += scale * bias + factor * off
            mean += scale * after
        tl.store(factors_ptr + k * plane, factor, mask=mask)
    tl.store(factors_ptr + 3 * plane, constant, mask=mask)
    tl.store(tables_ptr + MEAN * plane + at, mean, mask=mask)

    row = tl.program_id(0).to(tl.int64)
    mean_ptr = tables_ptr + MEAN * plane + row * C
    coeffs_ptr = tables_ptr + COEFFS * plane + row * (4 * C)
    hidden_ptr = tables_ptr + HIDDEN * plane + row * D
    tl.debug_barrier()  # every thread wants all means, and below the whole hidden layer
    for d in range(0, D, BLOCK_D):
        offs = d + tl.arange(0, BLOCK_D)
        hidden = _product(squeeze_ptr, mean_ptr, offs, D, C, C, 1, BLOCK_D, BLOCK_J)
        hidden += tl.load(squeeze_bias_ptr + offs, mask=offs < D, other=0.0).to(tl.float32)
        tl.store(hidden_ptr + offs, tl.where(hidden <= 0, 0.0, hidden), mask=offs < D)
    tl.debug_barrier()
    for j in range(0, 4 * C, BLOCK_J):
        offs = j + tl.arange(0, BLOCK_J)
        logit = _product(excite_ptr, hidden_ptr, offs, 4 * C, D, D, 1, BLOCK_J, BLOCK_D)
        logit += tl.load(excite_bias_ptr + offs, mask=offs < 4 * C, other=0.0).to(tl.float32)
        tl.store(coeffs_ptr + offs, (logit + RELU_ADD) / RELU_DIVISOR, mask=offs < 4 * C)


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
def _tile(maps_ptr, tables_ptr, w0, w1, w2, w3, w4, tiles, pixels, B, L: tl.constexpr,
          C: tl.constexpr, LEAST: tl.constexpr, MOST: tl.constexpr, BLOCK_P: tl.constexpr,
          BLOCK_C: tl.constexpr):
    """A program's tile of the combination.

    Returns the branches less their means, zero where there is none; the combination; slope and
    offset of two lines of each channel; the level, the image, its first pixel among those of all
    levels and how many it has; the tile's pixels and channels, and which of them are real.
    """
    pid = tl.program_id(0)
    t, level, before, H, W = grid_of(pid % tiles, w0, w1, w2, w3, w4, L, BLOCK_P)
    image = (pid // tiles).to(tl.int64)
    p, real, y, x = pixels_of(t, H, W, BLOCK_P)
    offs_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < C
    mask = real[:, None] & mask_c[None, :]
    plane = tl.cast(L * C, tl.int64) * B
    at = (level * B + image) * C + offs_c
    factors_ptr = tables_ptr + FACTORS * plane + at
    row = B * before.to(tl.int64) + image * (H * W)
    h, w = size_of(w0)
    others = pixels - h * w
    mid = _less_mean(tables_ptr, _rows(maps_ptr, row + p, offs_c, mask, C), at, mask_c)
    low = tl.zeros_like(mid)
    high = tl.zeros_like(mid)
    out = mid * tl.load(factors_ptr, mask=mask_c, other=0.0)[None, :]
    if level > 0:
        rows = row + B * others.to(tl.int64) + p
        low = _less_mean(tables_ptr + 3 * plane, _rows(maps_ptr, rows, offs_c, mask, C), at, mask_c)
        out += low * tl.load(factors_ptr + plane, mask=mask_c, other=0.0)[None, :]
    if level < L - 1:
        h, w = size_of(pick(level + 1, w0, w1, w2, w3, w4, L))
        first = B * (2 * others + before + H * W).to(tl.int64) + image * (h * w)
        high = _less_mean(tables_ptr + 6 * plane,
                          _resized(maps_ptr, first, y, x, H, W, h, w, offs_c, mask, C), at, mask_c)
        out += high * tl.load(factors_ptr + 2 * plane, mask=mask_c, other=0.0)[None, :]
    out += tl.load(factors_ptr + 3 * plane, mask=mask_c, other=0.0)[None, :]
    at = tables_ptr + COEFFS * plane + (level * B + image) * (4 * C) + offs_c
    a1 = _clamped(tl.load(at, mask=mask_c, other=0.0), LEAST, MOST) - 0.5
    b1 = _clamped(tl.load(at + C, mask=mask_c, other=0.0), LEAST, MOST) - 0.5
    a2 = _clamped(tl.load(at + 2 * C, mask=mask_c, other=0.0), LEAST, MOST) - 0.5
    b2 = _clamped(tl.load(at + 3 * C, mask=mask_c, other=0.0), LEAST, MOST) - 0.5
    return (mid, low, high, out, (a1 * 2.0 + 1.0)[None, :], b1[None, :], (a2 * 2.0)[None, :],
            b2[None, :], level, image, row, H * W, p, offs_c, mask)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "pixels", "B"])
def dyhead_attention_fwd_kernel(maps_ptr, tables_ptr, o0, o1, o2, o3, o4, w0, w1, w2, w3, w4, tiles,
                                pixels, B, L: tl.constexpr, C: tl.constexpr, LAST: tl.constexpr,
                                RELU_LEAST: tl.constexpr, RELU_MOST: tl.constexpr,
                                BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """out = the larger of two lines of the combination: branches less means times factors.

    Grid: (B tiles, cdiv(C, BLOCK_C)); one program owns BLOCK_P pixels of BLOCK_C channels. Results
    per level [B, C, P], or [B, P, C] with LAST.
    """
    _, _, _, out, a1, b1, a2, b2, level, image, _, P, p, offs_c, mask = _tile(
        maps_ptr, tables_ptr, w0, w1, w2, w3, w4, tiles, pixels, B, L, C, RELU_LEAST, RELU_MOST,
        BLOCK_P, BLOCK_C)
    out = tl.maximum(out * a1 + b1, out * a2 + b2, propagate_nan=tl.PropagateNan.ALL)
    out_ptr = pick(level, o0, o1, o2, o3, o4, L) + image * (P * C)
    if LAST:
        to = p[:, None] * C + offs_c[None, :]
    else:
        to = p[:, None] + offs_c[None, :] * P
    tl.store(out_ptr + to, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "pixels", "B"])
def dyhead_attention_gates_kernel(maps_ptr, tables_ptr, g0, g1, g2, g3, g4, gates_ptr,
                                  tile_sums_ptr, w0, w1, w2, w3, w4, tiles, pixels, B,
                                  L: tl.constexpr, C: tl.constexpr, LAST: tl.constexpr,
                                  RELU_LEAST: tl.constexpr, RELU_MOST: tl.constexpr,
                                  BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """The gradient through the dynamic ReLU, and the sums of each tile.

    On a tie both lines get half of the gradient, and all of it where one of them is NaN, as
    torch's maximum has it. Grid as that of the forward, gradients as its results. tile_sums [B,
    tiles, 8, C]: of the gradient times mid, low and high, and alone; of a1, b1, a2 and b2.
    """
    mid, low, high, out, a1, b1, a2, b2, level, image, row, P, p, offs_c, mask = _tile(
        maps_ptr, tables_ptr, w0, w1, w2, w3, w4, tiles, pixels, B, L, C, RELU_LEAST, RELU_MOST,
        BLOCK_P, BLOCK_C)
    grad_ptr = pick(level, g0, g1, g2, g3, g4, L) + image * (P * C)
    if LAST:
        of = p[:, None] * C + offs_c[None, :]
    else:  # its pixels follow one another, but then all would be computed in that order
        of = tl.max_contiguous(p[:, None] + offs_c[None, :] * P, [1, 1])
    grad = tl.load(grad_ptr + of, mask=mask, other=0.0).to(tl.float32)
    u = out * a1 + b1
    v = out * a2 + b2
    share = tl.where(u == v, grad * 0.5, grad)
    first = tl.where(u < v, 0.0, share)
    second = tl.where(u > v, 0.0, share)
    gate = first * a1 + second * a2
    tl.store(gates_ptr + (row + p)[:, None] * C + offs_c[None, :], gate, mask=mask)
    to = tile_sums_ptr + tl.program_id(0).to(tl.int64) * (8 * C) + offs_c
    mask_c = offs_c < C
    tl.store(to, tl.sum(tl.where(mask, gate * mid, 0.0), 0), mask=mask_c)
    tl.store(to + C, tl.sum(tl.where(mask, gate * low, 0.0), 0), mask=mask_c)
    tl.store(to + 2 * C, tl.sum(tl.where(mask, gate * high, 0.0), 0), mask=mask_c)
    tl.store(to + 3 * C, tl.sum(tl.where(mask, gate, 0.0), 0), mask=mask_c)
    tl.store(to + 4 * C, tl.sum(tl.where(mask, first * out, 0.0), 0) * 2.0, mask=mask_c)
    tl.store(to + 5 * C, tl.sum(tl.where(mask, first, 0.0), 0), mask=mask_c)
    tl.store(to + 6 * C, tl.sum(tl.where(mask, second * out, 0.0), 0) * 2.0, mask=mask_c)
    tl.store(to + 7 * C, tl.sum(tl.where(mask, second, 0.0), 0), mask=mask_c)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "B"])
def dyhead_attention_sums_kernel(tile_sums_ptr, scratch_ptr, w0, w1, w2, w3, w4, tiles, B,
                                 L: tl.constexpr, C: tl.constexpr, BLOCK_P: tl.constexpr,
                                 BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sums of whole levels from those of their tiles, in one order: sums and dcoeffs.

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
    tl.store(scratch_ptr + offs // C * plane + pid * C + offs % C, total, mask=offs < 4 * C)
    tl.store(scratch_ptr + DCOEFFS * plane + pid.to(tl.int64) * (4 * C) + offs - 4 * C, total,
             mask=mask & (offs >= 4 * C))


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "B"])
def dyhead_attention_back_kernel(tables_ptr, scratch_ptr, mid_weight, mid_bias, low_weight,
                                 low_bias, high_weight, high_bias, attention_ptr,
                                 attention_bias_ptr, squeeze_ptr, excite_ptr, w0, w1, w2, w3, w4, B,
                                 L: tl.constexpr, C: tl.constexpr, CG: tl.constexpr,
                                 D: tl.constexpr, EPS: tl.constexpr, SCALE_ADD: tl.constexpr,
                                 SCALE_DIVISOR: tl.constexpr, SCALE_LEAST: tl.constexpr,
                                 SCALE_MOST: tl.constexpr, RELU_DIVISOR: tl.constexpr,
                                 RELU_LEAST: tl.constexpr, RELU_MOST: tl.constexpr,
                                 BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr,
                                 BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr):
    """From sums to the factors of the maps' gradients, and each image's gradients of parameters.

    Grid: (L B,); one program owns one image of one level. dcoeffs become the gradient before the
    clamp, which is whole at its ends and nothing where a coefficient is NaN, and the division.
    """
    level, plane, chan, mask, at, area, area_high, share = _image(w0, w1, w2, w3, w4, B, L, C, CG,
                                                                  BLOCK_G, BLOCK_C)
    row = tl.program_id(0).to(tl.int64)
    coeffs_ptr = tables_ptr + COEFFS * plane + row * (4 * C)
    hidden_ptr = tables_ptr + HIDDEN * plane + row * D
    dmean_ptr = scratch_ptr + DMEAN * plane + row * C
    dcoeffs_ptr = scratch_ptr + DCOEFFS * plane + row * (4 * C)
    dhidden_ptr = scratch_ptr + DHIDDEN * plane + row * D
    for j in range(0, 4 * C, BLOCK_J):
        offs = j + tl.arange(0, BLOCK_J)
        linear = tl.load(coeffs_ptr + offs, mask=offs < 4 * C, other=0.0)
        grad = tl.load(dcoeffs_ptr + offs, mask=offs < 4 * C, other=0.0) / RELU_DIVISOR
        grad = tl.where((linear >= RELU_LEAST) & (linear <= RELU_MOST), grad, 0.0)
        tl.store(dcoeffs_ptr + offs, grad, mask=offs < 4 * C)
    tl.debug_barrier()  # here as below, every thread wants all that was stored
    for d in range(0, D, BLOCK_D):
        offs = d + tl.arange(0, BLOCK_D)
        grad = _product(excite_ptr, dcoeffs_ptr, offs, D, 4 * C, 1, D, BLOCK_D, BLOCK_J)
        hidden = tl.load(hidden_ptr + offs, mask=offs < D, other=0.0)
        tl.store(dhidden_ptr + offs, tl.where(hidden <= 0, 0.0, grad), mask=offs < D)
    tl.debug_barrier()
    for c in range(0, C, BLOCK_J):
        offs = c + tl.arange(0, BLOCK_J)
        grad = _product(squeeze_ptr, dhidden_ptr, offs, C, D, 1, C, BLOCK_J, BLOCK_D)
        tl.store(dmean_ptr + offs, grad, mask=offs < C)
    tl.debug_barrier()

    attention = tl.load(attention_ptr + chan, mask=mask, other=0.0).to(tl.float32)
    attention_bias = tl.load(attention_bias_ptr).to(tl.float32)
    grad_mean = tl.load(dmean_ptr + chan, mask=mask, other=0.0)
    alone = tl.load(scratch_ptr + 3 * plane + at, mask=mask, other=0.0) + grad_mean
    partial_ptr = scratch_ptr + PARTIAL * plane + row * (8 * C) + chan
    grad_attention = tl.zeros([BLOCK_G, BLOCK_C], tl.float32)
    grad_logits = share * 0.0
    for k in tl.static_range(3):
        grad_weight = tl.zeros([BLOCK_G, BLOCK_C], tl.float32)
        grad_bias = tl.zeros([BLOCK_G, BLOCK_C], tl.float32)
        if _exists(k, level, L):
            off, shift, rstd, weight, bias, after, scale, slope = _branch(
                k, tables_ptr, mid_weight, mid_bias, low_weight, low_bias, high_weight, high_bias,
                attention, attention_bias, at, chan, mask, plane, area, area_high, CG, EPS,
                SCALE_ADD, SCALE_DIVISOR, SCALE_LEAST, SCALE_MOST)
            scale *= share
            times = tl.load(scratch_ptr + k * plane + at, mask=mask, other=0.0) + grad_mean * shift
            grad_scale = share * tl.sum(tl.where(
                mask, weight * rstd * times + (weight * off * rstd + bias) * alone, 0.0))
            grad_logit = tl.where(slope == 0, 0.0, grad_scale * slope)  # NaN or not
            grad_after = grad_logit * attention
            grad_bias = scale * alone + grad_after
            grad_weight = rstd * (scale * times + grad_after * shift + off * grad_bias)
            grad_attention += grad_logit * after
            grad_logits += grad_logit
            # A norm's input gets its gradient less the group's mean of it, and less that along
            # the input.
            n = CG * (area_high if k == 2 else area)
            flat = (tl.sum(tl.where(mask, weight * grad_bias, 0.0), 1) / n)[:, None]
            along = (tl.sum(tl.where(mask, weight * grad_weight, 0.0), 1) / n)[:, None]
            back_ptr = scratch_ptr + (BACK + 4 * k) * plane + at
            tl.store(back_ptr, weight * rstd * scale, mask=mask)
            tl.store(back_ptr + plane,
                     weight * rstd * (scale * grad_mean + grad_after) / area, mask=mask)
            tl.store(back_ptr + 2 * plane, tl.broadcast_to(-rstd * rstd * along, at.shape),
                     mask=mask)
            tl.store(back_ptr + 3 * plane, -rstd * (flat + rstd * off * along), mask=mask)
        tl.store(partial_ptr + 2 * k * C, grad_weight, mask=mask)
        tl.store(partial_ptr + (2 * k + 1) * C, grad_bias, mask=mask)
    tl.store(partial_ptr + 6 * C, grad_attention, mask=mask)
    tl.store(partial_ptr + 7 * C, tl.where(chan == 0, grad_logits, 0.0), mask=mask)


@triton.jit
def _outer(x_ptr, y_ptr, out_ptr, sum_ptr, pid, rows, M: tl.constexpr, N: tl.constexpr,
           BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """A tile of x^T @ y, of x [rows, M] and y [rows, N], and the sum of the rows of x."""
    TILES_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    offs_m = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    alone = tl.zeros([BLOCK_M], tl.float32)
    for row in range(rows):
        x = tl.load(x_ptr + row * M + offs_m, mask=offs_m < M, other=0.0)
        y = tl.load(y_ptr + row * N + offs_n, mask=offs_n < N, other=0.0)
        total += x[:, None] * y[None, :]
        alone += x
    tl.store(out_ptr + offs_m[:, None] * N + offs_n[None, :], total,
             mask=(offs_m < M)[:, None] & (offs_n < N)[None, :])
    tl.store(sum_ptr + offs_m, alone, mask=offs_m < tl.where(pid % TILES_N == 0, M, 0))


@triton.jit(do_not_specialize=["rows"])
def dyhead_attention_parameters_kernel(tables_ptr, scratch_ptr, out_ptr, rows, C: tl.constexpr,
                                       D: tl.constexpr, BLOCK_M: tl.constexpr,
                                       BLOCK_N: tl.constexpr):
    """Gradients of parameters: sums over the ``rows`` images of all levels, in one order.

    Grid: (tiles of squeeze, then of excite, then blocks of partial's 8 C,). out: norms and
    attention [8, C], squeeze [D, C] and [D], excite [4 C, D] and [4 C].
    """
    SQUEEZE: tl.constexpr = ((D + BLOCK_M - 1) // BLOCK_M) * ((C + BLOCK_N - 1) // BLOCK_N)
    EXCITE: tl.constexpr = ((4 * C + BLOCK_M - 1) // BLOCK_M) * ((D + BLOCK_N - 1) // BLOCK_N)
    pid = tl.program_id(0)
    plane = tl.cast(C, tl.int64) * rows
    squeeze_ptr = out_ptr + 8 * C
    excite_ptr = squeeze_ptr + (C + 1) * D
    if pid < SQUEEZE:
        _outer(scratch_ptr + DHIDDEN * plane, tables_ptr + MEAN * plane, squeeze_ptr,
               squeeze_ptr + C * D, pid, rows, D, C, BLOCK_M, BLOCK_N)
    elif pid < SQUEEZE + EXCITE:
        _outer(scratch_ptr + DCOEFFS * plane, tables_ptr + HIDDEN * plane, excite_ptr,
               excite_ptr + 4 * C * D, pid - SQUEEZE, rows, 4 * C, D, BLOCK_M, BLOCK_N)
    else:
        offs = (pid - SQUEEZE - EXCITE) * BLOCK_M + tl.arange(0, BLOCK_M)
        total = tl.zeros([BLOCK_M], tl.float32)
        for row in range(rows):
            total += tl.load(scratch_ptr + PARTIAL * plane + row * (8 * C) + offs,
                             mask=offs < 8 * C, other=0.0)
        tl.store(out_ptr + offs, total, mask=offs < 8 * C)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "pixels", "B"])
def dyhead_attention_bwd_kernel(maps_ptr, tables_ptr, gates_ptr, scratch_ptr, dmaps_ptr, w0, w1,
                                w2, w3, w4, tiles, pixels, B, L: tl.constexpr, C: tl.constexpr,
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
    value = _less_mean(tables_ptr + branch * 3 * plane, _rows(maps_ptr, rows, offs_c, mask, C), at,
                       mask_c)
    back_ptr = scratch_ptr + (BACK + branch * 4) * plane + at
    out = tl.load(back_ptr, mask=mask_c, other=0.0)[None, :] * grad
    out += tl.load(back_ptr + plane, mask=mask_c, other=0.0)[None, :] * ones[:, None]
    out += tl.load(back_ptr + 2 * plane, mask=mask_c, other=0.0)[None, :] * value
    out += tl.load(back_ptr + 3 * plane, mask=mask_c, other=0.0)[None, :]
    tl.store(dmaps_ptr + rows[:, None] * C + offs_c[None, :], out.to(dmaps_ptr.dtype.element_ty),
             mask=mask)
