"""What is measured: one declarative entry per operator and per component.

An entry names its real shapes, makes its inputs, and lists who runs on them (its providers).
The runner, the ledger, the tests and pytest-benchmark all read this table; adding an operator is
adding one entry to :data:`ENTRIES`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import fastdet
from fastdet.kernels.carafe import carafe
from fastdet.kernels.deform_conv2d import deform_conv2d
from fastdet.kernels.dyhead_combine import Branch, dyhead_combine
from fastdet.kernels.dynamic_conv import dynamic_conv
from fastdet.kernels.dynamic_conv.reference import dynamic_conv_eager
from fastdet.kernels.dyrelu import dyrelu
from fastdet.kernels.gaussian_targets import centernet_targets, draw_gaussian
from fastdet.kernels.gaussian_targets.eager import centernet_targets_eager, draw_one_eager
from fastdet.kernels.grid_priors import grid_anchors, grid_points, level_rows, split_levels
from fastdet.kernels.multi_scale_deformable_attention import multi_scale_deformable_attention
from fastdet.kernels.multi_scale_deformable_attention.reference import (
    multi_scale_deformable_attention_eager,
)
from fastdet.kernels.spatial_reduction_attention import spatial_reduction_attention
from fastdet.kernels.valid_flags import valid_flags
from fastdet.kernels.window_attention import window_attention
from fastdet.kernels.window_attention.eager import window_attention_eager

from . import peers

__all__ = ["DTYPES", "ENTRIES", "Entry", "Provider", "Work", "differentiate", "flatten", "leaves",
           "upcast"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Inputs = dict[str, Any]
Shape = Mapping[str, Any]


@dataclass(frozen=True)
class Provider:
    """One way to compute an entry.

    Attributes:
        run: inputs to a tensor, or nested lists of tensors.
        context: what has to be in force around every call.
        compiled: run it through ``torch.compile``.
        capturable: whether a CUDA graph can hold it (no copy from pageable memory, no sync).
    """

    run: Callable[[Inputs], Any]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    compiled: bool = False
    capturable: bool = True


@dataclass(frozen=True)
class Work:
    """The fewest bytes an algorithm must move and the operations it must do."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class Entry:
    """One operator or component.

    Attributes:
        name: the entry's name.
        kind: ``'operator'`` or ``'component'``.
        shapes: named real shapes, each the keyword arguments of ``make``.
        tiny: a shape for a CPU and a second.
        make: ``make(dtype=, device=, **shape)``, everything the providers need. Components take
            half types as autocast.
        providers: who computes it; ``'eager'`` is MMDetection's algorithm and the yardstick.
        dtypes: names from :data:`DTYPES`.
        trains: whether it has gradients.
        exact: whether fastdet's results must equal eager's bit for bit.
        work: ``work(dtype=, backward=, **shape)``, for the roofline; ``None`` where not counted.
        kernels: prefixes of the kernels that fastdet must launch on a GPU.
        ledger: cases ``'shape/dtype'`` that the ledger compiles.
        exceptions: ``{(kernel, 'f64' | 'spills'): reason}`` that the ledger grants.
        folder: the operator's folder below ``kernels/``, where it is not ``name``.
    """

    name: str
    kind: str
    shapes: Mapping[str, Shape]
    tiny: Shape
    make: Callable[..., Inputs]
    providers: Mapping[str, Provider]
    dtypes: Sequence[str] = ("fp32", "fp16", "bf16")
    trains: bool = True
    exact: bool = False
    work: Callable[..., Work] | None = None
    kernels: Sequence[str] = ()
    ledger: Sequence[str] = ()
    exceptions: Mapping[tuple[str, str], str] = field(default_factory=dict)
    folder: str = ""

    @property
    def operator(self) -> str:
        """The operator's folder, whose ledger the entry belongs to."""
        return self.folder or self.name


# --- running one provider ----------------------------------------------------------------------

def flatten(result: Any) -> list[Tensor]:
    """Every tensor of nested lists and tuples, in order."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in flatten(part)]


def leaves(inputs: Inputs) -> dict[str, Tensor]:
    """What gradients are taken for: inputs that require them, and parameters of modules."""
    found: dict[str, Tensor] = {}
    for name, value in inputs.items():
        if isinstance(value, nn.Module):
            found.update((f"{name}.{k}", p) for k, p in value.named_parameters()
                         if p.requires_grad)
        elif isinstance(value, Tensor) and value.requires_grad:
            found[name] = value
    return found


def differentiate(run: Callable[[Inputs], Any], inputs: Inputs) -> list[Tensor | None]:
    """Forward and backward of ``run``: the gradients of :func:`leaves`.

    The cotangents are drawn at the first call and kept in ``inputs``, so that every provider, and
    the truth in float64, sees the same ones.
    """
    outputs = flatten(run(inputs))
    if "cotangents" not in inputs:
        inputs["cotangents"] = [torch.randn_like(out) for out in outputs]
    pull = [c.to(out.dtype) for c, out in zip(inputs["cotangents"], outputs)]
    return list(torch.autograd.grad(outputs, list(leaves(inputs).values()), pull,
                                    allow_unused=True))


def upcast(inputs: Inputs) -> Inputs:
    """The same inputs in float64, autocast off."""
    def up(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().double().requires_grad_(value.requires_grad)
        if isinstance(value, nn.Module):
            return copy.deepcopy(value).double()
        if isinstance(value, list):
            return [up(v) for v in value]
        return value

    return {name: None if name == "amp" else up(value) for name, value in inputs.items()}


def _reference() -> AbstractContextManager[Any]:
    """Every operator by its reference, where that is MMDetection's algorithm."""
    return fastdet.backend("torch")


def _against_reference(run: Callable[[Inputs], Any]) -> dict[str, Provider]:
    return {"eager": Provider(run, _reference),
            "compile": Provider(run, _reference, compiled=True),
            "fastdet": Provider(run)}


def _normal(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(*shape, dtype=dtype, device=device).requires_grad_()


# --- window attention --------------------------------------------------------------------------

def _window_make(*, dtype: torch.dtype, device: torch.device, B: int, H: int, W: int, heads: int,
                 d: int, window: int, shift: int, pad: bool = False) -> Inputs:
    c3 = 3 * heads * d
    qkv = torch.randn(B, H * W, c3, device=device, dtype=dtype)
    table = torch.randn((2 * window - 1) ** 2, heads, device=device)
    return {"qkv": qkv.requires_grad_(), "table": table.requires_grad_(), "hw": (H, W),
            "options": {"num_heads": heads, "window_size": window, "shift": shift},
            "pad_value": torch.randn(c3, device=device).requires_grad_() if pad else None}


def _window_run(function: Callable[..., Tensor]) -> Callable[[Inputs], Tensor]:
    def run(x: Inputs) -> Tensor:
        return function(x["qkv"], x["table"], x["hw"], pad_value=x["pad_value"], **x["options"])
    return run


def _window_work(*, dtype: torch.dtype, backward: bool, B: int, H: int, W: int, heads: int,
                 d: int, window: int, **_: Any) -> Work:
    tokens, area = B * H * W * heads * d, window * window
    windows = B * -(-H // window) * -(-W // window)
    product = 2 * windows * heads * area * area * d
    # Forward reads q, k, v and writes the output in two products. Backward reads q, k, v and the
    # output's gradient and writes three gradients, in five products (one of them the scores again).
    return Work(bytes=(4 + 7 * backward) * tokens * dtype.itemsize,
                flops=(2 + 5 * backward) * product)


def _swin_stage(stage: int, **more: Any) -> dict[str, Any]:
    """One stage of Swin-T on two images of 800 x 1344."""
    return {"B": 2, "H": -(-200 // 2 ** stage), "W": -(-336 // 2 ** stage), "heads": 3 * 2 ** stage,
            "d": 32, "window": 7, "shift": 3, **more}


WINDOW_ATTENTION = Entry(
    name="window_attention",
    kind="operator",
    # MMDetection pads before the projection, so its core is handed padded maps; zeros (pad=False)
    # let every provider pad at the same price.
    shapes={
        "swin_t_s1_b2": _swin_stage(0),
        "swin_t_s1_b2_unshifted": _swin_stage(0, shift=0),
        "swin_t_s2_b2": _swin_stage(1),
        "swin_t_s3_b2": _swin_stage(2),
        "swin_t_s4_b2": _swin_stage(3),
        "swin_t_s4_b2_padded": _swin_stage(3, pad=True),
        "swin_l384_s3_b2": {"B": 2, "H": 50, "W": 84, "heads": 24, "d": 32, "window": 12,
                            "shift": 6, "pad": False},
    },
    tiny={"B": 2, "H": 5, "W": 9, "heads": 2, "d": 16, "window": 4, "shift": 2},
    make=_window_make,
    providers={
        "eager": Provider(_window_run(window_attention_eager)),
        "compile": Provider(_window_run(window_attention_eager), compiled=True),
        "sdpa": Provider(_window_run(peers.window_attention_sdpa)),
        "fastdet": Provider(_window_run(window_attention)),
    },
    work=_window_work,
    kernels=("window_attention_",),
    ledger=("swin_t_s4_b2_padded/fp32", "swin_t_s4_b2_padded/fp16", "swin_t_s4_b2_padded/bf16",
            "swin_l384_s3_b2/bf16"),
)


# --- grid priors and valid flags ---------------------------------------------------------------

def _pyramid(height: int, width: int) -> dict[str, Any]:
    """The five levels of RetinaNet, nine anchors a cell."""
    strides = [(step, step) for step in (8, 16, 32, 64, 128)]
    return {"sizes": [(-(-height // y), -(-width // x)) for x, y in strides], "strides": strides,
            "counts": [9] * 5}


def _anchors_make(*, dtype: torch.dtype, device: torch.device, sizes: list[tuple[int, int]],
                  strides: list[tuple[int, int]], counts: list[int]) -> Inputs:
    cells = [4 * x * torch.randn(a, 4) for (x, _), a in zip(strides, counts)]
    cells = [cell.to(dtype) for cell in cells]
    return {"cells": cells, "base": torch.cat(cells).to(device), "sizes": sizes,
            "strides": strides, "counts": counts, "device": device}


def _anchors_eager(x: Inputs) -> list[Tensor]:
    return peers.grid_priors_eager(x["cells"], x["sizes"], x["strides"], x["device"])


def _anchors_fastdet(x: Inputs) -> list[Tensor]:
    flat = grid_anchors(x["base"], x["counts"], x["sizes"], x["strides"])
    return split_levels(flat, level_rows(x["sizes"], x["counts"]))


def _anchors_work(*, dtype: torch.dtype, backward: bool, sizes: list[tuple[int, int]],
                  counts: list[int], **_: Any) -> Work:
    rows = sum(level_rows(sizes, counts))
    return Work(bytes=4 * rows * dtype.itemsize, flops=4 * rows)


GRID_PRIORS = Entry(
    name="grid_priors",
    kind="operator",
    shapes={"retinanet_800x1344": _pyramid(800, 1344)},
    tiny={"sizes": [(3, 5), (2, 3)], "strides": [(8, 8), (16, 16)], "counts": [3, 2]},
    make=_anchors_make,
    providers={
        "eager": Provider(_anchors_eager, capturable=False),
        "compile": Provider(_anchors_eager, compiled=True, capturable=False),
        "fastdet": Provider(_anchors_fastdet),
    },
    trains=False,
    exact=True,
    work=_anchors_work,
    kernels=("grid_anchors_",),
    ledger=("retinanet_800x1344/fp32", "retinanet_800x1344/fp16", "retinanet_800x1344/bf16"),
)


def _points_run(function: Callable[..., list[Tensor]]) -> Callable[[Inputs], list[Tensor]]:
    def run(x: Inputs) -> list[Tensor]:
        return function(x["sizes"], x["strides"], x["dtype"], x["device"])
    return run


def _points_fastdet(sizes: Sequence[tuple[int, int]], strides: Sequence[tuple[int, int]],
                    dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    flat = grid_points(sizes, strides, dtype=dtype, device=device, stride_columns=2)
    return split_levels(flat, level_rows(sizes, [1] * len(sizes)))


def _points_make(*, dtype: torch.dtype, device: torch.device, sizes: list[tuple[int, int]],
                 strides: list[tuple[int, int]], **_: Any) -> Inputs:
    return {"sizes": sizes, "strides": strides, "dtype": dtype, "device": device}


GRID_POINTS = Entry(
    name="grid_points",
    folder="grid_priors",
    kind="operator",
    shapes={"fcos_800x1344": {**_pyramid(800, 1344), "counts": [1] * 5}},
    tiny={"sizes": [(3, 5), (2, 3)], "strides": [(8, 8), (16, 16)]},
    make=_points_make,
    providers={
        "eager": Provider(_points_run(peers.grid_points_eager)),
        "compile": Provider(_points_run(peers.grid_points_eager), compiled=True),
        "fastdet": Provider(_points_run(_points_fastdet)),
    },
    trains=False,
    exact=True,
    work=_anchors_work,
    kernels=("grid_points_",),
    ledger=("fcos_800x1344/fp32", "fcos_800x1344/bf16"),
)


def _flags_make(*, dtype: torch.dtype, device: torch.device, pad_shapes: list[tuple[int, int]],
                **pyramid: Any) -> Inputs:
    return {"pad_shapes": pad_shapes, "device": device, **pyramid}


def _flags_eager(x: Inputs) -> list[list[Tensor]]:
    return peers.valid_flags_eager(x["sizes"], x["strides"], x["pad_shapes"], x["counts"],
                                   x["device"])


def _flags_fastdet(x: Inputs) -> list[list[Tensor]]:
    valid = [[(min(math.ceil(height / step_y), h), min(math.ceil(width / step_x), w))
              for (h, w), (step_x, step_y) in zip(x["sizes"], x["strides"])]
             for height, width in x["pad_shapes"]]
    flags = valid_flags(valid, x["counts"], x["sizes"], device=x["device"])
    rows = level_rows(x["sizes"], x["counts"])
    return [split_levels(image, rows) for image in flags]


def _flags_work(*, dtype: torch.dtype, backward: bool, pad_shapes: list[tuple[int, int]],
                sizes: list[tuple[int, int]], counts: list[int], **_: Any) -> Work:
    return Work(bytes=len(pad_shapes) * sum(level_rows(sizes, counts)), flops=0)


#: Eight images of one batch, each padded to a multiple of 32 of its own.
_PADS = [(800, 1216), (800, 1344), (768, 1344), (800, 1088), (640, 1344), (800, 800),
         (800, 1200), (544, 1344)]

VALID_FLAGS = Entry(
    name="valid_flags",
    kind="operator",
    shapes={"retinanet_800x1344_b2": {**_pyramid(800, 1344), "pad_shapes": _PADS[:2]},
            "retinanet_800x1344_b8": {**_pyramid(800, 1344), "pad_shapes": _PADS}},
    tiny={"sizes": [(3, 5), (2, 3)], "strides": [(8, 8), (16, 16)], "counts": [3, 2],
          "pad_shapes": [(20, 33), (24, 40)]},
    make=_flags_make,
    providers={
        "eager": Provider(_flags_eager),
        "compile": Provider(_flags_eager, compiled=True),
        "fastdet": Provider(_flags_fastdet),
    },
    dtypes=("fp32",),
    trains=False,
    exact=True,
    work=_flags_work,
    kernels=("valid_flags_",),
    ledger=("retinanet_800x1344_b2/fp32",),
)


# --- gaussian targets --------------------------------------------------------------------------

def _targets_make(*, dtype: torch.dtype, device: torch.device, B: int, classes: int, H: int,
                  W: int, boxes: int) -> Inputs:
    """``boxes`` to an image, of all sizes, on an input four times the map."""
    corner = torch.rand(B, boxes, 2) * torch.tensor([2.8 * W, 2.8 * H])
    size = 4 + torch.rand(B, boxes, 2) * torch.tensor([1.1 * W, 1.1 * H])
    gt = torch.cat([corner, corner + size], 2).to(device, dtype)
    labels = torch.randint(classes, (B, boxes)).to(device)
    return {"boxes": list(gt), "labels": list(labels), "feat": (B, classes, H, W),
            "image": (4 * H, 4 * W)}


def _targets_eager(x: Inputs) -> list[Tensor]:
    *maps, ones = centernet_targets_eager(x["boxes"], x["labels"], x["feat"], x["image"])
    return [*maps, torch.tensor(ones)]


def _targets_fastdet(x: Inputs) -> list[Tensor]:
    target, ones = centernet_targets(x["boxes"], x["labels"], x["feat"], x["image"])
    names = ("center_heatmap_target", "wh_target", "offset_target", "wh_offset_target_weight")
    return [*(target[name] for name in names), ones]


def _targets_work(*, dtype: torch.dtype, backward: bool, B: int, classes: int, H: int, W: int,
                  **_: Any) -> Work:
    return Work(bytes=B * (classes + 6) * H * W * dtype.itemsize, flops=0)


GAUSSIAN_TARGETS = Entry(
    name="gaussian_targets",
    kind="operator",
    shapes={"centernet_128_b16": {"B": 16, "classes": 80, "H": 128, "W": 128, "boxes": 7}},
    tiny={"B": 2, "classes": 3, "H": 8, "W": 12, "boxes": 2},
    make=_targets_make,
    # The loop waits for the device at every box: no graph holds it and no compiler helps it.
    providers={"eager": Provider(_targets_eager, capturable=False),
               "fastdet": Provider(_targets_fastdet)},
    dtypes=("fp32",),
    trains=False,
    exact=True,
    work=_targets_work,
    kernels=("gaussian_targets_", "centernet_discs_"),
    ledger=("centernet_128_b16/fp32",),
)


def _draw_make(*, dtype: torch.dtype, device: torch.device, H: int, W: int, x: int, y: int,
               radius: int) -> Inputs:
    return {"heatmap": torch.rand(H, W, device=device).to(dtype), "at": (x, y, radius)}


def _draw_eager(x: Inputs) -> Tensor:
    heatmap = x["heatmap"].clone()
    draw_one_eager(heatmap, *x["at"])
    return heatmap


def _draw_fastdet(x: Inputs) -> Tensor:
    left, top, radius = x["at"]
    return draw_gaussian(x["heatmap"].clone(), (left, top), radius)


DRAW_GAUSSIAN = Entry(
    name="draw_gaussian",
    folder="gaussian_targets",
    kind="operator",
    shapes={"128_r20": {"H": 128, "W": 128, "x": 60, "y": 70, "radius": 20}},
    tiny={"H": 9, "W": 7, "x": 5, "y": 2, "radius": 3},
    make=_draw_make,
    providers={"eager": Provider(_draw_eager, capturable=False),
               "fastdet": Provider(_draw_fastdet, capturable=False)},
    dtypes=("fp32", "fp16"),
    trains=False,
    exact=True,
    kernels=("gaussian_targets_",),
    ledger=("128_r20/fp32", "128_r20/fp16"),
)


# --- spatial-reduction attention ---------------------------------------------------------------

def _sra_make(*, dtype: torch.dtype, device: torch.device, B: int, queries: int, keys: int,
              heads: int, d: int) -> Inputs:
    return {"q": torch.randn(B, queries, heads * d, device=device, dtype=dtype).requires_grad_(),
            "kv": torch.randn(B, keys, 2 * heads * d, device=device, dtype=dtype).requires_grad_(),
            "heads": heads}


def _sra_run(function: Callable[..., Tensor]) -> Callable[[Inputs], Tensor]:
    return lambda x: function(x["q"], x["kv"], x["heads"])


def _sra_work(*, dtype: torch.dtype, backward: bool, B: int, queries: int, keys: int, heads: int,
              d: int) -> Work:
    # Forward: q, k, v, output; two products. Backward: those inputs, the output's gradient and
    # three gradients; five products.
    elements = B * heads * d * (2 * (queries + keys) + backward * (3 * queries + 4 * keys))
    return Work(bytes=elements * dtype.itemsize,
                flops=(2 + 5 * backward) * 2 * B * heads * queries * keys * d)


SPATIAL_REDUCTION_ATTENTION = Entry(
    name="spatial_reduction_attention",
    kind="operator",
    shapes={  # PVT-Small on two images of 800 x 1344
        "pvt_s1_b2": {"B": 2, "queries": 67200, "keys": 1050, "heads": 1, "d": 64},
        "pvt_s2_b2": {"B": 2, "queries": 16800, "keys": 1050, "heads": 2, "d": 64},
        "pvt_s3_b2": {"B": 2, "queries": 4200, "keys": 1050, "heads": 5, "d": 64},
        "pvt_s4_b2": {"B": 2, "queries": 1050, "keys": 1050, "heads": 8, "d": 64},
    },
    tiny={"B": 1, "queries": 37, "keys": 19, "heads": 2, "d": 16},
    make=_sra_make,
    providers={
        "eager": Provider(_sra_run(peers.spatial_reduction_attention_eager)),
        "compile": Provider(_sra_run(peers.spatial_reduction_attention_eager), compiled=True),
        "sdpa": Provider(_sra_run(peers.spatial_reduction_attention_sdpa)),
        "fastdet": Provider(_sra_run(spatial_reduction_attention)),
    },
    work=_sra_work,
    kernels=("spatial_reduction_attention_",),
    ledger=("pvt_s4_b2/fp32", "pvt_s4_b2/fp16", "pvt_s4_b2/bf16"),
)


# --- CARAFE ------------------------------------------------------------------------------------

def _carafe_make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int,
                 k: int, groups: int, scale: int) -> Inputs:
    to: dict[str, Any] = {"dtype": dtype, "device": device}
    return {"features": _normal(B, C, H, W, **to),
            "masks": _normal(B, groups * k**2 * scale**2, H, W, **to),
            "sizes": (k, groups, scale)}


def _carafe_run(x: Inputs) -> Tensor:
    return carafe(x["features"], x["masks"], *x["sizes"], normalize=True)


def _carafe_work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int, k: int,
                 groups: int, scale: int) -> Work:
    # Backward reads features, weights and the result's gradient and writes two gradients.
    inputs, out = B * H * W * (C + groups * k**2 * scale**2), B * C * H * W * scale**2
    return Work(bytes=(inputs + out + backward * (2 * inputs + out)) * dtype.itemsize,
                flops=(1 + 2 * backward) * 2 * k**2 * out)


CARAFE = Entry(
    name="carafe",
    kind="operator",
    shapes={"fpn_c4_b2": {"B": 2, "C": 256, "H": 50, "W": 84, "k": 5, "groups": 1, "scale": 2}},
    tiny={"B": 1, "C": 12, "H": 5, "W": 7, "k": 3, "groups": 2, "scale": 2},
    make=_carafe_make,
    providers=_against_reference(_carafe_run),
    work=_carafe_work,
    kernels=("carafe_",),
    ledger=("fpn_c4_b2/fp32", "fpn_c4_b2/bf16"),
)


# --- DyHead ------------------------------------------------------------------------------------

def _dyrelu_make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int
                 ) -> Inputs:
    coeffs = torch.rand(B, 4 * C, dtype=dtype, device=device)
    return {"x": _normal(B, C, H, W, dtype=dtype, device=device),
            "coeffs": coeffs.requires_grad_()}


def _dyrelu_work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int) -> Work:
    # Two lines and the larger of them; backward, the choice again, a product, and four sums.
    return Work(bytes=(2 + 3 * backward) * B * C * H * W * dtype.itemsize,
                flops=(5 + 9 * backward) * B * C * H * W)


_DYHEAD_LEVELS = {"p3_b2": {"B": 2, "C": 256, "H": 100, "W": 168},
                  "p4_b2": {"B": 2, "C": 256, "H": 50, "W": 84}}

DYRELU = Entry(
    name="dyrelu",
    kind="operator",
    shapes=_DYHEAD_LEVELS,
    tiny={"B": 2, "C": 3, "H": 5, "W": 7},
    make=_dyrelu_make,
    providers=_against_reference(lambda x: dyrelu(x["x"], x["coeffs"])),
    work=_dyrelu_work,
    kernels=("dyrelu_",),
    ledger=("p4_b2/fp32", "p4_b2/bf16"),
)


def _combine_make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int,
                  groups: int) -> Inputs:
    """Three branches, the coarser of half the size; half types are maps under autocast."""
    inputs: Inputs = {"groups": groups, "amp": None if dtype == torch.float32 else dtype}
    for name, size in (("mid", (H, W)), ("low", (H, W)), ("high", (-(-H // 2), -(-W // 2)))):
        inputs[name] = _normal(B, C, *size, dtype=dtype, device=device)
        inputs[f"{name}_weight"] = (1 + torch.randn(C, device=device) / 4).requires_grad_()
        inputs[f"{name}_bias"] = torch.randn(C, device=device).requires_grad_()
    # Scales around 1 and apart from each other: the HSigmoid is not flat there.
    inputs["weight"] = (torch.randn(C, device=device) / (4 * C**0.5)).requires_grad_()
    inputs["bias"] = torch.ones(1, device=device).requires_grad_()
    return inputs


def _combine_run(x: Inputs) -> tuple[Tensor, Tensor]:
    branches = [Branch(x[name], x[f"{name}_weight"], x[f"{name}_bias"])
                for name in ("mid", "low", "high")]
    with torch.autocast(x["mid"].device.type, dtype=x["amp"], enabled=x["amp"] is not None):
        return dyhead_combine(branches, x["weight"], x["bias"], groups=x["groups"])


def _combine_work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int,
                  groups: int) -> Work:
    # Forward reads the maps twice, as a mean comes before what it scales, and writes a result of
    # float32 (autocast). Backward reads maps and gradient twice for the same reason. A pixel of a
    # branch takes some four operations for the mean and variance and two for the sum.
    out = B * C * H * W
    maps = 2 * out + B * C * -(-H // 2) * -(-W // 2)
    return Work(bytes=(2 + 3 * backward) * maps * dtype.itemsize + (1 + 2 * backward) * out * 4,
                flops=(6 + 12 * backward) * maps)


DYHEAD_COMBINE = Entry(
    name="dyhead_combine",
    kind="operator",
    shapes={name: {**level, "groups": 16} for name, level in _DYHEAD_LEVELS.items()},
    tiny={"B": 2, "C": 8, "H": 6, "W": 9, "groups": 2},
    make=_combine_make,
    providers=_against_reference(_combine_run),
    work=_combine_work,
    kernels=("dyhead_combine_",),
    ledger=("p4_b2/fp32", "p4_b2/bf16"),
)


# --- multi-scale deformable attention ----------------------------------------------------------

def _msda_make(*, dtype: torch.dtype, device: torch.device, B: int,
               sizes: list[tuple[int, int]], heads: int, d: int, points: int,
               queries: int | None = None) -> Inputs:
    """Places and weights are float32, as autocast leaves them; no ``queries`` is the encoder."""
    rows, levels = sum(h * w for h, w in sizes), len(sizes)
    if queries is None:  # every pixel looks around itself
        grids = [torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w,
                                indexing="ij") for h, w in sizes]
        center = torch.cat([torch.stack([x, y], -1).view(-1, 2) for y, x in grids])
    else:
        center = torch.rand(queries, 2)
    extent = torch.tensor([[w, h] for h, w in sizes])
    places = center.view(-1, 1, 1, 1, 2) + \
        2 * torch.randn(B, len(center), heads, levels, points, 2) / extent.view(levels, 1, 2)
    weights = torch.randn(B, len(center), heads, levels * points).softmax(-1)
    return {"value": _normal(B, rows, heads, d, dtype=dtype, device=device), "sizes": sizes,
            "places": places.to(device).requires_grad_(),
            "weights": weights.view(places.shape[:5]).to(device).requires_grad_()}


def _msda_eager(x: Inputs) -> Tensor:
    value, places = x["value"], x["places"]
    return multi_scale_deformable_attention_eager(
        value.to(places.dtype), x["sizes"], places, x["weights"]).to(value.dtype)


def _msda_fastdet(x: Inputs) -> Tensor:
    return multi_scale_deformable_attention(x["value"], x["sizes"], None, x["places"],
                                            x["weights"])


def _msda_work(*, dtype: torch.dtype, backward: bool, B: int, sizes: list[tuple[int, int]],
               heads: int, d: int, points: int, queries: int | None = None) -> Work:
    rows = sum(h * w for h, w in sizes)
    out = B * (rows if queries is None else queries) * heads
    samples = out * len(sizes) * points
    # Backward reads everything and the result's gradient and writes three gradients. A channel of
    # a sample is four products and sums, backward four more for value and four for the place.
    inputs = B * rows * heads * d * dtype.itemsize + 3 * samples * 4
    result = out * d * dtype.itemsize
    return Work(bytes=inputs + result + backward * (2 * inputs + result),
                flops=(1 + 2 * backward) * 8 * samples * d)


_DETR = {"B": 2, "sizes": [(100, 167), (50, 84), (25, 42), (13, 21)], "heads": 8, "d": 32,
         "points": 4}

MULTI_SCALE_DEFORMABLE_ATTENTION = Entry(
    name="multi_scale_deformable_attention",
    kind="operator",
    shapes={  # Deformable DETR on two images of 800 x 1333
        "encoder_800x1333_b2": _DETR,
        "decoder_800x1333_b2": {**_DETR, "queries": 300},
    },
    tiny={"B": 2, "sizes": [(5, 7), (3, 4)], "heads": 2, "d": 8, "points": 2, "queries": 11},
    make=_msda_make,
    providers={
        "eager": Provider(_msda_eager),
        "compile": Provider(_msda_eager, compiled=True),
        "fastdet": Provider(_msda_fastdet),
    },
    work=_msda_work,
    kernels=("multi_scale_deformable_attention_",),
    ledger=("decoder_800x1333_b2/fp32", "decoder_800x1333_b2/bf16"),
)


# --- deformable convolution --------------------------------------------------------------------

def _deform_make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int,
                 groups: int = 1) -> Inputs:
    """3 x 3 at stride 1, modulated. No place is a pixel's own, where the gradient jumps."""
    to: dict[str, Any] = {"dtype": dtype, "device": device}
    offset = torch.randint(-2, 2, (B, 18, H, W)) + 0.1 + 0.8 * torch.rand(B, 18, H, W)
    return {"x": _normal(B, C, H, W, **to), "offset": offset.to(**to).requires_grad_(),
            "mask": torch.rand(B, 9, H, W, **to).requires_grad_(),
            "weight": (torch.randn(C, C // groups, 3, 3, **to) / (9 * C / groups)**0.5
                       ).requires_grad_(),
            "bias": _normal(C, **to), "groups": groups}


def _deform_eager(x: Inputs) -> Tensor:
    return peers.deform_conv2d_columns(x["x"], x["offset"], x["mask"], x["weight"], x["bias"],
                                       x["groups"])


def _deform_fastdet(x: Inputs) -> Tensor:
    return deform_conv2d(x["x"], x["offset"], x["weight"], mask=x["mask"], bias=x["bias"],
                         padding=(1, 1), groups=x["groups"])


def _deform_work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int,
                 groups: int = 1) -> Work:
    # Backward reads all inputs and the result's gradient and writes the inputs' gradients, in two
    # products; the sampling is not counted.
    out = B * C * H * W
    inputs = out + B * 27 * H * W + 9 * C * C // groups + C
    return Work(bytes=(inputs + out + backward * (2 * inputs + out)) * dtype.itemsize,
                flops=(1 + 2 * backward) * 2 * 9 * out * C // groups)


DEFORM_CONV2D = Entry(
    name="deform_conv2d",
    kind="operator",
    shapes={**_DYHEAD_LEVELS, "p4_b2_depthwise": {**_DYHEAD_LEVELS["p4_b2"], "groups": 256}},
    tiny={"B": 2, "C": 6, "H": 5, "W": 7, "groups": 2},
    make=_deform_make,
    providers={
        "eager": Provider(_deform_eager),
        "compile": Provider(_deform_eager, compiled=True),
        "fastdet": Provider(_deform_fastdet),
    },
    work=_deform_work,
    kernels=("deform_conv2d_",),
    ledger=("p4_b2/fp32", "p4_b2_depthwise/bf16", "p4_b2/bf16"),
)


# --- dynamic convolution -----------------------------------------------------------------------

_NORMS = ("in_weight", "in_bias", "out_weight", "out_bias")


def _dynamic_make(*, dtype: torch.dtype, device: torch.device, N: int, channels: int, feat: int,
                  out: int, S: int) -> Inputs:
    to: dict[str, Any] = {"dtype": dtype, "device": device}
    norms = {name: _normal(width, **to) for name, width in zip(_NORMS, (feat, feat, out, out))}
    return {"x": _normal(N, channels, S, **to),
            "params": _normal(N, (channels + out) * feat, **to), **norms}


def _dynamic_run(function: Callable[..., Tensor]) -> Callable[[Inputs], Tensor]:
    return lambda x: function(x["x"], x["params"], *(x[name] for name in _NORMS))


def _dynamic_work(*, dtype: torch.dtype, backward: bool, N: int, channels: int, feat: int,
                  out: int, S: int) -> Work:
    # Backward reads the inputs and the result's gradient and writes two gradients, in four
    # products and the first one again.
    inputs, result = N * (channels * S + (channels + out) * feat), N * S * out
    first, second = 2 * N * S * channels * feat, 2 * N * S * feat * out
    return Work(bytes=(inputs + result + backward * (2 * inputs + result)) * dtype.itemsize,
                flops=first + second + backward * (3 * first + 2 * second))


_PROPOSALS = {"channels": 256, "feat": 64, "out": 256, "S": 49}

DYNAMIC_CONV = Entry(
    name="dynamic_conv",
    kind="operator",
    shapes={"sparse_rcnn_b8": {"N": 2400, **_PROPOSALS},
            "sparse_rcnn_b1": {"N": 300, **_PROPOSALS}},
    tiny={"N": 3, "channels": 12, "feat": 5, "out": 9, "S": 4},
    make=_dynamic_make,
    providers={
        "eager": Provider(_dynamic_run(dynamic_conv_eager)),
        "compile": Provider(_dynamic_run(dynamic_conv_eager), compiled=True),
        "fastdet": Provider(_dynamic_run(dynamic_conv)),
    },
    work=_dynamic_work,
    kernels=("dynamic_conv_",),
    ledger=("sparse_rcnn_b1/fp32", "sparse_rcnn_b1/bf16"),
)


# --- components --------------------------------------------------------------------------------

def _component_make(kind: str, config: Mapping[str, Any]) -> Callable[..., Inputs]:
    def make(*, dtype: torch.dtype, device: torch.device, maps: Sequence[Sequence[int]],
             **changes: Any) -> Inputs:
        from fastdet.models import builder

        torch.manual_seed(0)
        model = getattr(builder, f"build_{kind}")({**config, **changes}).to(device).eval()
        xs = [torch.randn(*shape, device=device).requires_grad_() for shape in maps]
        return {"model": model, **{f"x{i}": x for i, x in enumerate(xs)}, "maps": len(xs),
                "amp": None if dtype == torch.float32 else dtype}
    return make


def _component_run(x: Inputs) -> Any:
    xs = [x[f"x{i}"] for i in range(x["maps"])]
    kind = xs[0].device.type
    with torch.autocast(kind, dtype=x["amp"], enabled=x["amp"] is not None):
        return x["model"](xs[0] if len(xs) == 1 else xs)


def _swin_with(function: Callable[..., Tensor]) -> Callable[[], AbstractContextManager[Any]]:
    """The same Swin with another window attention."""
    def context() -> AbstractContextManager[Any]:
        from fastdet.models.backbones import swin

        return mock.patch.object(swin, "window_attention", function)
    return context


_IMAGES = {"maps": [(2, 3, 800, 1344)]}

SWIN_T = Entry(
    name="swin_t",
    kind="component",
    shapes={"800x1344_b2": _IMAGES},
    tiny={"maps": [(1, 3, 30, 44)], "embed_dims": 32, "depths": (2, 2), "num_heads": (2, 4),
          "strides": (4, 2), "out_indices": (0, 1), "window_size": 4},
    make=_component_make("backbone", {"type": "SwinTransformer"}),
    providers={
        "eager": Provider(_component_run, _swin_with(window_attention_eager)),
        "compile": Provider(_component_run, _swin_with(window_attention_eager), compiled=True),
        "sdpa": Provider(_component_run, _swin_with(peers.window_attention_sdpa)),
        "fastdet": Provider(_component_run),
    },
    dtypes=("fp32", "bf16"),
    kernels=("window_attention_",),
)

RESNET_50 = Entry(
    name="resnet_50",
    kind="component",
    shapes={"800x1344_b2": _IMAGES},
    tiny={"maps": [(1, 3, 40, 64)], "depth": 18, "base_channels": 8},
    make=_component_make("backbone", {"type": "ResNet", "depth": 50}),
    providers={
        "eager": Provider(_component_run, _reference),
        "compile": Provider(_component_run, _reference, compiled=True),
        "fastdet": Provider(_component_run),
    },
    dtypes=("fp32", "bf16"),
)

FPN = Entry(
    name="fpn",
    kind="component",
    shapes={"r50_800x1344_b2": {"maps": [
        (2, 256, 200, 336), (2, 512, 100, 168), (2, 1024, 50, 84), (2, 2048, 25, 42)]}},
    tiny={"maps": [(1, 8, 9, 14), (1, 16, 5, 7)], "in_channels": [8, 16], "out_channels": 8,
          "num_outs": 3},
    make=_component_make("neck", {"type": "FPN", "in_channels": [256, 512, 1024, 2048],
                                  "out_channels": 256, "num_outs": 5}),
    providers={
        "eager": Provider(_component_run, _reference),
        "compile": Provider(_component_run, _reference, compiled=True),
        "fastdet": Provider(_component_run),
    },
    dtypes=("fp32", "bf16"),
)

ENTRIES = {entry.name: entry for entry in (
    GRID_PRIORS, GRID_POINTS, VALID_FLAGS, GAUSSIAN_TARGETS, DRAW_GAUSSIAN, WINDOW_ATTENTION,
    SPATIAL_REDUCTION_ATTENTION, CARAFE, DYRELU, DYHEAD_COMBINE, MULTI_SCALE_DEFORMABLE_ATTENTION,
    DEFORM_CONV2D, DYNAMIC_CONV, SWIN_T, RESNET_50, FPN)}
