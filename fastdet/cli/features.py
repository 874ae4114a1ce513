"""``fastdet features``: a backbone and neck run on a photograph, and a picture of the result."""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastdet.cli.backends import Choices, record_choices
from fastdet.cli.console import note, plain_table, progress, table, warn
from fastdet.cli.errors import CliError, first_line, require
from fastdet.cli.image import (
    Normalization,
    normalization_of,
    normalize,
    parse_size,
    read_photo,
    resize,
)
from fastdet.cli.presets import PRESETS, preset
from fastdet.core.anchor import build_prior_generator
from fastdet.models import build_backbone, build_neck
from fastdet.runner import CheckpointLoader, find_state_dict, load_state_dict
from fastdet.utils import Config, ConfigError

__all__ = ["Level", "Result", "run"]

# What a wrong config or checkpoint makes constructors and layers raise.
_USER_ERRORS = (KeyError, TypeError, ValueError, AssertionError, AttributeError, IndexError,
                RuntimeError, OSError)


@dataclass
class Level:
    """One pyramid level."""

    name: str
    feature: Tensor  # [C, h, w]
    stride: tuple[int, int]  # (w, h) in pixels
    anchors: Tensor  # [h * w * per_cell, 4], x1 y1 x2 y2 in pixels
    per_cell: int
    anchor_ms: float

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, h, w)``."""
        return tuple(self.feature.shape)


@dataclass
class Result:
    """What a run gave, for the picture and the tables."""

    model: str
    weights: str
    device: str
    photo: np.ndarray  # [H, W, 3], resized
    padded: tuple[int, int]  # (H, W) of the input
    levels: list[Level]
    times: dict[str, float]  # milliseconds by part
    choices: Choices = field(default_factory=dict)


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise CliError(f"the device {name!r} is not available: {first_line(e)}") from None
    return device


def _model_config(args: argparse.Namespace) -> tuple[str, dict[str, Any], Normalization]:
    """A name, a ``model`` config and how its input is normalised."""
    if args.config is None:
        if args.model not in PRESETS:
            raise CliError(f"unknown model {args.model!r}; known are {', '.join(PRESETS)}")
        return args.model, preset(args.model), Normalization()
    try:
        config = Config.fromfile(args.config)
    except ConfigError as e:
        raise CliError(first_line(e)) from None
    model = config.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("backbone"), dict):
        raise CliError(f"{args.config}: the config has no model with a backbone")
    return Path(args.config).stem, model, normalization_of(dict(config.items()))


def _without_downloads(cfg: Any) -> Any:
    """A config without what would fetch pretrained weights."""
    if isinstance(cfg, dict):
        init = cfg.get("init_cfg")
        # The type is implied where a checkpoint is named: the zoo's PVT configs leave it out.
        fetches = {"pretrained"} | ({"init_cfg"} if isinstance(init, dict)
                                    and "checkpoint" in init else set())
        return {k: _without_downloads(v) for k, v in cfg.items() if k not in fetches}
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(map(_without_downloads, cfg))
    return cfg


def _build(name: str, cfg: dict[str, Any]) -> nn.ModuleDict:
    parts = nn.ModuleDict()
    for part, build in (("backbone", build_backbone), ("neck", build_neck)):
        if cfg.get(part) is None:
            continue
        try:
            parts[part] = build(_without_downloads(cfg[part]))
            init_weights = getattr(parts[part], "init_weights", None)
            if callable(init_weights):
                init_weights()
        except _USER_ERRORS as e:
            raise CliError(f"the {part} of {name} cannot be built: {first_line(e)}") from e
    return parts.eval()


def _load(model: nn.ModuleDict, path: str) -> str:
    """Load a checkpoint; returns what it is, for the caption."""
    try:
        state = find_state_dict(CheckpointLoader.load_checkpoint(path, map_location="cpu"))
    except (OSError, ValueError, RuntimeError) as e:
        raise CliError(first_line(e)) from None
    own = {k.removeprefix("module."): v for k, v in state.items()}
    own = {k: v for k, v in own.items() if k.startswith(tuple(f"{part}." for part in model))}
    if not own.keys() & model.state_dict().keys():
        raise CliError(f"{path} has no weights of this model; its first key is "
                       f"{next(iter(state), None)!r}")
    try:
        load_state_dict(model, own, strict=True)
    except RuntimeError as e:  # what matches is loaded all the same
        for line in str(e).splitlines()[1:]:
            warn(f"{Path(path).name}: {line if len(line) < 400 else line[:397] + '...'}")
        return f"{Path(path).name} (in part)"
    return Path(path).name


class _Clock:
    """Times steps in milliseconds, waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, step: Callable[[], Any]) -> tuple[Any, float]:
        self.wait()
        start = time.perf_counter()
        result = step()
        self.wait()
        return result, 1e3 * (time.perf_counter() - start)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _forward(name: str, model: nn.ModuleDict, x: Tensor, clock: _Clock
             ) -> tuple[list[Tensor], dict[str, float]]:
    times = {}
    out: Any = x
    for part, module in model.items():
        try:
            out, times[part] = clock(partial(module, out))
        except torch.OutOfMemoryError:
            raise CliError(f"{x.device} has not enough memory for the {part} of {name} at "
                           f"{x.shape[3]}x{x.shape[2]}; a smaller --size needs less") from None
        except _USER_ERRORS as e:
            raise CliError(f"the {part} of {name} cannot run on a {x.shape[3]}x{x.shape[2]} "
                           f"image: {first_line(e)}") from e
    maps = list(out) if isinstance(out, (list, tuple)) else [out]
    if not maps or not all(isinstance(m, Tensor) and m.dim() == 4 for m in maps):
        raise CliError(f"{name} gives no feature maps of four dimensions")
    return maps, times


def _stride(padded: tuple[int, int], size: tuple[int, int]) -> int:
    """Pixels per cell: the power of two that gives this size, rounded up, or else the ratio."""
    ratio = max(p / s for p, s in zip(padded, size))
    power = 2 ** round(math.log2(max(ratio, 1)))
    fits = all(-(-p // power) == s for p, s in zip(padded, size))
    return power if fits else max(1, round(ratio))


def _find_generator(model: dict[str, Any], levels: int) -> dict[str, Any] | None:
    """The config of the model's anchors: the RPN's, else the head's, if it fits the pyramid."""
    def search(value: Any) -> dict[str, Any] | None:
        if isinstance(value, dict):
            found = value.get("anchor_generator")
            if isinstance(found, dict):
                return found
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            return next(filter(None, map(search, value)), None)
        return None

    found = search(model.get("rpn_head")) or search(model.get("bbox_head"))
    strides = found.get("strides", ()) if found else ()
    if found is not None and len(strides) != levels:
        warn(f"the config's anchors are for {len(strides)} levels, the model has {levels}; "
             "RPN's anchors are drawn instead")
        return None
    return found


def _levels(model: dict[str, Any], maps: list[Tensor], padded: tuple[int, int], clock: _Clock
            ) -> list[Level]:
    strides = [_stride(padded, (m.shape[2], m.shape[3])) for m in maps]
    cfg = _find_generator(model, len(maps)) or dict(
        type="AnchorGenerator", strides=strides, ratios=[0.5, 1.0, 2.0], scales=[8])
    try:
        generator = build_prior_generator(dict(cfg))
        levels = []
        for i, feature in enumerate(maps):
            anchors, ms = clock(partial(generator.single_level_grid_priors,
                                        tuple(feature.shape[-2:]), i, device=feature.device))
            w, h = generator.strides[i]
            levels.append(Level(f"P{round(math.log2(max(w, h)))}", feature[0], (int(w), int(h)),
                                anchors, int(generator.num_base_priors[i]), ms))
    except _USER_ERRORS as e:
        raise CliError(f"the anchor generator cannot be built: {first_line(e)}") from e
    if len({level.name for level in levels}) < len(levels):  # such as a backbone's equal strides
        for i, level in enumerate(levels):
            level.name = f"level {i}"
    return levels


def _run(args: argparse.Namespace) -> Result:
    limits = parse_size(args.size)
    photo = resize(read_photo(args.image), limits)
    name, cfg, normalization = _model_config(args)
    device = _device(args.device)
    clock = _Clock(device)
    torch.manual_seed(args.seed)
    with progress(f"building {name}"):
        model = _build(name, cfg)
        weights = "random weights"
        if args.checkpoint is not None:
            weights = _load(model, args.checkpoint)
        model.to(device)
    x = normalize(photo, normalization).to(device)
    padded = (x.shape[2], x.shape[3])
    with torch.no_grad(), record_choices() as choices:
        with progress(f"running {name} on {device} at {padded[1]}x{padded[0]}"):
            if device.type != "cpu":  # compiles the kernels
                _forward(name, model, x, clock)
                choices.clear()
            maps, times = _forward(name, model, x, clock)
        levels = _levels(cfg, maps, padded, clock)
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return Result(name, weights, what, photo, padded, levels, times, choices)


LEVEL_HEADER = ("level", "channels", "height", "width", "stride", "anchors", "anchors (ms)")


def _level_rows(result: Result) -> list[tuple[str, ...]]:
    return [(level.name, *map(str, level.shape), "x".join(map(str, level.stride)),
             str(len(level.anchors)), f"{level.anchor_ms:.2f}") for level in result.levels]


def _choice_rows(result: Result) -> list[tuple[str, ...]]:
    return [(operator, backend, str(calls), reason or "the device runs Triton kernels")
            for operator, backends in sorted(result.choices.items())
            for backend, (calls, reason) in backends.items()]


def _report(result: Result) -> dict[str, Any]:
    """The content of levels.json."""
    return dict(
        model=result.model, weights=result.weights, device=result.device, torch=torch.__version__,
        photo=list(result.photo.shape[:2]), padded=list(result.padded),
        milliseconds=result.times,
        levels=[dict(name=v.name, shape=list(v.shape), stride=list(v.stride),
                     anchors=len(v.anchors), anchors_per_cell=v.per_cell,
                     anchor_milliseconds=v.anchor_ms) for v in result.levels],
        operators={operator: {b: dict(calls=calls, reason=why) for b, (calls, why) in took.items()}
                   for operator, took in result.choices.items()})


def _write(result: Result, out: Path) -> None:
    """Write all files or none: they are made in a folder of their own and moved at the end."""
    from fastdet.cli.picture import draw

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not out.is_dir():
            raise CliError(f"--out {out} is a file, not a folder")
        beside = out if out.is_dir() else out.parent  # one file system with out
        work = Path(tempfile.mkdtemp(prefix=".fastdet-", dir=beside))
    except OSError as e:
        raise CliError(f"cannot write to {out}: {e.strerror}") from None
    try:
        draw(result, work / "features.png")
        maps: dict[str, Any] = {f"level{i}": v.feature.cpu().numpy()
                                for i, v in enumerate(result.levels)}
        np.savez(work / "features.npz", **maps)
        (work / "levels.json").write_text(json.dumps(_report(result), indent=2) + "\n")
        times = ", ".join(f"{part} {ms:.0f} ms" for part, ms in result.times.items())
        (work / "levels.txt").write_text(
            f"{result.model}, {result.weights}, {result.device}: {times}\n\n"
            f"{plain_table(LEVEL_HEADER, _level_rows(result))}\n\n"
            f"{plain_table(('operator', 'backend', 'calls', 'why'), _choice_rows(result))}\n")
        out.mkdir(exist_ok=True)
        for file in sorted(work.iterdir()):
            file.replace(out / file.name)
    except OSError as e:
        raise CliError(f"cannot write to {out}: {e.strerror}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.list_models:
        table("Models", ("name", "what it is"), [(k, what) for k, (what, _) in PRESETS.items()])
        return 0
    require("matplotlib", "matplotlib")
    logger = logging.getLogger("fastdet")
    level = logger.level
    logger.setLevel(logging.ERROR)  # a layer's remarks on its construction say nothing here
    try:
        result = _run(args)
    finally:
        logger.setLevel(level)
    out = Path(args.out)
    with progress("drawing"):
        _write(result, out)
    h, w = result.photo.shape[:2]
    times = ", ".join(f"{part} {ms:.0f} ms" for part, ms in result.times.items())
    note(f"{result.model} ({result.weights}) on {result.device}, photograph {w}x{h} padded to "
         f"{result.padded[1]}x{result.padded[0]}: {times}\n")
    table("Pyramid levels", LEVEL_HEADER, _level_rows(result))
    table("Operators", ("operator", "backend", "calls", "why"), _choice_rows(result))
    note(f"Written to {out}: features.png, features.npz, levels.txt, levels.json")
    return 0
