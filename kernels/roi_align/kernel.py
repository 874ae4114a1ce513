"""Triton kernels of RoIAlign over a pyramid, forward and backward.

Maps are [B, H_l, W_l, C], channels last; rois [N, 5] (image, x1, y1, x2, y2). A region's geometry
is [N, 8]: level (-1: takes no samples) and image, then start, size of a bin and samples of a bin
along y and along x. out is [N, C, PH, PW]; grad and found in the backward are [N, PH PW, C] and
[2, N, PH PW, C].
"""

import triton
import triton.language as tl

#: As in the reference: what an empty bin's maximum is, and how far a region may lie.
LOWEST = tl.constexpr(-10000.0)
FARTHEST = tl.constexpr(2.0**29)


@triton.jit
def _axis(low, high, scale, BINS: tl.constexpr, SAMPLES: tl.constexpr, ALIGNED: tl.constexpr):
    """Start, size and samples of the bins along one axis, and whether the numbers make sense."""
    start = low * scale
    end = high * scale
    if ALIGNED:
        start -= 0.5
        end -= 0.5
    size = end - start
    if not ALIGNED:
        size = tl.where(size < 1.0, 1.0, size)
    counts = (tl.abs(start) < FARTHEST) & (tl.abs(end) < FARTHEST)
    step = tl.div_rn(size, tl.cast(BINS, tl.float32))
    grid = tl.cast(SAMPLES, tl.float32)
    if SAMPLES == 0:
        grid = tl.maximum(tl.ceil(step), 0.0)
    return start, step, grid, counts


@triton.jit
def _window(origin, step, grid, low, high):
    """First and last of the samples of a bin that can lie between two coordinates."""
    each = step / tl.maximum(grid, 1.0)
    apart = each != 0.0
    each = tl.where(apart, each, 1.0)
    a = (low - origin) / each
    b = (high - origin) / each
    first = tl.minimum(tl.maximum(tl.floor(tl.minimum(a, b)), 0.0), grid)
    last = tl.minimum(tl.maximum(tl.ceil(tl.maximum(a, b)), 0.0), grid)
    first = tl.where(apart, first, 0.0)
    last = tl.where(apart, last, grid)
    return first.to(tl.int32), last.to(tl.int32)


@triton.jit
def _corners(where, exists, length):
    """The pixels on either side of samples, the share of the second, and which count."""
    inside = exists & (where >= -1.0) & (where <= length.to(tl.float32))
    at = tl.maximum(tl.where(inside, where, 0.0), 0.0)
    low = tl.minimum(at.to(tl.int32), length - 1)
    high = tl.minimum(low + 1, length - 1)
    share = tl.where(high > low, at - low.to(tl.float32), 0.0)
    return low, high, share, inside


@triton.jit
def _pixels(map_ptr, image, y, x, W, C, offs_c, mask):
    """One pixel of each bin, [BLOCK_P, BLOCK_C]; ``image`` is the first row of the image."""
    row = ((image + y) * W + x) * C
    return tl.load(map_ptr + row[:, None] + offs_c[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["h0", "w0", "h1", "w1", "h2", "w2", "h3", "w3", "h4", "w4"])
def roi_align_fwd_kernel(
    map0_ptr,  # five maps; those beyond L are not read
    map1_ptr,
    map2_ptr,
    map3_ptr,
    map4_ptr,
    rois_ptr,  # [N, 5] fp32
    levels_ptr,  # [N] fp32, with HAS_LEVELS
    out_ptr,  # [N, C, PH, PW]
    geometry_ptr,  # [N, 8] fp32
    found_ptr,  # [2, N, C, PH, PW] fp32, with MAXIMUM: y and x of every maximum
    N,
    h0,
    w0,
    h1,
    w1,
    h2,
    w2,
    h3,
    w3,
    h4,
    w4,
    s0,
    s1,
    s2,
    s3,
    s4,
    finest_scale,
    B,
    C,
    L: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    SAMPLES: tl.constexpr,
    MAXIMUM: tl.constexpr,
    ALIGNED: tl.constexpr,
    HAS_LEVELS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out[n, c, bin] = mean or maximum of the bilinear samples of the bin on the region's level.

    Grid: (N cdiv(PH PW, BLOCK_P), cdiv(C, BLOCK_C)); one program owns BLOCK_P bins of one region
    and BLOCK_C channels. The first program of a region writes its geometry.
    """
    CHUNKS: tl.constexpr = (PH * PW + BLOCK_P - 1) // BLOCK_P
    pid = tl.program_id(0).to(tl.int64)
    n = pid // CHUNKS
    offs_c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    bins = (pid % CHUNKS).to(tl.int32) * BLOCK_P + tl.arange(0, BLOCK_P)
    image = tl.load(rois_ptr + n * 5)
    x1 = tl.load(rois_ptr + n * 5 + 1)
    y1 = tl.load(rois_ptr + n * 5 + 2)
    x2 = tl.load(rois_ptr + n * 5 + 3)
    y2 = tl.load(rois_ptr + n * 5 + 4)

    if HAS_LEVELS:
        level = tl.load(levels_ptr + n)
    else:
        size = tl.div_rn(tl.sqrt_rn((x2 - x1) * (y2 - y1)), finest_scale) + 1e-6
        level = tl.where(size == size, 0.0, -1.0)
        for i in tl.static_range(1, L):
            level += tl.where(size >= 2.0**i, 1.0, 0.0)
    map_ptr, H, W, scale = map0_ptr, h0, w0, s0
    if L > 1:
        map_ptr = tl.where(level == 1.0, map1_ptr, map_ptr)
        H, W = tl.where(level == 1.0, h1, H), tl.where(level == 1.0, w1, W)
        scale = tl.where(level == 1.0, s1, scale)
    if L > 2:
        map_ptr = tl.where(level == 2.0, map2_ptr, map_ptr)
        H, W = tl.where(level == 2.0, h2, H), tl.where(level == 2.0, w2, W)
        scale = tl.where(level == 2.0, s2, scale)
    if L > 3:
        map_ptr = tl.where(level == 3.0, map3_ptr, map_ptr)
        H, W = tl.where(level == 3.0, h3, H), tl.where(level == 3.0, w3, W)
        scale = tl.where(level == 3.0, s3, scale)
    if L > 4:
        map_ptr = tl.where(level == 4.0, map4_ptr, map_ptr)
        H, W = tl.where(level == 4.0, h4, H), tl.where(level == 4.0, w4, W)
        scale = tl.where(level == 4.0, s4, scale)

    start_y, step_y, grid_y, counts_y = _axis(y1, y2, scale, PH, SAMPLES, ALIGNED)
    start_x, step_x, grid_x, counts_x = _axis(x1, x2, scale, PW, SAMPLES, ALIGNED)
    counts = counts_y & counts_x & (image >= 0.0) & (image < B) & (level >= 0.0) & (level < L)
    start_y, start_x = tl.where(counts, start_y, 0.0), tl.where(counts, start_x, 0.0)
    step_y, step_x = tl.where(counts, step_y, 0.0), tl.where(counts, step_x, 0.0)
    grid_y, grid_x = tl.where(counts, grid_y, 0.0), tl.where(counts, grid_x, 0.0)
    level, image = tl.where(counts, level, -1.0), tl.where(counts, image, 0.0)
    if (pid % CHUNKS == 0) & (tl.program_id(1) == 0):
        tl.store(geometry_ptr + n * 8, level)
        tl.store(geometry_ptr + n * 8 + 1, image)
        tl.store(geometry_ptr + n * 8 + 2, start_y)
        tl.store(geometry_ptr + n * 8 + 3, step_y)
        tl.store(geometry_ptr + n * 8 + 4, grid_y)
        tl.store(geometry_ptr + n * 8 + 5, start_x)
        tl.store(geometry_ptr + n * 8 + 6, step_x)
        tl.store(geometry_ptr + n * 8 + 7, grid_x)

    origin_y = start_y + (bins // PW).to(tl.float32) * step_y
    origin_x = start_x + (bins % PW).to(tl.float32) * step_x
    first_y, last_y = _window(origin_y, step_y, grid_y, -2.0, H.to(tl.float32) + 1.0)
    first_x, last_x = _window(origin_x, step_x, grid_x, -2.0, W.to(tl.float32) + 1.0)
    first_row = image.to(tl.int64) * H
    mask_p = bins < PH * PW
    mask_c = offs_c < C
    mask = mask_p[:, None] & mask_c[None, :]
    acc = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    found_y = tl.full([BLOCK_P, BLOCK_C], -2.0, tl.float32)
    found_x = tl.full([BLOCK_P, BLOCK_C], -2.0, tl.float32)
    if MAXIMUM:
        # A sample that is left out is a zero, too.
        left_out = (last_y - first_y < grid_y.to(tl.int32)) | (
            last_x - first_x < grid_x.to(tl.int32))
        zero = tl.where((grid_y > 0.0) & (grid_x > 0.0), 0.0, LOWEST)
        acc += tl.where(left_out, zero, LOWEST)[:, None]
    divisor_y, divisor_x = tl.maximum(grid_y, 1.0), tl.maximum(grid_x, 1.0)
    for i in range(tl.max(last_y - first_y, 0)):
        at = (first_y + i).to(tl.float32) + 0.5
        y = origin_y + tl.div_rn(at * step_y, divisor_y + tl.zeros_like(at))
        is_y = mask_p & (first_y + i < last_y)
        top, bottom, fy, in_y = _corners(y, is_y, H)
        for j in range(tl.max(last_x - first_x, 0)):
            at = (first_x + j).to(tl.float32) + 0.5
            x = origin_x + tl.div_rn(at * step_x, divisor_x + tl.zeros_like(at))
            is_x = first_x + j < last_x
            left, right, fx, in_x = _corners(x, is_x, W)
            here = (in_y & in_x)[:, None] & mask_c[None, :]
            v00 = _pixels(map_ptr, first_row, top, left, W, C, offs_c, here)
            v01 = _pixels(map_ptr, first_row, top, right, W, C, offs_c, here)
            v10 = _pixels(map_ptr, first_row, bottom, left, W, C, offs_c, here)
            v11 = _pixels(map_ptr, first_row, bottom, right, W, C, offs_c, here)
            value = v00 * ((1 - fy) * (1 - fx))[:, None] + v01 * ((1 - fy) * fx)[:, None]
            value += v10 * (fy * (1 - fx))[:, None] + v11 * (fy * fx)[:, None]
            if MAXIMUM:
                better = (is_y & is_x)[:, None] & (value > acc)
                acc = tl.where(better, value, acc)
                found_y = tl.where(better, y[:, None], found_y)
                found_x = tl.where(better, x[:, None], found_x)
            else:
                acc += value
    at_out = (n * C + offs_c)[None, :] * (PH * PW) + bins[:, None]
    if MAXIMUM:
        tl.store(found_ptr + at_out, found_y, mask=mask)
        tl.store(found_ptr + tl.cast(N, tl.int64) * C * (PH * PW) + at_out, found_x, mask=mask)
    else:
        acc = acc / (divisor_y * divisor_x)
    tl.store(out_ptr + at_out, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _group(geometry_ptr, n, real, B):
    """Level times images plus image; -1 where there is no region, or it takes no samples."""
    at = geometry_ptr + n.to(tl.int64) * 8
    level = tl.load(at, mask=real, other=-1.0)
    image = tl.load(at + 1, mask=real, other=0.0)
    return tl.where(level >= 0.0, level.to(tl.int32) * B + image.to(tl.int32), -1)


@triton.jit(do_not_specialize=["N", "B"])
def roi_align_order_kernel(
    geometry_ptr,  # [N, 8] fp32
    ordered_ptr,  # [N, 8] fp32: the same by group, in their own order within one
    order_ptr,  # [N] int64: which region each row is
    starts_ptr,  # [groups + 1] int32: group g owns rows starts[g] to starts[g + 1]
    N,
    B,
    BLOCK_N: tl.constexpr,
):
    """Regions by level and image. Those without samples have no row; the last rows stay unwritten.

    Grid: (groups + 1,); one program counts the regions of the groups before its own, BLOCK_N at a
    time, and copies its own behind them. The last writes the number of all.
    """
    group = tl.program_id(0)
    offs = tl.arange(0, BLOCK_N)
    columns = tl.arange(0, 8)
    row = 0
    for chunk in range(0, N, BLOCK_N):
        n = chunk + offs
        other = _group(geometry_ptr, n, n < N, B)
        row += tl.sum(((other >= 0) & (other < group)).to(tl.int32), 0)
    tl.store(starts_ptr + group, row)
    for chunk in range(0, N, BLOCK_N):
        n = chunk + offs
        mine = _group(geometry_ptr, n, n < N, B) == group
        to = row + tl.cumsum(mine.to(tl.int32), 0) - 1
        tl.store(order_ptr + to, n.to(tl.int64), mask=mine)
        values = tl.load(geometry_ptr + n.to(tl.int64)[:, None] * 8 + columns[None, :],
                         mask=mine[:, None], other=0.0)
        tl.store(ordered_ptr + to.to(tl.int64)[:, None] * 8 + columns[None, :], values,
                 mask=mine[:, None])
        row += tl.sum(mine.to(tl.int32), 0)


@triton.jit
def _bins_that_meet(start, step, low, high, BINS: tl.constexpr):
    """First and last of the bins between two coordinates; all where bins are hardly apart."""
    apart = tl.abs(step) > 1e-3
    step = tl.where(apart, step, 1.0)
    a = (low - start) / step
    b = (high - start) / step
    first = tl.minimum(tl.maximum(tl.floor(tl.minimum(a, b)), 0.0), BINS * 1.0)
    last = tl.minimum(tl.maximum(tl.floor(tl.maximum(a, b)) + 1.0, 0.0), BINS * 1.0)
    first = tl.where(apart, first, 0.0)
    last = tl.where(apart, last, BINS * 1.0)
    return first.to(tl.int32), last.to(tl.int32)


@triton.jit
def _share(pixel, low, high, share, inside):
    """What samples with these corners give to pixels, and which pixels they touch."""
    weight = tl.where(pixel == low, 1.0 - share, 0.0) + tl.where(pixel == high, share, 0.0)
    touched = tl.where((pixel == low) | (pixel == high), 1, 0)
    return tl.where(inside, weight, 0.0), tl.where(inside, touched, 0)


@triton.jit
def _weights(pixels, origin, step, grid, length, low, high):
    """What the samples of one bin give, together, to pixels along one axis, and which they touch.

    A NaN of the gradient is to reach the pixels that its bin touches, and no others.
    """
    first, last = _window(origin, step, grid, low - 1.0, high + 1.0)
    total = tl.zeros_like(pixels).to(tl.float32)
    touched = tl.zeros_like(pixels)
    for i in range(first, last):
        at = origin + tl.div_rn((tl.cast(i, tl.float32) + 0.5) * step, tl.maximum(grid, 1.0))
        a, b, share, inside = _corners(at, grid > 0.0, length)
        weight, here = _share(pixels, a, b, share, inside)
        total += weight
        touched |= here
    return total, touched


@triton.jit(do_not_specialize=["H", "W", "first_group", "stride_c", "stride_y"])
def roi_align_bwd_kernel(
    grad_ptr,  # [N, PH PW, C]
    geometry_ptr,  # [N, 8] fp32, as the order kernel has it, and so are order and starts
    order_ptr,  # [N] int64
    found_ptr,  # [2, N, PH PW, C] fp32, with MAXIMUM
    starts_ptr,  # [groups + 1] int32
    dx_ptr,  # [B, C, H, W], any strides
    N,
    H,
    W,
    C,
    first_group,  # the group of image 0 on this level
    stride_b,
    stride_c,
    stride_y,
    stride_x,
    PH: tl.constexpr,
    PW: tl.constexpr,
    MAXIMUM: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """dx[b, c, y, x] = sum over the regions and bins that touch the pixel of weight * grad.

    Grid: (tiles of H x W, B, cdiv(C, BLOCK_C)); one program owns TILE x TILE pixels of BLOCK_C
    channels and gathers from the regions of its map, in their order. BLOCK_N regions at a time are
    held against the tile.
    """
    pid = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    offs_c = tl.program_id(2).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < C
    tiles_x = tl.cdiv(W, TILE)
    y0 = (pid // tiles_x) * TILE
    x0 = (pid % tiles_x) * TILE
    offs = tl.arange(0, TILE * TILE)
    pixel_y = y0 + offs // TILE
    pixel_x = x0 + offs % TILE
    # A sample reaches a pixel from less than one pixel away.
    low_y, high_y = y0.to(tl.float32) - 1.0, y0.to(tl.float32) + TILE
    low_x, high_x = x0.to(tl.float32) - 1.0, x0.to(tl.float32) + TILE
    acc = tl.zeros([TILE * TILE, BLOCK_C], dtype=tl.float32)
    begin = tl.load(starts_ptr + first_group + b)
    end = tl.load(starts_ptr + first_group + b + 1)
    for chunk in range(begin, end, BLOCK_N):
        rows = chunk + tl.arange(0, BLOCK_N)
        mask_n = rows < end
        at = geometry_ptr + rows.to(tl.int64) * 8
        ya = tl.load(at + 2, mask=mask_n, other=0.0)
        yb = ya + tl.load(at + 3, mask=mask_n, other=0.0) * PH
        xa = tl.load(at + 5, mask=mask_n, other=0.0)
        xb = xa + tl.load(at + 6, mask=mask_n, other=0.0) * PW
        meets = mask_n & (tl.maximum(ya, yb) >= low_y) & (tl.minimum(ya, yb) <= high_y)
        meets = meets & (tl.maximum(xa, xb) >= low_x) & (tl.minimum(xa, xb) <= high_x)
        first = tl.min(tl.where(meets, rows, end), 0)
        last = tl.max(tl.where(meets, rows + 1, 0), 0)
        for row in range(first, last):
            of = geometry_ptr + tl.cast(row, tl.int64) * 8
            start_y, step_y, grid_y = tl.load(of + 2), tl.load(of + 3), tl.load(of + 4)
            start_x, step_x, grid_x = tl.load(of + 5), tl.load(of + 6), tl.load(of + 7)
            first_y, last_y = _bins_that_meet(start_y, step_y, low_y, high_y, PH)
            first_x, last_x = _bins_that_meet(start_x, step_x, low_x, high_x, PW)
            n = tl.load(order_ptr + row)
            if first_x < last_x:
                for p in range(first_y, last_y):
                    if MAXIMUM:
                        along_y = tl.zeros([TILE * TILE], dtype=tl.float32)
                        rows_of = tl.zeros([TILE * TILE], dtype=tl.int32)
                    else:
                        origin_y = start_y + tl.cast(p, tl.float32) * step_y
                        along_y, rows_of = _weights(pixel_y, origin_y, step_y, grid_y, H, low_y,
                                                    high_y)
                        along_y = along_y / tl.maximum(grid_y * grid_x, 1.0)
                    for q in range(first_x, last_x):
                        at_bin = (n * (PH * PW) + p * PW + q) * C + offs_c
                        g = tl.load(grad_ptr + at_bin, mask=mask_c, other=0.0).to(tl.float32)
                        if MAXIMUM:
                            y = tl.load(found_ptr + at_bin, mask=mask_c, other=-2.0)
                            x = tl.load(found_ptr + tl.cast(N, tl.int64) * (PH * PW) * C + at_bin,
                                        mask=mask_c, other=-2.0)
                            a, z, share, inside = _corners(y, mask_c, H)
                            weight_y, on_y = _share(pixel_y[:, None], a[None, :], z[None, :],
                                                    share[None, :], inside[None, :])
                            a, z, share, inside = _corners(x, mask_c, W)
                            weight_x, on_x = _share(pixel_x[:, None], a[None, :], z[None, :],
                                                    share[None, :], inside[None, :])
                            part = weight_y * weight_x * g[None, :]
                            acc += tl.where((on_y & on_x) != 0, part, 0.0)
                        else:
                            origin_x = start_x + tl.cast(q, tl.float32) * step_x
                            along_x, columns_of = _weights(pixel_x, origin_x, step_x, grid_x, W,
                                                           low_x, high_x)
                            touched = (rows_of & columns_of) != 0
                            part = (along_y * along_x)[:, None] * g[None, :]
                            acc += tl.where(touched[:, None], part, 0.0)
    at = (b * stride_b + offs_c[None, :] * stride_c
          + (pixel_y.to(tl.int64) * stride_y + pixel_x.to(tl.int64) * stride_x)[:, None])
    mask = ((pixel_y < H) & (pixel_x < W))[:, None] & mask_c[None, :]
    tl.store(dx_ptr + at, acc.to(dx_ptr.dtype.element_ty), mask=mask)
