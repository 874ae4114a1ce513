"""A photograph as MMDetection's test pipeline prepares it: resize, normalise, pad."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdet.cli.errors import CliError, first_line, require

__all__ = ["Normalization", "normalization_of", "normalize", "parse_size", "read_photo", "resize"]

MAX_SIDE = 8192


@dataclass(frozen=True)
class Normalization:
    """``img_norm_cfg``: what is subtracted and divided by, per channel, and their order."""

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    to_rgb: bool = True
    size_divisor: int = 32


def parse_size(text: str) -> tuple[int, int]:
    """``'800x1333'`` to ``(800, 1333)``: the limits of the short and the long side."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    short, long = sorted(map(int, match.groups())) if match else (0, 0)
    if not 32 <= short <= long <= MAX_SIDE:
        raise CliError(f"--size must be SHORTxLONG with sides of 32 to {MAX_SIDE} pixels, such as "
                       f"800x1333, got {text!r}")
    return short, long


def read_photo(path: str | None) -> np.ndarray:
    """Read a photograph.

    Args:
        path: the file; matplotlib's portrait of Grace Hopper where it is ``None``.

    Returns:
        ``[H, W, 3]`` uint8, red first, upright.

    Raises:
        CliError: the file is missing or is not an image.
    """
    image = require("PIL.Image", "pillow")
    ops = require("PIL.ImageOps", "pillow")
    if path is None:
        cbook = require("matplotlib.cbook", "matplotlib")
        path = str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    if not path:
        raise CliError("IMAGE is an empty name; without it a photograph that comes with "
                       "matplotlib is taken")
    if Path(path).is_dir():
        raise CliError(f"{path} is a folder, not an image file")
    if not Path(path).is_file():
        raise CliError(f"there is no image file {path}")
    try:
        with image.open(path) as opened:
            return _to_rgb(ops.exif_transpose(opened), path)
    except image.DecompressionBombError as e:
        raise CliError(f"{path} is too large an image: {first_line(e)}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as e:  # pillow has all of these
        raise CliError(f"{path} is not an image that can be read: {first_line(e)}") from None


def _to_rgb(opened: Any, path: str) -> np.ndarray:
    """``[H, W, 3]`` uint8 of an image of any mode; one of another range is scaled or refused.

    Pillow's own conversion cuts 16 bits off at 255 and takes 0 .. 1 for black.
    """
    if opened.mode != "F" and not opened.mode.startswith("I"):
        return np.asarray(opened.convert("RGB"))
    values = np.asarray(opened).astype(np.float64)
    low, high = values.min(), values.max()
    if opened.mode == "F":
        allowed, scale = "0 .. 1 or 0 .. 255", 255.0 if high <= 1 else 1.0
    else:
        allowed, scale = "16 bits", 1 / 257
    if not (low >= 0 and high * scale <= 255):  # NaN is not
        raise CliError(f"{path} holds values from {low:g} to {high:g}; a grey image of type "
                       f"{opened.mode} must be in {allowed}")
    grey = np.rint(values * scale).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def resize(photo: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    """Resize to fit ``limits`` (short, long), proportions kept, as ``mmcv.imrescale`` does."""
    h, w = photo.shape[:2]
    scale = min(limits[1] / max(h, w), limits[0] / min(h, w))
    size = (max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5)))
    pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
    return pixels[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def normalize(photo: np.ndarray, how: Normalization) -> Tensor:
    """``[H, W, 3]`` uint8 to the input ``[1, 3, H', W']``, padded with zeros right and below."""
    pixels = torch.from_numpy(photo.copy()).float()
    if not how.to_rgb:
        pixels = pixels.flip(-1)
    pixels = (pixels - torch.tensor(how.mean)) / torch.tensor(how.std)
    h, w = photo.shape[:2]
    pad = F.pad(pixels.permute(2, 0, 1), (0, -w % how.size_divisor, 0, -h % how.size_divisor))
    return pad[None].contiguous()


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _dicts(item)


def normalization_of(config: dict[str, Any]) -> Normalization:
    """What a config says of its input, or MMDetection's usual numbers.

    It is taken from ``img_norm_cfg``, else from the ``Normalize`` of the test pipeline, else from
    ``model.data_preprocessor``; the divisor from the test pipeline's ``Pad``.

    Raises:
        CliError: it is not three numbers each.
    """
    usual = Normalization()
    pipeline = config.get("test_pipeline") or (config.get("data") or {}).get("test") or {}
    steps = {d.get("type"): d for d in _dicts(pipeline)}
    pre = (config.get("model") or {}).get("data_preprocessor") or {}
    given = config.get("img_norm_cfg") or steps.get("Normalize") or pre
    if not isinstance(given, dict):
        raise CliError(f"img_norm_cfg must be a dict, got {type(given).__name__}")
    divisor = steps.get("Pad", {}).get("size_divisor") or pre.get("pad_size_divisor") \
        or usual.size_divisor
    try:
        mean = tuple(map(float, given.get("mean", usual.mean)))
        std = tuple(map(float, given.get("std", usual.std)))
        to_rgb = bool(given.get("to_rgb", given.get("bgr_to_rgb", True)))
        valid = len(mean) == len(std) == 3 and 0 not in std and 1 <= int(divisor) <= 1024
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise CliError(f"the config's normalisation must be three means and three non-zero "
                       f"deviations, and a padding divisor, got {given!r} and {divisor!r}")
    return Normalization(mean, std, to_rgb, int(divisor))
