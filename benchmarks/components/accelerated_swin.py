"""What ``fastdet.accelerate`` brings to timm's Swin-T."""

from __future__ import annotations

import copy
import importlib.util
from itertools import chain
from typing import Any

import torch

from ..entry import Entry, Inputs, Provider
from ..maps import sizes

_MISSING = [name for name in ("timm", "torchvision") if importlib.util.find_spec(name) is None]
ABSENT = f"{' and '.join(_MISSING)} not installed" if _MISSING else ""


def _make(*, dtype: torch.dtype, device: torch.device, maps: Any, **config: Any) -> Inputs:
    import fastdet

    fastdet.serve_torchvision()
    from timm.models.swin_transformer import SwinTransformer

    x = torch.randn(*maps[0], device=device).requires_grad_()
    config = {"window_size": 7, **config}
    model = SwinTransformer(img_size=maps[0][2:], num_classes=0, drop_path_rate=0.0, **config)
    return {"model": model.to(device).eval(), "x": x,
            "amp": None if dtype == torch.float32 else dtype}


def _run(x: Inputs) -> Any:
    with torch.autocast(x["x"].device.type, dtype=x["amp"], enabled=x["amp"] is not None):
        return x["model"].forward_features(x["x"])


def _accelerated(inputs: Inputs) -> Inputs:
    """The same model, its parameters shared, accelerated."""
    import fastdet

    model = inputs["model"]
    shared: dict[int, Any] = {id(t): t for t in chain(model.parameters(), model.buffers())}
    clone = copy.deepcopy(model, shared)
    fastdet.accelerate(clone)
    return {**inputs, "model": clone}


ENTRY = Entry(
    name="accelerated_swin",
    kind="component",
    shapes={"896x1344_b2": {"maps": [(2, 3, 896, 1344)]}},
    cpu=sizes((224, 448, 1)),
    tiny={"maps": [(1, 3, 32, 32)], "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4),
          "window_size": 4},
    make=_make,
    providers={"eager": Provider(_run), "fastdet": Provider(_run, _accelerated)},
    dtypes=("fp32", "bf16"),
    kernels=("window_attention_",),
)
