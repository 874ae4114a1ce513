"""``fastdet convert``: a checkpoint of another package as one of MMDetection 2.x."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdet.cli.console import table
from fastdet.cli.errors import CliError, require
from fastdet.runner import CheckpointLoader, find_state_dict

__all__ = ["add", "run"]


def add(commands: Any) -> None:
    """The command's arguments."""
    convert = commands.add_parser(
        "convert", help="write another package's checkpoint as one of MMDetection 2.x",
        description="Read a checkpoint of MMDetection 2.x or 3.x, of the official Swin and PVT, of "
        "torchvision, timm or transformers, and write its weights under the names and layouts of "
        "MMDetection 2.x, which fastdet's models load. Nothing in the file is executed.",
        epilog="example: fastdet convert swin_tiny_patch4_window7_224.pth swin_t.pth "
        "--prefix backbone.")
    convert.add_argument("source", metavar="IN", help="a .pth or .safetensors file")
    convert.add_argument("target", metavar="OUT", help="a .pth or .safetensors file to write")
    convert.add_argument("--from", dest="layout", metavar="LAYOUT",
                         help="the layout of IN (default: found out by its keys)")
    convert.add_argument("--prefix", default="", metavar="TEXT",
                         help="put in front of every new key, such as backbone.")
    convert.set_defaults(module="convert")


class _Left:
    """In the place of an object of MMEngine's that a checkpoint of MMDetection 3.x holds."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


#: What MMDetection 3.x pickles beside weights. Making one runs nothing.
_MMENGINE = ("mmengine.logging.history_buffer.HistoryBuffer", "mmengine.config.config.ConfigDict")


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CliError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        load = require("safetensors.torch", "safetensors").load_file
        try:
            return load(path)
        except Exception as e:  # its own exception class
            raise CliError(f"{path} is not a safetensors file: {e}") from None
    import numpy as np

    # What an array and a scalar pickle as, by the names of NumPy 1 and 2.
    makers = [np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]]
    allowed: list[Any] = [(_Left, name) for name in _MMENGINE]
    allowed += [(maker, f"numpy.{core}.multiarray.{maker.__name__}") for maker in makers
                for core in ("core", "_core")]
    allowed += [np.ndarray, np.dtype, *(type(np.dtype(t)) for t in ("f4", "f8", "i4", "i8"))]
    try:
        with torch.serialization.safe_globals(allowed):
            return find_state_dict(CheckpointLoader.load_checkpoint(path))
    except (ValueError, pickle.UnpicklingError) as e:
        raise CliError(str(e)) from None


def _write(weights: dict[str, Tensor], meta: dict[str, str], path: Path) -> None:
    """Write to a file beside it first, so that there is a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    weights = {key: value.contiguous().clone() for key, value in weights.items()}
    try:
        if path.suffix == ".safetensors":
            require("safetensors.torch", "safetensors").save_file(weights, partial, meta)
        else:
            torch.save({"meta": meta, "state_dict": weights}, partial)
        os.replace(partial, path)
    except OSError as e:
        raise CliError(f"cannot write {path}: {e.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def run(args: argparse.Namespace) -> int:
    """Convert, and print what every rule did."""
    from fastdet.compat.layouts import convert
    from fastdet.version import __version__

    source, target = Path(args.source).expanduser(), Path(args.target).expanduser()
    if target.suffix not in (".pth", ".safetensors"):
        raise CliError(f"OUT must end in .pth or .safetensors, got {target.name!r}")
    found = _read(source)
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    if odd := [key for key in found if key not in tensors]:
        raise CliError(f"{source} holds more than tensors: {', '.join(map(str, odd[:3]))}")
    try:
        done = convert(tensors, args.layout, args.prefix)
    except ValueError as e:
        raise CliError(f"{source}: {e}") from None
    _write(done.state_dict, {"converted_from": done.layout.name, "fastdet_version": __version__},
           target)
    table(f"{source.name}: {done.layout.name} ({done.layout.title})", ("keys", "rule"),
          [(str(n), rule) for rule, n in done.applied.items()])
    print(f"{len(done.state_dict)} tensors in {target}")
    return 0
