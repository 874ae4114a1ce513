"""Grid priors of all levels in one launch."""

import triton
import triton.language as tl


@triton.jit
def field(word, i: tl.constexpr):
    """Field ``i`` of a packed parameter (``pyramid.pack``)."""
    return ((word >> (15 * i)) & 0x7FFF).to(tl.int32)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 ``x`` rounded to ``dtype``, half to even, as float32."""
    return x.to(dtype).to(tl.float32)


@triton.jit
def pick(i, v0, v1, v2, v3, v4, v5, v6, v7):
    """``v<i>``, for ``0 <= i < 8``."""
    low = tl.where(i < 2, tl.where(i < 1, v0, v1), tl.where(i < 3, v2, v3))
    high = tl.where(i < 6, tl.where(i < 5, v4, v5), tl.where(i < 7, v6, v7))
    return tl.where(i < 4, low, high)


@triton.jit
def _advance(pid, level, block, row, base, word, next_word, BLOCK: tl.constexpr):
    # Moves on to the next level if program `pid` lies behind the last block of this one.
    a = field(word, 2)
    n = field(word, 0) * field(word, 1) * a
    blocks = (n + BLOCK - 1) // BLOCK
    behind = pid >= block + blocks
    level = tl.where(behind, level + 1, level)
    block = tl.where(behind, block + blocks, block)
    row = tl.where(behind, row + n, row)
    base = tl.where(behind, base + a, base)
    word = tl.where(behind, next_word, word)
    return level, block, row, base, word


@triton.jit
def locate(pid, L0, L1, L2, L3, L4, L5, L6, L7, BLOCK: tl.constexpr):
    """Where block ``pid`` of a grid over levels stands.

    Args:
        pid: the program's number, int64.
        L0 ... L7: the levels' packed (height, width, rows per cell).

    Returns:
        level: the number of the block's level.
        row: rows in the levels before it, int64.
        base: rows per cell summed over the levels before it.
        offs, x, y, a: the block's rows within the level (int32, BLOCK of them), and the cell
            and the place in the cell of each.
        mask: which of them exist.
    """
    level, base = 0, 0
    block, row = pid * 0, pid * 0
    word = L0
    level, block, row, base, word = _advance(pid, level, block, row, base, word, L1, BLOCK)
    level, block, row, base, word = _advance(pid, level, block, row, base, word, L2, BLOCK)
    level, block, row, base, word = _advance(pid, level, block, row, base, word, L3, BLOCK)
    level, block, row, base, word = _advance(pid, level, block, row, base, word, L4, BLOCK)
    level, block, row, base, word = _advance(pid, level, block, row, base, word, L5, BLOCK)
    level, block, row, base, word = _advance(pid, level, block, row, base, word, L6, BLOCK)
    level, block, row, base, word = _advance(pid, level, block, row, base, word, L7, BLOCK)
    W = field(word, 1)
    A = field(word, 2)
    # A level has fewer than 2^31 rows: 32-bit divisions are several times cheaper.
    offs = ((pid - block) * BLOCK).to(tl.int32) + tl.arange(0, BLOCK)
    cell = offs // A
    y = cell // W
    return level, row, base, offs, cell - y * W, y, offs - cell * A, offs < field(word, 0) * W * A


@triton.jit(do_not_specialize=["L0", "L1", "L2", "L3", "L4", "L5", "L6", "L7"])
def grid_anchors_fwd_kernel(out_ptr, base_ptr, L0, L1, L2, L3, L4, L5, L6, L7,
                            SX0, SX1, SX2, SX3, SX4, SX5, SX6, SX7,
                            SY0, SY1, SY2, SY3, SY4, SY5, SY6, SY7, BLOCK: tl.constexpr):
    """``out[row, c] = rnd(rnd(rnd(index) * stride) + base[a, c])``, rnd: to out's data type.

    ``index`` and ``stride`` are those of x for c = 0, 2 and of y for c = 1, 3; rows are ordered
    by level, y, x, a. Launch with ``enable_fp_fusion=False``: in float32 a fused multiply-add
    would skip a rounding.

    Grid: (blocks of BLOCK rows, level by level,). A program owns the rows of one block.

    Args:
        out_ptr: [N, 4], contiguous.
        base_ptr: [sum of A, 4], contiguous, the data type of out.
        L0 ... L7: packed (H, W, A) of each level.
        SX0 ... SX7, SY0 ... SY7: strides along x and y of each level, float32.
    """
    pid = tl.program_id(0).to(tl.int64)
    level, row, base, offs, x, y, a, mask = locate(pid, L0, L1, L2, L3, L4, L5, L6, L7, BLOCK)
    sx = pick(level, SX0, SX1, SX2, SX3, SX4, SX5, SX6, SX7)
    sy = pick(level, SY0, SY1, SY2, SY3, SY4, SY5, SY6, SY7)
    offs_c = tl.arange(0, 4)[None, :]
    is_y = offs_c % 2 == 1
    mask = mask[:, None] & (offs_c < 4)
    base_offs = (base + a).to(tl.int64)[:, None] * 4 + offs_c
    anchors = tl.load(base_ptr + base_offs, mask=mask, other=0.0).to(tl.float32)
    dtype = out_ptr.dtype.element_ty
    index = rounded(tl.where(is_y, y[:, None], x[:, None]).to(tl.float32), dtype)
    shift = rounded(index * tl.where(is_y, sy, sx), dtype)
    out_offs = (row + offs)[:, None] * 4 + offs_c
    tl.store(out_ptr + out_offs, (shift + anchors).to(dtype), mask=mask)


@triton.jit(do_not_specialize=["L0", "L1", "L2", "L3", "L4", "L5", "L6", "L7"])
def grid_points_fwd_kernel(out_ptr, L0, L1, L2, L3, L4, L5, L6, L7,
                           SX0, SX1, SX2, SX3, SX4, SX5, SX6, SX7,
                           SY0, SY1, SY2, SY3, SY4, SY5, SY6, SY7, offset,
                           D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr):
    """``out[row] = rnd((x + offset) * sx, (y + offset) * sy, sx, sy)[:D]``, float32 inside.

    Rows are ordered by level, y, x. Launch with ``enable_fp_fusion=False``: for
    ``x * sx + offset * sx`` would be another number.

    Grid: (blocks of BLOCK rows, level by level,). A program owns the rows of one block.

    Args:
        out_ptr: [N, D], contiguous.
        L0 ... L7: packed (H, W, 1) of each level.
        SX0 ... SX7, SY0 ... SY7: strides along x and y of each level, float32.
        offset: added to the index, float32.
        D: columns written; BLOCK_D is the next power of two.
    """
    pid = tl.program_id(0).to(tl.int64)
    level, row, _, offs, x, y, _, mask = locate(pid, L0, L1, L2, L3, L4, L5, L6, L7, BLOCK)
    sx = pick(level, SX0, SX1, SX2, SX3, SX4, SX5, SX6, SX7)
    sy = pick(level, SY0, SY1, SY2, SY3, SY4, SY5, SY6, SY7)
    offs_d = tl.arange(0, BLOCK_D)[None, :]
    is_y = offs_d % 2 == 1
    stride = tl.where(is_y, sy, sx)
    index = tl.where(is_y, y[:, None], x[:, None]).to(tl.float32)
    point = (index + tl.cast(offset, tl.float32)) * stride
    out = tl.where(offs_d < 2, point, stride).to(out_ptr.dtype.element_ty)
    out_offs = (row + offs)[:, None] * D + offs_d
    tl.store(out_ptr + out_offs, out, mask=mask[:, None] & (offs_d < D))
