"""Triton kernels of greedy non-maximum suppression in groups.

boxes is [B, N, 4] and groups int64 [B, N], ascending; within a group the best box comes first.
mask is int32 [B, N, W], W = cdiv(N, 32): bit c of word w is set in row r if r < 32 w + c, both are
of one group, and they overlap by more than the threshold. A word is written, and read, only where
row and word can share a group. keep is bool [B, N], zero on entry.
"""

import triton
import triton.language as tl


@triton.jit
def _corners(boxes_ptr, offs, mask):
    """x1, y1, x2, y2 of some boxes in fp32."""
    x1 = tl.load(boxes_ptr + offs * 4, mask=mask, other=0.0).to(tl.float32)
    y1 = tl.load(boxes_ptr + offs * 4 + 1, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(boxes_ptr + offs * 4 + 2, mask=mask, other=0.0).to(tl.float32)
    y2 = tl.load(boxes_ptr + offs * 4 + 3, mask=mask, other=0.0).to(tl.float32)
    return x1, y1, x2, y2


@triton.jit(do_not_specialize=["N", "iou_threshold"])
def nms_mask_kernel(boxes_ptr, groups_ptr, mask_ptr, iou_threshold, N, NO_GROUP: tl.constexpr,
                    OFFSET: tl.constexpr, BLOCK: tl.constexpr):
    """Bits of the pairs that overlap; launched without fused products, divided as IEEE has it.

    Grid: (cdiv(N, BLOCK), cdiv(N, BLOCK), B); one program owns BLOCK columns and BLOCK rows of one
    image, and ends at once below the diagonal or where they share no group.
    """
    pid_c = tl.program_id(0).to(tl.int64)
    pid_r = tl.program_id(1).to(tl.int64)
    image = tl.program_id(2).to(tl.int64)
    groups_ptr += image * N
    boxes_ptr += image * N * 4
    words = (N + 31) // 32
    if pid_c >= pid_r:
        first = tl.load(groups_ptr + pid_c * BLOCK)
        last = tl.load(groups_ptr + tl.minimum(pid_r * BLOCK + BLOCK, N) - 1)
        if (first == last) & (first != NO_GROUP) | (pid_c == pid_r):
            rows = pid_r * BLOCK + tl.arange(0, BLOCK)
            mask_r = rows < N
            row_x1, row_y1, row_x2, row_y2 = _corners(boxes_ptr, rows, mask_r)
            row_group = tl.load(groups_ptr + rows, mask=mask_r, other=NO_GROUP)
            row_area = (row_x2 - row_x1 + OFFSET) * (row_y2 - row_y1 + OFFSET)
            bit = tl.arange(0, 32)
            for word in tl.static_range(BLOCK // 32):
                at = pid_c * (BLOCK // 32) + word
                cols = at * 32 + bit
                mask_c = cols < N
                x1, y1, x2, y2 = _corners(boxes_ptr, cols, mask_c)
                group = tl.load(groups_ptr + cols, mask=mask_c, other=NO_GROUP)
                area = (x2 - x1 + OFFSET) * (y2 - y1 + OFFSET)
                w = (tl.minimum(row_x2[:, None], x2[None, :])
                     - tl.maximum(row_x1[:, None], x1[None, :]) + OFFSET)
                h = (tl.minimum(row_y2[:, None], y2[None, :])
                     - tl.maximum(row_y1[:, None], y1[None, :]) + OFFSET)
                inter = tl.maximum(w, 0.0) * tl.maximum(h, 0.0)
                overlap = tl.div_rn(inter, row_area[:, None] + area[None, :] - inter)
                hit = (overlap > iou_threshold) & (row_group[:, None] == group[None, :])
                hit = hit & (cols[None, :] > rows[:, None]) & mask_c[None, :]
                bits = tl.sum(tl.where(hit, 1 << bit[None, :], 0), axis=1)
                if at < words:
                    tl.store(mask_ptr + (image * N + rows) * words + at, bits, mask=mask_r)


@triton.jit
def _scan_group(groups_ptr, mask_ptr, rank_ptr, keep_ptr, start, group, N, limit,
                NO_GROUP: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr):
    """Keep the boxes of one group from position start on, 32 positions at a time."""
    words = (N + 31) // 32
    block = start // 32
    offs_w = block + tl.arange(0, WORDS)
    theirs = tl.load(groups_ptr + offs_w * 32, mask=offs_w < words, other=NO_GROUP) == group
    bit = tl.arange(0, 32)
    removed = tl.zeros([WORDS], dtype=tl.int32)
    count = start * 0
    going = group != NO_GROUP
    while going:
        rows = block * 32 + bit
        mine = tl.load(groups_ptr + rows, mask=rows < N, other=NO_GROUP) == group
        mine = mine & (rows >= start)
        gone = tl.sum(tl.where(offs_w == block, removed, 0))
        alive = tl.sum(tl.where(mine, 1 << bit, 0)) & ~gone
        kept = alive & 0
        for i in tl.static_range(32):
            row = block * 32 + i
            hits = tl.load(mask_ptr + row * words + block, mask=row < N, other=0)
            on = (alive >> i) & 1
            if limit > 0:
                on = tl.where(count < limit, on, 0)
            count += on
            kept = kept | (on << i)
            alive = alive & ~(hits & -on)
        flags = (kept >> bit) & 1
        rank = tl.load(rank_ptr + rows, mask=mine, other=0)
        tl.store(keep_ptr + rank, flags.to(tl.int1), mask=mine)
        for part in range(0, 32, ROWS):
            for i in tl.static_range(ROWS):
                behind = tl.where((kept >> (part + i)) & 1 == 1, block, words)
                row = block * 32 + part + i
                removed = removed | tl.load(mask_ptr + row * words + offs_w,
                                            mask=theirs & (offs_w > behind), other=0)
        block += 1
        following = tl.load(groups_ptr + block * 32, mask=block < words, other=NO_GROUP)
        going = (following == group) & ((limit <= 0) | (count < limit))


@triton.jit(do_not_specialize=["N", "limit"])
def nms_scan_kernel(groups_ptr, mask_ptr, rank_ptr, keep_ptr, N, limit, NO_GROUP: tl.constexpr,
                    WORDS: tl.constexpr, ROWS: tl.constexpr):
    """Walk the boxes of every group in order and set keep[rank] of those that stay.

    Grid: (cdiv(N, 32), B); one program owns the groups that begin in 32 positions of one image,
    one after the other, and keeps the removed bits of a group, WORDS words, in registers; ROWS
    rows of the mask are on their way to it at a time. A group ends early when limit boxes of it
    are kept, if limit is positive.
    """
    image = tl.program_id(1).to(tl.int64)
    groups_ptr += image * N
    rank_ptr += image * N
    keep_ptr += image * N
    mask_ptr += image * N * ((N + 31) // 32)
    offs = tl.program_id(0).to(tl.int64) * 32 + tl.arange(0, 32)
    group = tl.load(groups_ptr + offs, mask=offs < N, other=NO_GROUP)
    before = tl.load(groups_ptr + offs - 1, mask=(offs > 0) & (offs <= N), other=NO_GROUP)
    begins = (group != before) & (group != NO_GROUP)
    start = tl.min(tl.where(begins, offs, N))
    while start < N:
        mine = tl.load(groups_ptr + start)
        _scan_group(groups_ptr, mask_ptr, rank_ptr, keep_ptr, start, mine, N, limit, NO_GROUP,
                    WORDS, ROWS)
        start = tl.min(tl.where(begins & (offs > start), offs, N))
