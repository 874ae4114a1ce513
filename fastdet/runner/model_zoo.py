"""Names of pretrained weights that configs of MMDetection give, and where the weights lie.

``model_zoo.json`` is the table that mmcv 1.7.2 has: addresses by name.
"""

from __future__ import annotations

import difflib
import functools
import json
import warnings
from importlib.resources import files
from typing import Any

from .checkpoint import CheckpointLoader, find_state_dict

__all__ = ["known_models"]


@functools.cache
def known_models() -> dict[str, dict[str, str]]:
    """Addresses by name for ``open-mmlab`` and ``mmcls``, and new names by the old, ``renamed``."""
    return json.loads((files(__package__) / "model_zoo.json").read_text())


def _address(name: str, scheme: str) -> str:
    model = name.partition("://")[2]
    if (new := known_models()["renamed"].get(model)) and scheme == "open-mmlab":
        warnings.warn(f"{scheme}://{model} is deprecated in favor of {scheme}://{new}",
                      stacklevel=2)
        model = new
    table = known_models()[scheme]
    if model not in table:
        near = difflib.get_close_matches(model, table, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(table)}"
        raise ValueError(f"cannot load {name}: there are no such weights; {hint}")
    return table[model]


@CheckpointLoader.register_scheme(["open-mmlab://", "openmmlab://"])
def _load_open_mmlab(name: str, map_location: Any) -> Any:
    return CheckpointLoader.load_checkpoint(_address(name, "open-mmlab"), map_location)


@CheckpointLoader.register_scheme("mmcls://")
def _load_mmcls(name: str, map_location: Any) -> Any:
    checkpoint = CheckpointLoader.load_checkpoint(_address(name, "mmcls"), map_location)
    # Of a classifier a detector takes the backbone.
    return {"state_dict": {key.removeprefix("backbone."): value
                           for key, value in find_state_dict(checkpoint).items()
                           if key.startswith("backbone.")}}
