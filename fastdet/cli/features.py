"""``fastdet features``: a backbone and neck run on a photograph, and a picture of the result."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fastdet.cli.console import note, plain_table, progress, table
from fastdet.cli.errors import CliError, require
from fastdet.cli.pipeline import run_pipeline
from fastdet.cli.presets import PRESETS
from fastdet.cli.result import CHOICE_HEADER, LEVEL_HEADER, Result

__all__ = ["run"]

FILES = ("features.npz", "features.png", "levels.json", "levels.txt")


def _check_out(out: Path) -> None:
    """Refuse a folder that cannot take the files, before the model runs for nothing."""
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            what = "is a file, not a folder" if place == out else f"is below {place}, a file"
            raise CliError(f"--out {out} {what}")
    for name in FILES:
        if (out / name).is_dir():
            raise CliError(f"--out {out}: {out / name} is a folder, and is to be a file")


def _write(result: Result, out: Path) -> None:
    """Write all files or none: they are made in a folder of their own and moved at the end."""
    from fastdet.cli.picture import draw

    _check_out(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out if out.is_dir() else out.parent  # one file system with out
        work = Path(tempfile.mkdtemp(prefix=".fastdet-", dir=beside))
    except OSError as e:
        raise CliError(f"cannot write to {out}: {e.strerror}") from None
    try:
        draw(result, work / "features.png")
        maps: dict[str, Any] = {f"level{i}": v.feature.cpu().numpy()
                                for i, v in enumerate(result.levels)}
        np.savez(work / "features.npz", **maps)
        (work / "levels.json").write_text(json.dumps(result.report(), indent=2) + "\n")
        (work / "levels.txt").write_text(
            f"{result.model}, {result.weights}, {result.device}: {result.timing}\n\n"
            f"{plain_table(LEVEL_HEADER, result.level_rows())}\n\n"
            f"{plain_table(CHOICE_HEADER, result.choice_rows())}\n")
        out.mkdir(exist_ok=True)
        _replace(work, out)
    except OSError as e:
        raise CliError(f"cannot write to {out}: {e.strerror or e}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace(work: Path, out: Path) -> None:
    """Move the new files into ``out``, or put back the old ones where that fails."""
    before = work / "before"
    before.mkdir()
    moved: list[str] = []
    try:
        for name in FILES:
            if (out / name).exists():
                (out / name).replace(before / name)
            moved.append(name)
            (work / name).replace(out / name)
    except BaseException:
        for name in moved:
            (out / name).unlink(missing_ok=True)
            if (before / name).exists():
                (before / name).replace(out / name)
        raise


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.list_models:
        table("Models", ("name", "what it is"), [(k, what) for k, (what, _) in PRESETS.items()])
        return 0
    require("matplotlib", "matplotlib")
    out = Path(args.out)
    _check_out(out)
    logger = logging.getLogger("fastdet")
    level = logger.level
    logger.setLevel(logging.ERROR)  # a layer's remarks on its construction say nothing here
    try:
        result = run_pipeline(args.image, args.model, args.config, args.checkpoint, args.size,
                              args.device, args.seed, args.allow_download)
    finally:
        logger.setLevel(level)
    with progress("drawing"):
        _write(result, out)
    h, w = result.photo.shape[:2]
    note(f"{result.model} ({result.weights}) on {result.device}, photograph {w}x{h} padded to "
         f"{result.padded[1]}x{result.padded[0]}: {result.timing} (second call)\n")
    table("Pyramid levels", LEVEL_HEADER, result.level_rows())
    table("Operators", CHOICE_HEADER, result.choice_rows())
    note(f"Written to {out}: features.png, features.npz, levels.txt, levels.json")
    return 0
