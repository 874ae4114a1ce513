"""DyHead's combination: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..autograd import operator
from ..common import autocasting, dtype_reason, next_power_of_2, partial_sums
from ..dispatch import Reason, use_triton
from ..dyhead_convs.op import MAX_LEVELS, Convolved, Pyramid, one_order, padded, pyramid_reason
from ..launch import launch
from .reference import Act, Attention, dyhead_attention_reference

__all__ = ["Act", "Attention", "can_run_dyhead_attention", "dyhead_attention"]

#: Pixels by channels of a program that goes over maps: 128 bits an access in 16-bit types.
TILE = {"BLOCK_P": 32, "BLOCK_C": 64, "num_warps": 4}
#: Tiles by channels of a program that adds up what tiles have.
MERGE = {"BLOCK_T": 32, "BLOCK_C": 32, "num_warps": 4}
#: Channels, padded to powers of two, that one program holds.
MAX_CHANNELS = 4096


def _tile(channels: int, groups: int) -> dict[str, int]:
    """The tile that holds all channels of an image, as groups and channels of a group."""
    return {"BLOCK_G": next_power_of_2(groups), "BLOCK_C": next_power_of_2(channels // groups)}


def can_run_dyhead_attention(convolved: Convolved, groups: int) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    maps = convolved.maps
    if reason := dtype_reason(maps) or pyramid_reason(convolved.pyramid.sizes):
        return reason
    if math.prod(_tile(maps.shape[1], groups).values()) > MAX_CHANNELS:
        return f"its kernels hold up to {MAX_CHANNELS} channels, not {maps.shape[1]}"
    if convolved.stats.numel() == 0 and maps.numel():
        return "the convolutions ran without kernels and left no moments of their maps"
    return None


def _pyramid(sizes: list[int]) -> Pyramid:
    return Pyramid(sizes[0], tuple(zip(sizes[1::2], sizes[2::2])))


def _linear(x: Tensor, act: list[float]) -> Tensor:
    """HSigmoid before its clamp."""
    return (x + act[0]) / act[1]


def _empty_outs(maps: Tensor, sizes: list[int], dtype: torch.dtype, last: bool) -> list[Tensor]:
    order = torch.channels_last if last else torch.contiguous_format
    pyramid = _pyramid(sizes)
    outs = [torch.empty((pyramid.images, maps.shape[1], *size), dtype=dtype, device=maps.device,
                        memory_format=order) for size in pyramid.sizes]
    return outs + [maps.new_empty(0, dtype=dtype) for _ in range(MAX_LEVELS - len(outs))]


def _tables(maps: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Moments and factors."""
    pyramid = _pyramid(sizes)
    shape = (len(pyramid.sizes), pyramid.images, maps.shape[1])
    return (maps.new_empty((3, 3, *shape), dtype=torch.float32),
            maps.new_empty((4, *shape), dtype=torch.float32))


_PARAMETERS = ("Tensor mid_weight, Tensor mid_bias, Tensor low_weight, Tensor low_bias, "
               "Tensor high_weight, Tensor high_bias, Tensor attention, Tensor attention_bias, "
               "Tensor squeeze, Tensor squeeze_bias, Tensor excite, Tensor excite_bias")
_NUMBERS = "int groups, float eps, float[] scale_act, float[] relu_act, bool last"


def _small(maps: Tensor, parameters: tuple[Tensor, ...], pyramid: Pyramid, groups: int, eps: float,
           act: list[float]) -> tuple[list[Tensor], tuple[Any, ...], dict[str, int]]:
    """What the kernels of one program per image and level share: parameters, numbers, options."""
    C = maps.shape[1]
    return ([t.contiguous() for t in parameters[:8]],
            (*pyramid.words, pyramid.images, eps, *act),
            {"L": len(pyramid.sizes), "C": C, "CG": C // groups, **_tile(C, groups),
             "num_warps": 4})


@operator(
    "dyhead_attention",
    f"(Tensor maps, Tensor stats, Tensor parts, {_PARAMETERS}, SymInt[] sizes, int tile, "
    f"{_NUMBERS}, ScalarType dtype) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
    "Tensor, Tensor, Tensor)")
def _forward(maps: Tensor, stats: Tensor, parts: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """The results of five levels; moments, factors, means, hidden layer and coefficients."""
    from . import kernel

    parameters = args[:12]
    sizes, tile, groups, eps, scale_act, relu_act, last, dtype = args[12:]
    pyramid, C, device = _pyramid(sizes), maps.shape[1], maps.device
    L, B = len(pyramid.sizes), pyramid.images
    small, numbers, options = _small(maps, parameters, pyramid, groups, eps, scale_act)
    outs = _empty_outs(maps, sizes, dtype, last)
    moments, factors = _tables(maps, sizes)
    mean = maps.new_empty((L * B, C), dtype=torch.float32)
    channels = -(-C // MERGE["BLOCK_C"])
    launch(kernel.dyhead_attention_moments_kernel, (3 * L * B, channels), stats, parts, moments,
           *pyramid.words, pyramid.tiles(tile), B, L=L, C=C, BLOCK_P=tile, **MERGE, device=device)
    launch(kernel.dyhead_attention_factors_kernel, (L * B,), moments, *small, factors, mean,
           *numbers, **options, device=device)
    with torch.autocast(device.type, enabled=False):
        squeeze, squeeze_bias, excite, excite_bias = (t.float() for t in parameters[8:])
        hidden = torch.addmm(squeeze_bias, mean, squeeze.t()).relu_()
        coeffs = _linear(torch.addmm(excite_bias, hidden, excite.t()), relu_act)
        coeffs.clamp_(*relu_act[2:])
    tiles = pyramid.tiles(TILE["BLOCK_P"])
    launch(kernel.dyhead_attention_fwd_kernel, (B * tiles, -(-C // TILE["BLOCK_C"])), maps, moments,
           factors, coeffs, *padded(outs[:L]), *pyramid.words, tiles, pyramid.pixels, B, L=L, C=C,
           LAST=int(last), **{**TILE, "num_warps": 8}, device=device)  # with 4, sm_80 spills
    return (*outs, moments, factors, mean, hidden, coeffs)


@_forward.register_fake
def _(maps: Tensor, _stats: Tensor, _parts: Tensor, *args: Any) -> tuple[Tensor, ...]:
    parameters, (sizes, *_rest, last, dtype) = args[:12], args[12:]
    moments, factors = _tables(maps, sizes)
    rows = factors.shape[1] * factors.shape[2]
    return (*_empty_outs(maps, sizes, dtype, last), moments, factors,
            *(moments.new_empty(rows, n) for n in (maps.shape[1], *(
                parameters[i].shape[0] for i in (8, 10)))))


@operator(
    "dyhead_attention_backward",
    "(Tensor g0, Tensor? g1, Tensor? g2, Tensor? g3, Tensor? g4, Tensor maps, "
    f"{_PARAMETERS}, Tensor moments, Tensor factors, Tensor mean, Tensor hidden, Tensor coeffs, "
    f"SymInt[] sizes, {_NUMBERS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
def _backward(*args: Any) -> tuple[Tensor, ...]:
    """Gradients of maps, of norms and attention [8, C], of the dynamic ReLU's four parameters."""
    from . import kernel

    grads, last = one_order([g for g in args[:MAX_LEVELS] if g is not None])
    maps, parameters = args[5], args[6:18]
    moments, factors, mean, hidden, coeffs = args[18:23]
    sizes, groups, eps, scale_act, relu_act, _ = args[23:]
    pyramid, C, device = _pyramid(sizes), maps.shape[1], maps.device
    L, B = len(pyramid.sizes), pyramid.images
    small, numbers, options = _small(maps, parameters, pyramid, groups, eps, scale_act)
    tiles = pyramid.tiles(TILE["BLOCK_P"])
    over_maps = (*pyramid.words, tiles, pyramid.pixels, B)
    channels = -(-C // TILE["BLOCK_C"])
    gates = maps.new_empty((B * pyramid.pixels, C), dtype=torch.float32)
    tile_sums = partial_sums((B * tiles, 8, C), device)
    sums = maps.new_empty((4, L, B, C), dtype=torch.float32)
    dcoeffs = torch.empty_like(coeffs)
    launch(kernel.dyhead_attention_gates_kernel, (B * tiles, channels), maps, moments, factors,
           coeffs, *padded(grads), gates, tile_sums, *over_maps, L=L, C=C, LAST=int(last), **TILE,
           device=device)
    launch(kernel.dyhead_attention_sums_kernel, (L * B, -(-8 * C // MERGE["BLOCK_C"])), tile_sums,
           sums, dcoeffs, *pyramid.words, tiles, B, L=L, C=C, BLOCK_P=TILE["BLOCK_P"], **MERGE,
           device=device)
    with torch.autocast(device.type, enabled=False):
        squeeze, _, excite, excite_bias = (t.float() for t in parameters[8:])
        # What the clamp saw is made again: a coefficient at a limit does not say from which side.
        linear = _linear(torch.addmm(excite_bias, hidden, excite.t()), relu_act)
        open_ = (linear >= relu_act[2]) & (linear <= relu_act[3])  # a NaN is not
        dlogit = (dcoeffs / relu_act[1]).masked_fill_(~open_, 0.0)
        dhidden = (dlogit @ excite).masked_fill_(hidden <= 0, 0.0)
        dmean = dhidden @ squeeze
        of_relu = (dhidden.t() @ mean, dhidden.sum(0), dlogit.t() @ hidden, dlogit.sum(0))
    back = maps.new_empty((3, 4, L, B, C), dtype=torch.float32)
    partial = partial_sums((L * B, 8, C), device)
    launch(kernel.dyhead_attention_back_kernel, (L * B,), moments, *small, sums, dmean, back,
           partial, *numbers, **options, device=device)
    dmaps = torch.empty_like(maps)
    launch(kernel.dyhead_attention_bwd_kernel, (B * pyramid.all_tiles(TILE["BLOCK_P"]), channels),
           maps, moments, gates, back, dmaps, *over_maps, L=L, C=C, **TILE, device=device)
    return (dmaps, partial.sum(0), *of_relu)


@_backward.register_fake
def _(*args: Any) -> tuple[Tensor, ...]:
    maps, moments = args[5], args[18]
    return (torch.empty_like(maps), moments.new_empty(8, maps.shape[1]),
            *(moments.new_empty(t.shape) for t in args[14:18]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    sizes, _, *rest = inputs[15:]
    ctx.save_for_backward(inputs[0], *inputs[3:15], *output[MAX_LEVELS:])
    ctx.levels, ctx.rest, ctx.dtype = sizes, rest[:-1], rest[-1]
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    maps, *saved = ctx.saved_tensors
    pyramid, C = _pyramid(ctx.levels), maps.shape[1]
    given: list[Tensor | None] = [
        maps.new_zeros((pyramid.images, C, *size), dtype=ctx.dtype) if g is None else g
        for g, size in zip(grads, pyramid.sizes)]
    given += [None] * (MAX_LEVELS - len(given))
    dmaps, total, *of_relu = _backward(*given, maps, *saved, ctx.levels, *ctx.rest)
    parts: list[Tensor | None] = [
        g.to(t.dtype) for g, t in zip([*total[:7], total[7, :1], *of_relu], saved)]
    if len(pyramid.sizes) == 1:  # it has no use for the norms of low and high
        parts[2:6] = [None] * 4
    return (dmaps, None, None, *parts, *[None] * 8)


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _check(convolved: Convolved, p: Attention) -> None:
    maps, C = convolved.maps, convolved.maps.shape[1]
    if p.groups < 1 or C % p.groups:
        raise ValueError(f"dyhead_attention: {C} channels do not divide into groups={p.groups}")
    hidden = p.squeeze[0].shape[0]
    wanted = [(name, tensor, shape) for name, tensors, shapes in (
        ("norms", p.norms, [(C,)] * 6), ("attention", p.attention, [(C,), (1,)]),
        ("squeeze", p.squeeze, [(hidden, C), (hidden,)]),
        ("excite", p.excite, [(4 * C, hidden), (4 * C,)]))
        for tensor, shape in zip(tensors, shapes)]
    for name, tensor, shape in wanted:
        if tensor.shape != shape or tensor.device != maps.device:
            raise ValueError(f"dyhead_attention: {name} must be {list(shape)} on {maps.device} for "
                             f"{C} channels, got {list(tensor.shape)} on {tensor.device}")
    images, sizes = convolved.pyramid
    for h, w in sizes:
        if images * C * h * w == p.groups:
            raise ValueError(f"dyhead_attention: a map of {h}x{w} in {p.groups} groups leaves a "
                             "group one number, which has no variance")


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
    _check(convolved, parameters)
    maps, p = convolved.maps, parameters
    device = maps.device
    autocast = autocasting(device)
    dtype = torch.promote_types(maps.dtype, torch.float32) if autocast else maps.dtype
    if not use_triton("dyhead_attention", device, can_run_dyhead_attention(convolved, p.groups)):
        order = torch.channels_last if channels_last else torch.contiguous_format
        with torch.autocast(device.type, enabled=False):
            outs = dyhead_attention_reference(convolved._replace(maps=maps.to(dtype)), p)
        return [out.contiguous(memory_format=order) for out in outs]
    images, sizes = convolved.pyramid
    outs = _forward(maps, convolved.stats, convolved.parts, *p.norms, *p.attention, *p.squeeze,
                    *p.excite, [images, *(n for size in sizes for n in size)], convolved.tile,
                    p.groups, p.eps, list(p.scale_act), list(p.relu_act), channels_last, dtype)
    return list(outs[:len(sizes)])
