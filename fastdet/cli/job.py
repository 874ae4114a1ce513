"""What ``fastdet train``, ``test`` and ``detect`` share: config, device, processes."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fastdet.cli.console import warn
from fastdet.cli.errors import CliError, first_line, require
from fastdet.cli.model import USER_ERRORS
from fastdet.utils import Config, ConfigError

__all__ = ["load_weights", "needs", "output_folder", "quiet", "read_config", "start",
           "with_loaders"]


def needs() -> None:
    """The packages of the extra ``mmcv`` that every job stands on.

    Raises:
        CliError: one is not installed.
    """
    for module, package in (("cv2", "opencv-python-headless"), ("pycocotools", "pycocotools")):
        require(module, package)


def read_config(path: str, options: dict[str, Any] | None) -> Any:
    """A config with its ``${...}`` and options filled in.

    Raises:
        CliError: it cannot be read, or lacks a section.
    """
    from fastdet.apis.utils import replace_cfg_vals, update_data_root

    if not Path(path).is_file():
        raise CliError(f"there is no config file {path}")
    try:
        cfg = Config.fromfile(path)
        cfg = replace_cfg_vals(cfg)
        update_data_root(cfg)
        if options:
            cfg.merge_from_dict(options)
    except ConfigError as e:
        raise CliError(first_line(e)) from None
    except USER_ERRORS as e:
        raise CliError(f"{path} cannot be read: {first_line(e)}") from None
    for section in ("model", "data"):
        if section not in cfg:
            raise CliError(f"{path} has no {section!r}: it is no config of a detector")
    return cfg


def output_folder(path: Path, option: str) -> Path:
    """Make a folder for results, before anything is computed for it.

    Raises:
        CliError: there can be none.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise CliError(f"{option} {path}: cannot make the folder: {e.strerror}") from None
    if not os.access(path, os.W_OK):
        raise CliError(f"{option} {path}: cannot write there")
    return path


def load_weights(model: torch.nn.Module, checkpoint: str) -> dict[str, Any]:
    """Load all weights of a detector; the checkpoint's metadata.

    Weights that the detector has no place for, such as averages beside what they are of, are noted
    and left.

    Raises:
        CliError: it cannot be read, or is of another model, head or number of classes.
    """
    from fastdet.runner import CheckpointLoader, find_state_dict, load_state_dict

    try:
        read = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu")
        state = {k.removeprefix("module."): v for k, v in find_state_dict(read).items()}
    except USER_ERRORS as e:
        told = first_line(e)
        raise CliError(told if checkpoint in told else f"{checkpoint}: {told}") from e
    try:
        load_state_dict(model, state, strict=True)
    except (*USER_ERRORS,) as e:
        faults = str(e).strip().splitlines()
        left = [f for f in faults if f.startswith("unexpected key in source state_dict")]
        faults = [f for f in faults[1:] if f not in left] or ([] if left else faults)
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise CliError(f"{checkpoint} is not of this detector: {_short(faults[0])}{more}"
                           ) from e
        if not left[0].partition(": ")[2].startswith("ema_"):
            warn(f"{checkpoint}: {_short(left[0])}")
    meta = read.get("meta") if isinstance(read, dict) else None
    return meta if isinstance(meta, dict) else {}


def _short(text: str) -> str:
    return text if len(text) < 300 else f"{text[:297]}..."


def start(args: argparse.Namespace, cfg: Any) -> bool:
    """Choose the device and start ``torch.distributed`` where a launcher did.

    Returns:
        Whether there are several processes.
    """
    from fastdet.apis.utils import setup_multi_processes
    from fastdet.mmcv.runner import init_dist

    cfg.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise CliError("--device cuda: torch sees no GPU here")
    with quiet():
        setup_multi_processes(cfg)
    cfg.gpu_ids = [0]
    under_torchrun = {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys()
    launcher = args.launcher or ("pytorch" if under_torchrun else "none")
    if launcher == "none":
        return False
    settings = dict(cfg.get("dist_params", {}))
    settings["backend"] = "nccl" if cfg.device == "cuda" else "gloo"
    try:
        init_dist(launcher, **settings)
    except (KeyError, ValueError, RuntimeError) as e:
        raise CliError(f"--launcher {launcher}: {first_line(e)}") from None
    cfg.gpu_ids = list(range(int(os.environ.get("WORLD_SIZE", 1))))
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of old forms in somebody's config."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def with_loaders(cfg: Any) -> Any:
    """The config with its loaders' settings where they are now, and a runner."""
    from fastdet.apis.utils import compat_cfg

    if "runner" not in cfg and "total_epochs" not in cfg:
        raise CliError("the config has neither runner nor total_epochs")
    try:
        with quiet():
            return compat_cfg(cfg)
    except (KeyError, ValueError) as e:
        raise CliError(f"the config: {first_line(e)}") from None
