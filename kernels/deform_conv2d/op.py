"""Deformable convolution: checks, dispatch, launches, autograd and torch.library registration."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import dtype_reason, next_power_of_2, partial_sums
from ..dispatch import Reason, use_triton
from ..fixed_point import fixed_point_scale
from ..launch import dot_precision, launch, num_sms
from .cpu import deform_conv2d_cpu, result_format
from .reference import output_size

__all__ = ["can_run_deform_conv2d", "deform_conv2d"]


def can_run_deform_conv2d(x: Tensor, offset: Tensor, out_channels: int) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    if reason := dtype_reason(offset):
        return reason
    if max(x[:1].numel(), offset[:1].numel(), out_channels * offset[:1, 0].numel()) >= 2**31:
        return "its kernels find their way inside an image in 32 bits"
    return None


def _check(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, bias: Tensor | None,
           stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
           groups: int, deform_groups: int) -> tuple[int, int]:
    """Refuse what does not fit; the result's height and width."""
    for name, t, dims in (("input", x, 4), ("offset", offset, 4), ("weight", weight, 4),
                          ("mask", mask, 4), ("bias", bias, 1)):
        if t is None:
            continue
        if t.dim() != dims:
            raise ValueError(f"deform_conv2d: expected a {dims}D {name}, got {t.dim()}D "
                             f"{list(t.shape)}")
        if not t.is_floating_point() or t.device != x.device:
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
    return size


def _beginning(t: Tensor, size: tuple[int, int]) -> Tensor:
    """The first numbers of each image of ``t`` as if its maps had ``size``.

    DyHead gives the offsets of a finer map; mmcv's operator reads them by address.
    """
    if t.shape[2:] == size:
        return t
    return t.flatten(1)[:, :t.shape[1] * size[0] * size[1]].reshape(*t.shape[:2], *size)


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


def _shape(x: Tensor, offset: Tensor, weight: Tensor, groups: int, deform_groups: int) -> _Shape:
    (B, C, H, W), (O, cg, kh, kw) = x.shape, weight.shape  # noqa: E741
    depthwise = groups == C == O
    # Narrow groups would leave most of a tile empty: several make one, with zeros between them.
    width = max(cg, O // groups)
    pack = 1 if depthwise else max(
        n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * width <= 64))
    oh, ow = offset.shape[2:]
    return _Shape(B, C, H, W, O, oh, ow, (kh, kw), groups // pack, deform_groups, pack,
                  depthwise)


def _packed(weight: Tensor, shape: _Shape) -> Tensor:
    """``[taps, channels of a packed group, O]`` of a weight ``[O, C / groups, kH, kW]``."""
    n, pack, og = shape.groups, shape.pack, shape.O // (shape.groups * shape.pack)
    w = weight.view(n, pack, og, weight.shape[1], shape.taps).permute(4, 3, 0, 1, 2)
    if pack > 1:
        own = torch.eye(pack, dtype=torch.bool, device=weight.device).view(pack, 1, 1, pack, 1)
        w = w.unsqueeze(1).where(own, 0)
    return w.reshape(shape.taps, -1, shape.O).contiguous()


def _unpacked(packed: Tensor, shape: _Shape) -> Tensor:
    """The inverse of ``_packed``."""
    n, pack, og = shape.groups, shape.pack, shape.O // (shape.groups * shape.pack)
    w = packed.view(shape.taps, pack, -1, n, pack, og).diagonal(dim1=1, dim2=4)
    return w.permute(2, 4, 3, 1, 0).reshape(shape.O, -1, *shape.kernel)


def _options(stride: list[int], padding: list[int], dilation: list[int], shape: _Shape,
             mask: Tensor | None) -> dict[str, Any]:
    names = ("SH", "SW", "PH", "PW", "DH", "DW")
    return {**shape.channels(), **dict(zip(names, (*stride, *padding, *dilation))),
            "KW": shape.kernel[1], "TAPS": shape.taps, "HAS_MASK": int(mask is not None)}


def _per_image(t: Tensor) -> Tensor:
    """``t`` with each image's numbers contiguous; images may lie apart."""
    return t if t[:1].is_contiguous() else t.contiguous()


def _channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


@operator(
    "deform_conv2d",
    "(Tensor x, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, SymInt[] stride, "
    "SymInt[] padding, SymInt[] dilation, SymInt groups, SymInt deform_groups) -> Tensor")
def _forward(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None,
             stride: list[int], padding: list[int], dilation: list[int], groups: int,
             deform_groups: int) -> Tensor:
    from . import kernel

    memory_format = result_format(x)
    shape = _shape(x, offset, weight, groups, deform_groups)
    x, offset = _channels_last(x), _per_image(offset)
    mask = None if mask is None else _per_image(mask)
    weight = _packed(weight.contiguous(), shape)
    out = torch.empty((shape.B, shape.O, shape.oh, shape.ow), dtype=x.dtype, device=x.device,
                      memory_format=memory_format)
    options = _options(stride, padding, dilation, shape, mask)
    options |= {"HAS_BIAS": int(bias is not None),
                "CHANNELS_LAST": int(memory_format == torch.channels_last)}
    if shape.depthwise:
        config = tile_config("depthwise_fwd", shape.C // deform_groups, 1, x.dtype)
        tiles = deform_groups * -(-shape.C // deform_groups // config.block_c)
        run = kernel.deform_conv2d_depthwise_fwd_kernel
    else:
        config = tile_config("fwd", shape.run, shape.O // shape.groups, x.dtype)
        tiles = shape.groups * -(-shape.O // shape.groups // config.block_o)
        config = _fitted(config, shape, tiles, num_sms(x.device) * _resident(x.dtype))
        options |= {"PACK": shape.pack, "PRECISION": dot_precision(x.dtype),
                    "BLOCK_O": config.block_o}
        run = kernel.deform_conv2d_fwd_kernel
    launch(run, (shape.tiles(config) * tiles,), x, offset, offset if mask is None else mask,
           weight, weight if bias is None else bias.contiguous(), out, *shape.sizes(config),
           offset.stride(0), 0 if mask is None else mask.stride(0), **options,
           BLOCK_P=config.block_p, BLOCK_C=config.block_c, num_warps=config.num_warps,
           num_stages=config.num_stages, device=x.device)
    return out


@_forward.register_fake
def _(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, *_args: Any) -> Tensor:
    return torch.empty((x.shape[0], weight.shape[0], *offset.shape[2:]), dtype=x.dtype,
                       device=x.device, memory_format=result_format(x))


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
    "bool needs_place, bool needs_weight) -> (Tensor, Tensor, Tensor, Tensor)")
def _backward(grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor,
              stride: list[int], padding: list[int], dilation: list[int], groups: int,
              deform_groups: int, needs_x: bool, needs_place: bool, needs_weight: bool
              ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from . import kernel

    shape = _shape(x, offset, weight, groups, deform_groups)
    grad, x, offset = _channels_last(grad), _channels_last(x), _per_image(offset)
    mask = None if mask is None else _per_image(mask)
    packed = _packed(weight.contiguous(), shape)
    dtype, device = x.dtype, x.device
    inputs = (x, offset, offset if mask is None else mask)
    strides = (offset.stride(0), 0 if mask is None else mask.stride(0))
    options = _options(stride, padding, dilation, shape, mask)

    def run(name: str, programs: int, config: Config, *tensors: Tensor,
            extra: tuple[int, ...] = (), **more: Any) -> None:
        launch(getattr(kernel, f"deform_conv2d_{name}_kernel"), (programs,), *inputs, *tensors,
               *shape.sizes(config), *strides, *extra, **options, **more, BLOCK_P=config.block_p,
               BLOCK_C=config.block_c, num_warps=config.num_warps, num_stages=config.num_stages,
               device=device)

    fixed = needs_x and shape.B > 0 and torch.are_deterministic_algorithms_enabled()
    scale = _fixed_point(grad, mask, packed, shape) if fixed else grad
    dx = torch.zeros((shape.B, shape.H, shape.W, shape.C) if needs_x else (0,), device=device,
                     dtype=torch.int64 if fixed else torch.float32)
    doffset = offset.new_empty(offset.shape if needs_place else (0,))
    dmask = offset.new_empty(0 if mask is None or not needs_place else mask.shape)
    dweight = offset.new_empty(0)
    needs: dict[str, Any] = {"NEEDS_X": int(needs_x), "NEEDS_PLACE": int(needs_place),
                             "FIXED": int(fixed)}
    if shape.depthwise:
        config = tile_config("depthwise_bwd", shape.C // deform_groups, 1, dtype)
        tiles = shape.tiles(config)
        partial = partial_sums((tiles, shape.taps, shape.C), device, needs_weight)
        run("depthwise_bwd", tiles * deform_groups * shape.taps, config, packed, grad, scale, dx,
            doffset, dmask, partial, NEEDS_WEIGHT=int(needs_weight), **needs)
    else:
        if needs_x or needs_place:
            config = tile_config("bwd_data", shape.run, shape.O // shape.groups, dtype)
            run("bwd_data", shape.tiles(config) * deform_groups * shape.taps, config, packed, grad,
                scale, dx, doffset, dmask, PACK=shape.pack, PRECISION=dot_precision(dtype),
                BLOCK_O=config.block_o, **needs)
        if needs_weight:
            config = tile_config("bwd_weight", shape.run, shape.O // shape.groups, dtype)
            blocks = (shape.taps * (shape.C // shape.run) * -(-shape.run // config.block_c)
                      * -(-shape.O // shape.groups // config.block_o))
            splits = _splits(shape.tiles(config), blocks, num_sms(device) * _resident(dtype))
            partial = partial_sums((splits, *packed.shape), device)
            run("bwd_weight", blocks * splits, config, grad, partial, extra=(splits,),
                PRECISION=dot_precision(dtype), BLOCK_O=config.block_o)
    if needs_weight:
        total = partial.sum(0)
        total = total.view(*weight.shape[2:], -1).permute(2, 0, 1).unsqueeze(1) \
            if shape.depthwise else _unpacked(total, shape)
        dweight = total.to(dtype).contiguous()
    if fixed:
        dx = dx.double() / scale
    return (dx.to(dtype).permute(0, 3, 1, 2) if needs_x else dx.to(dtype)), doffset, dmask, dweight


@_backward.register_fake
def _(_grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, *args: Any
      ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    needs_x, needs_place, needs_weight = args[-3:]
    B, C, H, W = x.shape
    return (x.new_empty(B, H, W, C).permute(0, 3, 1, 2) if needs_x else x.new_empty(0),
            x.new_empty(offset.shape if needs_place else (0,)),
            x.new_empty(0 if mask is None or not needs_place else mask.shape),
            x.new_empty(weight.shape if needs_weight else (0,)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[5:]


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, offset, mask, weight, bias = ctx.needs_input_grad[:5]
    place = offset or mask
    out: list[Tensor | None] = [None] * 4
    if x or place or weight:
        out = list(_backward(grad, *ctx.saved_tensors, *ctx.rest, x, place, weight))
    dbias = grad.sum((0, 2, 3)) if bias else None
    return (*(t if needed else None for t, needed in zip(out, ctx.needs_input_grad)), dbias,
            *[None] * len(ctx.rest))


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
    size = _check(x, offset, weight, mask, bias, stride, padding, dilation, groups, deform_groups)
    dtype = offset.dtype
    x, weight = x.to(dtype), weight.to(dtype)
    mask = None if mask is None else _beginning(mask.to(dtype), size)
    bias = None if bias is None else bias.to(dtype)
    offset = _beginning(offset, size)
    if use_triton("deform_conv2d", x.device, can_run_deform_conv2d(x, offset, weight.shape[0])):
        return _forward(x, offset, mask, weight, bias, list(stride), list(padding), list(dilation),
                        groups, deform_groups)
    with torch.autocast(x.device.type, enabled=False):
        return deform_conv2d_cpu(x, offset, mask, weight, bias, stride, padding, dilation, groups,
                                 deform_groups)
