"""torchvision's operators by ours: ``fastdet.serve_torchvision()``.

A torchvision wheel holds one binary for one build of torch. Beside another build ``import
torchvision`` fails, and timm and transformers fail with it, although all that is missing are a few
operators that fastdet has.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.deform_conv2d import can_run_deform_conv2d, deform_conv2d
from fastdet.kernels.dispatch import use_triton
from fastdet.kernels.nms import batched_nms_padded
from fastdet.kernels.roi_align import can_run_roi_align, roi_align
from fastdet.kernels.roi_align.reference import roi_geometry
from fastdet.ops.roi_pool import largest_pixels

__all__ = ["Served", "binary_loads", "serve_torchvision", "serves_torchvision"]

_POOL = "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_UNPOOL = "float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_SIZE = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_CONV = ("Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
         "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, "
         "SymInt groups, SymInt offset_groups, bool use_mask")

#: The operators that torchvision's Python code names, as its binary declares them.
_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": f"({_POOL}, int sampling_ratio, bool aligned) -> Tensor",
    "_roi_align_backward": f"(Tensor grad, Tensor rois, {_UNPOOL}, {_SIZE}, int sampling_ratio, "
                           "bool aligned) -> Tensor",
    "qroi_align": "(Tensor input, Tensor rois, float input_scale, int input_zero_point, float "
                  "rois_scale, int rois_zero_point, float spatial_scale, SymInt pooled_height, "
                  "SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool": f"({_POOL}) -> (Tensor, Tensor)",
    "_roi_pool_backward": f"(Tensor grad, Tensor rois, Tensor argmax, {_UNPOOL}, {_SIZE}) "
                          "-> Tensor",
    "ps_roi_align": f"({_POOL}, int sampling_ratio) -> (Tensor, Tensor)",
    "_ps_roi_align_backward": f"(Tensor grad, Tensor rois, Tensor channel_mapping, {_UNPOOL}, int "
                              f"sampling_ratio, {_SIZE}) -> Tensor",
    "ps_roi_pool": f"({_POOL}) -> (Tensor, Tensor)",
    "_ps_roi_pool_backward": f"(Tensor grad, Tensor rois, Tensor channel_mapping, {_UNPOOL}, "
                             f"{_SIZE}) -> Tensor",
    "deform_conv2d": f"({_CONV}) -> Tensor",
    "_deform_conv2d_backward": f"(Tensor grad, {_CONV}) -> (Tensor, Tensor, Tensor, Tensor, "
                               "Tensor)",
}


def _nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the kept boxes by descending score; equal scores in the order they stand in."""
    keep, count = batched_nms_padded(dets, scores, None, iou_threshold)
    return keep[:int(count)]


def _roi_align(input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int,
               pooled_width: int, sampling_ratio: int, aligned: bool) -> Tensor:
    return roi_align(input, rois, (pooled_height, pooled_width), spatial_scale,
                     max(sampling_ratio, 0), aligned=aligned)


def _roi_align_backward(grad: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int,
                        pooled_width: int, batch_size: int, channels: int, height: int, width: int,
                        sampling_ratio: int, aligned: bool) -> Tensor:
    triton = use_triton("roi_align", grad.device, can_run_roi_align([grad], rois))
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))
    geometry = roi_geometry(rois, torch.zeros_like(rois[:, 0]), batch_size, [spatial_scale],
                            (pooled_height, pooled_width), max(sampling_ratio, 0), aligned)
    found = geometry.level.new_empty(0)
    return torch.ops.fastdet.roi_align_backward(
        grad, geometry.pack(), found, [batch_size, height, width], [False], triton)[0]


def _edges(start: Tensor, end: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """First pixel of every bin ``[N, bins]`` and the one after its last; regions are rounded."""
    size = (end - start + 1).clamp(min=1)
    index = torch.arange(bins, device=start.device)
    first = (index * (size / bins)[:, None]).floor() + start[:, None]
    last = ((index + 1) * (size / bins)[:, None]).ceil() + start[:, None]
    return first.clamp(0, length).long(), last.clamp(0, length).long()


def _roi_pool(input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int,
              pooled_width: int) -> tuple[Tensor, Tensor]:
    """The largest pixels and where in the map they are, -1 in empty bins."""
    h, w = input.shape[2:]
    boxes = rois[:, 1:].to(torch.promote_types(rois.dtype, torch.float32)) * spatial_scale
    boxes = boxes.sign() * (boxes.abs() + 0.5).floor()  # halves away from zero
    y = _edges(boxes[:, 1], boxes[:, 3], pooled_height, h)
    x = _edges(boxes[:, 0], boxes[:, 2], pooled_width, w)
    best, place = largest_pixels(input, rois[:, 0].long(), y, x)
    best, place = (t.permute(0, 3, 1, 2).contiguous() for t in (best, place))
    found = place >= 0
    return torch.where(found, best, 0), torch.where(found, place % (h * w), -1).int()


def _roi_pool_backward(grad: Tensor, rois: Tensor, argmax: Tensor, spatial_scale: float,
                       pooled_height: int, pooled_width: int, batch_size: int, channels: int,
                       height: int, width: int) -> Tensor:
    wide = torch.promote_types(grad.dtype, torch.float32)
    out = torch.zeros(batch_size, channels, height * width, dtype=wide, device=grad.device)
    image = rois[:, 0].long().view(-1, 1, 1, 1).expand_as(argmax)
    channel = torch.arange(channels, device=grad.device).view(-1, 1, 1).expand_as(argmax)
    found = argmax >= 0
    out.index_put_((image, channel, argmax.clamp(min=0).long()),
                   torch.where(found, grad, 0).to(wide), accumulate=True)
    return out.to(grad.dtype).view(batch_size, channels, height, width)


def _deform_conv2d(input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor,
                   *rest: Any) -> Tensor:
    sizes = list(rest[:-1])
    out = deform_conv2d(
        input, offset, weight, mask=mask if rest[-1] else None, bias=bias, stride=(*sizes[:2],),
        padding=(*sizes[2:4],), dilation=(*sizes[4:6],), groups=sizes[6], deform_groups=sizes[7])
    return out.to(input.dtype).contiguous()


@contextmanager
def _recording() -> Iterator[None]:
    """Have autograd record, although an operator's body runs below it."""
    autograd = torch._C.DispatchKey.AutogradFunctionality
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (autograd, torch._C.DispatchKey.ADInplaceOrView,
                torch._C.DispatchKey.AutogradOther):
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded), \
            torch.enable_grad():
        yield


def _deform_conv2d_backward(grad: Tensor, input: Tensor, weight: Tensor, offset: Tensor,
                            mask: Tensor, bias: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    use_mask, sizes, like = rest[-1], list(rest[:-1]), (input, weight, offset, mask, bias)
    dtype = offset.dtype
    if use_triton("deform_conv2d", input.device,
                  can_run_deform_conv2d(input.to(dtype), offset, len(weight))):
        modulation = mask.to(dtype) if use_mask else None
        dx, doffset, dmask, dweight = torch.ops.fastdet.deform_conv2d_backward(
            grad.to(dtype), input.to(dtype), offset, modulation, weight.to(dtype), sizes[:2],
            sizes[2:4], sizes[4:6], sizes[6], sizes[7], True, True, True)
        found = [dx, dweight, doffset, dmask if use_mask else torch.zeros_like(mask),
                 grad.sum((0, 2, 3))]
    else:
        with _recording():
            leaves = [t.detach().requires_grad_() for t in like]
            out = _deform_conv2d(*leaves, *rest)
            wanted = leaves if use_mask else [*leaves[:3], leaves[4]]
            found = list(torch.autograd.grad(out, wanted, grad))
        if not use_mask:
            found.insert(3, torch.zeros_like(mask))
    return tuple(g.to(t.dtype).contiguous() for g, t in zip(found, like))


_OURS: dict[str, Callable[..., Any]] = {
    "nms": _nms, "roi_align": _roi_align, "_roi_align_backward": _roi_align_backward,
    "roi_pool": _roi_pool, "_roi_pool_backward": _roi_pool_backward,
    "deform_conv2d": _deform_conv2d, "_deform_conv2d_backward": _deform_conv2d_backward,
}


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*_args: Any) -> Any:
        raise RuntimeError(f"torchvision::{name} is not among the operators that fastdet serves "
                           f"({', '.join(n for n in _OURS if n[0] != '_')}); it needs the "
                           "torchvision that was built for this torch")
    return refuse


# Autograd, for a torchvision that has it in its binary and not in Python.
def _save_roi_align(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.shape, ctx.pool, ctx.rest = inputs[0].shape, inputs[2:5], inputs[5:]
    ctx.save_for_backward(inputs[1])


def _differentiate_roi_align(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    dx = torch.ops.torchvision._roi_align_backward(
        grad, *ctx.saved_tensors, *ctx.pool, *ctx.shape, *ctx.rest)
    return dx, *[None] * 6


def _save_roi_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.shape, ctx.pool = inputs[0].shape, inputs[2:]
    ctx.save_for_backward(inputs[1], output[1])


def _differentiate_roi_pool(ctx: Any, grad: Tensor, _argmax: Tensor) -> tuple[Any, ...]:
    dx = torch.ops.torchvision._roi_pool_backward(
        grad, *ctx.saved_tensors, *ctx.pool, *ctx.shape)
    return dx, *[None] * 4


def _save_deform_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.rest = inputs[5:]
    ctx.save_for_backward(*inputs[:5])


def _differentiate_deform_conv2d(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    found = torch.ops.torchvision._deform_conv2d_backward(grad, *ctx.saved_tensors, *ctx.rest)
    return *found, *[None] * len(ctx.rest)


_AUTOGRAD: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "roi_align": (_differentiate_roi_align, _save_roi_align),
    "roi_pool": (_differentiate_roi_pool, _save_roi_pool),
    "deform_conv2d": (_differentiate_deform_conv2d, _save_deform_conv2d),
}


@dataclass(frozen=True)
class Served:
    """What :func:`serve_torchvision` did.

    Attributes:
        version: torchvision's.
        binary: whether its own binary fits this torch.
        ours: operators that are fastdet's.
        refused: operators that raise with a sentence when they are called.
    """

    version: str
    binary: bool
    ours: tuple[str, ...]
    refused: tuple[str, ...]

    def __str__(self) -> str:
        its = "loads" if self.binary else "does not load"
        return (f"torchvision {self.version}, whose binary {its}: fastdet's are "
                f"{', '.join(self.ours) or 'none'}"
                + (f"; not served: {', '.join(self.refused)}" if self.refused else ""))


_served: Served | None = None
_libraries: list[Any] = []  # an operator lives as long as what defined it


def _binary() -> Path | None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("_C*.so"))), None)


def binary_loads() -> bool:
    """Whether torchvision is installed and its own binary fits this torch; loads it if so."""
    path = _binary()
    if path is None or (_served is not None and not _served.binary):
        return False
    try:
        torch.ops.load_library(str(path))
    except OSError:
        return False
    return True


def serves_torchvision() -> bool:
    """Whether torchvision's operators are fastdet's now."""
    return _served is not None and bool(_served.ours)


@contextmanager
def _in_place_of(binary: Path) -> Iterator[None]:
    """``torch.ops.load_library`` takes torchvision's binary for loaded."""
    load = torch.ops.load_library
    vars(torch.ops)["load_library"] = lambda path: None if Path(path) == binary else load(path)
    try:
        yield
    finally:
        del vars(torch.ops)["load_library"]


def _import_over(binary: Path) -> None:
    """Define the operators and import torchvision, which registers what it has in Python."""
    library = torch.library.Library("torchvision", "DEF")
    _libraries.append(library)
    for name, schema in _SCHEMAS.items():
        library.define(name + schema)
        for key in ("CPU", "CUDA"):
            library.impl(name, _OURS.get(name) or _refused(name), key)
    library.define("_cuda_version() -> int")
    library.impl("_cuda_version", lambda: -1, "CompositeImplicitAutograd")
    for name in [m for m in sys.modules if m.startswith("torchvision.")]:
        del sys.modules[name]  # what an import that failed has left
    with _in_place_of(binary):
        importlib.import_module("torchvision")
    for name, (backward, setup) in _AUTOGRAD.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"torchvision::{name}", "Autograd"):
            torch.library.register_autograd(f"torchvision::{name}", backward, setup_context=setup)


def serve_torchvision(replace: bool = False) -> Served:
    """Let torchvision's operators be fastdet's where its own binary does not fit this torch.

    ``nms``, ``roi_align``, ``roi_pool`` and ``deform_conv2d`` then run, forward and backward, in
    every floating-point type, on a CPU and by Triton kernels on a GPU; ``import torchvision``,
    ``timm`` and ``transformers`` work. Sums are in float32, and with
    ``torch.use_deterministic_algorithms`` results are the same in each run. Operators that fastdet
    does not have raise with a sentence when they are called. Calling it again changes nothing.

    Args:
        replace: where the binary fits, put ours in the place of its operators all the same.

    Returns:
        What is whose.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
        RuntimeError: torchvision is already imported without its operators.
    """
    global _served
    if _served is not None and (_served.ours or not replace):
        return _served
    path = _binary()
    if path is None:
        raise ModuleNotFoundError("torchvision is not installed: pip install --no-deps torchvision")
    fits = binary_loads()
    if fits and replace:
        library = torch.library.Library("torchvision", "IMPL")
        _libraries.append(library)
        for name, body in _OURS.items():
            for key in ("CPU", "CUDA"):
                library.impl(name, body, key, allow_override=True)
    elif not fits:
        if "torchvision" in sys.modules:
            raise RuntimeError("torchvision is already imported without its operators: call "
                               "fastdet.serve_torchvision() before anything imports it")
        _import_over(path)
    version = importlib.metadata.version("torchvision")
    ours = tuple(name for name in _OURS if name[0] != "_") if replace or not fits else ()
    refused = () if fits else tuple(
        name for name in _SCHEMAS if name not in _OURS and name[0] != "_")
    _served = Served(version, fits, ours, refused)
    return _served
