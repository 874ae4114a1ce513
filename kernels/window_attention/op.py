"""Window attention: checks, dispatch, launches, autograd and torch.library registration."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import autocasting, dtype_reason, next_power_of_2, partial_sums
from ..dispatch import Reason, use_triton
from ..launch import Program, capability, dot_precision, launch, num_sms
from .cpu import window_attention_cpu
from .reference import window_attention_reference

__all__ = ["can_run_window_attention", "window_attention"]


def _check(qkv: Tensor, table: Tensor, hw: tuple[int, int], num_heads: int, window_size: int,
           shift: int, pad_value: Tensor | None, dropout_p: float,
           index: Tensor | None) -> None:
    if qkv.dim() != 3 or not qkv.is_floating_point():
        raise ValueError("window_attention: qkv must be a floating-point [B, H*W, 3C], got "
                         f"{qkv.dtype} {list(qkv.shape)}")
    if len(hw) != 2 or hw[0] < 1 or hw[1] < 1:
        raise ValueError(f"window_attention: hw must be two positive sizes (H, W), got {hw}")
    if qkv.shape[1] != hw[0] * hw[1]:
        raise ValueError(f"window_attention: qkv has {qkv.shape[1]} tokens, but hw={tuple(hw)} "
                         f"makes {hw[0] * hw[1]}")
    if num_heads < 1 or qkv.shape[2] == 0 or qkv.shape[2] % (3 * num_heads):
        raise ValueError(f"window_attention: the last size of qkv, {qkv.shape[2]}, must be a "
                         f"multiple of 3 * num_heads = {3 * num_heads}")
    if window_size < 1:
        raise ValueError(f"window_attention: window_size must be positive, got {window_size}")
    if not 0 <= shift < window_size:
        raise ValueError(f"window_attention: shift must lie in [0, {window_size}), got {shift}")
    rows = (2 * window_size - 1) ** 2
    if table.dim() != 2 or table.shape[0] != rows or table.shape[1] != num_heads:
        raise ValueError("window_attention: relative_position_bias_table must be "
                         f"[{rows}, {num_heads}], got {list(table.shape)}")
    if not table.is_floating_point() or table.device != qkv.device:
        raise ValueError("window_attention: relative_position_bias_table must be floating-point "
                         f"on {qkv.device}, got {table.dtype} on {table.device}")
    if pad_value is not None and (pad_value.dim() != 1 or pad_value.shape[0] != qkv.shape[2]):
        raise ValueError(f"window_attention: pad_value must be [{qkv.shape[2]}], got "
                         f"{list(pad_value.shape)}")
    if pad_value is not None and (not pad_value.is_floating_point()
                                  or pad_value.device != qkv.device):
        raise ValueError(f"window_attention: pad_value must be floating-point on {qkv.device}, "
                         f"got {pad_value.dtype} on {pad_value.device}")
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"window_attention: dropout_p must lie in [0, 1], got {dropout_p}")
    tokens = window_size * window_size
    if index is not None and (index.dtype != torch.int64 or list(index.shape) != [tokens, tokens]):
        raise ValueError(f"window_attention: relative_position_index must be int64 "
                         f"[{tokens}, {tokens}], got {index.dtype} {list(index.shape)}")


def can_run_window_attention(qkv: Tensor, window_size: int, num_heads: int,
                             relative_position_index: Tensor | None = None,
                             dropout_p: float = 0.0) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    if reason := dtype_reason(qkv):
        return reason
    d, full = qkv.shape[2] // (3 * num_heads), qkv.dtype == torch.float32
    if not 16 <= d <= 128:
        return f"its kernels take heads of 16 to 128 channels, not {d}"
    if not 2 <= window_size <= 16:
        return f"its kernels take windows of 2 to 16 tokens a side, not {window_size}"
    if relative_position_index is not None:
        return "its kernels take only the standard relative_position_index"
    # Where registers and 99 KB of shared memory end.
    if window_size > 12 and full:
        return f"its kernels take windows of at most 12 tokens a side in float32, not {window_size}"
    widest = 32 if full or window_size > 12 else 64
    if d > widest and window_size > 8:
        return (f"its kernels take heads of at most {widest} channels in {qkv.dtype} windows of "
                f"{window_size} tokens a side, not {d}")
    if d > 32 and full and dropout_p > 0:
        return f"its kernels take float32 heads of at most 32 channels with dropout, not {d}"
    return None


class _Config(NamedTuple):
    block_m: int  # queries of a tile
    block_n: int  # keys of a tile
    rest: int  # keys of a window that a tile does not hold: another block, or 0
    block_d: int  # channels at a time
    num_warps: int
    num_stages: int
    per_sm: int  # programs that a persistent grid starts for each multiprocessor

    def chunks(self, d: int) -> int:
        """Chunks of ``d`` channels, rounded up to a power of two."""
        return next_power_of_2(-(-d // self.block_d))

    def rows(self, area: int) -> int:
        """Queries of whole tiles."""
        return -(-area // self.block_m) * self.block_m


#: Whether a column of :data:`_CONFIGS` fits: ``*`` fits all.
_ANY = "*"
#: A block as wide as the window (of rows), or as the head (of channels).
_WHOLE, _OWN = 0, 0

#: Tile and launch options; the first line that fits a call is its. Up to 64 tokens the backward
#: keeps four tiles of scores in registers (bias, its gradient, P, dP), the forward two; heads are
#: read some channels at a time, which bounds shared memory. Chosen by what compiles without spills
#: and issues fewest instructions, not by time. Cards differ in where a product has its operands:
#: wgmma (9.x), tcgen05 (10.x), sync (mma.sync, other NVIDIA cards), and hip's mfma, which gives a
#: thread 512 registers as long as there are no more than 4 warps. T is the keys of a tile, types
#: are half, tf32 and full (IEEE float32); ``drop`` is a ``long`` kernel with dropout, whose random
#: numbers need registers too. The last column is how many programs' registers and shared memory a
#: multiprocessor has room for.
_CONFIGS: tuple[tuple[Any, ...], ...] = (
    # kernel     T      card       type    head    block_m  block_d  warps  stages  per SM
    ("fwd",      "16",  _ANY,      _ANY,   _ANY,   _WHOLE,  _OWN,    1,     1,      8),
    ("fwd",      "32",  _ANY,      _ANY,   _ANY,   _WHOLE,  _OWN,    2,     1,      8),
    ("bwd",      "16",  _ANY,      _ANY,   _ANY,   _WHOLE,  _OWN,    2,     1,      8),
    ("bwd",      "32",  _ANY,      _ANY,   _ANY,   _WHOLE,  _OWN,    4,     1,      8),
    ("fwd",      "64",  "tcgen05", "half", _ANY,   _WHOLE,  _OWN,    4,     2,      2),
    ("fwd",      "64",  "hip",     "half", _ANY,   _WHOLE,  _OWN,    4,     2,      2),
    ("fwd",      "64",  _ANY,      "half", _ANY,   _WHOLE,  _OWN,    4,     2,      3),
    ("fwd",      "64",  "sync",    "tf32", _ANY,   _WHOLE,  _OWN,    8,     1,      1),
    ("fwd",      "64",  _ANY,      _ANY,   _ANY,   _WHOLE,  _OWN,    8,     1,      2),
    ("bwd",      "64",  "hip",     _ANY,   _ANY,   _WHOLE,  16,      4,     1,      2),
    # A program of four warps: rows are whole in a warp, so that no sum crosses warps.
    ("bwd",      "64",  _ANY,      "half", _ANY,   _WHOLE,  16,      4,     1,      2),
    ("bwd",      "64",  _ANY,      "tf32", "<=32", _WHOLE,  16,      8,     1,      1),
    ("bwd",      "64",  "sync",    "tf32", _ANY,   _WHOLE,  16,      8,     1,      1),
    ("bwd",      "64",  _ANY,      "full", "<=32", _WHOLE,  _OWN,    16,    1,      1),
    ("bwd",      "64",  _ANY,      _ANY,   _ANY,   _WHOLE,  _OWN,    8,     1,      1),
    ("fwd_long", _ANY,  "hip",     "half", "<=32", 16,      _OWN,    4,     1,      2),
    ("fwd_long", _ANY,  _ANY,      "half", "<=32", 16,      _OWN,    4,     1,      3),
    ("fwd_long", "64",  _ANY,      "half", _ANY,   16,      _OWN,    4,     1,      3),
    ("fwd_drop", _ANY,  _ANY,      "half", "<=32", 16,      _OWN,    4,     1,      2),
    (_ANY,       _ANY,  "hip",     _ANY,   _ANY,   16,      _OWN,    4,     1,      1),
    ("bwd_long", "64",  _ANY,      "half", "<=64", 16,      _OWN,    4,     1,      2),
    ("bwd_long", "128", "wgmma",   "half", "<=32", 16,      _OWN,    4,     1,      2),
    ("bwd_long", "144", "wgmma",   "half", "<=32", 16,      _OWN,    4,     1,      2),
    ("bwd_long", "128", "tcgen05", "half", "<=32", 16,      _OWN,    4,     1,      2),
    ("bwd_long", "144", "tcgen05", "half", "<=32", 16,      _OWN,    4,     1,      2),
    ("bwd_drop", "16",  _ANY,      _ANY,   "<=32", 16,      _OWN,    4,     1,      2),
    ("bwd_drop", "32",  _ANY,      _ANY,   "<=32", 16,      _OWN,    4,     1,      2),
    ("bwd_drop", "64",  _ANY,      "half", "<=32", 16,      _OWN,    4,     1,      2),
    (_ANY,       _ANY,  _ANY,      _ANY,   _ANY,   16,      _OWN,    8,     1,      1),
)


def _kind(way: str, area: int, d: int, dtype: torch.dtype, dropout_p: float) -> str:
    """What :data:`_CONFIGS` calls the kernel of a call."""
    if dropout_p > 0:
        return way + "_drop"
    wide = d > 32 and area > 32 and dtype != torch.float32
    return way + "_long" if wide or area > 64 else way


@cache
def _config(kind: str, area: int, d: int, dtype: torch.dtype, card: tuple[int, int],
            precision: str = "ieee") -> _Config:
    """The line of :data:`_CONFIGS` for a kernel."""
    full = dtype == torch.float32
    # Keys are two blocks where these waste less than one, as 144 = 128 + 16.
    keys, rest = next_power_of_2(area, 16), 0
    if 64 < area <= keys * 3 // 4:
        keys, rest = keys // 2, next_power_of_2(area - keys // 2, 16)
    call = (
        kind,
        str(keys + rest),
        {0: "hip", 9: "wgmma", 10: "tcgen05"}.get(card[0], "sync"),
        "half" if not full else "tf32" if precision == "tf32" else "full",
        "<=32" if d <= 32 else "<=64" if d <= 64 else ">64",
    )
    line = next(
        line for line in _CONFIGS if all(want in (_ANY, is_) for want, is_ in zip(line, call))
    )
    block_m, block_d, *options = line[len(call) :]
    if block_d == _OWN:
        block_d = next_power_of_2(d, 16)
        if kind in ("fwd", "bwd"):  # whole vectors of a head: fewer in fp32, where they are wider
            block_d = min(block_d, 16 if full and d > 32 else 32)
    return _Config(block_m or keys, keys, rest, block_d, *options)


class _Plan(NamedTuple):
    """What the kernels of one call have in common."""

    sizes: tuple[int, ...]  # H, W, windows down, windows across
    windows: int
    heads: int
    options: dict[str, Any]
    programs: dict[tuple[Any, ...], Program]

    def program(self, name: str, config: _Config, **own: int) -> Program:
        """A kernel with these options, the config's and its own."""
        key = (name, config, *own.values())
        if key not in self.programs:
            from . import kernel

            self.programs[key] = Program(
                getattr(kernel, f"window_attention_{name}_kernel"), **self.options, **own,
                BLOCK_M=config.block_m, BLOCK_D=config.block_d, num_warps=config.num_warps,
                num_stages=config.num_stages)
        return self.programs[key]

    def slots(self, config: _Config, device: torch.device) -> int:
        """Programs for each head: enough to fill the device, none without a window."""
        return min(self.windows, max(1, num_sms(device) * config.per_sm // self.heads))


def _plan(qkv: Tensor, pad: Tensor | None, H: int, W: int, num_heads: int, window_size: int,
          shift: int) -> _Plan:
    return _planned(qkv.shape[0], qkv.shape[2] // (3 * num_heads), pad is not None, H, W,
                    num_heads, window_size, shift, dot_precision(qkv.dtype))


@lru_cache(maxsize=512)
def _planned(B: int, d: int, has_pad: bool, H: int, W: int, num_heads: int, window_size: int,
             shift: int, precision: str) -> _Plan:
    down, across = -(-H // window_size), -(-W // window_size)
    padded = (down * window_size, across * window_size) != (H, W)
    options = {
        "D": d, "WINDOW": window_size, "SHIFT": shift, "HAS_PAD": int(has_pad and padded),
        "PRECISION": precision,
    }
    return _Plan((H, W, down, across), B * down * across, num_heads, options, {})


def _expanded(table: Tensor, heads: int, window_size: int, shift: int, config: _Config) -> Tensor:
    """Bias and mask of every query and key, ``[4 kinds of windows or 1, heads, rows, columns]``."""
    from .kernel import window_attention_bias_kernel

    rows, columns = config.rows(window_size * window_size), config.block_n + config.rest
    kinds = 4 if shift else 1
    bias = torch.empty((kinds, heads, rows, columns), device=table.device, dtype=torch.float32)
    launch(window_attention_bias_kernel, (kinds * heads * (rows // 16),), table, bias, heads,
           *table.stride(), WINDOW=window_size, SHIFT=shift, ROWS=rows, COLUMNS=columns,
           BLOCK_M=16, BLOCK_N=next_power_of_2(columns, 16), num_warps=4, device=table.device)
    return bias


@operator(
    "window_attention",
    "(Tensor qkv, Tensor table, Tensor? pad, Tensor? seed, SymInt H, SymInt W, SymInt num_heads, "
    "SymInt window_size, SymInt shift, float scale, float dropout_p) -> Tensor")
def _forward(qkv: Tensor, table: Tensor, pad: Tensor | None, seed: Tensor | None, H: int, W: int,
             num_heads: int, window_size: int, shift: int, scale: float,
             dropout_p: float) -> Tensor:
    qkv = qkv.contiguous()
    pad = None if pad is None else pad.contiguous()
    area = window_size * window_size
    plan = _plan(qkv, pad, H, W, num_heads, window_size, shift)
    d = plan.options["D"]
    kind = _kind("fwd", area, d, qkv.dtype, dropout_p)
    config = _config(kind, area, d, qkv.dtype, capability(qkv.device), plan.options["PRECISION"])
    slots = plan.slots(config, qkv.device)
    out = qkv.new_empty(qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3)
    pad = qkv if pad is None else pad
    sizes = (plan.windows, *plan.sizes, slots, num_heads)
    if kind == "fwd":
        plan.program("fwd", config)(
            (num_heads * slots,), qkv, table, pad, out, *sizes, *table.stride(), scale,
            device=qkv.device)
    else:
        plan.program("fwd_long", config, HAS_DROPOUT=int(dropout_p > 0), BLOCK_N=config.block_n,
                     REST_N=config.rest)(
            (num_heads * slots,), qkv, _expanded(table, num_heads, window_size, shift, config),
            pad, qkv if seed is None else seed, out, *sizes, scale, dropout_p, device=qkv.device)
    return out


@_forward.register_fake
def _(qkv: Tensor, *_args: Any) -> Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3)


@operator(
    "window_attention_backward",
    "(Tensor grad, Tensor qkv, Tensor table, Tensor? pad, Tensor? seed, SymInt H, SymInt W, "
    "SymInt num_heads, SymInt window_size, SymInt shift, float scale, float dropout_p, "
    "bool needs_table, bool needs_pad) -> (Tensor, Tensor, Tensor)")
def _backward(grad: Tensor, qkv: Tensor, table: Tensor, pad: Tensor | None, seed: Tensor | None,
              H: int, W: int, num_heads: int, window_size: int, shift: int, scale: float,
              dropout_p: float, needs_table: bool, needs_pad: bool
              ) -> tuple[Tensor, Tensor, Tensor]:
    from . import kernel

    grad, qkv = grad.contiguous(), qkv.contiguous()
    pad = None if pad is None else pad.contiguous()
    device, heads, area = qkv.device, num_heads, window_size * window_size
    plan = _plan(qkv, pad, H, W, heads, window_size, shift)
    d = plan.options["D"]
    kind = _kind("bwd", area, d, qkv.dtype, dropout_p)
    config = _config(kind, area, d, qkv.dtype, capability(device), plan.options["PRECISION"])
    slots = plan.slots(config, device)
    needs_pad = needs_pad and bool(plan.options["HAS_PAD"])
    dqkv = torch.empty_like(qkv)
    rows, columns = config.rows(area), config.block_n + config.rest
    dbias = partial_sums((slots, heads, rows, columns), device, needs_table)
    dpads = partial_sums((slots, 2, heads, d), device, needs_pad)
    own = {"NEEDS_BIAS": int(needs_table), "NEEDS_PAD": int(needs_pad)}
    pads = qkv if pad is None else pad
    rest = (grad, dqkv, dbias, dpads, plan.windows, *plan.sizes, slots, heads)
    if kind == "bwd":
        plan.program("bwd", config, **own, CHUNKS=config.chunks(d))(
            (heads * slots,), qkv, table, pads, *rest, *table.stride(), scale, device=device)
    else:
        plan.program("bwd_long", config, **own, HAS_DROPOUT=int(dropout_p > 0),
                     BLOCK_N=config.block_n, REST_N=config.rest)(
            (heads * slots,), qkv, _expanded(table, heads, window_size, shift, config), pads,
            qkv if seed is None else seed, *rest, scale, dropout_p, device=device)

    dtable = torch.empty_like(table if needs_table else table[:0],
                              memory_format=torch.contiguous_format)
    if needs_table:
        launch(kernel.window_attention_bwd_table_kernel, (dtable.numel(),), dbias, dtable, slots,
               heads, WINDOW=window_size, ROWS=dbias.shape[2], COLUMNS=dbias.shape[3], BLOCK_S=16,
               BLOCK_N=next_power_of_2(area, 16), num_warps=4, device=device)
    dpad = qkv.new_empty(0) if pad is None else qkv.new_zeros(qkv.shape[2])
    if needs_pad:
        dpad.view(3, heads, d)[1:] = dpads.sum(0)
    return dqkv, dtable, dpad


@_backward.register_fake
def _(_grad: Tensor, qkv: Tensor, table: Tensor, pad: Tensor | None, *args: Any
      ) -> tuple[Tensor, Tensor, Tensor]:
    table = table if args[-2] else table[:0]
    return (torch.empty_like(qkv, memory_format=torch.contiguous_format),
            torch.empty_like(table, memory_format=torch.contiguous_format),
            qkv.new_empty(0 if pad is None else qkv.shape[2]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[4:]


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    tensors = ctx.saved_tensors  # once: under checkpointing each access computes the forward
    dqkv, dtable, dpad = _backward(grad, *tensors, *ctx.rest, needs[1],
                                   tensors[2] is not None and needs[2])
    return (dqkv, dtable if needs[1] else None, dpad if needs[2] else None,
            *[None] * (1 + len(ctx.rest)))


_forward.register_autograd(_autograd, setup_context=_setup_context)


def window_attention(
        qkv: Tensor, relative_position_bias_table: Tensor, hw: tuple[int, int], *, num_heads: int,
        window_size: int, shift: int = 0, scale: float | None = None,
        pad_value: Tensor | None = None, dropout_p: float = 0.0,
        relative_position_index: Tensor | None = None) -> Tensor:
    """Shifted-window multi-head self-attention of Swin, from token order to token order.

    As MMDetection computes it: pad right and bottom to whole windows, roll by ``-shift``, cut into
    windows, ``dropout(softmax(q * scale @ k^T + bias + mask)) @ v``, and all the way back. Padded
    tokens are ordinary keys. With ``shift > 0`` scores between the two sides of a rolled border
    get -100, also where the map is smaller than the window. Under autocast a float32 ``qkv`` is
    cast as autocast casts the operands of a matrix product.

    Args:
        qkv: ``[B, H * W, 3C]``, tokens row by row; q, k and v along the last axis, each
            ``[num_heads, d]``.
        relative_position_bias_table: ``[(2 * window_size - 1)**2, num_heads]``, of any
            floating-point type.
        hw: ``(H, W)`` in tokens.
        num_heads: heads; ``C = num_heads * d``.
        window_size: the window's side in tokens.
        shift: rows and columns the windows are shifted by, below ``window_size``.
        scale: factor on q before the product, ``d ** -0.5`` by default.
        pad_value: ``[3C]``, q, k and v of a padded token (the bias of the qkv projection);
            zeros by default.
        dropout_p: probability of dropping an attention weight; pass 0 outside training.
        relative_position_index: ``[window_size**2, window_size**2]`` int64 rows of the table, for
            a checkpoint whose index is not the standard one.

    Returns:
        ``[B, H * W, C]`` in token order, of the type of ``qkv``.

    Raises:
        ValueError: a shape, type or range is not as above.

    Source: Swin Transformer, https://arxiv.org/abs/2103.14030
    """
    index = relative_position_index
    _check(qkv, relative_position_bias_table, hw, num_heads, window_size, shift, pad_value,
           dropout_p, index)
    if autocasting(qkv.device) and qkv.dtype == torch.float32:
        qkv = qkv.to(torch.get_autocast_dtype(qkv.device.type))
    reason = can_run_window_attention(qkv, window_size, num_heads, index, dropout_p)
    if not use_triton("window_attention", qkv.device, reason):
        on_cpu = qkv.device.type == "cpu"
        return (window_attention_cpu if on_cpu else window_attention_reference)(
            qkv, relative_position_bias_table, hw, num_heads=num_heads, window_size=window_size,
            shift=shift, scale=scale, pad_value=pad_value, dropout_p=dropout_p,
            relative_position_index=index)
    pad = None if pad_value is None else pad_value.to(qkv.dtype)
    seed = None
    if dropout_p > 0:
        seed = torch.randint(2**62, (1,), device=qkv.device)
    scale = (qkv.shape[2] // (3 * num_heads)) ** -0.5 if scale is None else scale
    return _forward(qkv, relative_position_bias_table, pad, seed, *hw, num_heads, window_size,
                    shift, float(scale), float(dropout_p))
