"""Deformable convolution: checks, dispatch, launches, autograd and torch.library registration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import Form, dtype_reason, form, next_power_of_2, options, partial_sums
from ..dispatch import Reason, tracing, use_triton
from ..fixed_point import fixed_point_scale
from ..launch import Prepared, dot_precision, num_sms, program
from .cpu import deform_conv2d_cpu, result_format
from .reference import output_size

__all__ = ["can_run_deform_conv2d", "deform_conv2d"]


def can_run_deform_conv2d(x: Tensor, offset: Tensor, out_channels: int) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    return _reason(form(x), form(offset), out_channels)


def _reason(x: Form, offset: Form, out_channels: int) -> Reason | None:
    if reason := dtype_reason(offset.dtype):
        return reason
    largest = max(x.shape[1:].numel(), offset.shape[1:].numel(),
                  out_channels * offset.shape[2:].numel())
    return "its kernels find their way inside an image in 32 bits" if largest >= 2**31 else None


def _check(x: Form, offset: Form, weight: Form, mask: Form | None, bias: Form | None,
           stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
           groups: int, deform_groups: int) -> tuple[tuple[int, int], Reason | None]:
    """Refuse what does not fit; the result's height and width, and why no kernel can run."""
    for name, t, dims in (("input", x, 4), ("offset", offset, 4), ("weight", weight, 4),
                          ("mask", mask, 4), ("bias", bias, 1)):
        if t is None:
            continue
        if len(t.shape) != dims:
            raise ValueError(f"deform_conv2d: expected a {dims}D {name}, got {len(t.shape)}D "
                             f"{list(t.shape)}")
        if not t.dtype.is_floating_point or t.device != x.device:
            raise ValueError(f"deform_conv2d: {name} must be floating-point on {x.device}, got "
                             f"{t.dtype} on {t.device}")
    for name, pair, least in (("stride", stride, 1), ("padding", padding, 0),
                              ("dilation", dilation, 1)):
        if len(pair) != 2 or min(pair) < least:
            raise ValueError(f"deform_conv2d: {name} must be two numbers of at least {least}, got "
                             f"{pair}")
    channels, out_channels = x.shape[1], weight.shape[0]
    for name, n, what, of in (("groups", groups, "channels of the input", channels),
                              ("groups", groups, "channels of the weight", out_channels),
                              ("deform_groups", deform_groups, "channels of the input", channels)):
        if n < 1 or of < 1 or of % n:
            raise ValueError(f"deform_conv2d: the {of} {what} must be a multiple of {name}={n}")
    if weight.shape[1] != channels // groups or 0 in weight.shape:
        raise ValueError(f"deform_conv2d: weight must be [{out_channels}, {channels // groups}, "
                         f"kH, kW] for {channels} channels in {groups} groups, got "
                         f"{list(weight.shape)}")
    if bias is not None and bias.shape[0] != out_channels:
        raise ValueError(f"deform_conv2d: bias must be [{out_channels}], got {list(bias.shape)}")
    kernel = (weight.shape[2], weight.shape[3])
    size = output_size((x.shape[2], x.shape[3]), kernel, stride, padding, dilation)
    if min(size) < 1:
        raise ValueError("deform_conv2d: convolution input is too small (output would be "
                         f"{x.shape[0]}x{out_channels}x{size[0]}x{size[1]})")
    taps = deform_groups * kernel[0] * kernel[1]
    for name, t, per_tap in (("offset", offset, 2), ("mask", mask, 1)):
        if t is None:
            continue
        fits = t.shape[0] == x.shape[0] and t.shape[1] == per_tap * taps
        fits = fits and (t.shape[2:] == size or (
            mask is not None and t.shape[2] >= size[0] and t.shape[3] >= size[1]))
        if not fits:
            raise ValueError(f"deform_conv2d: {name} must be [{x.shape[0]}, {per_tap * taps}, "
                             f"{size[0]}, {size[1]}], got {list(t.shape)}")
    if mask is not None and mask.shape[2:] != offset.shape[2:]:
        raise ValueError("deform_conv2d: offset and mask must have one height and width, got "
                         f"{list(offset.shape)} and {list(mask.shape)}")
    return size, _reason(x, offset, out_channels)


#: The same with a memory for those of other shapes; a trace has sizes that are no numbers.
_checked = lru_cache(maxsize=2048)(_check)


def _beginning(t: Tensor, size: tuple[int, int]) -> Tensor:
    """The first numbers of each image of ``t`` as if its maps had ``size``.

    DyHead gives the offsets of a finer map; mmcv's operator reads them by address.
    """
    if t.shape[2:] == size:
        return t
    return t.flatten(1)[:, :t.shape[1] * size[0] * size[1]].reshape(*t.shape[:2], *size)


#: Tiles of what is copied: pixels and channels of a map, outputs and the rest of a weight, numbers.
COPY_TILE = {"BLOCK_P": 32, "BLOCK_C": 64}
WEIGHT_TILE = {"BLOCK_O": 64, "BLOCK_K": 64}
CAST_TILE = 4096


class Config(NamedTuple):
    block_p: int  # output pixels of a tile
    block_o: int  # output channels
    block_c: int  # input channels
    num_warps: int
    num_stages: int


def tile_config(kind: str, run: int, og: int, dtype: torch.dtype) -> Config:
    """Tile and launch options of one kernel; ``kind`` is its name.

    ``fwd`` and ``bwd_weight`` sample again for every tile of output channels, so that these are as
    wide as an accumulator of 64 registers a thread allows; half of that in float32, whose products
    need registers too. ``bwd_data`` waits for its atomics: two programs have to fit a
    multiprocessor. No figure of an H200 is behind these; they are what compiles without spills.
    """
    c, o = next_power_of_2(run, 16), next_power_of_2(og, 16)
    if kind.startswith("depthwise"):
        wide = kind == "depthwise_fwd" and dtype != torch.float32
        warps = 4 if kind == "depthwise_fwd" else 8
        return Config(32, 1, min(128 if wide else 64, next_power_of_2(run)), warps, 2)
    if dtype == torch.float32:
        if kind == "fwd":
            return Config(64, min(128, o), min(16 if o >= 128 else 32, c), 8, 2)
        if kind == "bwd_data":
            return Config(64, 16, min(64, c), 8 if c >= 64 else 4, 2)
        return Config(16, min(128, o), min(64, c), 8 if o >= 128 else 4, 2)
    if kind == "fwd":
        o, c = min(256, o), min(64, c)
        return Config(128 if o == 128 else 64, o, c, 8 if o >= 128 else 4, 2)
    if kind == "bwd_data":
        return Config(64, min(64, o), min(64, c), 8 if c >= 64 else 4, 2)
    return Config(64, min(256, o), min(64, c), 8 if o >= 128 else 4, 2)


def _resident(dtype: torch.dtype) -> int:
    """Programs of ``fwd``, and of ``bwd_weight``, on a multiprocessor of sm_90, by the ledger."""
    return 2 if dtype == torch.float32 else 1


def _fitted(config: Config, shape: _Shape, blocks: int, places: int) -> Config:
    """Smaller tiles of pixels where the last wave of a small map would leave most places empty.

    Args:
        config: of tiles of 64 or 128 pixels, which Hopper's matrix instructions want.
        shape: of the call.
        blocks: programs that share a tile of pixels.
        places: programs that run at the same time.
    """
    def time(c: Config) -> int:
        return -(-shape.tiles(c) * blocks // places) * c.block_p

    small = min((config._replace(block_p=n) for n in (64, 32) if n < config.block_p), key=time,
                default=config)
    return small if time(small) < 0.9 * time(config) else config


def _splits(tiles: int, blocks: int, places: int) -> int:
    """Into how many parts the weight's gradient divides the tiles: those that fill whole waves.

    Two waves at most, or three parts: each is a partial sum as large as the weight.
    """
    def time(n: int) -> int:
        return -(-blocks * n // places) * -(-tiles // n)

    return min(range(1, max(1, min(tiles, max(2 * places // blocks, 3))) + 1), key=time)


class _Shape(NamedTuple):
    """Sizes of one call, as the kernels see them."""

    B: int
    C: int
    H: int
    W: int
    O: int  # noqa: E741
    oh: int
    ow: int
    kernel: tuple[int, int]
    groups: int  # after packing
    deform_groups: int
    pack: int  # groups of the caller in one of the kernels'
    depthwise: bool

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def run(self) -> int:
        """Channels that share a group and a deform group."""
        return math.gcd(self.C // self.groups, self.C // self.deform_groups)

    @property
    def packed(self) -> tuple[int, int, int]:
        """The size of the weight as the kernels read it."""
        return self.taps, self.C // self.groups, self.O

    def weights(self) -> dict[str, int]:
        """What the kernels want to know that read or write the caller's weight."""
        return {"CG": self.C // self.groups, "O": self.O, "OG": self.O // self.groups,
                "TAPS": self.taps, "PACK": self.pack, **WEIGHT_TILE}

    @property
    def weight_tiles(self) -> int:
        """Programs that share the caller's weight."""
        rows = self.C // (self.groups * self.pack) * self.taps
        return -(-self.O // WEIGHT_TILE["BLOCK_O"]) * -(-rows // WEIGHT_TILE["BLOCK_K"])

    def tiles(self, config: Config) -> int:
        """Tiles of output pixels."""
        return self.B * -(-self.oh * self.ow // config.block_p)

    def sizes(self, config: Config) -> tuple[int, ...]:
        return self.tiles(config), self.oh * self.ow, self.ow, self.H, self.W

    def channels(self) -> dict[str, int]:
        """Channels of a deform group, and where filters are not depth-wise, of all else."""
        out = {"C": self.C, "CD": self.C // self.deform_groups}
        if not self.depthwise:
            out |= {"CG": self.C // self.groups, "O": self.O, "OG": self.O // self.groups,
                    "RUN": self.run}
        return out


def _shape(x: Iterable[int], offset: Iterable[int], weight: Iterable[int], groups: int,
           deform_groups: int) -> _Shape:
    (B, C, H, W), (O, cg, kh, kw), (*_, oh, ow) = x, weight, offset  # noqa: E741
    depthwise = groups == C == O
    # Narrow groups would leave most of a tile empty: several make one, with zeros between them.
    width = max(cg, O // groups)
    pack = 1 if depthwise else max(
        n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * width <= 64))
    return _Shape(B, C, H, W, O, oh, ow, (kh, kw), groups // pack, deform_groups, pack,
                  depthwise)


def _per_image(t: Tensor) -> Tensor:
    """``t`` with each image's numbers contiguous; images may lie apart."""
    return t if t.is_contiguous() or t[:1].is_contiguous() else t.contiguous()


def _strides(offset: Tensor, mask: Tensor | None) -> tuple[int, int]:
    """From image to image."""
    return offset.stride(0), 0 if mask is None else mask.stride(0)


def _as(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t if t.dtype == dtype else t.to(dtype)


def _is_last(t: Tensor) -> bool:
    return t.is_contiguous(memory_format=torch.channels_last)


def _channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


#: Where the kernel's taps lie: stride, padding and dilation, vertical before horizontal.
_Steps = tuple[int, ...]


def _launch(name: str, shape: _Shape, steps: _Steps, config: Config, programs: int, *numbers: int,
            has_mask: bool, **constants: Any) -> Prepared:
    from . import kernel

    names = ("SH", "SW", "PH", "PW", "DH", "DW")
    run = program(
        getattr(kernel, f"deform_conv2d_{name}_kernel"), **shape.channels(),
        **dict(zip(names, steps)), KW=shape.kernel[1],
        TAPS=shape.taps, HAS_MASK=int(has_mask), **constants,
        **options(config, ("block_o",) if shape.depthwise else ()))
    return run.at((programs,), *shape.sizes(config), *numbers)


@lru_cache(maxsize=1024)
def _plan_prepare(shape: _Shape, size: torch.Size, copies: bool, packs: bool) -> Prepared:
    from .kernel import deform_conv2d_prepare_kernel as kernel

    b, c, h, w = size
    tiles = b * -(-h * w // COPY_TILE["BLOCK_P"]) * -(-c // COPY_TILE["BLOCK_C"]) if copies else 0
    run = program(kernel, C=c, WIDE=int(h * w % 8 == 0), **shape.weights(), **COPY_TILE,
                  num_warps=4)
    return run.at((tiles + (shape.weight_tiles if packs else 0),), tiles, h * w)


def _prepare(t: Tensor, weight: Tensor | None, shape: _Shape) -> tuple[Tensor, Tensor]:
    """``t`` channels last, and a weight as the kernels read it, in one launch if one is needed."""
    copies = t.is_contiguous() and not _is_last(t)
    maps = (torch.empty_like(t, memory_format=torch.channels_last) if copies
            else t.contiguous(memory_format=torch.channels_last))
    if weight is None:
        weight = packed = t
    else:
        weight, packed = weight.contiguous(), weight.new_empty(shape.packed)
    if copies or packed is not t:
        run = _plan_prepare(shape, t.shape, copies, packed is not t)
        run(t, maps, weight, packed, device=t.device)
    return maps, packed


class _Forward(NamedTuple):
    """The plan of the forward pass."""

    shape: _Shape
    run: Prepared


@lru_cache(maxsize=1024)
def _plan_forward(x: torch.Size, offset: torch.Size, weight: torch.Size, steps: _Steps,
                  groups: int, deform_groups: int, dtype: torch.dtype, precision: str, sms: int,
                  strides: tuple[int, int], has_mask: bool, has_bias: bool, last: bool
                  ) -> _Forward:
    shape = _shape(x, offset, weight, groups, deform_groups)
    flags: dict[str, Any] = {"has_mask": has_mask, "HAS_BIAS": int(has_bias),
                             "CHANNELS_LAST": int(last)}
    if shape.depthwise:
        config = tile_config("depthwise_fwd", shape.C // deform_groups, 1, dtype)
        tiles = deform_groups * -(-shape.C // deform_groups // config.block_c)
        return _Forward(shape, _launch("depthwise_fwd", shape, steps, config,
                                       shape.tiles(config) * tiles, *strides, **flags))
    config = tile_config("fwd", shape.run, shape.O // shape.groups, dtype)
    tiles = shape.groups * -(-shape.O // shape.groups // config.block_o)
    if dtype != torch.float32:  # whose smaller tile spills on sm_90
        config = _fitted(config, shape, tiles, sms * _resident(dtype))
    return _Forward(shape, _launch("fwd", shape, steps, config, shape.tiles(config) * tiles,
                                   *strides, PACK=shape.pack, PRECISION=precision, **flags))


class _Backward(NamedTuple):
    """The plan of the backward pass."""

    shape: _Shape
    data: Prepared | None  # of the image and the places; where filters are depth-wise of the weight
    weight: Prepared | None
    partial: tuple[int, ...]  # sums of the weight's gradient
    finish: Prepared
    casts: bool  # x's gradient to its type, in finish


@lru_cache(maxsize=1024)
def _plan_backward(x: torch.Size, offset: torch.Size, weight: torch.Size, steps: _Steps,
                   groups: int, deform_groups: int, dtype: torch.dtype, precision: str, sms: int,
                   strides: tuple[int, int], has_mask: bool, needs_x: bool, needs_place: bool,
                   needs_weight: bool, fixed: bool) -> _Backward:
    from .kernel import deform_conv2d_finish_kernel

    shape = _shape(x, offset, weight, groups, deform_groups)
    needs: dict[str, Any] = {"has_mask": has_mask, "NEEDS_X": int(needs_x),
                             "NEEDS_PLACE": int(needs_place), "FIXED": int(fixed)}
    numbers = math.prod(x) if needs_x and not fixed and dtype != torch.float32 else 0
    casts = -(-numbers // CAST_TILE)

    def finish(splits: int) -> Prepared:
        run = program(deform_conv2d_finish_kernel, WIDE=int(shape.C % 8 == 0), **shape.weights(),
                      BLOCK=CAST_TILE, num_warps=4)
        return run.at((casts + shape.weight_tiles,), casts, numbers, splits)

    if shape.depthwise:
        config = tile_config("depthwise_bwd", shape.C // deform_groups, 1, dtype)
        tiles = shape.tiles(config)
        run = _launch("depthwise_bwd", shape, steps, config, tiles * deform_groups * shape.taps,
                      *strides, NEEDS_WEIGHT=int(needs_weight), **needs)
        return _Backward(shape, run, None, (tiles, shape.taps, shape.C), finish(1), casts > 0)
    og = shape.O // shape.groups
    data = of_weight = None
    if needs_x or needs_place:
        config = tile_config("bwd_data", shape.run, og, dtype)
        data = _launch("bwd_data", shape, steps, config,
                       shape.tiles(config) * deform_groups * shape.taps, *strides, PACK=shape.pack,
                       PRECISION=precision, **needs)
    config = tile_config("bwd_weight", shape.run, og, dtype)
    blocks = (shape.taps * (shape.C // shape.run) * -(-shape.run // config.block_c)
              * -(-og // config.block_o))
    splits = _splits(shape.tiles(config), blocks, sms * _resident(dtype))
    if needs_weight:
        of_weight = _launch("bwd_weight", shape, steps, config, blocks * splits, *strides, splits,
                            has_mask=has_mask, PRECISION=precision)
    return _Backward(shape, data, of_weight, (splits, *shape.packed), finish(splits), casts > 0)


@operator(
    "deform_conv2d",
    "(Tensor x, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, SymInt[] stride, "
    "SymInt[] padding, SymInt[] dilation, SymInt groups, SymInt deform_groups) "
    "-> (Tensor, Tensor, Tensor)", saved=2)
def _forward(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None,
             stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
             deform_groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """The result; for the backward pass ``x`` channels last, if that is a copy, and the packed
    weight."""
    memory_format = result_format(x)
    offset, dtype, device = _per_image(offset), x.dtype, x.device
    mask = None if mask is None else _per_image(mask)
    shape, run = _plan_forward(
        x.shape, offset.shape, weight.shape, (*stride, *padding, *dilation), groups,
        deform_groups, dtype, dot_precision(dtype), num_sms(device), _strides(offset, mask),
        mask is not None, bias is not None, memory_format == torch.channels_last)
    maps, packed = _prepare(x, weight, shape)
    out = torch.empty((shape.B, shape.O, shape.oh, shape.ow), dtype=dtype, device=device,
                      memory_format=memory_format)
    run(maps, offset, offset if mask is None else mask, packed,
        packed if bias is None else bias.contiguous(), out, device=device)
    return out, x.new_empty(0) if maps is x else maps, packed


@_forward.register_fake
def _(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None,
      stride: list[int], padding: list[int], dilation: list[int], groups: int, deform_groups: int
      ) -> tuple[Tensor, Tensor, Tensor]:
    shape = _shape(x.shape, offset.shape, weight.shape, groups, deform_groups)
    out = torch.empty((x.shape[0], weight.shape[0], *offset.shape[2:]), dtype=x.dtype,
                      device=x.device, memory_format=result_format(x))
    return (out, x.new_empty(0) if _is_last(x) else _channels_last(x).clone(),
            x.new_empty(shape.packed))


def _fixed_point(grad: Tensor, mask: Tensor | None, weight: Tensor, shape: _Shape) -> Tensor:
    """The unit of x's gradient: a pixel gets at most one share of each column of its image."""
    wide = grad.abs().amax().double() * weight.abs().sum(2, dtype=torch.float64).amax()
    if mask is not None:
        wide = wide * mask.abs().amax()
    return fixed_point_scale(wide * (shape.taps * shape.oh * shape.ow))


@operator(
    "deform_conv2d_backward",
    "(Tensor grad, Tensor x, Tensor offset, Tensor? mask, Tensor weight, SymInt[] stride, "
    "SymInt[] padding, SymInt[] dilation, SymInt groups, SymInt deform_groups, bool needs_x, "
    "bool needs_place, bool needs_weight, Tensor? packed=None) -> (Tensor, Tensor, Tensor, Tensor)")
def _backward(grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor,
              stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
              deform_groups: int, needs_x: bool, needs_place: bool, needs_weight: bool,
              packed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``x``, the places, the masks and the weight, from the packed one if given."""
    x, offset = _channels_last(x), _per_image(offset)
    mask = None if mask is None else _per_image(mask)
    dtype, device = x.dtype, x.device
    fixed = needs_x and x.shape[0] > 0 and torch.are_deterministic_algorithms_enabled()
    plan = _plan_backward(
        x.shape, offset.shape, weight.shape, (*stride, *padding, *dilation), groups,
        deform_groups, dtype, dot_precision(dtype), num_sms(device), _strides(offset, mask),
        mask is not None, needs_x, needs_place, needs_weight, fixed)
    grad, made = _prepare(grad, weight if packed is None else None, plan.shape)
    packed = made if packed is None else packed
    scale = _fixed_point(grad, mask, packed, plan.shape) if fixed else grad
    sums = (torch.zeros_like(x, dtype=torch.int64 if fixed else torch.float32) if needs_x
            else x.new_empty(0))
    doffset = offset.new_empty(offset.shape if needs_place else (0,))
    dmask = offset.new_empty(0 if mask is None or not needs_place else mask.shape)
    partial = partial_sums(plan.partial, device, needs_weight)
    inputs = (x, offset, offset if mask is None else mask)
    if plan.data:
        with_weight = (partial,) if plan.shape.depthwise else ()
        plan.data(*inputs, packed, grad, scale, sums, doffset, dmask, *with_weight, device=device)
    if plan.weight:
        plan.weight(*inputs, grad, partial, device=device)
    dx = sums
    if needs_weight:
        if plan.shape.depthwise:
            partial = partial.sum(0, keepdim=True)
        dweight = weight.new_empty(weight.shape, dtype=dtype)
        if plan.casts:
            dx = torch.empty_like(x)
        plan.finish(sums, dx, partial, dweight, device=device)
    else:
        dweight = weight.new_empty(0)
    if fixed:
        dx = dx.double() / scale
    return _as(dx, dtype), doffset, dmask, dweight


@_backward.register_fake
def _(_grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, *args: Any
      ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    needs_x, needs_place, needs_weight = args[5:8]
    return (torch.empty_like(_channels_last(x)) if needs_x else x.new_empty(0),
            x.new_empty(offset.shape if needs_place else (0,)),
            x.new_empty(0 if mask is None or not needs_place else mask.shape),
            x.new_empty(weight.shape if needs_weight else (0,)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, offset, mask, weight = inputs[:4]
    ctx.save_for_backward(x if _is_last(x) else output[1], offset, mask, weight, output[2])
    ctx.set_materialize_grads(False)
    ctx.rest = inputs[5:]


def _autograd(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    x, offset, mask, weight, bias = needs[:5]
    place = offset or mask
    out: tuple[Tensor | None, ...] = (None,) * 4
    if x or place or weight:
        *saved, packed = ctx.saved_tensors
        out = _backward(grad, *saved, *ctx.rest, x, place, weight, packed)
    dbias = grad.sum((0, 2, 3)) if bias else None
    return *(t if needed else None for t, needed in zip(out, needs)), dbias, *[None] * 5


_forward.register_autograd(_autograd, setup_context=_setup_context)


def deform_conv2d(
        x: Tensor, offset: Tensor, weight: Tensor, *, mask: Tensor | None = None,
        bias: Tensor | None = None, stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1), groups: int = 1,
        deform_groups: int = 1) -> Tensor:
    """Deformable convolution, modulated (v2) with a ``mask``.

    ``out[b, o, p] = bias[o] + sum over c, k of weight[o, c, k] * mask[b, k, p] *
    x[b, c, p * stride - padding + k * dilation + offset[b, k, p]]``, the image interpolated
    bilinearly between its pixels and zero outside. A sample counts if it lies strictly within one
    pixel of the image; at exactly one pixel away, also its gradient is zero.

    All tensors are cast to the type of ``offset`` (so that autocast casts as for a convolution);
    coordinates are in float32 at least. With a mask, offset and mask of maps larger than the
    result are read from the flat beginning of each image's numbers, as mmcv reads them; the rest
    has no gradient.

    Args:
        x: ``[B, C, H, W]``.
        offset: ``[B, deform_groups * kH * kW * 2, H', W']`` in pixels, dy before dx.
        weight: ``[O, C / groups, kH, kW]``.
        mask: ``[B, deform_groups * kH * kW, H', W']``; all ones by default.
        bias: ``[O]``; none by default.
        stride: steps of the kernel, vertical and horizontal.
        padding: rows and columns of zeros around the image.
        dilation: spacing of the kernel's taps.
        groups: groups of channels of input and result.
        deform_groups: groups of input channels with offsets and masks of their own.

    Returns:
        ``[B, O, H', W']``, channels last if ``x`` is.

    Raises:
        ValueError: a shape, type or number is not as above.

    Source: Deformable ConvNets v2, https://arxiv.org/abs/1811.11168
    """
    steps: tuple[Any, Any, Any] = tuple(stride), tuple(padding), tuple(dilation)
    size, reason = (_check if tracing() else _checked)(
        form(x), form(offset), form(weight), None if mask is None else form(mask),
        None if bias is None else form(bias), *steps, groups, deform_groups)
    dtype = offset.dtype
    x, weight = _as(x, dtype), _as(weight, dtype)
    mask = None if mask is None else _beginning(_as(mask, dtype), size)
    bias = None if bias is None else _as(bias, dtype)
    offset = _beginning(offset, size)
    if use_triton("deform_conv2d", x.device, reason):
        return _forward(x, offset, mask, weight, bias, *steps, groups, deform_groups)
    with torch.autocast(x.device.type, enabled=False):
        return deform_conv2d_cpu(x, offset, mask, weight, bias, stride, padding, dilation, groups,
                                 deform_groups)
