"""Valid flags of all images and levels in one launch."""

import triton
import triton.language as tl

from ..grid_priors.kernel import field, locate, pick


@triton.jit
def _pick_pair(level, v0, v1, v2, v3):
    return tl.where(level < 4, tl.where(level < 2, v0, v1), tl.where(level < 6, v2, v3))


@triton.jit(do_not_specialize=[
    "N", "L0", "L1", "L2", "L3", "L4", "L5", "L6", "L7",
    "V00", "V01", "V02", "V03", "V10", "V11", "V12", "V13", "V20", "V21", "V22", "V23",
    "V30", "V31", "V32", "V33", "V40", "V41", "V42", "V43", "V50", "V51", "V52", "V53",
    "V60", "V61", "V62", "V63", "V70", "V71", "V72", "V73"])
def valid_flags_fwd_kernel(out_ptr, N, L0, L1, L2, L3, L4, L5, L6, L7,
                           V00, V01, V02, V03, V10, V11, V12, V13, V20, V21, V22, V23,
                           V30, V31, V32, V33, V40, V41, V42, V43, V50, V51, V52, V53,
                           V60, V61, V62, V63, V70, V71, V72, V73, BLOCK: tl.constexpr):
    """``out[b, row] = (y < valid_h[b, level]) & (x < valid_w[b, level])``.

    Grid: (blocks of BLOCK rows, level by level; images). A program owns one block of one image.

    Args:
        out_ptr: [B, N] uint8, rows of N; at most eight images.
        N: elements from one image to the next.
        L0 ... L7: packed (H, W, A) of each level.
        V<b><p>: packed (valid_h, valid_w) of levels 2p and 2p + 1 of image b.
    """
    pid = tl.program_id(0).to(tl.int64)
    pid_b = tl.program_id(1).to(tl.int64)
    level, row, _, offs, x, y, _, mask = locate(pid, L0, L1, L2, L3, L4, L5, L6, L7, BLOCK)
    valid = pick(pid_b,
                 _pick_pair(level, V00, V01, V02, V03), _pick_pair(level, V10, V11, V12, V13),
                 _pick_pair(level, V20, V21, V22, V23), _pick_pair(level, V30, V31, V32, V33),
                 _pick_pair(level, V40, V41, V42, V43), _pick_pair(level, V50, V51, V52, V53),
                 _pick_pair(level, V60, V61, V62, V63), _pick_pair(level, V70, V71, V72, V73))
    valid_h = tl.where(level % 2 == 0, field(valid, 0), field(valid, 2))
    valid_w = tl.where(level % 2 == 0, field(valid, 1), field(valid, 3))
    flags = (y < valid_h) & (x < valid_w)
    tl.store(out_ptr + pid_b * N + row + offs, flags.to(tl.uint8), mask=mask)
