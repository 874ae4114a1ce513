"""Golden records: what MMDetection 2.26.0 computed, and how to compute it again.

A record (``tests/golden/*.json.gz`` in the repository) holds a component's constructor arguments,
the names and shapes of its state dict, and samples of the outputs and gradients that MMDetection
had, in float64 on a CPU, for weights and inputs drawn by name with NumPy's Mersenne Twister.
:func:`run` builds the component of the same name in fastdet and computes the same;
:func:`mismatches` compares.
"""

from __future__ import annotations

import gzip
import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastdet.core.mask import BitmapMasks
from fastdet.utils import Config

from .drawn import bitmaps, boxes, draw, polygons

__all__ = ["NOISE", "compare", "decode", "error", "fill", "load", "mismatches",
           "moments", "records", "resolve", "run", "sample", "tensors"]

Case = dict[str, Any]

def records(folder: Path, pattern: str = "*") -> list[Path]:
    """Paths of the records of ``folder`` whose file name matches ``pattern``."""
    return sorted(folder.glob(f"{pattern}.json.gz"))


def load(path: Path) -> Case:
    """A record."""
    return json.loads(gzip.decompress(path.read_bytes()))


#: Below it a float64 number is rounding: gradients that are zero in exact arithmetic (the bias of
#: keys before a softmax, say) were recorded as some 1e-17, and no other order of sums repeats that.
NOISE = 1e-14


# ------------------------------------------------------------------ the recipe of the values
@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Give every floating entry of the state dict the value that is drawn under its name."""
    for name, entry in module.state_dict().items():
        if not entry.is_floating_point():
            continue
        value, leaf = draw(name, entry.shape), name.rpartition(".")[2]
        if leaf == "running_var":
            value = 1 + 0.2 * value.abs()
        elif entry.dim() > 1:
            value = value / math.sqrt(max(1, entry[0].numel()))
        elif leaf in ("weight", "gamma", "scale"):
            value = 1 + 0.1 * value
        else:
            value = 0.1 * value
        entry.copy_(value)


def resolve(path: str) -> Any:
    """``'models.necks.FPN'`` to the object of that name in fastdet."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(["fastdet", *parts[:cut]]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ImportError(f"fastdet.{path}")


def decode(value: Any, dtype: torch.dtype | None, device: torch.device | str | None) -> Any:
    """A record's JSON to Python values and tensors."""
    if isinstance(value, list):
        return [decode(v, dtype, device) for v in value]
    if not isinstance(value, dict):
        return value
    if "__tuple__" in value:
        return tuple(decode(v, dtype, device) for v in value["__tuple__"])
    if "__dtype__" in value:
        return getattr(torch, value["__dtype__"])
    if "__class__" in value:
        return resolve(value["__class__"])
    if "__path__" in value:
        return resolve(value["__path__"])
    if "__config__" in value:
        return Config({"a": decode(value["__config__"], dtype, device)}).a
    if "__new__" in value or "__call__" in value:
        call = value.get("__call__", value)
        if "on" in call:
            made = getattr(decode(call["on"], dtype, device), call["name"])
        else:
            made = resolve(call["name"] if "__call__" in value else call["__new__"])
        return made(*decode(call.get("args", []), dtype, device),
                    **decode(call.get("kwargs", {}), dtype, device))
    if "__numpy__" in value:
        return decode(value["__numpy__"], dtype, "cpu").numpy()
    if "__values__" in value:
        kind = getattr(torch, value.get("dtype", "float32"))
        given = torch.tensor(value["__values__"], dtype=kind, device=device)
        return given.view(value.get("shape", given.shape))
    if "__boxes__" in value:
        kind = getattr(torch, value["dtype"]) if "dtype" in value else dtype
        size = value.get("h", 120), value.get("w", 160)
        return boxes(value["__boxes__"], value["n"], *size, value.get("small", 6.0),
                     value.get("large", 0.5)).to(device, kind)
    if "__bitmap__" in value or "__polygons__" in value:
        size = value["h"], value["w"]
        drawn = boxes(value["__polygons__" if "__polygons__" in value else "__bitmap__"],
                      value["n"], *size)
        if "__polygons__" in value:
            return polygons(drawn, *size)
        masks = bitmaps(drawn, *size)
        return masks if value.get("raw") else BitmapMasks(masks, *size)
    if "__draw__" in value:
        return _drawn(value, dtype, device)
    return {k: decode(v, dtype, device) for k, v in value.items()}


def _drawn(value: Case, dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
    drawn = draw(value["__draw__"], value["shape"], value.get("kind", "normal"))
    drawn = drawn * value.get("scale", 1) + value.get("shift", 0)
    kind = getattr(torch, value["dtype"]) if "dtype" in value else dtype
    if kind == torch.bool:
        return (drawn > value.get("above", 0)).to(device)
    assert kind is not None, "no record draws without a type"
    drawn = (drawn if kind.is_floating_point else drawn.floor()).to(device, kind)
    if value.get("softmax"):
        drawn = drawn.softmax(-1)
    return drawn.requires_grad_(value.get("grad", False))


#: What the records keep of objects that are no tensors, in this order.
_PARTS = ("gt_inds", "max_overlaps", "labels", "pos_inds", "neg_inds", "pos_bboxes", "neg_bboxes",
          "pos_is_gt", "pos_assigned_gt_inds", "pos_gt_labels", "pos_gt_bboxes", "masks", "height",
          "width")


def tensors(value: Any, at: str = "out") -> Iterator[tuple[str, Tensor]]:
    """Every tensor and number in nested containers, with the name the records give it."""
    if isinstance(value, torch.Tensor):
        yield at, value
    elif isinstance(value, np.ndarray):
        if value.dtype == object:
            yield from tensors(list(value), at)
        else:
            yield at, torch.from_numpy(np.ascontiguousarray(value))
    elif isinstance(value, bytes):  # a run-length code
        yield at, torch.tensor(list(value))
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from tensors(value[key], f"{at}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from tensors(item, f"{at}[{i}]")
    elif isinstance(value, (int, float, np.number, np.bool_)):
        yield at, torch.tensor(float(value), dtype=torch.float64)
    else:
        for part in _PARTS:
            if hasattr(value, part):
                yield from tensors(getattr(value, part), f"{at}.{part}")


# ------------------------------------------------------------------ running a record
def run(case: Case, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu",
        grad: bool = True) -> Case:
    """Compute what a record describes: ``{part: {name: tensor}}`` and the facts of the module."""
    if case["form"] == "calls":
        return {"results": _run_calls(case, device)}
    module = resolve(case["target"])(*decode(case.get("args", []), dtype, device),
                                     **decode(case.get("kwargs", {}), dtype, device))
    got: Case = {"state": {k: list(v.shape) for k, v in module.state_dict().items()}}
    fill(module)
    module.to(device=device, dtype=dtype).train()
    got["frozen"] = sorted(k for k, p in module.named_parameters() if not p.requires_grad)
    got["eval_in_train"] = {k for k, m in module.named_modules()
                            if k and not m.training and not list(m.children())}
    module.eval()
    inputs = decode(case["inputs"], dtype, device)
    grad = grad and not case.get("no_input_grad")
    leaves = dict(tensors(inputs, "in"))
    for leaf in leaves.values():
        leaf.requires_grad_(grad and leaf.is_floating_point())
    method = getattr(module, case.get("method") or "__call__")
    with torch.set_grad_enabled(grad):
        out = method(*inputs, **decode(case.get("input_kwargs", {}), dtype, device))
    got["outputs"] = dict(tensors(out))
    loss = sum((t * draw("cotangent" + at, t.shape).to(t)).sum() / math.sqrt(max(1, t.numel()))
               for at, t in got["outputs"].items() if t.is_floating_point() and t.requires_grad)
    if isinstance(loss, torch.Tensor):
        loss.backward()
        got["input_grads"] = {k: t.grad for k, t in leaves.items() if t.grad is not None}
        got["param_grads"] = {k: p.grad for k, p in module.named_parameters() if p.grad is not None}
    return got


def _run_calls(case: Case, device: torch.device | str) -> list[dict[str, Tensor]]:
    owner = None
    if "construct" in case:
        made = case["construct"]
        owner = resolve(made["target"])(*decode(made.get("args", []), torch.float32, device),
                                        **decode(made.get("kwargs", {}), torch.float32, device))
    results = []
    for call in case["calls"]:
        found = resolve(call["name"]) if owner is None else getattr(owner, call["name"])
        if call.get("seed") is not None:
            torch.manual_seed(call["seed"])
        args = decode(call.get("args", []), torch.float32, device)
        kwargs = decode(call.get("kwargs", {}), torch.float32, device)
        results.append(dict(tensors(found(*args, **kwargs) if callable(found) else found)))
    return results


# ------------------------------------------------------------------ comparing with the record
def sample(tensor: Tensor, count: int) -> np.ndarray:
    """The evenly spaced elements that a record keeps of a tensor, as float64."""
    flat = tensor.detach().cpu().reshape(-1).double()
    if flat.numel() <= 2 * count:
        return flat.numpy()
    at = torch.linspace(0, flat.numel() - 1, count, dtype=torch.float64).round().long()
    return flat[at].numpy()


def error(want: Case, tensor: Tensor) -> float:
    """Largest error of the recorded samples, as a share of the tensor's spread."""
    expected = np.array(want["values"], dtype=np.float64)
    if expected.size == 0:
        return 0.0
    finite = np.abs(expected[np.isfinite(expected)])
    std = want.get("std", 0.0)
    spread = max(std if math.isfinite(std) else 0.0, 1e-3 * float(finite.max(initial=0.0)), 1e-12)
    got = sample(tensor, len(expected))
    with np.errstate(invalid="ignore"):
        same = (expected == got) | (np.isnan(expected) & np.isnan(got)) | (
            np.maximum(np.abs(expected), np.abs(got)) < NOISE)
        delta = np.where(same, 0.0, np.abs(expected - got))
    return float(np.nan_to_num(delta, nan=np.inf).max()) / spread


def moments(tensor: Tensor) -> dict[str, float]:
    """The sums by which a record sees the elements that it does not keep."""
    flat = tensor.detach().cpu()
    if not flat.is_floating_point():
        return {"sum": int(flat.long().sum())}
    flat = flat.double()
    return {"mean": float(flat.mean()), "std": float(flat.std(unbiased=False))}


def compare(part: str, wants: Case, gots: dict[str, Tensor], tolerance: float,
            single: float = 0.0) -> Iterator[str]:
    """Sentences on what differs between one part of a record and the run.

    Args:
        part: the name of the part.
        wants: of each name the recorded shape, data type, samples and moments.
        gots: the tensors.
        tolerance: granted to each sample, as a share of its tensor's spread.
        single: granted where MMDetection itself was not in float64, if that is more.
    """
    if set(wants) != set(gots):
        yield f"{part}: only on one side: {sorted(set(wants) ^ set(gots))[:4]}"
    for name in wants.keys() & gots.keys():
        want, got = wants[name], gots[name]
        if want["shape"] != list(got.shape):
            yield f"{part} {name}: shape {list(got.shape)}, MMDetection has {want['shape']}"
        elif (want["dtype"] == "bool") != (got.dtype == torch.bool):
            yield f"{part} {name}: {got.dtype}, MMDetection has {want['dtype']}"
        else:
            limit = tolerance if want["dtype"] == "float64" else max(tolerance, single)
            off = error(want, got)
            if off > limit:
                yield f"{part} {name}: off by {off:.1e} of its spread, {limit:.0e} is granted"
            for key, mine in moments(got).items() if got.numel() else ():
                if key not in want:  # a number of Python, of whatever type
                    continue
                granted = max(10 * limit * max(want.get("std", 0.0), abs(want[key])), NOISE)
                if abs(mine - want[key]) > granted:
                    yield f"{part} {name}: {key} {mine!r}, MMDetection has {want[key]!r}"


def mismatches(case: Case, got: Case, tolerance: float = 1e-7) -> list[str]:
    """Sentences on everything in which a run differs from its record."""
    want = case["want"]
    if case["form"] == "calls":
        assert len(want["results"]) == len(got["results"])
        # Anchors, points and flags are compared bit for bit.
        limit = 0.0 if case["kind"] == "anchor" else case.get("tol", 1e-6)
        return [f"call {i} of {case['calls'][i]['name']}: {text}"
                for i, (w, g) in enumerate(zip(want["results"], got["results"]))
                for text in compare("results", w, g, limit)]
    found = []
    state = {k: shape for k, shape, _ in want["state"]}
    if list(state) != list(got["state"]) or state != got["state"]:
        odd = sorted(set(state) ^ set(got["state"]))
        found.append(f"state dict: only on one side: {odd[:6]}; or another order or shape")
    if want["frozen"] != got["frozen"]:
        found.append(f"frozen: {sorted(set(want['frozen']) ^ set(got['frozen']))[:6]}")
    owners = {k.rpartition(".")[0] for k in state}
    modes = sorted((set(want.get("eval_in_train", [])) ^ got["eval_in_train"]) & owners)
    if modes:
        found.append(f"train(): layers in another mode: {modes[:6]}")
    for part in ("outputs", "input_grads", "param_grads"):
        found += compare(part, want.get(part, {}), got.get(part, {}), tolerance, 2e-5)
    return found
