"""Deformable convolution in Triton, forward and backward, without columns in memory.

An implicit matrix product: a program makes the columns of a tile of output pixels (one tap, some
channels) in registers, from four rows of a channels-last image each, and multiplies them with the
weight of that tap. A tile's pixels are of one image, so that pointers move to the image once and
places in it take 32 bits. Channels come in runs of ``RUN``, which lie in one group and in one
deform group. Coordinates and interpolation are in fp32; columns are rounded to the tensors' type
before the product.

Shapes: x ``[B, H, W, C]``; offset ``[B, DG, TAPS, 2, P]``, (dy, dx); mask ``[B, DG, TAPS, P]``;
weight ``[TAPS, CG, O]`` where column ``o`` belongs to group ``o // OG``; CG and OG are a group's
channels. offset_stride and mask_stride step from image to image. mask is read with HAS_MASK only.
``tiles`` is the number of tiles of all images. A group is PACK groups of the caller, with zeros
between them in the weight. The caller's weight is ``[O, CG / PACK, TAPS]``.
"""

import triton
import triton.language as tl


@triton.jit
def _weights(tile, O: tl.constexpr, OG: tl.constexpr, CG: tl.constexpr, TAPS: tl.constexpr,
             PACK: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr):
    """A tile of the caller's weight: where it lies there and which is real, ``[BLOCK_O, BLOCK_K]``;
    its outputs and their group in a packed one; its rows ``tap * CG + channel``."""
    K: tl.constexpr = CG // PACK * TAPS
    TILES_K: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    o = (tile // TILES_K).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    k = (tile % TILES_K).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    real = (o < O)[:, None] & (k < K)[None, :]
    own = tl.zeros([BLOCK_O], tl.int64)  # a sum with which is still seen to run through memory
    if PACK > 1:
        own = o // (OG // PACK) % PACK
    return o[:, None] * K + k[None, :], real, o, own, k % TAPS * CG + k // TAPS


@triton.jit
def _copy(tile, x_ptr, maps_ptr, P, C: tl.constexpr, WIDE: tl.constexpr, BLOCK_P: tl.constexpr,
          BLOCK_C: tl.constexpr):
    if WIDE:
        P = P // 8 * 8  # which makes it known
    TILES_C: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    tiles_p = tl.cdiv(P, BLOCK_P)
    image = (tile // (TILES_C * tiles_p)).to(tl.int64) * C * P
    c = tile % TILES_C * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tile // TILES_C % tiles_p * BLOCK_P + tl.arange(0, BLOCK_P)
    real = (p < P)[:, None] & (c < C)[None, :]
    values = tl.load(x_ptr + image + c[None, :] * P + p[:, None], mask=real, other=0.0)
    tl.store(maps_ptr + image + p[:, None] * C + c[None, :], values, mask=real)


@triton.jit
def _pack(tile, weight_ptr, packed_ptr, CG: tl.constexpr, O: tl.constexpr, OG: tl.constexpr,
          TAPS: tl.constexpr, PACK: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr):
    at, real, o, own, row = _weights(tile, O, OG, CG, TAPS, PACK, BLOCK_O, BLOCK_K)
    values = tl.load(weight_ptr + at, mask=real, other=0.0)
    for i in range(PACK):
        to = (row + i * (CG // PACK))[None, :] * O + o[:, None]
        tl.store(packed_ptr + to, tl.where((own == i)[:, None], values, 0.0), mask=real)


@triton.jit(do_not_specialize=["copies", "P"])
def deform_conv2d_prepare_kernel(
        x_ptr, maps_ptr, weight_ptr, packed_ptr, copies, P, C: tl.constexpr, WIDE: tl.constexpr,
        CG: tl.constexpr, O: tl.constexpr, OG: tl.constexpr, TAPS: tl.constexpr,
        PACK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
        BLOCK_K: tl.constexpr):
    """Maps ``[B, C, P]`` to ``[B, P, C]``, and a weight as the kernels read it.

    Grid ``(copies + tiles of the weight,)``: a program owns BLOCK_P pixels of BLOCK_C channels, or
    BLOCK_O outputs of BLOCK_K channels and taps. packed ``[TAPS, CG, O]``. WIDE: 8 divides P.
    """
    pid = tl.program_id(0)
    if pid < copies:
        _copy(pid, x_ptr, maps_ptr, P, C, WIDE, BLOCK_P, BLOCK_C)
    else:
        _pack(pid - copies, weight_ptr, packed_ptr, CG, O, OG, TAPS, PACK, BLOCK_O, BLOCK_K)


@triton.jit
def _cast(block, sums_ptr, dx_ptr, numbers, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    if WIDE:
        numbers = numbers // 8 * 8  # which makes it known
    at = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(sums_ptr + at, mask=at < numbers, other=0.0)
    tl.store(dx_ptr + at, values.to(dx_ptr.dtype.element_ty), mask=at < numbers)


@triton.jit
def _add_parts(tile, partial_ptr, dweight_ptr, splits, CG: tl.constexpr, O: tl.constexpr,
               OG: tl.constexpr, TAPS: tl.constexpr, PACK: tl.constexpr, BLOCK_O: tl.constexpr,
               BLOCK_K: tl.constexpr):
    at, real, o, own, row = _weights(tile, O, OG, CG, TAPS, PACK, BLOCK_O, BLOCK_K)
    of = (row[None, :] + own[:, None] * (CG // PACK)) * O + o[:, None]
    total = tl.zeros([BLOCK_O, BLOCK_K], tl.float32)
    for split in range(splits):
        total += tl.load(partial_ptr + tl.cast(split, tl.int64) * (TAPS * CG * O) + of, mask=real,
                         other=0.0)
    tl.store(dweight_ptr + at, total.to(dweight_ptr.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["casts", "numbers", "splits"])
def deform_conv2d_finish_kernel(
        sums_ptr, dx_ptr, partial_ptr, dweight_ptr, casts, numbers, splits,
        WIDE: tl.constexpr, CG: tl.constexpr, O: tl.constexpr, OG: tl.constexpr,
        TAPS: tl.constexpr, PACK: tl.constexpr, BLOCK: tl.constexpr, BLOCK_O: tl.constexpr,
        BLOCK_K: tl.constexpr):
    """The image's gradient in its own type, and the weight's from its parts, as the caller has it.

    Grid ``(casts + tiles of the weight,)``: a program owns BLOCK of the ``numbers`` sums, or
    BLOCK_O outputs of BLOCK_K channels and taps, and adds the ``splits`` parts in their order.
    partial ``[splits, TAPS, CG, O]`` fp32. WIDE: 8 divides ``numbers``.
    """
    pid = tl.program_id(0)
    if pid < casts:
        _cast(pid, sums_ptr, dx_ptr, numbers, WIDE, BLOCK)
    else:
        _add_parts(pid - casts, partial_ptr, dweight_ptr, splits, CG, O, OG, TAPS, PACK, BLOCK_O,
                   BLOCK_K)


@triton.jit
def _pixels(tile, P, OW, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
            BLOCK_P: tl.constexpr):
    """A tile of output pixels: image, number in it, whether real, (y, x) of the first tap."""
    in_image = tl.cdiv(P, BLOCK_P)
    p = tile % in_image * BLOCK_P + tl.arange(0, BLOCK_P)
    return (tile // in_image).to(tl.int64), p, p < P, p // OW * SH - PH, p % OW * SW - PW


@triton.jit
def _place(offset_ptr, mask_ptr, p, real, y, x, tap, dg, P, H, W, KW: tl.constexpr,
           TAPS: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr, HAS_MASK: tl.constexpr):
    """Where one tap of each pixel samples: the pixel above and left, the fractions, the mask.

    A sample that does not count lies at (-2, -2), where no corner is in the image.
    """
    at = (dg * TAPS + tap) * P
    ys = tl.load(offset_ptr + 2 * at + p, mask=real, other=0.0).to(tl.float32)
    xs = tl.load(offset_ptr + 2 * at + P + p, mask=real, other=0.0).to(tl.float32)
    ys += (y + tap // KW * DH).to(tl.float32)
    xs += (x + tap % KW * DW).to(tl.float32)
    counts = real & (ys > -1) & (xs > -1) & (ys < H) & (xs < W)
    ys = tl.where(counts, ys, -2.0)
    xs = tl.where(counts, xs, -2.0)
    top = tl.floor(ys)
    left = tl.floor(xs)
    if HAS_MASK:
        m = tl.load(mask_ptr + at + p, mask=real, other=0.0).to(tl.float32)
    else:
        m = tl.full(ys.shape, 1.0, tl.float32)
    return top.to(tl.int32), left.to(tl.int32), ys - top, xs - left, m


@triton.jit
def _corner(top, left, offs_c, mask_c, H, W, C: tl.constexpr):
    """Where one corner's channels lie in the image, and which are in it."""
    inside = (top >= 0) & (left >= 0) & (top < H) & (left < W)
    return (top * W + left)[:, None] * C + offs_c[None, :], inside[:, None] & mask_c[None, :]


@triton.jit
def _part(x_ptr, share, top, left, offs_c, mask_c, H, W, C: tl.constexpr):
    at, inside = _corner(top, left, offs_c, mask_c, H, W, C)
    return tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32) * share[:, None]


@triton.jit
def sample(x_ptr, top, left, fy, fx, m, offs_c, mask_c, H, W, C: tl.constexpr):
    """Columns ``[BLOCK_P, BLOCK_C]`` of one tap in fp32: the image between its pixels, times m."""
    v = _part(x_ptr, m * (1 - fy) * (1 - fx), top, left, offs_c, mask_c, H, W, C)
    v += _part(x_ptr, m * (1 - fy) * fx, top, left + 1, offs_c, mask_c, H, W, C)
    v += _part(x_ptr, m * fy * (1 - fx), top + 1, left, offs_c, mask_c, H, W, C)
    v += _part(x_ptr, m * fy * fx, top + 1, left + 1, offs_c, mask_c, H, W, C)
    return v


@triton.jit
def _has_nan(tile):
    return tl.max(tl.max((tile != tile).to(tl.int32), 1), 0) > 0


@triton.jit
def _columns_by_weight(
        x_ptr, offset_ptr, mask_ptr, weight_ptr, group, lone, p, real, y, x, offs_o, mask_o, P, H,
        W, C: tl.constexpr, CG: tl.constexpr, CD: tl.constexpr, O: tl.constexpr,
        RUN: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr, DH: tl.constexpr,
        DW: tl.constexpr, HAS_MASK: tl.constexpr, LONE: tl.constexpr, PACK: tl.constexpr,
        PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr,
        BLOCK_C: tl.constexpr):
    """The sum over taps and channels for a tile; with LONE over those of packed group ``lone``."""
    offs_c = tl.arange(0, BLOCK_C)
    out = tl.zeros([BLOCK_P, BLOCK_O], tl.float32)
    for tap in range(TAPS):
        for run in range(0, CG, RUN):
            first = group * CG + run
            top, left, fy, fx, m = _place(offset_ptr, mask_ptr, p, real, y, x, tap, first // CD,
                                          P, H, W, KW, TAPS, DH, DW, HAS_MASK)
            for c in range(0, RUN, BLOCK_C):
                mask_c = c + offs_c < RUN
                columns = sample(x_ptr, top, left, fy, fx, m, first + c + offs_c, mask_c, H, W, C)
                if LONE:
                    own = (run + c + offs_c) // (CG // PACK) == lone
                    columns = tl.where(own[None, :], columns, 0.0)
                at = (tap * CG + run + c + offs_c)[:, None] * O + offs_o[None, :]
                w = tl.load(weight_ptr + at, mask=mask_c[:, None] & mask_o[None, :], other=0.0)
                out = tl.dot(columns.to(w.dtype), w, out, input_precision=PRECISION)
    return out


@triton.jit
def _store_pixels(out_ptr, out, p, real, offs_o, mask_o, P, O: tl.constexpr,
                  CHANNELS_LAST: tl.constexpr):
    if CHANNELS_LAST:
        at = p[:, None] * O + offs_o[None, :]
    else:
        at = p[:, None] + offs_o[None, :] * P
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=real[:, None] & mask_o[None, :])


@triton.jit(do_not_specialize=["tiles", "P", "OW", "H", "W", "offset_stride", "mask_stride"])
def deform_conv2d_fwd_kernel(
        x_ptr, offset_ptr, mask_ptr, weight_ptr, bias_ptr, out_ptr, tiles, P, OW, H, W,
        offset_stride, mask_stride, C: tl.constexpr, CG: tl.constexpr, CD: tl.constexpr,
        O: tl.constexpr, OG: tl.constexpr, RUN: tl.constexpr, KW: tl.constexpr,
        TAPS: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr,
        PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr, HAS_MASK: tl.constexpr,
        HAS_BIAS: tl.constexpr, CHANNELS_LAST: tl.constexpr, PACK: tl.constexpr,
        PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr,
        BLOCK_C: tl.constexpr):
    """``out[m, o] = bias[o] + sum over taps and channels of column * weight``.

    Grid ``(tiles * groups * ceil(OG / BLOCK_O),)``, channels fastest; a program owns
    BLOCK_P pixels of BLOCK_O channels of one group. bias ``[O]``, read with HAS_BIAS only; out
    ``[B, P, O]`` with CHANNELS_LAST, else ``[B, O, P]``. CD: channels of a deform group.
    """
    TILES_O: tl.constexpr = (OG + BLOCK_O - 1) // BLOCK_O
    pid = tl.program_id(0)
    group = pid % (O // OG * TILES_O) // TILES_O
    image, p, real, y, x = _pixels(pid // (O // OG * TILES_O), P, OW, SH, SW, PH, PW, BLOCK_P)
    x_ptr += image * (H * W * C)
    offset_ptr += image * offset_stride
    mask_ptr += image * mask_stride
    out_ptr += image * (P * O)
    offs_o = pid % TILES_O * BLOCK_O + tl.arange(0, BLOCK_O)
    mask_o = offs_o < OG
    packed = offs_o // (OG // PACK)
    offs_o += group * OG

    out = _columns_by_weight(
        x_ptr, offset_ptr, mask_ptr, weight_ptr, group, 0, p, real, y, x, offs_o, mask_o, P, H, W,
        C, CG, CD, O, RUN, KW, TAPS, DH, DW, HAS_MASK, False, PACK, PRECISION, BLOCK_P, BLOCK_O,
        BLOCK_C)
    if PACK > 1:
        if _has_nan(out):  # zero times what is not finite next door is one: each group alone
            for lone in range(PACK):
                part = _columns_by_weight(
                    x_ptr, offset_ptr, mask_ptr, weight_ptr, group, lone, p, real, y, x, offs_o,
                    mask_o, P, H, W, C, CG, CD, O, RUN, KW, TAPS, DH, DW, HAS_MASK, True, PACK,
                    PRECISION, BLOCK_P, BLOCK_O, BLOCK_C)
                out = tl.where((packed == lone)[None, :], part, out)
    if HAS_BIAS:
        out += tl.load(bias_ptr + offs_o, mask=mask_o, other=0.0).to(tl.float32)[None, :]
    _store_pixels(out_ptr, out, p, real, offs_o, mask_o, P, O, CHANNELS_LAST)


@triton.jit(do_not_specialize=["tiles", "P", "OW", "H", "W", "offset_stride", "mask_stride"])
def deform_conv2d_depthwise_fwd_kernel(
        x_ptr, offset_ptr, mask_ptr, weight_ptr, bias_ptr, out_ptr, tiles, P, OW, H, W,
        offset_stride, mask_stride, C: tl.constexpr, CD: tl.constexpr, KW: tl.constexpr,
        TAPS: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr,
        PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr, HAS_MASK: tl.constexpr,
        HAS_BIAS: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr,
        BLOCK_C: tl.constexpr):
    """One filter for each channel: ``out[m, c] = bias[c] + sum over taps of column * weight``.

    Grid ``(tiles * C / CD * ceil(CD / BLOCK_C),)``, channels fastest; a program owns
    BLOCK_P pixels of BLOCK_C channels of one deform group. weight ``[TAPS, C]``; else as
    ``deform_conv2d_fwd_kernel``.
    """
    TILES_C: tl.constexpr = (CD + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    dg = pid % (C // CD * TILES_C) // TILES_C
    image, p, real, y, x = _pixels(pid // (C // CD * TILES_C), P, OW, SH, SW, PH, PW, BLOCK_P)
    x_ptr += image * (H * W * C)
    offset_ptr += image * offset_stride
    mask_ptr += image * mask_stride
    out_ptr += image * (P * C)
    offs_c = pid % TILES_C * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < CD
    offs_c += dg * CD

    out = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for tap in range(TAPS):
        top, left, fy, fx, m = _place(offset_ptr, mask_ptr, p, real, y, x, tap, dg, P, H, W, KW,
                                      TAPS, DH, DW, HAS_MASK)
        w = tl.load(weight_ptr + tap * C + offs_c, mask=mask_c, other=0.0).to(tl.float32)
        out += sample(x_ptr, top, left, fy, fx, m, offs_c, mask_c, H, W, C) * w[None, :]
    if HAS_BIAS:
        out += tl.load(bias_ptr + offs_c, mask=mask_c, other=0.0).to(tl.float32)[None, :]
    _store_pixels(out_ptr, out, p, real, offs_c, mask_c, P, C, CHANNELS_LAST)


@triton.jit
def column_grad(x_ptr, dx_ptr, scale, g, top, left, fy, fx, m, dy, dx, dm, offs_c, mask_c, H, W,
                 C: tl.constexpr, NEEDS_X: tl.constexpr, NEEDS_PLACE: tl.constexpr,
                 FIXED: tl.constexpr):
    """Pass the gradient ``g`` ``[BLOCK_P, BLOCK_C]`` of columns on.

    Adds each corner's share to the image's gradient, and these channels' part to the gradients dy,
    dx and dm of the place and the mask; dy and dx lack the factor m.
    """
    for corner in range(4):  # a loop, not four copies: these would not fit the registers
        below = corner // 2
        right = corner % 2
        wy = tl.where(below == 1, fy, 1 - fy)
        wx = tl.where(right == 1, fx, 1 - fx)
        at, inside = _corner(top + below, left + right, offs_c, mask_c, H, W, C)
        if NEEDS_X:
            value = g * (m * wy * wx)[:, None]
            if FIXED:
                value = (value * scale).to(tl.int64)
            tl.atomic_add(dx_ptr + at, value, mask=inside, sem="relaxed")
        if NEEDS_PLACE:
            dot = tl.sum(g * tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32), 1)
            dy += tl.where(below == 1, wx, -wx) * dot
            dx += tl.where(right == 1, wy, -wy) * dot
            dm += wy * wx * dot
    return dy, dx, dm


@triton.jit
def _store_place_grad(doffset_ptr, dmask_ptr, dy, dx, dm, left, image, p, real, tap, dg, P,
                      DG: tl.constexpr, TAPS: tl.constexpr, HAS_MASK: tl.constexpr):
    dy = tl.where(left > -2, dy, 0.0)  # a sample that does not count has none, not even a NaN
    dx = tl.where(left > -2, dx, 0.0)
    at = ((image * DG + dg) * TAPS + tap) * P
    tl.store(doffset_ptr + at * 2 + p, dy.to(doffset_ptr.dtype.element_ty), mask=real)
    tl.store(doffset_ptr + at * 2 + P + p, dx.to(doffset_ptr.dtype.element_ty), mask=real)
    if HAS_MASK:
        tl.store(dmask_ptr + at + p, dm.to(dmask_ptr.dtype.element_ty), mask=real)


@triton.jit
def _grad_by_weight(grad_ptr, weight_ptr, group, lone, tap, channel, p, real, mask_c,
                    CG: tl.constexpr, O: tl.constexpr, OG: tl.constexpr, LONE: tl.constexpr,
                    PACK: tl.constexpr, PRECISION: tl.constexpr, BLOCK_P: tl.constexpr,
                    BLOCK_O: tl.constexpr, BLOCK_C: tl.constexpr):
    """The gradient of columns, from all outputs of a group; with LONE of packed group ``lone``."""
    g = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for o in range(0, OG, BLOCK_O):
        offs_o = o + tl.arange(0, BLOCK_O)
        mask_o = offs_o < OG
        given = mask_o
        if LONE:
            given = mask_o & (offs_o // (OG // PACK) == lone)
        offs_o += group * OG
        dout = tl.load(grad_ptr + p[:, None] * O + offs_o[None, :],
                       mask=real[:, None] & given[None, :], other=0.0)
        at = (tap * CG + channel)[:, None] * O + offs_o[None, :]
        w = tl.load(weight_ptr + at, mask=mask_c[:, None] & mask_o[None, :], other=0.0)
        g = tl.dot(dout, tl.trans(w), g, input_precision=PRECISION)
    return g


@triton.jit(do_not_specialize=["tiles", "P", "OW", "H", "W", "offset_stride", "mask_stride"])
def deform_conv2d_bwd_data_kernel(
        x_ptr, offset_ptr, mask_ptr, weight_ptr, grad_ptr, scale_ptr, dx_ptr, doffset_ptr,
        dmask_ptr, tiles, P, OW, H, W, offset_stride, mask_stride, C: tl.constexpr,
        CG: tl.constexpr, CD: tl.constexpr, O: tl.constexpr, OG: tl.constexpr, RUN: tl.constexpr,
        KW: tl.constexpr, TAPS: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
        PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
        HAS_MASK: tl.constexpr,
        NEEDS_X: tl.constexpr, NEEDS_PLACE: tl.constexpr, FIXED: tl.constexpr,
        PACK: tl.constexpr, PRECISION: tl.constexpr, BLOCK_P: tl.constexpr,
        BLOCK_O: tl.constexpr, BLOCK_C: tl.constexpr):
    """Gradients of the image, the offsets and the mask: ``dcolumn = grad @ weight[tap]^T``.

    Grid ``(tiles * C / CD * TAPS,)``, taps fastest; a program owns one tap of one
    deform group for BLOCK_P pixels, whole, so that offset and mask have their sums over the
    channels to themselves. The image's gradient is scattered by atomic additions.
    grad ``[B, P, O]``; dx ``[B, H, W, C]`` zeroed, fp32, or int64 in units of ``1 / scale[0]`` with
    FIXED (with NEEDS_X); doffset, dmask ``[B, DG, TAPS, ..., P]`` (with NEEDS_PLACE).
    """
    DG: tl.constexpr = C // CD
    pid = tl.program_id(0)
    tap = pid % TAPS
    dg = pid // TAPS % DG
    image, p, real, y, x = _pixels(pid // (TAPS * DG), P, OW, SH, SW, PH, PW, BLOCK_P)
    x_ptr += image * (H * W * C)
    dx_ptr += image * (H * W * C)
    grad_ptr += image * (P * O)
    offset_ptr += image * offset_stride
    mask_ptr += image * mask_stride
    top, left, fy, fx, m = _place(offset_ptr, mask_ptr, p, real, y, x, tap, dg, P, H, W, KW, TAPS,
                                  DH, DW, HAS_MASK)
    offs_c = tl.arange(0, BLOCK_C)
    scale = 1.0
    if FIXED:
        scale = tl.load(scale_ptr)

    dy = tl.zeros([BLOCK_P], tl.float32)
    dx = tl.zeros([BLOCK_P], tl.float32)
    dm = tl.zeros([BLOCK_P], tl.float32)
    for run in range(0, CD, RUN):
        first = dg * CD + run
        group = first // CG
        for c in range(0, RUN, BLOCK_C):
            mask_c = c + offs_c < RUN
            channel = first % CG + c + offs_c
            g = _grad_by_weight(grad_ptr, weight_ptr, group, 0, tap, channel, p, real, mask_c, CG,
                                O, OG, False, PACK, PRECISION, BLOCK_P, BLOCK_O, BLOCK_C)
            if PACK > 1:
                if _has_nan(g):  # as in the forward
                    for lone in range(PACK):
                        part = _grad_by_weight(grad_ptr, weight_ptr, group, lone, tap, channel, p,
                                               real, mask_c, CG, O, OG, True, PACK, PRECISION,
                                               BLOCK_P, BLOCK_O, BLOCK_C)
                        g = tl.where((channel // (CG // PACK) == lone)[None, :], part, g)
            g = tl.where(mask_c[None, :], g, 0.0)  # a NaN of grad times no weight is one, too
            dy, dx, dm = column_grad(x_ptr, dx_ptr, scale, g, top, left, fy, fx, m, dy, dx, dm,
                                      first + c + offs_c, mask_c, H, W, C, NEEDS_X, NEEDS_PLACE,
                                      FIXED)
    if NEEDS_PLACE:
        _store_place_grad(doffset_ptr, dmask_ptr, m * dy, m * dx, dm, left, image, p, real, tap, dg,
                          P, DG, TAPS, HAS_MASK)


@triton.jit(do_not_specialize=["tiles", "P", "OW", "H", "W", "offset_stride", "mask_stride"])
def deform_conv2d_depthwise_bwd_kernel(
        x_ptr, offset_ptr, mask_ptr, weight_ptr, grad_ptr, scale_ptr, dx_ptr, doffset_ptr,
        dmask_ptr, dweight_ptr, tiles, P, OW, H, W, offset_stride, mask_stride, C: tl.constexpr,
        CD: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr, SH: tl.constexpr,
        SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
        HAS_MASK: tl.constexpr, NEEDS_X: tl.constexpr, NEEDS_PLACE: tl.constexpr,
        NEEDS_WEIGHT: tl.constexpr, FIXED: tl.constexpr, BLOCK_P: tl.constexpr,
        BLOCK_C: tl.constexpr):
    """All gradients where every channel has a filter of its own: ``dcolumn = grad * weight``.

    Grid and outputs as ``deform_conv2d_bwd_data_kernel``; weight ``[TAPS, C]``; dweight
    ``[tiles, TAPS, C]`` fp32, each program's sum over its pixels (with NEEDS_WEIGHT).
    """
    DG: tl.constexpr = C // CD
    pid = tl.program_id(0)
    tap = pid % TAPS
    dg = pid // TAPS % DG
    tile = pid // (TAPS * DG)
    image, p, real, y, x = _pixels(tile, P, OW, SH, SW, PH, PW, BLOCK_P)
    x_ptr += image * (H * W * C)
    dx_ptr += image * (H * W * C)
    grad_ptr += image * (P * C)
    offset_ptr += image * offset_stride
    mask_ptr += image * mask_stride
    top, left, fy, fx, m = _place(offset_ptr, mask_ptr, p, real, y, x, tap, dg, P, H, W, KW, TAPS,
                                  DH, DW, HAS_MASK)
    scale = 1.0
    if FIXED:
        scale = tl.load(scale_ptr)

    dy = tl.zeros([BLOCK_P], tl.float32)
    dx = tl.zeros([BLOCK_P], tl.float32)
    dm = tl.zeros([BLOCK_P], tl.float32)
    for c in range(0, CD, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C)
        mask_c = offs_c < CD
        offs_c += dg * CD
        dout = tl.load(grad_ptr + p[:, None] * C + offs_c[None, :],
                       mask=real[:, None] & mask_c[None, :], other=0.0).to(tl.float32)
        if NEEDS_WEIGHT:
            columns = sample(x_ptr, top, left, fy, fx, m, offs_c, mask_c, H, W, C)
            at = (tile.to(tl.int64) * TAPS + tap) * C + offs_c
            tl.store(dweight_ptr + at, tl.sum(columns * dout, 0), mask=mask_c)
        if NEEDS_X or NEEDS_PLACE:
            w = tl.load(weight_ptr + tap * C + offs_c, mask=mask_c, other=0.0).to(tl.float32)
            dy, dx, dm = column_grad(x_ptr, dx_ptr, scale, dout * w[None, :], top, left, fy, fx, m,
                                      dy, dx, dm, offs_c, mask_c, H, W, C, NEEDS_X, NEEDS_PLACE,
                                      FIXED)
    if NEEDS_PLACE:
        _store_place_grad(doffset_ptr, dmask_ptr, m * dy, m * dx, dm, left, image, p, real, tap, dg,
                          P, DG, TAPS, HAS_MASK)


@triton.jit(do_not_specialize=["tiles", "P", "OW", "H", "W", "offset_stride", "mask_stride",
                               "splits"])
def deform_conv2d_bwd_weight_kernel(
        x_ptr, offset_ptr, mask_ptr, grad_ptr, dweight_ptr, tiles, P, OW, H, W, offset_stride,
        mask_stride, splits, C: tl.constexpr, CG: tl.constexpr, CD: tl.constexpr, O: tl.constexpr,
        OG: tl.constexpr, RUN: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr,
        SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr,
        DW: tl.constexpr, HAS_MASK: tl.constexpr, PRECISION: tl.constexpr, BLOCK_P: tl.constexpr,
        BLOCK_O: tl.constexpr, BLOCK_C: tl.constexpr):
    """Partial gradients of the weight: ``columns^T @ grad`` over every ``splits``-th pixel tile.

    Grid ``(TAPS * C / RUN * ceil(RUN / BLOCK_C) * ceil(OG / BLOCK_O) * splits,)``, splits slowest;
    a program owns BLOCK_C channels of one tap by BLOCK_O output channels. grad ``[B, P, O]``;
    dweight ``[splits, TAPS, CG, O]`` fp32.
    """
    TILES_C: tl.constexpr = (RUN + BLOCK_C - 1) // BLOCK_C
    TILES_O: tl.constexpr = (OG + BLOCK_O - 1) // BLOCK_O
    RUNS: tl.constexpr = C // RUN
    pid = tl.program_id(0)
    tile_o = pid % TILES_O
    tile_c = pid // TILES_O % TILES_C
    first = pid // (TILES_O * TILES_C) % RUNS * RUN
    tap = pid // (TILES_O * TILES_C * RUNS) % TAPS
    split = pid // (TILES_O * TILES_C * RUNS * TAPS)
    group = first // CG
    offs_c = tile_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < RUN
    offs_o = tile_o * BLOCK_O + tl.arange(0, BLOCK_O)
    mask_o = offs_o < OG
    offs_o += group * OG

    dweight = tl.zeros([BLOCK_C, BLOCK_O], tl.float32)
    for tile in range(split, tiles, splits):
        image, p, real, y, x = _pixels(tile, P, OW, SH, SW, PH, PW, BLOCK_P)
        top, left, fy, fx, m = _place(
            offset_ptr + image * offset_stride, mask_ptr + image * mask_stride, p, real, y, x, tap,
            first // CD, P, H, W, KW, TAPS, DH, DW, HAS_MASK)
        columns = sample(x_ptr + image * (H * W * C), top, left, fy, fx, m, first + offs_c, mask_c,
                          H, W, C)
        dout = tl.load(grad_ptr + image * (P * O) + p[:, None] * O + offs_o[None, :],
                       mask=real[:, None] & mask_o[None, :], other=0.0)
        dweight = tl.dot(tl.trans(columns.to(dout.dtype)), dout, dweight,
                         input_precision=PRECISION)
    row = (split.to(tl.int64) * TAPS + tap) * CG + first % CG + offs_c
    tl.store(dweight_ptr + row[:, None] * O + offs_o[None, :], dweight,
             mask=mask_c[:, None] & mask_o[None, :])
