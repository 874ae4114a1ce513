"""Triton kernels of the deformable convolutions of a DyHead block, all of them in every launch.

Levels are numbered from the finest; level l has P_l = H_l W_l pixels, and its height and width lie
in one word (``kernels/pyramid.py``). A convolution is of a branch and of the level r whose grid its
result has: 0 (mid, reads level r, with the numbers of level r), 1 (low, reads level r - 1 at stride
2, numbers of r), 2 (high, reads level r, numbers of r - 1, to whose size its result is resized).

  x        per level [B, P, C]
  numbers  per level [B, 27, P], or [B, P, 27] with LAST: 9 offsets (dy, dx), 9 logits of the mask
  maps     [rows, O]: for each branch, level and image the P_r pixels of a convolution's result
  stats    [B, tiles of an image, 3, O]: of a tile's pixels the mean, the sum of squared deviations,
           and that of deviations times what a pixel of high counts for after the resize (else 0);
           then [B, tiles of an image]: the sum of what the pixels of a tile count for

``tiles`` and ``pixels`` are those of one image and all levels.
"""

import triton
import triton.language as tl

from ..deform_conv2d.kernel import column_grad, sample

TAPS = tl.constexpr(9)
NUMBERS = tl.constexpr(27)


# --- levels -------------------------------------------------------------------------------------

@triton.jit
def size_of(word):
    return (word & 32767).to(tl.int32), ((word >> 15) & 32767).to(tl.int32)


@triton.jit
def pick(level, a, b, c, d, e, L: tl.constexpr):
    """The level's own of up to five."""
    if L > 1:
        a = tl.where(level == 1, b, a)
    if L > 2:
        a = tl.where(level == 2, c, a)
    if L > 3:
        a = tl.where(level == 3, d, a)
    if L > 4:
        a = tl.where(level == 4, e, a)
    return a


@triton.jit
def grid_of(tile, w0, w1, w2, w3, w4, L: tl.constexpr, BLOCK_P: tl.constexpr):
    """Where a tile lies: its number on its level, the level, pixels before it, height, width."""
    level = tile * 0
    before = tile * 0
    H, W = size_of(w0)
    for i in tl.static_range(1, L):
        h, w = size_of(w1 if i == 1 else w2 if i == 2 else w3 if i == 3 else w4)
        n = tl.cdiv(H * W, BLOCK_P)
        on = (level == i - 1) & (tile >= n)
        tile = tl.where(on, tile - n, tile)
        level = tl.where(on, i, level)
        before = tl.where(on, before + H * W, before)
        H = tl.where(on, h, H)
        W = tl.where(on, w, W)
    return tile, level, before, H, W


@triton.jit
def convolution_of(tile, tiles, pixels, w0, w1, w2, w3, w4, L: tl.constexpr, BLOCK_P: tl.constexpr):
    """Which convolution a tile belongs to: the branch, then as ``grid_of``, and the first row of
    maps if there were one image."""
    h, w = size_of(w0)
    first = tl.cdiv(h * w, BLOCK_P)  # low and high have no tiles on the finest level
    branch = (tile >= tiles).to(tl.int32) + (tile >= 2 * tiles - first).to(tl.int32)
    tile -= branch * (tiles - first)
    tile, level, before, H, W = grid_of(tile, w0, w1, w2, w3, w4, L, BLOCK_P)
    return branch, tile, level, before, H, W, branch * (pixels - h * w) + before


@triton.jit
def pixels_of(t, H, W, BLOCK_P: tl.constexpr):
    """Pixels of a tile, which are real, and their y and x."""
    p = t * BLOCK_P + tl.arange(0, BLOCK_P)
    return p, p < H * W, p // W, p % W


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles"])
def dyhead_convs_copy_kernel(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4, w0, w1, w2, w3, w4, tiles, C,
                             L: tl.constexpr, FROM_LAST: tl.constexpr, TO_LAST: tl.constexpr,
                             BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Maps [B, C, P], or [B, P, C] where LAST, of all levels from one type and order to another.

    Grid: (B tiles, cdiv(C, BLOCK_C)).
    """
    pid = tl.program_id(0)
    t, level, _, H, W = grid_of(pid % tiles, w0, w1, w2, w3, w4, L, BLOCK_P)
    a_ptr, b_ptr = pick(level, a0, a1, a2, a3, a4, L), pick(level, b0, b1, b2, b3, b4, L)
    image = (pid // tiles).to(tl.int64) * (C * H * W)
    p = (t * BLOCK_P + tl.arange(0, BLOCK_P))[:, None]
    c = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    mask = (p < H * W) & (c < C)
    value = tl.load(a_ptr + image + (p * C + c if FROM_LAST else c * (H * W) + p), mask=mask,
                    other=0.0)
    tl.store(b_ptr + image + (p * C + c if TO_LAST else c * (H * W) + p),
             value.to(tl.float32).to(b_ptr.dtype.element_ty), mask=mask)


@triton.jit
def dyhead_convs_pack_kernel(mid_ptr, low_ptr, high_ptr, packed_ptr, C: tl.constexpr,
                             O: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_Q: tl.constexpr):
    """Three weights [O, C, 9 taps] to [3 branches, 9, C, O].

    Grid: (cdiv(9 C, BLOCK_Q), cdiv(O, BLOCK_O), 3).
    """
    offs_q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    offs_o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    branch = tl.program_id(2)
    mask = (offs_o < O)[:, None] & (offs_q < TAPS * C)[None, :]
    at = offs_o[:, None] * (TAPS * C) + offs_q[None, :]
    if branch == 0:
        weight = tl.load(mid_ptr + at, mask=mask, other=0.0).to(tl.float32)
    elif branch == 1:
        weight = tl.load(low_ptr + at, mask=mask, other=0.0).to(tl.float32)
    else:
        weight = tl.load(high_ptr + at, mask=mask, other=0.0).to(tl.float32)
    row = branch * (TAPS * C) + offs_q % TAPS * C + offs_q // TAPS
    tl.store(packed_ptr + row[None, :] * O + offs_o[:, None],
             weight.to(packed_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["splits", "splits_other"])
def dyhead_convs_unpack_kernel(partial_ptr, dweight_ptr, splits, splits_other, C: tl.constexpr,
                               O: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_Q: tl.constexpr):
    """Sums of partial gradients [splits of mid, low and high, 9, C, O], in one order, to [3, O, C,
    9]. Grid as that of ``pack``."""
    offs_q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    offs_o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    branch = tl.program_id(2)
    mask = (offs_q < TAPS * C)[:, None] & (offs_o < O)[None, :]
    first = tl.where(branch == 0, 0, splits + (branch - 1) * splits_other)
    row = offs_q % TAPS * C + offs_q // TAPS
    partial_ptr += first.to(tl.int64) * (TAPS * C * O) + row[:, None] * O + offs_o[None, :]
    total = tl.zeros([BLOCK_Q, BLOCK_O], tl.float32)
    for _ in range(tl.where(branch == 0, splits, splits_other)):
        total += tl.load(partial_ptr, mask=mask, other=0.0)
        partial_ptr += TAPS * C * O
    tl.store(dweight_ptr + (branch * O + offs_o)[None, :] * (TAPS * C) + offs_q[:, None],
             total.to(dweight_ptr.dtype.element_ty), mask=mask)


# --- the convolutions ---------------------------------------------------------------------------

@triton.jit
def _number(numbers_ptr, at, area, real, LAST: tl.constexpr):
    """The flat numbers ``at`` of an image's [27, area], as mmcv reads them: by address."""
    if LAST:
        at = at % area * NUMBERS + at // area
    return tl.load(numbers_ptr + at, mask=real, other=0.0).to(tl.float32)


@triton.jit
def _place(numbers_ptr, p, real, y, x, tap, P, area, H, W, LAST: tl.constexpr):
    """Where one tap of each pixel samples, as deform_conv2d has it: corner, fractions, mask.

    Offsets are read from the beginning of 18 ``area`` numbers, masks from that of the 9 others,
    with the P pixels of the result as a map's.
    """
    ys = _number(numbers_ptr, 2 * tap * P + p, area, real, LAST) + (y + tap // 3).to(tl.float32)
    xs = _number(numbers_ptr, (2 * tap + 1) * P + p, area, real, LAST) + (x + tap % 3).to(
        tl.float32)
    # The mask's numbers begin with its own map, wherever the offsets' end.
    m = tl.sigmoid(_number(numbers_ptr, 18 * area + tap * P + p, area, real, LAST))
    counts = real & (ys > -1) & (xs > -1) & (ys < H) & (xs < W)
    ys = tl.where(counts, ys, -2.0)
    xs = tl.where(counts, xs, -2.0)
    top = tl.floor(ys)
    left = tl.floor(xs)
    return top.to(tl.int32), left.to(tl.int32), ys - top, xs - left, m


@triton.jit
def outputs_of_one(size_in, size_out):
    """Along one axis, how many outputs of the resize one input may have a part in."""
    most = tl.cdiv(2 * (size_out - 1), tl.maximum(size_in - 1, 1))
    return tl.where(size_in == 1, size_out, most)


@triton.jit
def first_output(n, size_in, size_out):
    """Along one axis, the first output of the resize that input ``n`` has a part in."""
    first = (n - 1) * (size_out - 1) // tl.maximum(size_in - 1, 1) + 1
    return tl.where(n == 0, 0, first)


@triton.jit
def part_of(n, at, size_in, size_out):
    """The part that input ``n`` has in output ``at``."""
    place = at.to(tl.float32) * ((size_in - 1).to(tl.float32) / tl.maximum(size_out - 1, 1))
    part = tl.maximum(1.0 - tl.abs(place - n.to(tl.float32)), 0.0)
    return tl.where(at < size_out, part, 0.0)


@triton.jit
def _parts(n, size_in, size_out):
    """The parts that input ``n`` has in all outputs, together."""
    first = first_output(n, size_in, size_out)
    total = tl.zeros_like(n).to(tl.float32)
    for i in range(outputs_of_one(size_in, size_out)):
        total += part_of(n, first + i, size_in, size_out)
    return total


@triton.jit
def _map(of_finer, level, image, a, b, c, d, e, w0, w1, w2, w3, w4, L: tl.constexpr,
         C: tl.constexpr):
    """An image's map of C channels on this level, or on the next finer one; height and width."""
    level = tl.where(of_finer, level - 1, level)
    H, W = size_of(pick(level, w0, w1, w2, w3, w4, L))
    return pick(level, a, b, c, d, e, L) + image * (H * W * C), H, W


@triton.jit
def _store_moments(stats_ptr, value, real, part, total, count, offs, O: tl.constexpr):
    """Store what a tile's norms want to know of some channels."""
    mean = tl.sum(tl.where(real[:, None], value, 0.0), 0) / count
    value = tl.where(real[:, None], value - mean[None, :], 0.0)
    # The mean of rounded sums is off by their rounding: the sum of deviations mends it.
    off = tl.sum(value, 0) / count
    spread = tl.sum(value * value, 0) - off * off * count
    after = tl.sum(tl.where(part[:, None] > 0, value * part[:, None], 0.0), 0) - off * total
    mask = offs < O
    tl.store(stats_ptr + offs, mean + off, mask=mask)
    tl.store(stats_ptr + O + offs, tl.maximum(spread, 0.0, propagate_nan=tl.PropagateNan.ALL),
             mask=mask)
    tl.store(stats_ptr + 2 * O + offs, after, mask=mask)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "pixels", "B"])
def dyhead_convs_fwd_kernel(x0, x1, x2, x3, x4, n0, n1, n2, n3, n4, weight_ptr, maps_ptr, stats_ptr,
                            w0, w1, w2, w3, w4, tiles, pixels, B, L: tl.constexpr,
                            C: tl.constexpr, O: tl.constexpr, LAST: tl.constexpr,
                            PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr,
                            BLOCK_C: tl.constexpr):
    """All deformable convolutions, and of each tile the statistics that the norms want.

    Grid: (B, tiles of all convolutions, cdiv(O, BLOCK_O)), flat, the last fastest; one program owns
    BLOCK_P pixels of BLOCK_O channels. weight [3 branches, 9 taps, C, O].
    """
    TILES_O: tl.constexpr = (O + BLOCK_O - 1) // BLOCK_O
    BLOCK_S: tl.constexpr = 64 if BLOCK_O > 64 else BLOCK_O
    h, w = size_of(w0)
    every = 3 * tiles - 2 * tl.cdiv(h * w, BLOCK_P)
    pid = tl.program_id(0)
    image = (pid // TILES_O // every).to(tl.int64)
    tile = pid // TILES_O % every
    branch, t, level, _, OH, OW, row = convolution_of(tile, tiles, pixels, w0, w1, w2, w3, w4, L,
                                                      BLOCK_P)
    x_ptr, H, W = _map(branch == 1, level, image, x0, x1, x2, x3, x4, w0, w1, w2, w3, w4, L, C)
    numbers_ptr, finer_h, finer_w = _map(branch == 2, level, image, n0, n1, n2, n3, n4, w0, w1, w2,
                                         w3, w4, L, NUMBERS)
    area = finer_h * finer_w
    weight_ptr += branch * (TAPS * C * O)
    p, real, y, x = pixels_of(t, OH, OW, BLOCK_P)
    step = tl.where(branch == 1, 2, 1)
    P = OH * OW
    offs_o = pid % TILES_O * BLOCK_O + tl.arange(0, BLOCK_O)
    mask_o = offs_o < O
    offs_c = tl.arange(0, BLOCK_C)

    out = tl.zeros([BLOCK_P, BLOCK_O], tl.float32)
    for tap in range(TAPS):
        top, left, fy, fx, m = _place(numbers_ptr, p, real, y * step - 1, x * step - 1, tap, P,
                                      area, H, W, LAST)
        for c in range(0, C, BLOCK_C):
            mask_c = c + offs_c < C
            columns = sample(x_ptr, top, left, fy, fx, m, c + offs_c, mask_c, H, W, C)
            at = (tap * C + c + offs_c)[:, None] * O + offs_o[None, :]
            weight = tl.load(weight_ptr + at, mask=mask_c[:, None] & mask_o[None, :], other=0.0)
            out = tl.dot(columns.to(weight.dtype), weight, out, input_precision=PRECISION)

    at = (B * row.to(tl.int64) + image * P + p)[:, None] * O
    tl.store(maps_ptr + at + offs_o[None, :], out.to(maps_ptr.dtype.element_ty),
             mask=real[:, None] & mask_o[None, :])
    part = tl.zeros([BLOCK_P], tl.float32)
    if branch == 2:
        part = tl.where(real, _parts(y, OH, finer_h) * _parts(x, OW, finer_w), 0.0)
    total = tl.sum(part)
    if pid % TILES_O == 0:
        tl.store(stats_ptr + (tl.cast(3 * O, tl.int64) * B + image) * every + tile, total)
    count = tl.minimum(P - t * BLOCK_P, BLOCK_P)
    stats_ptr += (image * every + tile) * (3 * O)
    if maps_ptr.dtype.element_ty == tl.float32:
        _store_moments(stats_ptr, out, real, part, total, count, offs_o, O)
    else:
        # The rounded tile comes back from the first-level cache: along the accumulator's layout,
        # the matrix instruction's, sums over pixels would take more registers than there are.
        tl.debug_barrier()
        for o in range(0, BLOCK_O, BLOCK_S):
            offs_s = pid % TILES_O * BLOCK_O + o + tl.arange(0, BLOCK_S)
            value = tl.load(maps_ptr + at + offs_s[None, :],
                            mask=real[:, None] & (offs_s < O)[None, :], other=0.0).to(tl.float32)
            _store_moments(stats_ptr, value, real, part, total, count, offs_s, O)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "pixels", "B"])
def dyhead_convs_bwd_data_kernel(x0, x1, x2, x3, x4, n0, n1, n2, n3, n4, weight_ptr, dmaps_ptr,
                                 scale_ptr, dx_ptr, dplaces_ptr, w0, w1, w2, w3, w4, tiles, pixels,
                                 B, L: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
                                 LAST: tl.constexpr, FIXED: tl.constexpr, PRECISION: tl.constexpr,
                                 BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr,
                                 BLOCK_C: tl.constexpr):
    """Gradients of the inputs, by atomic additions, and of what each convolution read of numbers.

    Grid: (B, tiles of all convolutions, 9 taps), flat, the last fastest. dx [pixels of all levels,
    C], zeroed, fp32 or int64 in units of 1 / scale[0] with FIXED; dplaces [rows of maps, 27], for
    each convolution and image [27, P]: of dy and dx of all taps, then of the masks.
    """
    h, w = size_of(w0)
    every = 3 * tiles - 2 * tl.cdiv(h * w, BLOCK_P)
    pid = tl.program_id(0)
    tap = pid % TAPS
    image = (pid // TAPS // every).to(tl.int64)
    branch, t, level, before, OH, OW, row = convolution_of(pid // TAPS % every, tiles, pixels, w0,
                                                           w1, w2, w3, w4, L, BLOCK_P)
    x_ptr, H, W = _map(branch == 1, level, image, x0, x1, x2, x3, x4, w0, w1, w2, w3, w4, L, C)
    numbers_ptr, finer_h, finer_w = _map(branch == 2, level, image, n0, n1, n2, n3, n4, w0, w1, w2,
                                         w3, w4, L, NUMBERS)
    area = finer_h * finer_w
    before = tl.where(branch == 1, before - H * W, before)
    dx_ptr += (B * before.to(tl.int64) + image * (H * W)) * C
    weight_ptr += branch * (TAPS * C * O)
    p, real, y, x = pixels_of(t, OH, OW, BLOCK_P)
    step = tl.where(branch == 1, 2, 1)
    P = OH * OW
    first = B * row.to(tl.int64) + image * P
    dmaps_ptr += first * O
    top, left, fy, fx, m = _place(numbers_ptr, p, real, y * step - 1, x * step - 1, tap, P, area, H,
                                  W, LAST)
    offs_c = tl.arange(0, BLOCK_C)
    scale = 1.0
    if FIXED:
        scale = tl.load(scale_ptr)

    dy = tl.zeros([BLOCK_P], tl.float32)
    dx = tl.zeros([BLOCK_P], tl.float32)
    dm = tl.zeros([BLOCK_P], tl.float32)
    for c in range(0, C, BLOCK_C):
        mask_c = c + offs_c < C
        g = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        for o in range(0, O, BLOCK_O):
            offs_o = o + tl.arange(0, BLOCK_O)
            mask_o = offs_o < O
            grad = tl.load(dmaps_ptr + p[:, None] * O + offs_o[None, :],
                           mask=real[:, None] & mask_o[None, :], other=0.0)
            at = (tap * C + c + offs_c)[:, None] * O + offs_o[None, :]
            weight = tl.load(weight_ptr + at, mask=mask_c[:, None] & mask_o[None, :], other=0.0)
            g = tl.dot(grad, tl.trans(weight), g, input_precision=PRECISION)
        g = tl.where(mask_c[None, :], g, 0.0)  # a NaN of grad times no weight is one, too
        dy, dx, dm = column_grad(x_ptr, dx_ptr, scale, g, top, left, fy, fx, m, dy, dx, dm,
                                 c + offs_c, mask_c, H, W, C, True, True, FIXED)
    dy = tl.where(left > -2, m * dy, 0.0)  # a sample that does not count has none, not even a NaN
    dx = tl.where(left > -2, m * dx, 0.0)
    dplaces_ptr += first * NUMBERS + p
    tl.store(dplaces_ptr + 2 * tap * P, dy, mask=real)
    tl.store(dplaces_ptr + (2 * tap + 1) * P, dx, mask=real)
    tl.store(dplaces_ptr + (18 + tap) * P, dm, mask=real)


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "pixels", "B", "splits",
                               "splits_other"])
def dyhead_convs_bwd_weight_kernel(x0, x1, x2, x3, x4, n0, n1, n2, n3, n4, dmaps_ptr, dweight_ptr,
                                   w0, w1, w2, w3, w4, tiles, pixels, B, splits, splits_other,
                                   L: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
                                   LAST: tl.constexpr, PRECISION: tl.constexpr,
                                   BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr,
                                   BLOCK_C: tl.constexpr):
    """Partial gradients of the weights: ``columns^T @ grad`` over part of a branch's tiles.

    Grid: (splits of mid, of low and of high, 9 taps, cdiv(C, BLOCK_C), cdiv(O, BLOCK_O)), flat, the
    last fastest: mid has ``splits``, the two others ``splits_other`` each. dweight [all splits, 9,
    C, O] fp32.
    """
    TILES_C: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    TILES_O: tl.constexpr = (O + BLOCK_O - 1) // BLOCK_O
    pid = tl.program_id(0)
    offs_o = pid % TILES_O * BLOCK_O + tl.arange(0, BLOCK_O)
    offs_c = pid // TILES_O % TILES_C * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_o, mask_c = offs_o < O, offs_c < C
    tap = pid // (TILES_O * TILES_C) % TAPS
    split = pid // (TILES_O * TILES_C * TAPS)
    dweight_ptr += (split.to(tl.int64) * TAPS + tap) * (C * O)
    h, w = size_of(w0)
    others = tiles - tl.cdiv(h * w, BLOCK_P)  # tiles of low, and of high
    of = (split >= splits).to(tl.int32) + (split >= splits + splits_other).to(tl.int32)
    mine = tl.where(of == 0, tiles, others)  # of an image
    begin = tl.where(of == 0, 0, tiles + (of - 1) * others)
    every = tl.where(of == 0, splits, splits_other)
    split -= tl.where(of == 0, 0, splits + (of - 1) * splits_other)

    dweight = tl.zeros([BLOCK_C, BLOCK_O], tl.float32)
    for i in range(split, B * mine, every):
        image = (i // mine).to(tl.int64)
        branch, t, level, _, OH, OW, row = convolution_of(begin + i % mine, tiles, pixels, w0, w1,
                                                          w2, w3, w4, L, BLOCK_P)
        x_ptr, H, W = _map(branch == 1, level, image, x0, x1, x2, x3, x4, w0, w1, w2, w3, w4, L, C)
        numbers_ptr, finer_h, finer_w = _map(branch == 2, level, image, n0, n1, n2, n3, n4, w0, w1,
                                             w2, w3, w4, L, NUMBERS)
        area = finer_h * finer_w
        p, real, y, x = pixels_of(t, OH, OW, BLOCK_P)
        step = tl.where(branch == 1, 2, 1)
        P = OH * OW
        top, left, fy, fx, m = _place(numbers_ptr, p, real, y * step - 1, x * step - 1, tap, P,
                                      area, H, W, LAST)
        columns = sample(x_ptr, top, left, fy, fx, m, offs_c, mask_c, H, W, C)
        at = (B * row.to(tl.int64) + image * P + p)[:, None] * O + offs_o[None, :]
        grad = tl.load(dmaps_ptr + at, mask=real[:, None] & mask_o[None, :], other=0.0)
        dweight = tl.dot(tl.trans(columns.to(grad.dtype)), grad, dweight,
                         input_precision=PRECISION)
    tl.store(dweight_ptr + offs_c[:, None] * O + offs_o[None, :], dweight,
             mask=mask_c[:, None] & mask_o[None, :])


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "tiles", "pixels", "B"])
def dyhead_convs_bwd_numbers_kernel(dplaces_ptr, n0, n1, n2, n3, n4, d0, d1, d2, d3, d4, w0, w1, w2,
                                    w3, w4, tiles, pixels, B, L: tl.constexpr, LAST: tl.constexpr,
                                    BLOCK_P: tl.constexpr):
    """Gradients of the numbers: of mid's and low's reads, and of high's from the beginning.

    Grid: (B tiles,); one program owns all numbers of BLOCK_P pixels.
    """
    pid = tl.program_id(0)
    image = (pid // tiles).to(tl.int64)
    t, level, before, H, W = grid_of(pid % tiles, w0, w1, w2, w3, w4, L, BLOCK_P)
    P = H * W
    h, w = size_of(w0)
    p = (t * BLOCK_P + tl.arange(0, BLOCK_P))[:, None]
    channel = tl.arange(0, 32)[None, :]
    real = (p < P) & (channel < NUMBERS)
    at = channel * P + p
    of_image = (B * before.to(tl.int64) + image * P) * NUMBERS
    total = tl.load(dplaces_ptr + of_image + at, mask=real, other=0.0)
    if level > 0:
        low = dplaces_ptr + B * (pixels - h * w).to(tl.int64) * NUMBERS + of_image
        total += tl.load(low + at, mask=real, other=0.0)
    if level < L - 1:
        small_h, small_w = size_of(pick(level + 1, w0, w1, w2, w3, w4, L))
        small = small_h * small_w
        row = B * (2 * (pixels - h * w) + before + P).to(tl.int64) + image * small
        # Offsets and masks were read from the beginning of their own numbers.
        of_own = tl.where(channel < 18, at, at - 18 * P)
        inside = real & (of_own < tl.where(channel < 18, 18 * small, 9 * small))
        of_own += tl.where(channel < 18, 0, 18 * small)
        total += tl.load(dplaces_ptr + row * NUMBERS + of_own, mask=inside, other=0.0)
    numbers_ptr = pick(level, n0, n1, n2, n3, n4, L) + image * (NUMBERS * P)
    out_ptr = pick(level, d0, d1, d2, d3, d4, L) + image * (NUMBERS * P)
    if LAST:
        at = p * NUMBERS + channel
    logit = tl.load(numbers_ptr + at, mask=real & (channel >= 18), other=0.0).to(tl.float32)
    m = tl.sigmoid(logit)
    total *= tl.where(channel < 18, 1.0, m * (1.0 - m))
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=real)
