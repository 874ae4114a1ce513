"""``fastdet export``: a detector as an ONNX file, or as a program of ``torch.export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastdet.cli.errors import CliError, first_line, require
from fastdet.cli.job import quiet
from fastdet.cli.model import USER_ERRORS
from fastdet.utils import ConfigError

__all__ = ["add", "run"]


def add(commands: Any) -> None:
    """The command's arguments."""
    export = commands.add_parser(
        "export", help="write a detector as ONNX or as a program of torch.export",
        description="Write a detector's inference, from a normalised and padded image to padded "
        "boxes, scores, labels and counts, and masks where there are any: as ONNX (.onnx), of "
        "standard operators alone, or as a program of torch.export (.pt2).",
        epilog="example: fastdet export retinanet_r50_fpn_1x_coco.py --checkpoint retinanet.pth "
        "--out retinanet.onnx")
    export.add_argument("config", metavar="CONFIG",
                        help="an MMDetection 2.x config; it is read, not executed")
    export.add_argument("--checkpoint", metavar="FILE", required=True,
                        help="the detector's weights")
    export.add_argument("--out", metavar="FILE", required=True, help="FILE.onnx or FILE.pt2")
    export.add_argument("--size", metavar="HEIGHTxWIDTH", default="800x1344",
                        help="of the input (default: %(default)s)")
    export.add_argument("--batch-size", type=int, default=1, metavar="N",
                        help="images of the input (default: %(default)s)")
    export.add_argument("--fixed", action="store_true",
                        help="take that size and number of images alone; without it, any")
    export.add_argument("--divisor", type=int, default=1, metavar="N",
                        help="any size means any multiple of this (default: %(default)s)")
    export.add_argument("--masks", choices=("boxes", "image", "none"), default="boxes",
                        help="masks as they lie in their boxes, or in the image (default: "
                        "%(default)s)")
    export.set_defaults(module="export")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise CliError(f"--size must be HEIGHTxWIDTH in pixels, such as 800x1344, got {text!r}")
    return int(height), int(width)


def run(args: argparse.Namespace) -> int:
    """Export."""
    out, size = Path(args.out), _size(args.size)
    if out.suffix not in (".onnx", ".pt2"):
        raise CliError(f"--out must end in .onnx or .pt2, got {out.name!r}")
    if args.batch_size < 1 or args.divisor < 1:
        raise CliError("--batch-size and --divisor must be positive")
    for name in (args.config, args.checkpoint):
        if not Path(name).is_file():
            raise CliError(f"there is no file {name}")
    for module, package in (("cv2", "opencv-python-headless"), ("pycocotools", "pycocotools")):
        require(module, package)
    import torch

    from fastdet.apis import export_onnx, export_program, init_detector

    options: dict[str, Any] = dict(batch_size=args.batch_size, dynamic=not args.fixed,
                                   divisor=args.divisor,
                                   masks=None if args.masks == "none" else args.masks)
    try:
        with quiet():
            model = init_detector(args.config, args.checkpoint, "cpu")
    except (ConfigError, *USER_ERRORS) as e:
        raise CliError(f"the detector of {args.config} with {args.checkpoint} cannot be built: "
                       f"{first_line(e)}") from e
    try:
        if out.suffix == ".onnx":
            export_onnx(model, out, size, **options)
        else:
            part = out.with_name(f".{out.name}.part.pt2")
            try:
                torch.export.save(export_program(model, size, **options), part)
                part.replace(out)
            finally:
                part.unlink(missing_ok=True)
    except ModuleNotFoundError as e:
        raise CliError(str(e)) from None
    except (TypeError, ValueError, OSError) as e:
        raise CliError(f"{args.config} cannot be exported: {first_line(e)}") from e
    print(f"{type(model).__name__} in {out}, {out.stat().st_size / 2**20:.1f} MiB")
    return 0
