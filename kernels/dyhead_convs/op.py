"""The convolutions of a DyHead block: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import autocasting, dtype_reason, next_power_of_2
from ..deform_conv2d.op import Config, tile_config
from ..dispatch import Reason, use_triton
from ..fixed_point import fixed_point_scale
from ..launch import dot_precision, launch, num_sms
from ..pyramid import FIELD_MAX, pack
from .reference import dyhead_convs_reference

__all__ = ["MAX_LEVELS", "Convolved", "Pyramid", "can_run_dyhead_convs", "channels_last_maps",
           "dyhead_convs"]

#: The kernels take a level's maps as that many pointers.
MAX_LEVELS = 5
TAPS, NUMBERS = 9, 27
COPY_TILE = {"BLOCK_P": 32, "BLOCK_C": 64, "num_warps": 4}
NUMBERS_TILE = 64


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
    stats: Tensor  # [B, tiles, 3, O] float32: moments of tiles of pixels; empty without kernels
    parts: Tensor  # [B, tiles] float32: what the pixels of a tile count for after a resize
    pyramid: Pyramid
    tile: int  # pixels of a tile


def pyramid_reason(sizes: Sequence[tuple[int, int]]) -> Reason | None:
    """Why these levels do not fit the kernels' parameters, or ``None``."""
    if len(sizes) > MAX_LEVELS:
        return f"its kernels take up to {MAX_LEVELS} levels, not {len(sizes)}"
    if largest := max((n for size in sizes for n in size if n > FIELD_MAX), default=0):
        return f"its kernels take maps of up to {FIELD_MAX} pixels along a side, not {largest}"
    return None


def can_run_dyhead_convs(x: Sequence[Tensor], numbers: Sequence[Tensor], out_channels: int
                         ) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    if reason := dtype_reason(*x, *numbers) or pyramid_reason(
            [(t.shape[2], t.shape[3]) for t in x]):
        return reason
    if max(x[0][:1].numel(), out_channels * x[0][:1, 0].numel()) * TAPS >= 2**31:
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


def _pyramid(x: Sequence[Tensor]) -> Pyramid:
    return Pyramid(x[0].shape[0], tuple((t.shape[2], t.shape[3]) for t in x))


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
    from .kernel import dyhead_convs_copy_kernel

    x, is_last = one_order(levels_of((x0, x1, x2, x3, x4)))
    pyramid, c = _pyramid(x), x[0].shape[1]
    out = _copies(x, dtype, last)
    tiles = pyramid.tiles(COPY_TILE["BLOCK_P"])
    launch(dyhead_convs_copy_kernel, (pyramid.images * tiles, -(-c // COPY_TILE["BLOCK_C"])),
           *padded(x), *padded(out), *pyramid.words, tiles, c, L=len(x), FROM_LAST=int(is_last),
           TO_LAST=int(last), **COPY_TILE, device=x0.device)
    return tuple(_five(out))


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


def _empty_results(x: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pyramid, (o, c) = _pyramid(x), weight.shape[:2]
    tiles = pyramid.all_tiles(tile_config("fwd", c, o, x[0].dtype).block_p)
    return (x[0].new_empty((pyramid.rows, o)),
            x[0].new_empty((pyramid.images, tiles, 3, o), dtype=torch.float32),
            x[0].new_empty((pyramid.images, tiles), dtype=torch.float32),
            x[0].new_empty((3, TAPS, c, o)))


@operator("dyhead_convs", f"({_POINTERS.format('x')}, {_POINTERS.format('n')}, Tensor mid, "
          "Tensor low, Tensor high) -> (Tensor, Tensor, Tensor, Tensor)")
def _forward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from .kernel import dyhead_convs_fwd_kernel

    x, numbers, weights = levels_of(args[:MAX_LEVELS]), levels_of(args[MAX_LEVELS:-3]), args[-3:]
    pyramid, (o, c) = _pyramid(x), weights[0].shape[:2]
    x = [t.contiguous(memory_format=torch.channels_last) for t in x]
    numbers, last = one_order(numbers)
    maps, stats, parts, packed = _empty_results(x, weights[0])
    for to, weight in zip(packed, weights):
        to.copy_(weight.view(o, c, TAPS).permute(2, 1, 0))
    config = tile_config("fwd", c, o, x[0].dtype)
    if config.block_c == 16:  # in float32; the moments would make such a tile spill on sm_100
        config = config._replace(block_c=min(32, next_power_of_2(c, 16)))
    programs = pyramid.images * pyramid.all_tiles(config.block_p) * -(-o // config.block_o)
    launch(dyhead_convs_fwd_kernel, (programs,), *padded(x), *padded(numbers), packed, maps, stats,
           parts, *pyramid.words, pyramid.tiles(config.block_p), pyramid.pixels, pyramid.images,
           **_options(config, x, packed, last), device=maps.device)
    return maps, stats, parts, packed


def _options(config: Config, x: Sequence[Tensor], packed: Tensor, last: bool) -> dict[str, Any]:
    return {"L": len(x), "C": packed.shape[2], "O": packed.shape[3], "LAST": int(last),
            "PRECISION": dot_precision(packed.dtype), "BLOCK_P": config.block_p,
            "BLOCK_O": config.block_o, "BLOCK_C": config.block_c, "num_warps": config.num_warps,
            "num_stages": config.num_stages}


@_forward.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_results(levels_of(args[:MAX_LEVELS]), args[-1])


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


@operator("dyhead_convs_backward",
          f"(Tensor dmaps, {_POINTERS.format('x')}, {_POINTERS.format('n')}, Tensor packed, "
          "bool needs_data, bool needs_weight) -> (Tensor, Tensor, Tensor, Tensor, Tensor, "
          "Tensor, Tensor, Tensor, Tensor)")
def _backward(dmaps: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Gradients of the maps [pixels of all levels, C], of the numbers and of the weights."""
    from . import kernel

    packed, needs_data, needs_weight = args[-3:]
    x, numbers = levels_of(args[:MAX_LEVELS]), levels_of(args[MAX_LEVELS:-3])
    pyramid, device, dtype = _pyramid(x), dmaps.device, packed.dtype
    c, o = packed.shape[2:]
    x = [t.contiguous(memory_format=torch.channels_last) for t in x]
    numbers, last = one_order(numbers)
    dmaps = dmaps.contiguous()
    pointers = (*padded(x), *padded(numbers))
    grad, dnumbers, dweights = _empty_gradients(x, numbers, packed, needs_data, needs_weight)

    def sizes(config: Config) -> tuple[int, ...]:
        return (*pyramid.words, pyramid.tiles(config.block_p), pyramid.pixels, pyramid.images)

    if needs_data and pyramid.images:
        config = tile_config("bwd_data", c, o, dtype)
        config = config._replace(block_o=min(32, config.block_o))  # 64 spill on sm_100
        fixed = torch.are_deterministic_algorithms_enabled()
        scale = _fixed_point(dmaps, packed, pyramid) if fixed else dmaps
        dx = torch.zeros((pyramid.images * pyramid.pixels, c), device=device,
                         dtype=torch.int64 if fixed else torch.float32)
        dplaces = torch.empty((pyramid.rows, NUMBERS), device=device, dtype=torch.float32)
        launch(kernel.dyhead_convs_bwd_data_kernel,
               (pyramid.images * pyramid.all_tiles(config.block_p) * TAPS,), *pointers, packed,
               dmaps, scale, dx, dplaces, *sizes(config), FIXED=int(fixed),
               **_options(config, x, packed, last), device=device)
        tiles = pyramid.tiles(NUMBERS_TILE)
        launch(kernel.dyhead_convs_bwd_numbers_kernel, (pyramid.images * tiles,), dplaces,
               *padded(numbers), *padded(dnumbers), *pyramid.words, tiles, pyramid.pixels,
               pyramid.images, L=len(x), LAST=int(last), BLOCK_P=NUMBERS_TILE, num_warps=4,
               device=device)
        if fixed:
            dx = dx.double() / scale
        grad = dx.to(dtype)
    if needs_weight:
        config = tile_config("bwd_weight", c, o, dtype)
        blocks = TAPS * -(-c // config.block_c) * -(-o // config.block_o)
        splits, other = _splits(pyramid, config.block_p, blocks, num_sms(device))
        partial = torch.empty((splits + 2 * other, TAPS, c, o), device=device, dtype=torch.float32)
        launch(kernel.dyhead_convs_bwd_weight_kernel, (len(partial) * blocks,), *pointers, dmaps,
               partial, *sizes(config), splits, other, **_options(config, x, packed, last),
               device=device)
        for to, part in zip(dweights, partial.split([splits, other, other])):
            to.view(o, c, TAPS).copy_(part.sum(0).permute(2, 1, 0))
    return (grad, *_five(dnumbers), *dweights)


def _fixed_point(dmaps: Tensor, packed: Tensor, pyramid: Pyramid) -> Tensor:
    """The unit of x's gradient: a pixel gets at most one share of each column of its image."""
    wide = dmaps.abs().amax().double() * packed.abs().sum(3, dtype=torch.float64).amax()
    h, w = pyramid.sizes[0]
    return fixed_point_scale(wide * (3 * TAPS * h * w))


def _empty_gradients(x: Sequence[Tensor], numbers: Sequence[Tensor], packed: Tensor,
                     needs_data: bool, needs_weight: bool
                     ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    pyramid, (c, o) = _pyramid(x), packed.shape[2:]
    rows = pyramid.images * pyramid.pixels
    dx = packed.new_empty((rows, c) if needs_data else (0,))
    dnumbers = [torch.empty_like(t) if needs_data else t.new_empty(0) for t in numbers]
    dweights = [packed.new_empty((o, c, 3, 3) if needs_weight else (0,)) for _ in range(3)]
    return dx, dnumbers, dweights


@_backward.register_fake
def _(_dmaps: Tensor, *args: Any) -> tuple[Tensor, ...]:
    x, numbers = levels_of(args[:MAX_LEVELS]), levels_of(args[MAX_LEVELS:-3])
    dx, dnumbers, dweights = _empty_gradients(x, one_order(numbers)[0], *args[-3:])
    return (dx, *_five(dnumbers), *dweights)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:-3], output[3])
    ctx.dtypes = [w.dtype for w in inputs[-3:]]
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, dmaps: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if dmaps is None:
        return (None,) * len(ctx.needs_input_grad)
    needs = ctx.needs_input_grad
    x = levels_of(ctx.saved_tensors[:MAX_LEVELS])
    data = any(needs[:-3])
    dx, *rest = _backward(dmaps, *ctx.saved_tensors, data, any(needs[-3:]))
    dxs: list[Tensor | None] = [None] * MAX_LEVELS
    if data:
        parts = dx.split([t[:, 0].numel() for t in x])
        dxs[:len(x)] = [part.view(t.shape[0], *t.shape[2:], t.shape[1]).permute(0, 3, 1, 2)
                        for part, t in zip(parts, x)]
    weights: list[Tensor | None] = [g.to(dtype) for g, dtype in zip(rest[-3:], ctx.dtypes)]
    if len(x) == 1:  # it has no use for the weights of low and high
        weights[1:] = None, None
    return tuple(g if needed else None for g, needed in zip((*dxs, *rest[:-3], *weights), needs))


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _check(x: Sequence[Tensor], numbers: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    if not x or len(x) != len(numbers) or len(weights) != 3:
        raise ValueError("dyhead_convs: expected maps and numbers of as many levels, at least one, "
                         f"and three weights, got {len(x)}, {len(numbers)} and {len(weights)}")
    first = x[0]
    for level, (t, n) in enumerate(zip(x, numbers)):
        fits = t.dim() == 4 and t.is_floating_point() and min(t.shape[1:]) > 0
        if not fits or t.shape[:2] != first.shape[:2] or t.device != first.device:
            raise ValueError(
                f"dyhead_convs: level {level} must be a floating-point map of the images, channels "
                f"and device of the first, {list(first.shape[:2])} on {first.device}, got "
                f"{t.dtype} {list(t.shape)} on {t.device}")
        if level and any(s != (f + 1) // 2 for s, f in zip(t.shape[2:], x[level - 1].shape[2:])):
            raise ValueError(f"dyhead_convs: level {level} must be half of level {level - 1} "
                             f"{list(x[level - 1].shape[2:])} rounded up, got "
                             f"{list(t.shape[2:])}")
        want = (t.shape[0], NUMBERS, *t.shape[2:])
        if n.shape != want or n.dtype != numbers[0].dtype or n.device != first.device:
            raise ValueError(f"dyhead_convs: the numbers of level {level} must be {list(want)} "
                             f"{numbers[0].dtype} on {first.device}, got {list(n.shape)} "
                             f"{n.dtype} on {n.device}")
    for weight in weights:
        if weight.dim() != 4 or weight.shape != (weights[0].shape[0], first.shape[1], 3, 3):
            raise ValueError(f"dyhead_convs: weights must be three [O, {first.shape[1]}, 3, 3], "
                             f"got {[list(w.shape) for w in weights]}")


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
    _check(x, numbers, weights)
    dtype, o = numbers[0].dtype, weights[0].shape[0]
    pyramid = _pyramid(x)
    x = [t.to(dtype) for t in x]
    if use_triton("dyhead_convs", x[0].device, can_run_dyhead_convs(x, numbers, o)):
        none = [None] * (MAX_LEVELS - len(x))
        maps, stats, parts, _ = _forward(*x, *none, *numbers, *none, *weights)
        return Convolved(maps, stats, parts, pyramid,
                         tile_config("fwd", x[0].shape[1], o, dtype).block_p)
    nothing = x[0].new_empty(0, dtype=torch.float32)
    return Convolved(dyhead_convs_reference(x, numbers, weights), nothing, nothing, pyramid, 0)
