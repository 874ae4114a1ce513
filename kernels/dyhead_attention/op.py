"""DyHead after its convolutions: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import Form, autocasting, dtype_reason, form, next_power_of_2
from ..dispatch import Reason, tracing, use_triton
from ..dyhead_convs.op import MAX_LEVELS, Convolved, Pyramid, one_order, padded, pyramid_reason
from ..launch import Prepared, program
from .reference import Act, Attention, dyhead_attention_reference

__all__ = ["Act", "Attention", "can_run_dyhead_attention", "dyhead_attention"]

#: Pixels by channels of a program that goes over maps: 128 bits an access in 16-bit types.
TILE = {"BLOCK_P": 32, "BLOCK_C": 64, "num_warps": 4}
#: Tiles by channels of a program that adds up what tiles have.
MERGE = {"BLOCK_T": 32, "BLOCK_C": 32, "num_warps": 4}
#: Channels by hidden ones of a layer's weight: a thread waits for 128 bytes of float32 at a time.
LAYER = {"BLOCK_J": 128, "BLOCK_D": 64, "num_warps": 8}
#: Of the gradient of such a weight.
OUTER = {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4}
#: Channels, padded to powers of two, that one program holds.
MAX_CHANNELS = 4096


def _channels(channels: int, groups: int) -> tuple[int, int]:
    """The tile that holds all channels of an image: groups, and channels of a group."""
    return next_power_of_2(groups), next_power_of_2(channels // groups)


def can_run_dyhead_attention(convolved: Convolved, groups: int) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    return _reason(convolved.maps.dtype, convolved.maps.shape, convolved.pyramid, convolved.tile,
                   groups)


def _reason(dtype: torch.dtype, maps: torch.Size, pyramid: Pyramid, tile: int, groups: int
            ) -> Reason | None:
    if reason := dtype_reason(dtype) or pyramid_reason(pyramid.sizes):
        return reason
    block_g, block_c = _channels(maps[1], groups)
    if block_g * block_c > MAX_CHANNELS:
        return f"its kernels hold up to {MAX_CHANNELS} channels, not {maps[1]}"
    if not tile:
        return "the convolutions ran without kernels and left no moments of their maps"
    return None


def _pyramid(sizes: Sequence[int]) -> Pyramid:
    return Pyramid(sizes[0], tuple(zip(sizes[1::2], sizes[2::2])))


class _Plan(NamedTuple):
    """What calls of the same sizes have in common: the steps, and how many numbers buffers hold."""

    pyramid: Pyramid
    moments: Prepared
    factors: Prepared
    fwd: Prepared
    gates: Prepared
    sums: Prepared
    back: Prepared
    parameters: Prepared
    bwd: Prepared
    tables: int
    gate_numbers: int
    tile_sums: int
    scratch: int
    gradients: int


@lru_cache(maxsize=512)
def _plan(sizes: tuple[int, ...], C: int, D: int, tile: int, groups: int, eps: float,
          scale_act: tuple[float, ...], relu_act: tuple[float, ...], last: bool) -> _Plan:
    from . import kernel

    pyramid = _pyramid(sizes)
    L, B = len(pyramid.sizes), pyramid.images
    rows, tiles = L * B, pyramid.tiles(TILE["BLOCK_P"])
    words, common = tuple(pyramid.words), {"L": L, "C": C}
    add, divisor, least, most = relu_act
    scale = dict(zip(("SCALE_ADD", "SCALE_DIVISOR", "SCALE_LEAST", "SCALE_MOST"), scale_act))
    of_rows = {**common, "CG": C // groups, "D": D, "EPS": eps, **scale, "RELU_DIVISOR": divisor,
               **dict(zip(("BLOCK_G", "BLOCK_C"), _channels(C, groups))), **LAYER}
    clamp = {"RELU_LEAST": least, "RELU_MOST": most}
    of_tiles = {**common, **clamp, "LAST": int(last), **TILE}
    over_maps = (*words, tiles, pyramid.pixels, B)

    def step(name: str, grid: tuple[int, ...], *numbers: int, **options: Any) -> Prepared:
        of_name = getattr(kernel, f"dyhead_attention_{name}_kernel")
        return program(of_name, **options).at(grid, *numbers)

    def blocks(n: int, block: int) -> int:
        return -(-n // block)

    channels, m, n = blocks(C, TILE["BLOCK_C"]), OUTER["BLOCK_M"], OUTER["BLOCK_N"]
    outer = blocks(D, m) * blocks(C, n) + blocks(4 * C, m) * blocks(D, n) + blocks(8 * C, m)
    return _Plan(
        pyramid=pyramid,
        moments=step("moments", (3 * rows, blocks(C, MERGE["BLOCK_C"])), *words,
                     pyramid.tiles(tile), B, **common, BLOCK_P=tile, **MERGE),
        factors=step("factors", (rows,), *words, B, **of_rows, RELU_ADD=add),
        # Eight warps: with four, sm_80 spills.
        fwd=step("fwd", (B * tiles, channels), *over_maps, **{**of_tiles, "num_warps": 8}),
        gates=step("gates", (B * tiles, channels), *over_maps, **of_tiles),
        sums=step("sums", (rows, blocks(8 * C, MERGE["BLOCK_C"])), *words, tiles, B, **common,
                  BLOCK_P=TILE["BLOCK_P"], **MERGE),
        back=step("back", (rows,), *words, B, **of_rows, **clamp),
        parameters=step("parameters", (outer,), rows, C=C, D=D, **OUTER),
        bwd=step("bwd", (B * pyramid.all_tiles(TILE["BLOCK_P"]), channels), *over_maps, **common,
                 **TILE),
        tables=_tables(pyramid, C, D), scratch=rows * (29 * C + D),
        gate_numbers=B * pyramid.pixels * C, tile_sums=B * tiles * 8 * C,
        gradients=sum(_gradients(C, D)))


def _gradients(C: int, D: int) -> list[int]:
    """How the gradients of the parameters follow one another; C - 1 numbers are nobody's."""
    return [*[C] * 7, 1, C - 1, C * D, D, 4 * C * D, 4 * C]


def _tables(pyramid: Pyramid, C: int, D: int) -> int:
    return len(pyramid.sizes) * pyramid.images * (18 * C + D)


def _empty_outs(maps: Tensor, pyramid: Pyramid, dtype: torch.dtype, last: bool) -> list[Tensor]:
    order = torch.channels_last if last else torch.contiguous_format
    outs = [torch.empty((pyramid.images, maps.shape[1], *size), dtype=dtype, device=maps.device,
                        memory_format=order) for size in pyramid.sizes]
    return outs + [maps.new_empty(0, dtype=dtype) for _ in range(MAX_LEVELS - len(outs))]


_NORMS = ("Tensor mid_weight, Tensor mid_bias, Tensor low_weight, Tensor low_bias, "
          "Tensor high_weight, Tensor high_bias, Tensor attention, Tensor attention_bias")
_NUMBERS = "int groups, float eps, float[] scale_act, float[] relu_act"


@operator(
    "dyhead_attention",
    f"(Tensor maps, Tensor stats, {_NORMS}, Tensor squeeze, Tensor squeeze_bias, Tensor excite, "
    f"Tensor excite_bias, SymInt[] sizes, int tile, {_NUMBERS}, bool last, ScalarType dtype) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)", saved=1)
def _forward(maps: Tensor, stats: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """The results of five levels, and the tables."""
    sizes, tile, groups, eps, scale_act, relu_act, last, dtype = args[12:]
    plan = _plan(tuple(sizes), maps.shape[1], args[8].shape[0], tile, groups, eps,
                 tuple(scale_act), tuple(relu_act), last)
    device = maps.device
    outs = _empty_outs(maps, plan.pyramid, dtype, last)
    tables = maps.new_empty(plan.tables, dtype=torch.float32)
    plan.moments(stats, tables, device=device)
    plan.factors(tables, *[t.contiguous() for t in args[:12]], device=device)
    plan.fwd(maps, tables, *padded(outs[:len(plan.pyramid.sizes)]), device=device)
    return (*outs, tables)


@_forward.register_fake
def _(maps: Tensor, _stats: Tensor, *args: Any) -> tuple[Tensor, ...]:
    sizes, *_rest, last, dtype = args[12:]
    pyramid = _pyramid(sizes)
    return (*_empty_outs(maps, pyramid, dtype, last), maps.new_empty(
        _tables(pyramid, maps.shape[1], args[8].shape[0]), dtype=torch.float32))


@operator(
    "dyhead_attention_backward",
    "(Tensor g0, Tensor? g1, Tensor? g2, Tensor? g3, Tensor? g4, Tensor maps, "
    f"{_NORMS}, Tensor squeeze, Tensor excite, Tensor tables, SymInt[] sizes, int tile, {_NUMBERS})"
    " -> (Tensor, Tensor)")
def _backward(*args: Any) -> tuple[Tensor, Tensor]:
    """Gradients of the maps and, one after the other in float32, of the parameters."""
    grads, last = one_order([g for g in args[:MAX_LEVELS] if g is not None])
    maps, parameters, tables = args[5], [t.contiguous() for t in args[6:16]], args[16]
    sizes, tile, groups, eps, scale_act, relu_act = args[17:]
    C, D, device = maps.shape[1], parameters[8].shape[0], maps.device
    plan = _plan(tuple(sizes), C, D, tile, groups, eps, tuple(scale_act), tuple(relu_act), last)
    gates, tile_sums, scratch, gradients = (tables.new_empty(n) for n in (
        plan.gate_numbers, plan.tile_sums, plan.scratch, plan.gradients))
    dmaps = torch.empty_like(maps)
    plan.gates(maps, tables, *padded(grads), gates, tile_sums, device=device)
    plan.sums(tile_sums, scratch, device=device)
    plan.back(tables, scratch, *parameters, device=device)
    plan.parameters(tables, scratch, gradients, device=device)
    plan.bwd(maps, tables, gates, scratch, dmaps, device=device)
    return dmaps, gradients


@_backward.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor]:
    maps, tables, (D, C) = args[5], args[16], args[14].shape
    return torch.empty_like(maps), tables.new_empty(12 * C + 5 * C * D + D)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    parameters = inputs[2:14]
    ctx.save_for_backward(inputs[0], *parameters[:9], parameters[10], output[MAX_LEVELS])
    ctx.dtypes = [t.dtype for t in parameters]
    ctx.numbers, ctx.dtype = inputs[14:-2], inputs[-1]
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    maps, *saved = ctx.saved_tensors
    (D, C), pyramid = saved[8].shape, _pyramid(ctx.numbers[0])
    given: list[Tensor | None] = [
        maps.new_zeros((pyramid.images, C, *size), dtype=ctx.dtype) if g is None else g
        for g, size in zip(grads, pyramid.sizes)]
    given += [None] * (MAX_LEVELS - len(given))
    dmaps, gradients = _backward(*given, maps, *saved, *ctx.numbers)
    *norms, _, squeeze, squeeze_bias, excite, excite_bias = gradients.split(_gradients(C, D))
    parts: list[Tensor | None] = [*norms, squeeze.view(D, C), squeeze_bias, excite.view(4 * C, D),
                                  excite_bias]
    if len(pyramid.sizes) == 1:  # it has no use for the norms of low and high
        parts[2:6] = [None] * 4
    return (dmaps, None, *(g if g is None or g.dtype == dtype else g.to(dtype)
                           for g, dtype in zip(parts, ctx.dtypes)), *[None] * 8)


_forward.register_autograd(_autograd, setup_context=_setup_context)


class _Call(NamedTuple):
    sizes: list[int]
    reason: Reason | None  # why the kernels cannot take it


def _check(maps: Form, pyramid: Pyramid, tile: int, groups: int,
           parameters: tuple[tuple[torch.Size, torch.device], ...]) -> _Call:
    """Refuse what does not fit."""
    shape, dtype, device = maps
    C, hidden = shape[1], parameters[8][0][0]
    if groups < 1 or C % groups:
        raise ValueError(f"dyhead_attention: {C} channels do not divide into groups={groups}")
    wanted = [("norms", (C,))] * 6 + [
        ("attention", (C,)), ("attention", (1,)), ("squeeze", (hidden, C)), ("squeeze", (hidden,)),
        ("excite", (4 * C, hidden)), ("excite", (4 * C,))]
    for (got, where), (name, want) in zip(parameters, wanted):
        if got != want or where != device:
            raise ValueError(f"dyhead_attention: {name} must be {list(want)} on {device} for {C} "
                             f"channels, got {list(got)} on {where}")
    images, sizes = pyramid
    for h, w in sizes:
        if images * C * h * w == groups:
            raise ValueError(f"dyhead_attention: a map of {h}x{w} in {groups} groups leaves a "
                             "group one number, which has no variance")
    return _Call([images, *(n for size in sizes for n in size)],
                 _reason(dtype, shape, pyramid, tile, groups))


_checked = lru_cache(maxsize=512)(_check)


def dyhead_attention(convolved: Convolved, parameters: Attention, *, channels_last: bool = False
                   ) -> list[Tensor]:
    """Average the convolutions of each level, normalised, resized and weighted; dynamic ReLU.

    ``y`` is the group norm of a convolution's result, that of the coarser level resized (bilinear,
    corners aligned), and ``s = scale_act(relu(mean(y) . attention + bias))`` one number per image.
    Of ``out = mean over the branches of s * y`` the mean over all pixels, through two linear
    layers, ReLU between them and ``relu_act`` after them, draws the lines of a dynamic ReLU.

    Args:
        convolved: what :func:`~fastdet.kernels.dyhead_convs.dyhead_convs` gives.
        parameters: of the norms, the attention and the dynamic ReLU.
        channels_last: the order of the results in memory.

    Returns:
        ``[B, C, H, W]`` of each level, of the type of the maps; under autocast float32, as group
        norm is.

    Raises:
        ValueError: shapes or devices do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.

    Source: Dynamic Head, https://arxiv.org/abs/2106.08322
    """
    (maps, stats, pyramid, tile), p = convolved, parameters
    tensors = (*p.norms, *p.attention, *p.squeeze, *p.excite)
    call = (_check if tracing() else _checked)(
        form(maps), pyramid, tile, p.groups, tuple([(t.shape, t.device) for t in tensors]))
    device = maps.device
    autocast = autocasting(device)
    dtype = torch.promote_types(maps.dtype, torch.float32) if autocast else maps.dtype
    if not use_triton("dyhead_attention", device, call.reason):
        order = torch.channels_last if channels_last else torch.contiguous_format
        with torch.autocast(device.type, enabled=False):
            outs = dyhead_attention_reference(convolved._replace(maps=maps.to(dtype)), p)
        return [out.contiguous(memory_format=order) for out in outs]
    outs = _forward(maps, stats, *tensors, call.sizes, tile, p.groups, p.eps, list(p.scale_act),
                    list(p.relu_act), channels_last, dtype)
    return list(outs[:len(pyramid.sizes)])
