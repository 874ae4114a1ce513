"""Golden records of whole detectors, and of the functions and classes that they are made of.

A record (``tests/golden/detectors/*.json.gz`` in the repository) of a detector holds a config of
the model zoo, made small, and what MMDetection 2.26.0 computed with it on drawn images: the state
dict, raw outputs of the heads (``feats``), losses and gradients (``train``), results (``test``).
One of a unit holds calls and what they returned, with gradients. Nothing in them is random: see
:func:`settled`.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
import zlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from fastdet import ops
from fastdet.cnn.bricks import registry as bricks
from fastdet.core.anchor.builder import PRIOR_GENERATORS
from fastdet.core.bbox import builder as matching
from fastdet.core.bbox.iou_calculators.builder import IOU_CALCULATORS
from fastdet.core.bbox.match_costs.builder import MATCH_COST
from fastdet.models import build_detector
from fastdet.models.builder import MODELS
from fastdet.models.utils import builder as parts
from fastdet.utils import Config
from fastdet.utils.registry import Registry

from . import drawn, golden

__all__ = ["STAGES", "build", "mismatches", "missing", "quiet", "run", "settled"]

Case = golden.Case

STAGES = ("state", "feats", "train", "test")

_REGISTRIES = [MODELS, PRIOR_GENERATORS, IOU_CALCULATORS, MATCH_COST,
               *(found for module in (bricks, matching, parts) for found in vars(module).values()
                 if isinstance(found, Registry))]


def _is_there(path: str) -> bool:
    try:
        golden.resolve(path)
    except (AttributeError, ImportError):
        return False
    return True


def missing(case: Case) -> set[str]:
    """What a record names and fastdet does not have: types of a config, functions and classes."""
    if case.get("form") == "unit":
        paths = (call["on"].get("__new__") if "on" in call else call["name"]
                 for call in case["calls"])
        return {path for path in paths if path is not None and not _is_there(path)}
    named = set()

    def walk(value: Any) -> None:
        for child in value.values() if isinstance(value, dict) else value:
            if isinstance(child, (dict, list)):
                walk(child)
        if isinstance(value, dict) and isinstance(value.get("type"), str):
            named.add(value["type"])

    walk(case["model"])
    plain = {"nms", "soft_nms", "bilinear", "dilation", "offset",  # no classes
             "conv", "interpolation_conv", "last_conv"}  # FPG's connections
    return {name for name in named - plain
            if not hasattr(ops, name) and all(name not in r for r in _REGISTRIES)}


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """Random draws that are the same everywhere.

    A permutation is the identity; uniform numbers depend on the shape of their tensor alone; the
    seeds of all other draws are 0.
    """

    def randperm(n: int, **kwargs: Any) -> Tensor:
        return torch.arange(n, device=kwargs.get("device"))

    def rand(*size: Any, **kwargs: Any) -> Tensor:
        shape = size[0] if isinstance(size[0], Sequence) else size
        return drawn.draw("rand", shape, "uniform").to(
            kwargs.get("device"), kwargs.get("dtype") or torch.get_default_dtype())

    @torch.no_grad()
    def uniform_(self: Tensor, low: float = 0.0, high: float = 1.0, **kwargs: Any) -> Tensor:
        return self.copy_(low + (high - low) * drawn.draw("uniform_", self.shape, "uniform"))

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    with (mock.patch.object(torch, "randperm", randperm), mock.patch.object(torch, "rand", rand),
          mock.patch.object(Tensor, "uniform_", uniform_)):
        yield


# ------------------------------------------------------------------ models
@torch.no_grad()
def _fill(model: nn.Module) -> None:
    """As :func:`golden.fill`, but what a formula gives stays, and learnt boxes lie in the image."""
    formulas = {name: value.clone() for name, value in model.named_buffers()
                if name.rpartition(".")[2] in ("project", "edges")}
    golden.fill(model)
    for name, value in model.named_buffers():
        if name in formulas:
            value.copy_(formulas[name])
    for name, value in model.named_parameters():
        if name.endswith("init_proposal_bboxes.weight"):
            share = drawn.draw(name, value.shape, "uniform")
            value.copy_(share * torch.tensor([0.6, 0.6, 0.7, 0.7])
                        + torch.tensor([0.2, 0.2, 0.1, 0.1]))


def build(case: Case, dtype: torch.dtype | None = None,
          device: torch.device | str = "cpu") -> nn.Module:
    """The detector of a record with its drawn weights.

    Args:
        case: the record.
        dtype: of the weights; by default the record's.
        device: of the weights.
    """
    dtype = getattr(torch, case.get("dtype", "float64")) if dtype is None else dtype
    config = golden.decode(copy.deepcopy(case["model"]), None, None)
    model = build_detector(Config({"model": config}).model)
    _fill(model)
    teacher = getattr(model, "teacher_model", None)  # of distillation: no submodule
    if isinstance(teacher, nn.Module):
        _fill(teacher)
        teacher.to(device, dtype)
    return model.to(device, dtype)


def quiet(model: nn.Module) -> nn.Module:
    """Train mode, but batch statistics are the running ones and nothing is dropped."""
    model.train()
    for module in model.modules():
        if (isinstance(module, nn.modules.batchnorm._BatchNorm)
                or "Drop" in type(module).__name__):
            module.eval()
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


# ------------------------------------------------------------------ what comes out, made small
def _boxes(value: Any) -> bool:
    return isinstance(value, (np.ndarray, Tensor)) and value.ndim == 2 and value.shape[1] in (4, 5)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def _mask_facts(mask: Any) -> list[int]:
    """Area, sum of the rows and sum of the columns."""
    rows, columns = np.nonzero(_array(mask) > 0.5)
    return [len(rows), int(rows.sum()), int(columns.sum())]


def _joined(each: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.atleast_1d(_array(v)) for v in each])).double()


def _facts(found: Any) -> Any:
    """What a record keeps of a detector's results: boxes, areas of masks, maps."""
    if isinstance(found, dict):
        return {key: _facts(value) for key, value in found.items()}
    if isinstance(found, tuple):
        return {f"[{i}]": _facts(value) for i, value in enumerate(found)}
    if isinstance(found, list) and found:
        if all(_boxes(v) for v in found) and len({v.shape[1] for v in found}) == 1:
            return {"counts": [len(v) for v in found], "boxes": _joined(found)}
        inner = [m for v in found if isinstance(v, list) for m in v]
        if all(isinstance(v, list) for v in found) and all(
                getattr(m, "ndim", 0) == 2 and min(m.shape) > 5 for m in inner):
            return {"counts": [len(v) for v in found],
                    "shape": list(inner[0].shape) if inner else [],
                    "masks": [_mask_facts(m) for m in inner]}
        if all(isinstance(v, (np.ndarray, np.floating, float, Tensor))
               and getattr(v, "ndim", 0) < 2 for v in found):
            return {"counts": [int(np.size(_array(v))) for v in found], "numbers": _joined(found)}
    if isinstance(found, list):
        return [_facts(value) for value in found]
    if isinstance(found, (np.ndarray, Tensor)):
        array = torch.from_numpy(np.ascontiguousarray(_array(found)))
        if not array.is_floating_point() and array.ndim == 2:  # a map of ids
            ids, areas = array.unique(return_counts=True)
            return {"shape": list(array.shape), "ids": ids.tolist(), "areas": areas.tolist()}
        return {"numbers": array.double()}
    return found if found is None else {"value": found}


# ------------------------------------------------------------------ running
def _head_outputs(case: Case, model: Any, dtype: torch.dtype,
                  device: torch.device | str) -> dict[str, Tensor]:
    img, metas, _ = drawn.batch(case["batch"], dtype, device)
    for meta in metas:
        meta["batch_input_shape"] = tuple(img.shape[-2:])
    feats = model.extract_feat(img)
    outs = dict(golden.tensors(feats, "feats"))
    for name, takes in case["heads"]:
        head = model.get_submodule(name)
        last = [feats[-1]] if isinstance(feats, (list, tuple)) else feats
        args = {"feats": (feats,), "last": (last,), "metas": (feats, metas)}[takes]
        outs.update(golden.tensors(head(*args), name))
    return outs


def _trained(case: Case, model: nn.Module, dtype: torch.dtype,
             device: torch.device | str) -> Case:
    img, metas, gts = drawn.batch(case["batch"], dtype, device)
    losses = model(img=img, img_metas=metas, return_loss=True, **gts)
    each = {name: list(v) if isinstance(v, (list, tuple)) else [v] for name, v in losses.items()}
    total = sum(v.mean() for name, values in each.items() if "loss" in name for v in values)
    assert isinstance(total, Tensor)
    model.zero_grad()
    total.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"losses": {name: [float(v.detach().double().mean()) for v in values]
                       for name, values in each.items()},
            "total": float(total.detach()), "with_grad": len(grads), "grads": grads,
            "grad_norm": math.sqrt(sum(float(g.double().square().sum()) for g in grads.values()))}


def _tested(case: Case, test: Case, model: nn.Module, dtype: torch.dtype,
            device: torch.device | str) -> Any:
    imgs, metas = [], []
    more: Case = {}
    for view in test.get("views", [{}]):
        spec = {**case["batch"], "images": [{**image, **view} for image in
                                            case["batch"]["images"][:test.get("images")]]}
        img, of_view, gts = drawn.batch(spec, dtype, device)
        imgs.append(img.flip(3) if view.get("flip") else img)
        metas.append(of_view)
        if "proposals" in gts:
            more.setdefault("proposals", []).append(gts["proposals"])
    return _facts(model(img=imgs, img_metas=metas, return_loss=False,
                        rescale=test.get("rescale", True), **more))


def _run_detector(case: Case, stages: Sequence[str], device: torch.device | str) -> Case:
    own: str = case.get("dtype", "float64")
    dtype: torch.dtype = getattr(torch, own)
    model = build(case, dtype, device)
    got: Case = {"state": [[k, list(v.shape)] for k, v in model.state_dict().items()]}
    if "feats" in stages:
        with settled(), torch.no_grad():
            got["feats"] = _head_outputs(case, model.eval(), dtype, device)
    if "train" in stages and "losses" in case["want"]:
        with settled():
            got.update(_trained(case, quiet(model), dtype, device))
    if "test" in stages and case["test"]:
        dtype = getattr(torch, str(case.get("test_dtype", own)))
        model.eval().to(dtype)
        got["results"] = {}
        for name, test in case["test"].items():
            with settled(), torch.no_grad():
                got["results"][name] = _tested(case, test, model, dtype, device)
    return got


def _call(call: Case, device: torch.device | str) -> Case:
    args, kwargs = (golden.decode(call.get(part, empty), torch.float64, device)
                    for part, empty in (("args", []), ("kwargs", {})))
    owner = golden.decode(call.get("on"), torch.float64, device)
    if isinstance(owner, nn.Module):
        _fill(owner)
        owner.to(device, torch.float64).train(call.get("training", True))
    found = golden.resolve(call["name"]) if owner is None else (
        getattr(owner, call["name"]) if call.get("name") else owner)
    out = found(*args, **kwargs) if callable(found) else found
    if call.get("strings"):
        out = [zlib.crc32(str(text).encode()) for text in out]
    got: Case = {"out": dict(golden.tensors(out))}
    total = sum((t * drawn.draw("cotangent" + at, t.shape).to(t)).sum()
                for at, t in got["out"].items() if t.is_floating_point() and t.requires_grad)
    if isinstance(total, Tensor):
        total.backward()
        leaves = dict(golden.tensors([args, kwargs], "in"))
        if isinstance(owner, nn.Module):
            leaves.update(owner.named_parameters())
        got["grad"] = {at: t.grad for at, t in leaves.items() if t.is_leaf and t.grad is not None}
    return got


def _run_unit(case: Case, device: torch.device | str) -> Case:
    results = []
    for call in case["calls"]:
        with settled():
            try:
                results.append(_call(call, device))
            except Exception as error:
                if not call.get("raises"):
                    raise
                results.append({"raises": type(error).__name__})
    return {"results": results}


def run(case: Case, stages: Sequence[str] = STAGES, device: torch.device | str = "cpu") -> Case:
    """Compute what a record describes.

    Args:
        case: the record.
        stages: of a detector, those of :data:`STAGES` to compute.
        device: where.
    """
    if case["form"] == "detector":
        return _run_detector(case, stages, device)
    return _run_unit(case, device)


# ------------------------------------------------------------------ comparing
def _masks_differ(wants: Any, gots: Any) -> bool:
    """Whether a mask differs in more than two pixels and half a per cent of its own."""
    want, got = np.array(wants, dtype=float).reshape(-1, 3), np.array(gots, dtype=float).reshape(
        -1, 3)
    granted = np.maximum(2.0, 0.005 * want[:, :1]) * np.array([1, 1000, 1000])
    return bool((np.abs(want - got) > granted).any())


def _differences(at: str, want: Any, got: Any, tolerance: float) -> Iterator[str]:
    """Sentences on what differs between two descriptions of results."""
    if isinstance(got, Tensor) and isinstance(want, dict):
        yield from golden.compare(at, {"": want}, {"": got}, tolerance)
    elif isinstance(want, dict) and isinstance(got, dict):
        if set(want) != set(got):
            yield f"{at}: {sorted(got)}, MMDetection has {sorted(want)}"
        for key in want.keys() & got.keys():
            yield from _differences(f"{at}.{key}", want[key], got[key], tolerance)
    elif isinstance(want, list) and isinstance(got, list):
        if len(want) != len(got):
            yield f"{at}: {len(got)} entries, MMDetection has {len(want)}"
        elif at.endswith(".masks"):
            if _masks_differ(want, got):
                yield f"{at}: {got}, MMDetection has {want}"
        elif at.endswith(".areas"):
            if any(abs(w - g) > 2 for w, g in zip(want, got)):
                yield f"{at}: {got}, MMDetection has {want}"
        else:
            for i, (w, g) in enumerate(zip(want, got)):
                yield from _differences(f"{at}[{i}]", w, g, tolerance)
    elif isinstance(want, float) and isinstance(got, (int, float)):
        off = abs(want - got)
        both_nan = math.isnan(want) and math.isnan(got)
        if not (off <= tolerance * max(abs(want), abs(got), 1e-6) or both_nan or want == got):
            yield f"{at}: {got!r}, MMDetection has {want!r}"
    elif want != got:
        yield f"{at}: {got!r}, MMDetection has {want!r}"


def mismatches(case: Case, got: Case, tolerance: float = 1e-6) -> list[str]:
    """Sentences on everything in which a run differs from its record.

    Args:
        case: the record, which grants more than ``tolerance`` where MMDetection's own numbers
            depend on the order of a sum.
        got: what :func:`run` returned; stages that were not run are not compared.
        tolerance: relative, of numbers in float64.
    """
    want, limit, found = case["want"], max(tolerance, case.get("tol", 0.0)), []
    if case["form"] != "detector":
        assert len(want["results"]) == len(got["results"])
        for call, w, g in zip(case["calls"], want["results"], got["results"]):
            name = call.get("name") or call["on"]["__new__"]
            granted = max(limit, call.get("tol", 0.0))
            if set(w) != set(g):
                found.append(f"{name}: {sorted(g)}, MMDetection has {sorted(w)}")
            for part in w.keys() & g.keys() & {"out", "grad"}:
                found += golden.compare(f"{name} {part}", w[part], g[part], granted)
            if w.get("raises") != g.get("raises"):
                found.append(f"{name} raises {g.get('raises')}, in MMDetection {w.get('raises')}")
        return found
    if want["state"] != got["state"]:
        odd = [entry for entry in got["state"] if entry not in want["state"]]
        lost = [entry for entry in want["state"] if entry not in got["state"]]
        found.append(f"state dict: {lost[:4]} are missing, {odd[:4]} are not MMDetection's; or "
                     "another order")
    loose = set(case.get("unstable", []))
    for part in ("feats", "losses", "total", "with_grad", "grad_norm", "grads"):
        if part in got and part not in loose:
            mine = got[part]
            if part == "grads":  # of some parameters
                mine = {name: mine[name] for name in want[part].keys() & mine.keys()}
            found += _differences(part, want[part], mine, limit)
    for name, result in got.get("results", {}).items() if "results" not in loose else ():
        if f"results.{name}" not in loose:
            found += _differences(f"results.{name}", want["results"][name], result,
                                  max(tolerance, case.get("test_tol", limit)))
    return found
