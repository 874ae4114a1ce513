"""Old forms of a config's settings, in the form that they have now."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from fastdet.utils import ConfigDict

__all__ = ["compat_cfg"]

_IMAGES = "imgs_per_gpu"


def compat_cfg(cfg: Any) -> Any:
    """A copy of a config with the settings of loaders and runner where MMDetection 2.26 has them.

    ``data.samples_per_gpu`` and such go to ``data.train_dataloader``, ``val_dataloader`` and
    ``test_dataloader``; ``total_epochs`` becomes ``runner``; ``imgs_per_gpu`` was
    ``samples_per_gpu``.

    Raises:
        ValueError: a setting is given in both places.
    """
    cfg = copy.deepcopy(cfg)
    _imgs_per_gpu(cfg)
    _loaders(cfg)
    _runner(cfg)
    return cfg


def _runner(cfg: Any) -> None:
    if "runner" not in cfg:
        cfg["runner"] = ConfigDict(type="EpochBasedRunner", max_epochs=cfg["total_epochs"])
        warnings.warn("config is now expected to have a `runner` section, please set `runner` in "
                      "your config", UserWarning, stacklevel=3)
    elif "total_epochs" in cfg and cfg["total_epochs"] != cfg["runner"].get("max_epochs"):
        raise ValueError(f"total_epochs={cfg['total_epochs']} and runner.max_epochs="
                         f"{cfg['runner'].get('max_epochs')} differ; leave out total_epochs")


def _imgs_per_gpu(cfg: Any) -> None:
    data = cfg["data"]
    if _IMAGES in data:
        warnings.warn("imgs_per_gpu is deprecated, it is samples_per_gpu now", UserWarning,
                      stacklevel=3)
        data["samples_per_gpu"] = data[_IMAGES]


def _loaders(cfg: Any) -> None:
    """Settings of ``data`` for all loaders to each loader's own."""
    data = cfg["data"]
    given = {k: data.pop(k) for k in ("samples_per_gpu", "workers_per_gpu", "persistent_workers")
             if k in data}
    shared = {k: v for k, v in given.items() if k != "samples_per_gpu"}
    _set(data, "train_dataloader", given)
    for part in ("val", "test"):
        own = dict(shared)
        sets = data.get(part)
        if isinstance(sets, dict) and "samples_per_gpu" in sets:
            own["samples_per_gpu"] = sets.pop("samples_per_gpu")
        elif isinstance(sets, (list, tuple)):
            sizes = [one.pop("samples_per_gpu") for one in sets if "samples_per_gpu" in one]
            if sizes:
                own["samples_per_gpu"] = max(sizes)
        _set(data, f"{part}_dataloader", own)


def _set(data: Any, loader: str, given: dict[str, Any]) -> None:
    own = data.setdefault(loader, ConfigDict())
    both = sorted(set(given) & set(own))
    if both:
        raise ValueError(f"{', '.join(both)} is given in data and in data.{loader}; leave it out "
                         "of data")
    for key, value in given.items():
        own[key] = value
