"""How the entries of other packages' models build one and accelerate a copy of it."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .entry import Entry, Inputs, Provider

__all__ = ["absent", "entry"]


def absent(*packages: str) -> str:
    """Why a model cannot be built here, else empty; torchvision is imported by all of them."""
    missing = [name for name in dict.fromkeys((*packages, "torchvision"))
               if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed" \
        if missing else ""


def _make(build: Callable[..., nn.Module]) -> Callable[..., Inputs]:
    def make(*, dtype: torch.dtype, device: torch.device, maps: Sequence[Sequence[int]],
             **config: Any) -> Inputs:
        import fastdet

        fastdet.serve_torchvision()
        # In a checkout transformers would take our folder for the package of that name.
        sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
        torch.manual_seed(0)
        x = torch.randn(*maps[0], device=device).requires_grad_()
        return {"model": build(tuple(maps[0][2:]), **config).to(device).eval(), "x": x,
                "amp": None if dtype == torch.float32 else dtype}
    return make


def _run(x: Inputs) -> Tensor:
    with torch.autocast(x["x"].device.type, dtype=x["amp"], enabled=x["amp"] is not None):
        out = x["model"](x["x"])
    return out if isinstance(out, Tensor) else out.last_hidden_state


def _accelerated(fold: bool) -> Callable[[Inputs], Inputs]:
    """The same model, its parameters shared where they stay what they are, accelerated."""
    def prepare(inputs: Inputs) -> Inputs:
        import fastdet

        model = inputs["model"]
        shared: dict[int, Any] = {} if fold else \
            {id(t): t for t in chain(model.parameters(), model.buffers())}
        clone = copy.deepcopy(model, shared)
        done = fastdet.accelerate(clone, fold=fold, force=True)
        if not (done.swapped or done.folded):
            raise RuntimeError(f"nothing to accelerate: {done}")
        return {**inputs, "model": clone}
    return prepare


def entry(name: str, build: Callable[..., nn.Module], size: tuple[int, int],
          tiny: Mapping[str, Any], fold: bool = False, kernels: Sequence[str] = ()) -> Entry:
    """A built model as it is, and accelerated; every known module is swapped, so that the figure
    says whether it should be.

    Args:
        build: ``build((height, width), **config)``.
        size: height and width of the image on a CPU; on a GPU it is larger.
        tiny: ``{"maps": [(B, 3, H, W)], **config}``.
        fold: with batch norms folded, for inference alone.
    """
    def maps(b: int, scale: int) -> dict[str, Any]:
        return {"maps": [(b, 3, size[0] * scale, size[1] * scale)]}

    return Entry(
        name=name, kind="model", shapes={f"{size[0] * 3}x{size[1] * 3}_b2": maps(2, 3)},
        cpu={f"{size[0]}x{size[1]}_b1": maps(1, 1)}, tiny=tiny, make=_make(build),
        providers={"eager": Provider(_run), "fastdet": Provider(_run, _accelerated(fold))},
        dtypes=("fp32", "bf16"), trains=not fold, kernels=kernels)
