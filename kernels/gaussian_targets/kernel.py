"""Triton kernels of CenterNet's and CornerNet's targets.

Bit exactness is the point: every step rounds where torch rounds, so the kernels are launched with
``enable_fp_fusion=False``, and a division by a Python number is what torch makes of it: a true
division on a CPU, a product with the fp32 reciprocal on a GPU (``RECIPROCAL``).
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit(do_not_specialize=["count", "n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9",
                               "n10", "n11", "n12", "n13", "n14", "n15"])
def gaussian_targets_numbers_kernel(out_ptr, count, n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10,
                                    n11, n12, n13, n14, n15):
    """out[i] = n<i> for i < count <= 16. Grid: (1,)."""
    i = tl.arange(0, 16)
    number = tl.where(i == 0, n0, 0) + tl.where(i == 1, n1, 0) + tl.where(i == 2, n2, 0)
    number += tl.where(i == 3, n3, 0) + tl.where(i == 4, n4, 0) + tl.where(i == 5, n5, 0)
    number += tl.where(i == 6, n6, 0) + tl.where(i == 7, n7, 0) + tl.where(i == 8, n8, 0)
    number += tl.where(i == 9, n9, 0) + tl.where(i == 10, n10, 0) + tl.where(i == 11, n11, 0)
    number += tl.where(i == 12, n12, 0) + tl.where(i == 13, n13, 0) + tl.where(i == 14, n14, 0)
    number += tl.where(i == 15, n15, 0)
    tl.store(out_ptr + i, number.to(tl.int32), mask=i < count)


@triton.jit
def _divide(x, y, RECIPROCAL: tl.constexpr):
    if RECIPROCAL:
        return x * tl.div_rn(tl.full(y.shape, 1.0, tl.float32), y)
    else:
        return tl.div_rn(x, y)


@triton.jit
def _exp(x, LIBDEVICE: tl.constexpr):
    # tl.exp is an approximation on a GPU; torch calls the accurate one. The interpreter has only
    # tl.exp, which is NumPy's.
    if LIBDEVICE:
        return libdevice.exp(x)
    else:
        return tl.exp(x)


@triton.jit
def _radius(h, w, min_overlap, one_minus, one_plus, RECIPROCAL: tl.constexpr):
    """The smallest of the three radii of CornerNet's derivation, in fp32 and in its order."""
    total = h + w
    area = w * h
    c1 = _divide(area * one_minus, one_plus + tl.zeros_like(area), RECIPROCAL)
    r1 = (total - tl.sqrt_rn(total * total - 4.0 * c1)) * 0.5
    b2 = 2.0 * total
    c2 = one_minus * w * h
    r2 = (b2 - tl.sqrt_rn(b2 * b2 - 16.0 * c2)) * 0.125
    a3 = 4.0 * min_overlap
    b3 = (-2.0 * min_overlap) * total
    c3 = -one_minus * w * h
    root3 = tl.sqrt_rn(b3 * b3 - (4.0 * a3) * c3)
    r3 = _divide(b3 + root3, 2.0 * a3 + tl.zeros_like(b3), RECIPROCAL)
    return tl.minimum(tl.minimum(r1, r2), r3)


@triton.jit
def centernet_discs_kernel(
    boxes_ptr,  # [N, 4] fp32 x1, y1, x2, y2 in image pixels
    labels_ptr,  # [N] int64
    discs_ptr,  # [N, 4] int32: label, x, y, radius on the heatmap
    values_ptr,  # [N, 6] fp32: w, h, dx, dy, 1, 1
    N,
    width_ratio,
    height_ratio,
    min_overlap,
    one_minus,
    one_plus,
    RECIPROCAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """From ground-truth boxes to discs: centre, radius, size and offset of BLOCK_N boxes.

    Grid: (cdiv(N, BLOCK_N),).
    """
    offs = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = offs < N
    x1 = tl.load(boxes_ptr + offs * 4, mask=mask, other=0.0)
    y1 = tl.load(boxes_ptr + offs * 4 + 1, mask=mask, other=0.0)
    x2 = tl.load(boxes_ptr + offs * 4 + 2, mask=mask, other=0.0)
    y2 = tl.load(boxes_ptr + offs * 4 + 3, mask=mask, other=0.0)
    label = tl.load(labels_ptr + offs, mask=mask, other=0)
    cx = (x1 + x2) * width_ratio * 0.5
    cy = (y1 + y2) * height_ratio * 0.5
    h = (y2 - y1) * height_ratio
    w = (x2 - x1) * width_ratio
    radius = _radius(h, w, min_overlap, one_minus, one_plus, RECIPROCAL)
    x = cx.to(tl.int32)
    y = cy.to(tl.int32)
    tl.store(discs_ptr + offs * 4, label.to(tl.int32), mask=mask)
    tl.store(discs_ptr + offs * 4 + 1, x, mask=mask)
    tl.store(discs_ptr + offs * 4 + 2, y, mask=mask)
    tl.store(discs_ptr + offs * 4 + 3, tl.maximum(radius.to(tl.int32), 0), mask=mask)
    tl.store(values_ptr + offs * 6, w, mask=mask)
    tl.store(values_ptr + offs * 6 + 1, h, mask=mask)
    tl.store(values_ptr + offs * 6 + 2, cx - x.to(tl.float32), mask=mask)
    tl.store(values_ptr + offs * 6 + 3, cy - y.to(tl.float32), mask=mask)
    tl.store(values_ptr + offs * 6 + 4, tl.full([BLOCK_N], 1.0, tl.float32), mask=mask)
    tl.store(values_ptr + offs * 6 + 5, tl.full([BLOCK_N], 1.0, tl.float32), mask=mask)


@triton.jit(do_not_specialize=["H", "W"])
def gaussian_targets_kernel(
    heatmap_ptr,  # [B, C, H, W], any strides
    discs_ptr,  # [N, 4] int32: label, x, y, radius
    starts_ptr,  # [B + 1] int32: image b owns discs starts[b] to starts[b + 1]
    ones_ptr,  # [B, C, tiles] int32: how often the value 1 stands in each tile
    k,
    eps,
    H,
    W,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    IN_PLACE: tl.constexpr,  # maximum with what the heatmap holds, instead of with zero
    HAS_ONES: tl.constexpr,
    RECIPROCAL: tl.constexpr,
    LIBDEVICE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """heatmap[b, c, y, x] = max over the discs of class c of k * exp(-d^2 / (2 sigma^2)).

    sigma = (2 radius + 1) / 6, d is the distance to the centre, and a disc is the square
    |dx|, |dy| <= radius. Grid: (tiles of H x W, C, B); one program gathers one tile of one class
    from the discs of its image, so nothing depends on an order and every element is written once.
    """
    pid_tile = tl.program_id(0)
    pid_c = tl.program_id(1)
    pid_b = tl.program_id(2)
    dtype: tl.constexpr = heatmap_ptr.dtype.element_ty
    tiles_w = tl.cdiv(W, BLOCK_W)
    row0 = (pid_tile // tiles_w) * BLOCK_H
    col0 = (pid_tile % tiles_w) * BLOCK_W
    rows = row0 + tl.arange(0, BLOCK_H)
    cols = col0 + tl.arange(0, BLOCK_W)
    mask = (rows < H)[:, None] & (cols < W)[None, :]
    base = heatmap_ptr + pid_b.to(tl.int64) * stride_b + pid_c.to(tl.int64) * stride_c
    ptrs = base + rows.to(tl.int64)[:, None] * stride_h + cols.to(tl.int64)[None, :] * stride_w

    if IN_PLACE:
        heat = tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)
    else:
        heat = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.float32)
    start = tl.load(starts_ptr + pid_b)
    end = tl.load(starts_ptr + pid_b + 1)
    for i in range(start, end):
        disc = discs_ptr + tl.cast(i, tl.int64) * 4
        label = tl.load(disc)
        if label == pid_c:
            x = tl.load(disc + 1)
            y = tl.load(disc + 2)
            r = tl.load(disc + 3)
            meets_rows = (y + r >= row0) & (y - r < row0 + BLOCK_H)
            meets_cols = (x + r >= col0) & (x - r < col0 + BLOCK_W)
            if meets_rows & meets_cols:
                dy = rows - y
                dx = cols - x
                inside = (tl.abs(dy) <= r)[:, None] & (tl.abs(dx) <= r)[None, :]
                # Each step is rounded to the heatmap's type, as torch's own steps are.
                fy = dy.to(tl.float32).to(dtype).to(tl.float32)
                fx = dx.to(tl.float32).to(dtype).to(tl.float32)
                yy = (fy * fy).to(dtype).to(tl.float32)
                xx = (fx * fx).to(dtype).to(tl.float32)
                square = (xx[None, :] + yy[:, None]).to(dtype).to(tl.float32)
                n = 2 * r + 1
                # 2 sigma^2 = n^2 / 18, and rounding that quotient once is exact rounding.
                two_sigma2 = tl.div_rn((n * n).to(tl.float32), tl.cast(18.0, tl.float32))
                exponent = _divide(-square, two_sigma2 + tl.zeros_like(square), RECIPROCAL)
                value = _exp(exponent.to(dtype).to(tl.float32), LIBDEVICE).to(dtype).to(tl.float32)
                value = tl.where(value < eps, 0.0, value)
                value = (value * k).to(dtype).to(tl.float32)
                above = tl.maximum(heat, value, propagate_nan=tl.PropagateNan.ALL)
                heat = tl.where(inside, above, heat)
    tl.store(ptrs, heat.to(dtype), mask=mask)
    if HAS_ONES:
        ones = tl.sum(((heat == 1.0) & mask).to(tl.int32))
        classes = tl.num_programs(1)
        pid = (pid_b.to(tl.int64) * classes + pid_c) * tl.num_programs(0) + pid_tile
        tl.store(ones_ptr + pid, ones)


@triton.jit(do_not_specialize=["H", "W"])
def gaussian_targets_cells_kernel(
    cells_ptr,  # [G, B, 2, H, W]
    discs_ptr,  # [N, 4] int32: label, x, y, radius
    starts_ptr,  # [B + 1] int32
    values_ptr,  # [N, G * 2] fp32
    H,
    W,
    stride_g,
    G: tl.constexpr,
    BLOCK_V: tl.constexpr,  # power of two >= 2 * G
    BLOCK_P: tl.constexpr,
):
    """The values of the last disc of an image whose centre is the cell; zero where there is none.

    Grid: (cdiv(H * W, BLOCK_P), B); one program owns BLOCK_P cells of all 2 G planes.
    """
    pid_p = tl.program_id(0).to(tl.int64)
    pid_b = tl.program_id(1).to(tl.int64)
    area = H.to(tl.int64) * W
    offs_p = pid_p * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_v = tl.arange(0, BLOCK_V)
    mask_v = offs_v < 2 * G
    out = tl.zeros([BLOCK_V, BLOCK_P], dtype=tl.float32)
    start = tl.load(starts_ptr + pid_b)
    end = tl.load(starts_ptr + pid_b + 1)
    for i in range(start, end):
        disc = discs_ptr + tl.cast(i, tl.int64) * 4
        x = tl.load(disc + 1)
        y = tl.load(disc + 2)
        on_map = (x >= 0) & (x < W) & (y >= 0) & (y < H)
        cell = tl.where(on_map, y.to(tl.int64) * W + x, -1)
        row = values_ptr + tl.cast(i, tl.int64) * (2 * G)
        value = tl.load(row + offs_v, mask=mask_v, other=0.0)
        out = tl.where((offs_p == cell)[None, :], value[:, None], out)
    planes = (offs_v // 2).to(tl.int64) * stride_g + (pid_b * 2 + offs_v % 2) * area
    mask = mask_v[:, None] & (offs_p < area)[None, :]
    tl.store(cells_ptr + planes[:, None] + offs_p[None, :], out.to(cells_ptr.dtype.element_ty),
             mask=mask)
