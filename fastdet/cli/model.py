"""From a config or a name to a backbone and neck with weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cli.console import warn
from fastdet.cli.errors import CliError, first_line
from fastdet.cli.image import Normalization, normalization_of
from fastdet.cli.presets import PRESETS, preset
from fastdet.models import build_backbone, build_neck
from fastdet.runner import CheckpointLoader, find_state_dict, load_state_dict
from fastdet.utils import Config, ConfigError

__all__ = ["USER_ERRORS", "addresses", "build", "load", "model_config", "without_weights"]

# What a wrong config or checkpoint makes constructors and layers raise.
USER_ERRORS = (KeyError, TypeError, ValueError, AssertionError, AttributeError, IndexError,
               RuntimeError, OSError)

_INIT_KEYS = ("init_cfg", "override")


def model_config(model: str, config: str | None) -> tuple[str, dict[str, Any], Normalization]:
    """A name, a ``model`` config and how its input is normalised.

    Raises:
        CliError: the name is unknown, or the config cannot be read or has no backbone.
    """
    if config is None:
        if model not in PRESETS:
            raise CliError(f"unknown model {model!r}; known are {', '.join(PRESETS)}")
        return model, preset(model), Normalization()
    try:
        read = Config.fromfile(config, import_custom_modules=False)
    except ConfigError as e:
        raise CliError(first_line(e)) from None
    found = read.get("model")
    if not isinstance(found, dict) or not isinstance(found.get("backbone"), dict):
        raise CliError(f"{config}: the config has no model with a backbone")
    return Path(config).stem, found, normalization_of(dict(read.items()))


def _loads(init: Any) -> bool:
    """Whether one ``init_cfg`` or ``override`` reads a checkpoint."""
    # The type is implied where a checkpoint is named: the zoo's PVT configs leave it out.
    return isinstance(init, dict) and ("checkpoint" in init
                                       or str(init.get("type")).endswith("Pretrained"))


def without_weights(cfg: Any) -> Any:
    """A config without what would read weights: ``pretrained``, and every form of ``init_cfg``."""
    if isinstance(cfg, dict):
        kept = {}
        for key, value in cfg.items():
            if key == "pretrained" or (key in _INIT_KEYS and _loads(value)):
                continue
            if key in _INIT_KEYS and isinstance(value, (list, tuple)):
                value = [v for v in value if not _loads(v)]
                if not value:  # an empty list has a meaning of its own: no initialisation
                    continue
            kept[key] = without_weights(value)
        return kept
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(map(without_weights, cfg))
    return cfg


def addresses(value: Any) -> Iterator[str]:
    """The strings in a config that name another machine."""
    if isinstance(value, str) and re.match(r"\s*[\w.+-]+://", value):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from addresses(item)


def build(name: str, cfg: dict[str, Any], allow_download: bool = False) -> nn.ModuleDict:
    """The backbone and neck of a ``model`` config, initialised.

    Args:
        name: what messages call the model.
        cfg: the config.
        allow_download: read the weights that the config names; they are left out otherwise.

    Raises:
        CliError: a part cannot be built, or names an address where none may be opened.
    """
    parts = nn.ModuleDict()
    for part, make in (("backbone", build_backbone), ("neck", build_neck)):
        if cfg.get(part) is None:
            continue
        own = cfg[part] if allow_download else without_weights(cfg[part])
        named = ", ".join(addresses(own))
        if named and not allow_download:
            raise CliError(f"the {part} of {name} names {named}, which is opened only with "
                           "--allow-download")
        try:
            parts[part] = make(own)
            init_weights = getattr(parts[part], "init_weights", None)
            if callable(init_weights):
                init_weights()
        except USER_ERRORS as e:
            source = f" with the weights of {named}" if named else ""
            raise CliError(f"the {part} of {name} cannot be built{source}: {first_line(e)}") from e
    return parts.eval()


def load(model: nn.ModuleDict, path: str) -> str:
    """Load a checkpoint; returns what it is, for the caption.

    Raises:
        CliError: it cannot be read, is none, is of another model, or holds NaN or infinity.
    """
    try:
        state = find_state_dict(CheckpointLoader.load_checkpoint(path, map_location="cpu"))
    except (OSError, ValueError, RuntimeError, TypeError) as e:
        told = first_line(e)
        raise CliError(told if path in told else f"{path} cannot be read: {told}") from None
    own = {k.removeprefix("module."): v for k, v in state.items()}
    own = {k: v for k, v in own.items() if k.startswith(tuple(f"{part}." for part in model))}
    if not own.keys() & model.state_dict().keys():
        raise CliError(f"{path} has no weights of this model; its first key is "
                       f"{next(iter(state), None)!r}")
    for key, value in own.items():
        if not isinstance(value, Tensor):
            raise CliError(f"{path} is no state dict: {key!r} is a {type(value).__name__}, not a "
                           "tensor")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CliError(f"{path} holds NaN or infinity, first in {key!r}: the model cannot "
                           "give anything but that")
    try:
        load_state_dict(model, own, strict=True)
    except RuntimeError as e:  # what matches is loaded all the same
        for line in str(e).splitlines()[1:]:
            warn(f"{Path(path).name}: {line if len(line) < 400 else line[:397] + '...'}")
        return f"{Path(path).name} (in part)"
    except USER_ERRORS as e:
        raise CliError(f"{path} cannot be loaded into this model: {first_line(e)}") from e
    return Path(path).name
