"""How the entries of components build a module, run it, and give it another attention."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .entry import Inputs, Provider

__all__ = ["make", "mmdetection", "run", "swapped"]


def make(kind: str, config: Mapping[str, Any]) -> Callable[..., Inputs]:
    """The ``make`` of a component: its config, changed by the shape's keywords, and its maps."""
    def make_inputs(*, dtype: torch.dtype, device: torch.device, maps: Sequence[Sequence[int]],
                    **changes: Any) -> Inputs:
        from fastdet.models import builder

        torch.manual_seed(0)
        model = getattr(builder, f"build_{kind}")({**config, **changes}).to(device).eval()
        xs = [torch.randn(*shape, device=device).requires_grad_() for shape in maps]
        return {"model": model, "changes": changes, "maps": len(xs),
                **{f"x{i}": x for i, x in enumerate(xs)},
                "amp": None if dtype == torch.float32 else dtype}
    return make_inputs


def run(x: Inputs) -> Any:
    """The module on its maps, half types as autocast."""
    xs = [x[f"x{i}"] for i in range(x["maps"])]
    with torch.autocast(xs[0].device.type, dtype=x["amp"], enabled=x["amp"] is not None):
        return x["model"](xs[0] if len(xs) == 1 else xs)


def swapped(kind: type[nn.Module], peer: type[nn.Module]) -> Callable[[Inputs], Inputs]:
    """A ``prepare``: the same module with every ``kind`` in it as a ``peer``, a subclass.

    The copy shares parameters and buffers, so its gradients are those of the module.
    """
    def prepare(inputs: Inputs) -> Inputs:
        model = inputs["model"]
        shared: dict[int, Tensor] = {
            id(t): t for t in chain(model.parameters(), model.buffers())}
        clone = copy.deepcopy(model, shared)
        for module in clone.modules():
            if type(module) is kind:
                module.__class__ = peer
        return {**inputs, "model": clone}
    return prepare


def _lacks_mmdetection() -> str:
    """Why MMDetection itself cannot run here, else empty; found out without importing it."""
    if importlib.util.find_spec("mmdet") is None:
        return "mmdet is not installed"
    spec = importlib.util.find_spec("mmcv")
    if spec is None or spec.origin is None:
        return "mmcv is not installed"
    if not list(Path(spec.origin).parent.glob("_ext*.so")):
        return "the mmcv that is installed has no compiled operators (mmcv-full)"
    return ""


def mmdetection(kind: str, config: Mapping[str, Any]) -> tuple[dict[str, Provider], dict[str, str]]:
    """The real MMDetection's module with the same weights, where it and the real mmcv are there.

    Returns:
        The provider ``'mmdet'``, or why there is none; for an entry's ``providers`` and ``absent``.
    """
    if why := _lacks_mmdetection():
        return {}, {"mmdet": why}

    def prepare(inputs: Inputs) -> Inputs:
        import mmdet.models

        ours = inputs["model"]
        theirs = getattr(mmdet.models, f"build_{kind}")({**config, **inputs["changes"]})
        theirs.load_state_dict(ours.state_dict())
        x = next(ours.parameters())
        theirs.to(x.device, x.dtype).eval()  # MMDetection's backbones return nothing from it
        return {**inputs, "model": theirs}

    return {"mmdet": Provider(run, prepare)}, {}
