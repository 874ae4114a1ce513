"""A backbone and neck run on a photograph: from files and names to a :class:`Result`."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cli.backends import record_choices
from fastdet.cli.console import progress, warn
from fastdet.cli.errors import CliError, first_line
from fastdet.cli.image import normalize, parse_size, read_photo, resize
from fastdet.cli.model import USER_ERRORS, build, load, model_config, without_weights
from fastdet.cli.result import Level, Result
from fastdet.core.anchor import build_prior_generator

__all__ = ["run_pipeline"]


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise CliError(f"the device {name!r} is not available: {first_line(e)}") from None
    return device


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
        except USER_ERRORS as e:
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
            make = partial(generator.single_level_grid_priors, tuple(feature.shape[-2:]), i,
                           device=feature.device)
            make()  # the first call prepares tables that the others share
            anchors, ms = clock(make)
            w, h = generator.strides[i]
            levels.append(Level(f"P{round(math.log2(max(w, h)))}", feature[0], (int(w), int(h)),
                                anchors, int(generator.num_base_priors[i]), ms))
    except USER_ERRORS as e:
        raise CliError(f"the anchor generator cannot be built: {first_line(e)}") from e
    if len({level.name for level in levels}) < len(levels):  # such as a backbone's equal strides
        for i, level in enumerate(levels):
            level.name = f"level {i}"
    return levels


def run_pipeline(image: str | None, model: str, config: str | None, checkpoint: str | None,
                 size: str, device: str | None, seed: int, allow_download: bool = False) -> Result:
    """Read, build, load and run.

    The model runs twice, and the second call is the one that is timed: the first one compiles
    kernels, on a GPU, and everywhere fills caches.

    Args:
        image: the photograph, or ``None`` for matplotlib's.
        model: a model by name.
        config: a config file instead.
        checkpoint: weights, or ``None`` for random ones (or those of the config).
        size: ``'SHORTxLONG'``.
        device: a torch device, or ``None`` for a GPU if there is one.
        seed: of the random weights.
        allow_download: read the weights that the config names.

    Raises:
        CliError: something given is wrong.
    """
    limits = parse_size(size)
    photo = resize(read_photo(image), limits)
    name, cfg, normalization = model_config(model, config)
    on = _device(device)
    clock = _Clock(on)
    torch.manual_seed(seed)
    pretrained = allow_download and checkpoint is None
    with progress(f"building {name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated arguments in somebody's config
        net = build(name, cfg, pretrained)
        named = without_weights(cfg) != cfg
        weights = "the config's weights" if pretrained and named else "random weights"
        if checkpoint is not None:
            weights = load(net, checkpoint)
        net.to(on)
    x = normalize(photo, normalization).to(on)
    padded = (x.shape[2], x.shape[3])
    with torch.no_grad(), record_choices() as choices:
        with progress(f"running {name} on {on} at {padded[1]}x{padded[0]}, twice"):
            _forward(name, net, x, clock)
            choices.clear()
            maps, times = _forward(name, net, x, clock)
        bad = [str(i) for i, m in enumerate(maps) if not torch.isfinite(m).all()]
        if bad:
            raise CliError(f"{name} with {weights} gives NaN or infinity on level "
                           f"{', '.join(bad)} of {len(maps)}; nothing is written")
        levels = _levels(cfg, maps, padded, clock)
    what = torch.cuda.get_device_name(on) if on.type == "cuda" else \
        f"CPU, {torch.get_num_threads()} threads" if on.type == "cpu" else str(on)
    return Result(name, weights, what, photo, padded, levels, times, choices)
