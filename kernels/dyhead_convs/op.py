"""The convolutions of a DyHead block: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import Form, autocasting, dtype_reason, form, next_power_of_2
from ..deform_conv2d.op import Config, tile_config
from ..dispatch import Reason, tracing, use_triton
from ..fixed_point import fixed_point_scale
from ..launch import Prepared, dot_precision, num_sms, program
from ..pyramid import FIELD_MAX, pack
from .reference import dyhead_convs_reference

__all__ = ["MAX_LEVELS", "Convolved", "Pyramid", "can_run_dyhead_convs", "channels_last_maps",
           "dyhead_convs"]

#: The kernels take a level's maps as that many pointers.
MAX_LEVELS = 5
TAPS, NUMBERS = 9, 27
COPY_TILE = {"BLOCK_P": 32, "BLOCK_C": 64, "num_warps": 4}
NUMBERS_TILE = 64
#: Of a weight, as [O, C * 9] and as [9 * C, O].
WEIGHT_TILE = {"BLOCK_O": 32, "BLOCK_Q": 64, "num_warps": 4}


class Pyramid(NamedTuple):
    """Images and the (height, width) of their levels, from the finest to the coarsest."""

    images: int
    sizes: tuple[tuple[int, int], ...]

    @property
    def words(self) -> list[int]:
        """The sizes as parameters of a kernel."""
        return [pack(size) for size in self.sizes] + [pack(())] * (MAX_LEVELS - len(self.sizes))

    @property
    def pixels(self) -> int:
        """Pixels of all levels of an image."""
        return sum(h * w for h, w in self.sizes)

    @property
    def rows(self) -> int:
        """Pixels of all results of the convolutions."""
        h, w = self.sizes[0]
        return self.images * (3 * self.pixels - 2 * h * w)

    def tiles(self, block: int) -> int:
        """Tiles of ``block`` pixels of all levels of an image."""
        return sum(-(-h * w // block) for h, w in self.sizes)

    def all_tiles(self, block: int) -> int:
        """The same of all results of the convolutions."""
        h, w = self.sizes[0]
        return 3 * self.tiles(block) - 2 * -(-h * w // block)


class Convolved(NamedTuple):
    """What the convolutions of a block give, and what the norms after them want to know of it."""

    maps: Tensor  # [rows, O], the pixels of one result after the other
    #: float32: moments of tiles of pixels [B, tiles, 3, O], then what the pixels of each count for
    #: after a resize [B, tiles]; empty without kernels
    stats: Tensor
    pyramid: Pyramid
    tile: int  # pixels of a tile


def pyramid_reason(sizes: Sequence[tuple[int, int]]) -> Reason | None:
    """Why these levels do not fit the kernels' parameters, or ``None``."""
    if len(sizes) > MAX_LEVELS:
        return f"its kernels take up to {MAX_LEVELS} levels, not {len(sizes)}"
    for h, w in sizes:
        if h > FIELD_MAX or w > FIELD_MAX:
            return (f"its kernels take maps of up to {FIELD_MAX} pixels along a side, not "
                    f"{max(h, w)}")
    return None


def can_run_dyhead_convs(x: Sequence[Tensor], numbers: Sequence[Tensor], out_channels: int
                         ) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    return _reason([t.shape for t in x], [t.dtype for t in (*x, *numbers)], out_channels)


def _reason(x: Sequence[torch.Size], dtypes: Sequence[torch.dtype], out_channels: int
            ) -> Reason | None:
    if reason := dtype_reason(*dtypes) or pyramid_reason([(h, w) for *_, h, w in x]):
        return reason
    _, c, h, w = x[0]
    if max(c, out_channels) * h * w * TAPS >= 2**31:
        return "its kernels find their way inside an image in 32 bits"
    return None


def levels_of(tensors: Sequence[Any]) -> list[Tensor]:
    """Those of the arguments of all levels that are there."""
    return [t for t in tensors if t is not None]


def padded(tensors: Sequence[Tensor]) -> list[Tensor]:
    """As many pointers as kernels take; the first stands in where there is no level."""
    return [*tensors, *[tensors[0]] * (MAX_LEVELS - len(tensors))]


def one_order(tensors: Sequence[Tensor]) -> tuple[list[Tensor], bool]:
    """All maps contiguous, or all channels last as they came, and whether it is the latter."""
    last = all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors)
    if last and not all(t.is_contiguous() for t in tensors):
        return list(tensors), True
    return [t.contiguous() for t in tensors], False


def _order(last: bool) -> torch.memory_format:
    return torch.channels_last if last else torch.contiguous_format


def _shapes(x: Sequence[Tensor]) -> tuple[torch.Size, ...]:
    return tuple([t.shape for t in x])


def _pyramid(shapes: Sequence[torch.Size]) -> Pyramid:
    return Pyramid(shapes[0][0], tuple((h, w) for *_, h, w in shapes))


def _step(name: str, grid: tuple[int, ...], *numbers: int, **options: Any) -> Prepared:
    from . import kernel

    return program(getattr(kernel, f"dyhead_convs_{name}_kernel"), **options).at(grid, *numbers)


def _five(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The results of an operator: of a level that is not there, an empty one."""
    return [*tensors, *(tensors[0].new_empty(0) for _ in range(MAX_LEVELS - len(tensors)))]


# --- from one order of maps to another ----------------------------------------------------------

def _copies(x: Sequence[Tensor], dtype: torch.dtype, last: bool) -> list[Tensor]:
    return [torch.empty(t.shape, dtype=dtype, device=t.device, memory_format=_order(last))
            for t in x]


@operator("dyhead_maps", "(Tensor x0, Tensor? x1, Tensor? x2, Tensor? x3, Tensor? x4, "
          "ScalarType dtype, bool last) -> (Tensor, Tensor, Tensor, Tensor, Tensor)")
def _maps(x0: Tensor, x1: Tensor | None, x2: Tensor | None, x3: Tensor | None, x4: Tensor | None,
          dtype: torch.dtype, last: bool) -> tuple[Tensor, ...]:
    x, is_last = one_order(levels_of((x0, x1, x2, x3, x4)))
    out = _copies(x, dtype, last)
    _copy(_shapes(x), is_last, last)(*padded(x), *padded(out), device=x0.device)
    return tuple(_five(out))


@lru_cache(maxsize=512)
def _copy(shapes: tuple[torch.Size, ...], from_last: bool, to_last: bool) -> Prepared:
    pyramid, c = _pyramid(shapes), shapes[0][1]
    tiles = pyramid.tiles(COPY_TILE["BLOCK_P"])
    return _step("copy", (pyramid.images * tiles, -(-c // COPY_TILE["BLOCK_C"])), *pyramid.words,
                 tiles, c, L=len(shapes), FROM_LAST=int(from_last), TO_LAST=int(to_last),
                 **COPY_TILE)


@_maps.register_fake
def _(x0: Tensor, x1: Tensor | None, x2: Tensor | None, x3: Tensor | None, x4: Tensor | None,
      dtype: torch.dtype, last: bool) -> tuple[Tensor, ...]:
    return tuple(_five(_copies(levels_of((x0, x1, x2, x3, x4)), dtype, last)))


def _maps_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x = levels_of(inputs[:MAX_LEVELS])
    ctx.dtype, ctx.last, ctx.shapes = x[0].dtype, one_order(x)[1], [t.shape for t in x]
    ctx.to = inputs[MAX_LEVELS]
    ctx.set_materialize_grads(False)


def _maps_autograd(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    some = next(g for g in grads[:len(ctx.shapes)] if g is not None)
    whole = [some.new_zeros(shape) if g is None else g for g, shape in zip(grads, ctx.shapes)]
    given = whole + [None] * (MAX_LEVELS - len(whole))
    return (*_maps(*given, ctx.dtype, ctx.last)[:len(whole)], *given[len(whole):], None, None)


_maps.register_autograd(_maps_autograd, setup_context=_maps_context)


def channels_last_maps(x: Sequence[Tensor]) -> list[Tensor]:
    """Maps as the kernels of a block read them, in one launch; where none would run, as they are.

    Args:
        x: ``[B, C, H, W]``, one for each level.

    Returns:
        The same maps, channels last, under autocast of its type.
    """
    device = x[0].device
    dtype = torch.get_autocast_dtype(device.type) if autocasting(device) else x[0].dtype
    ready = all(t.dtype == dtype and t.is_contiguous(memory_format=torch.channels_last) for t in x)
    if ready or not use_triton("dyhead_convs", device, can_run_dyhead_convs(x, [], 1)):
        return list(x)
    given = [*x, *[None] * (MAX_LEVELS - len(x))]
    return list(_maps(*given, dtype, True)[:len(x)])


# --- the convolutions ---------------------------------------------------------------------------

_POINTERS = ", ".join(["Tensor {0}0", *(f"Tensor? {{0}}{i}" for i in range(1, MAX_LEVELS))])


class _Sizes(NamedTuple):
    """Of the results of a forward."""

    maps: tuple[int, int]
    stats: int
    packed: tuple[int, int, int, int]

    def empty(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (x.new_empty(self.maps), x.new_empty(self.stats, dtype=torch.float32),
                x.new_empty(self.packed))


def _results(pyramid: Pyramid, c: int, o: int, dtype: torch.dtype) -> _Sizes:
    tiles = pyramid.all_tiles(tile_config("fwd", c, o, dtype).block_p)
    return _Sizes((pyramid.rows, o), pyramid.images * tiles * (3 * o + 1), (3, TAPS, c, o))


def _options(config: Config, levels: int, c: int, o: int, last: bool, precision: str
             ) -> dict[str, Any]:
    return {"L": levels, "C": c, "O": o, "LAST": int(last), "PRECISION": precision,
            "BLOCK_P": config.block_p, "BLOCK_O": config.block_o, "BLOCK_C": config.block_c,
            "num_warps": config.num_warps, "num_stages": config.num_stages}


def _sizes(pyramid: Pyramid, config: Config) -> tuple[int, ...]:
    return (*pyramid.words, pyramid.tiles(config.block_p), pyramid.pixels, pyramid.images)


class _Forward(NamedTuple):
    """What forward calls of the same sizes have in common."""

    results: _Sizes
    pack: Prepared
    fwd: Prepared


@lru_cache(maxsize=512)
def _forward_plan(shapes: tuple[torch.Size, ...], o: int, dtype: torch.dtype, last: bool,
                  precision: str) -> _Forward:
    pyramid, c = _pyramid(shapes), shapes[0][1]
    config = tile_config("fwd", c, o, dtype)
    # In IEEE float32 the moments would make such a tile spill on sm_100, in TF32 a wider on sm_80.
    if config.block_c == 16 and precision == "ieee":
        config = config._replace(block_c=min(32, next_power_of_2(c, 16)))
    programs = pyramid.images * pyramid.all_tiles(config.block_p) * -(-o // config.block_o)
    return _Forward(
        _results(pyramid, c, o, dtype), _step("pack", _weight_grid(c, o), C=c, O=o, **WEIGHT_TILE),
        _step("fwd", (programs,), *_sizes(pyramid, config),
              **_options(config, len(shapes), c, o, last, precision)))


def _weight_grid(c: int, o: int) -> tuple[int, int, int]:
    return -(-TAPS * c // WEIGHT_TILE["BLOCK_Q"]), -(-o // WEIGHT_TILE["BLOCK_O"]), 3


@operator("dyhead_convs", f"({_POINTERS.format('x')}, {_POINTERS.format('n')}, Tensor mid, "
          "Tensor low, Tensor high) -> (Tensor, Tensor, Tensor)", saved=1)
def _forward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, numbers, weights = levels_of(args[:MAX_LEVELS]), levels_of(args[MAX_LEVELS:-3]), args[-3:]
    x = [t.contiguous(memory_format=torch.channels_last) for t in x]
    numbers, last = one_order(numbers)
    dtype, device = x[0].dtype, x[0].device
    plan = _forward_plan(_shapes(x), weights[0].shape[0], dtype, last, dot_precision(dtype))
    maps, stats, packed = plan.results.empty(x[0])
    plan.pack(*[w.contiguous() for w in weights], packed, device=device)
    plan.fwd(*padded(x), *padded(numbers), packed, maps, stats, device=device)
    return maps, stats, packed


@_forward.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    (o, c), x = args[-1].shape[:2], args[0]
    pyramid = _pyramid(_shapes(levels_of(args[:MAX_LEVELS])))
    return _results(pyramid, c, o, x.dtype).empty(x)


def _splits(pyramid: Pyramid, block: int, blocks: int, sms: int) -> tuple[int, int]:
    """Programs that share the tiles of mid, and those of low and high each.

    All of them are two whole waves of one program a multiprocessor, in proportion to the tiles.
    """
    of_mid = pyramid.tiles(block)
    of_other = (pyramid.all_tiles(block) - of_mid) // 2
    units = max(1, 2 * sms // blocks)
    other = max(1, units * of_other // (of_mid + 2 * of_other))
    return (min(max(1, units - 2 * other), pyramid.images * of_mid),
            min(other, pyramid.images * of_other))


class _Backward(NamedTuple):
    """What backward calls of the same sizes have in common."""

    pyramid: Pyramid
    data: Prepared
    numbers: Prepared
    weight: Prepared
    unpack: Prepared
    dx: tuple[int, int]  # shapes of buffers
    dplaces: tuple[int, int]
    partial: tuple[int, int, int, int]


@lru_cache(maxsize=512)
def _backward_plan(shapes: tuple[torch.Size, ...], o: int, dtype: torch.dtype, last: bool,
                   precision: str, fixed: bool, sms: int) -> _Backward:
    pyramid, c, levels = _pyramid(shapes), shapes[0][1], len(shapes)
    config = tile_config("bwd_data", c, o, dtype)
    config = config._replace(block_o=min(32, config.block_o))  # 64 spill on sm_100
    data = _step("bwd_data", (pyramid.images * pyramid.all_tiles(config.block_p) * TAPS,),
                 *_sizes(pyramid, config), FIXED=int(fixed),
                 **_options(config, levels, c, o, last, precision))
    tiles = pyramid.tiles(NUMBERS_TILE)
    numbers = _step("bwd_numbers", (pyramid.images * tiles,), *pyramid.words, tiles,
                    pyramid.pixels, pyramid.images, L=levels, LAST=int(last), BLOCK_P=NUMBERS_TILE,
                    num_warps=4)
    config = tile_config("bwd_weight", c, o, dtype)
    blocks = TAPS * -(-c // config.block_c) * -(-o // config.block_o)
    splits, other = _splits(pyramid, config.block_p, blocks, sms)
    weight = _step("bwd_weight", ((splits + 2 * other) * blocks,), *_sizes(pyramid, config), splits,
                   other, **_options(config, levels, c, o, last, precision))
    unpack = _step("unpack", _weight_grid(c, o), splits, other, C=c, O=o, **WEIGHT_TILE)
    return _Backward(
        pyramid, data, numbers, weight, unpack, dx=(pyramid.images * pyramid.pixels, c),
        dplaces=(pyramid.rows, NUMBERS), partial=(splits + 2 * other, TAPS, c, o))


@operator("dyhead_convs_backward",
          f"(Tensor dmaps, {_POINTERS.format('x')}, {_POINTERS.format('n')}, Tensor packed, "
          "bool needs_data, bool needs_weight, ScalarType weight_dtype) -> Tensor[]")
def _backward(dmaps: Tensor, *args: Any) -> list[Tensor]:
    """Gradients of the maps [pixels of all levels, C] and of the numbers, if needed; of the weights
    [3, O, C, 3, 3], if needed."""
    packed, needs_data, needs_weight, weight_dtype = args[-4:]
    x, numbers = levels_of(args[:MAX_LEVELS]), levels_of(args[MAX_LEVELS:-4])
    device, dtype = dmaps.device, packed.dtype
    x = [t.contiguous(memory_format=torch.channels_last) for t in x]
    numbers, last = one_order(numbers)
    dmaps = dmaps.contiguous()
    fixed = needs_data and torch.are_deterministic_algorithms_enabled()
    plan = _backward_plan(_shapes(x), packed.shape[3], dtype, last, dot_precision(dtype), fixed,
                          num_sms(device))
    pointers, results = (*padded(x), *padded(numbers)), []
    if needs_data:
        dx = torch.zeros(plan.dx, dtype=torch.int64 if fixed else torch.float32, device=device)
        dnumbers = [torch.empty_like(t) for t in numbers]
        if plan.pyramid.images:
            scale = _fixed_point(dmaps, packed, plan.pyramid) if fixed else dmaps
            dplaces = dmaps.new_empty(plan.dplaces, dtype=torch.float32)
            plan.data(*pointers, packed, dmaps, scale, dx, dplaces, device=device)
            plan.numbers(dplaces, *padded(numbers), *padded(dnumbers), device=device)
            if fixed:
                dx = dx.double() / scale
        results = [dx.to(dtype), *dnumbers]
    if needs_weight:
        partial = dmaps.new_empty(plan.partial, dtype=torch.float32)
        dweights = packed.new_empty((3, *packed.shape[:1:-1], 3, 3), dtype=weight_dtype)
        plan.weight(*pointers, dmaps, partial, device=device)
        plan.unpack(partial, dweights, device=device)
        results.append(dweights)
    return results


def _fixed_point(dmaps: Tensor, packed: Tensor, pyramid: Pyramid) -> Tensor:
    """The unit of x's gradient: a pixel gets at most one share of each column of its image."""
    wide = dmaps.abs().amax().double() * packed.abs().sum(3, dtype=torch.float64).amax()
    h, w = pyramid.sizes[0]
    return fixed_point_scale(wide * (3 * TAPS * h * w))


@_backward.register_fake
def _(_dmaps: Tensor, *args: Any) -> list[Tensor]:
    packed, needs_data, needs_weight, weight_dtype = args[-4:]
    x, numbers = levels_of(args[:MAX_LEVELS]), levels_of(args[MAX_LEVELS:-4])
    pyramid, (c, o), results = _pyramid(_shapes(x)), packed.shape[2:], []
    if needs_data:
        results = [packed.new_empty((pyramid.images * pyramid.pixels, c)),
                   *(torch.empty_like(t) for t in one_order(numbers)[0])]
    if needs_weight:
        results.append(packed.new_empty((3, o, c, 3, 3), dtype=weight_dtype))
    return results


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:-3], output[2])
    ctx.dtypes = [w.dtype for w in inputs[-3:]]
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, dmaps: Tensor | None, *_: Any) -> tuple[Any, ...]:
    needs = ctx.needs_input_grad
    if dmaps is None:
        return (None,) * len(needs)
    saved = ctx.saved_tensors
    x = levels_of(saved[:MAX_LEVELS])
    data, weight = any(needs[:-3]), any(needs[-3:])
    results = _backward(dmaps, *saved, data, weight, ctx.dtypes[0])
    found: list[Tensor | None] = [None] * len(needs)
    if data:
        dx = results[0]
        first = dx.storage_offset()
        for i, t in enumerate(x):
            if needs[i]:
                b, c, h, w = t.shape
                found[i] = dx.as_strided((b, c, h, w), (h * w * c, 1, w * c, c), first)
            first += t.numel()
        found[MAX_LEVELS:MAX_LEVELS + len(x)] = results[1:1 + len(x)]
    if weight:
        found[-3:] = (g if g.dtype == dtype else g.to(dtype)
                      for g, dtype in zip(results[-1].unbind(0), ctx.dtypes))
        if len(x) == 1:  # it has no use for the weights of low and high
            found[-2:] = None, None
    return tuple(g if needed else None for g, needed in zip(found, needs))


_forward.register_autograd(_autograd, setup_context=_setup_context)


class _Call(NamedTuple):
    pyramid: Pyramid
    reason: Reason | None  # why the kernels cannot take it
    tile: int


def _check(x: tuple[Form, ...], numbers: tuple[Form, ...], weights: tuple[Form, ...]) -> _Call:
    """Refuse what does not fit."""
    if not x or len(x) != len(numbers) or len(weights) != 3:
        raise ValueError("dyhead_convs: expected maps and numbers of as many levels, at least one, "
                         f"and three weights, got {len(x)}, {len(numbers)} and {len(weights)}")
    (first, _, device), (_, dtype, _) = x[0], numbers[0]
    for level, ((shape, kind, where), of_numbers) in enumerate(zip(x, numbers)):
        fits = len(shape) == 4 and kind.is_floating_point and min(shape[1:]) > 0
        if not fits or shape[:2] != first[:2] or where != device:
            raise ValueError(
                f"dyhead_convs: level {level} must be a floating-point map of the images, channels "
                f"and device of the first, {list(first[:2])} on {device}, got {kind} {list(shape)} "
                f"on {where}")
        finer = x[level - 1][0][2:] if level else ()
        if any(s != (f + 1) // 2 for s, f in zip(shape[2:], finer)):
            raise ValueError(f"dyhead_convs: level {level} must be half of level {level - 1} "
                             f"{list(finer)} rounded up, got {list(shape[2:])}")
        want = (shape[0], NUMBERS, *shape[2:])
        if of_numbers != (want, dtype, device):
            got, kind, where = of_numbers
            raise ValueError(f"dyhead_convs: the numbers of level {level} must be {list(want)} "
                             f"{dtype} on {device}, got {list(got)} {kind} on {where}")
    c, o = first[1], weights[0][0][0]
    for shape, _, _ in weights:
        if len(shape) != 4 or shape != (o, c, 3, 3):
            raise ValueError(f"dyhead_convs: weights must be three [O, {c}, 3, 3], "
                             f"got {[list(shape) for shape, _, _ in weights]}")
    shapes = [shape for shape, _, _ in x]
    return _Call(_pyramid(shapes), _reason(shapes, [dtype], o),
                 tile_config("fwd", c, o, dtype).block_p)


_checked = lru_cache(maxsize=512)(_check)


def dyhead_convs(x: Sequence[Tensor], numbers: Sequence[Tensor], weights: Sequence[Tensor]
                 ) -> Convolved:
    """The deformable convolutions of a DyHead block, 3 x 3, modulated, of all levels at once.

    Level ``l`` has up to three, all by the offsets and masks of its own numbers: of its own map;
    of the finer level's at stride 2; of the coarser level's, where the offsets and masks, of more
    pixels than the result, are read from the flat beginning of their numbers, as mmcv reads them
    and checkpoints were trained.

    Args:
        x: ``[B, C, H, W]`` from the finest level to the coarsest, each of half the size of the one
            before, rounded up. All are cast to the type of the numbers.
        numbers: ``[B, 27, H, W]`` of each level: offsets (dy, dx) of nine taps, and nine numbers
            whose sigmoid is the mask.
        weights: of the level's own map, the finer level's and the coarser level's, ``[O, C, 3,
            3]``.

    Returns:
        The results, ``maps`` ``[rows, O]``, in the order of
        :func:`~fastdet.kernels.dyhead_convs.convolutions`, and with the kernels the moments of
        their tiles.

    Raises:
        ValueError: shapes, data types or devices do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.

    Source: Dynamic Head, https://arxiv.org/abs/2106.08322
    """
    call = (_check if tracing() else _checked)(*[
        tuple(map(form, tensors)) for tensors in (x, numbers, weights)])
    dtype = numbers[0].dtype
    x = [t if t.dtype == dtype else t.to(dtype) for t in x]
    if use_triton("dyhead_convs", x[0].device, call.reason):
        none = [None] * (MAX_LEVELS - len(x))
        maps, stats = _forward(*x, *none, *numbers, *none, *weights)
        return Convolved(maps, stats, call.pyramid, call.tile)
    nothing = x[0].new_empty(0, dtype=torch.float32)
    return Convolved(dyhead_convs_reference(x, numbers, weights), nothing, call.pyramid, 0)
