"""The command line: ``fastdet`` or ``python -m fastdet``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastdet.cli import bench, convert, export, verify
from fastdet.cli import run as run_command
from fastdet.cli.arguments import add_demo, add_detect, add_test, add_train
from fastdet.cli.errors import CliError, first_line
from fastdet.version import __version__

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CliError(f"{message} (see {self.prog} --help)")


def _seed(text: str) -> int:
    """A seed that torch takes."""
    try:
        seed = int(text) if len(text) < 25 else -1
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**64:
        raise argparse.ArgumentTypeError(f"a seed is an integer from 0 to 2**64 - 1, got {text!r}")
    return seed


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastdet", description="The components of MMDetection 2.x on today's PyTorch, with "
        "Triton kernels in the hot paths.",
        epilog="FASTDET_BACKEND=auto|triton|torch chooses the backend, FASTDET_DEBUG=1 shows the "
        "traceback of an error.")
    parser.add_argument("--version", action="version", version=f"fastdet {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND",
                                     required=True)

    env = commands.add_parser(
        "env", help="versions, devices, and the backend each operator takes here",
        description="Print versions and devices, and for every operator the backend that it "
        "takes on each device and why.")
    env.set_defaults(module="env")

    features = commands.add_parser(
        "features", help="run a backbone and neck on a photograph and draw what comes out",
        description="Run a backbone and neck on a photograph as MMDetection's test pipeline "
        "would, and write a picture of the feature maps and anchors of every pyramid level "
        "(features.png), a table of the levels (levels.txt, levels.json) and the feature maps "
        "themselves (features.npz).",
        epilog="example: fastdet features street.jpg --config retinanet_r50_fpn_1x_coco.py "
        "--checkpoint retinanet_r50_fpn_1x_coco.pth --out street")
    features.add_argument("image", nargs="?", metavar="IMAGE",
                          help="a photograph (default: one in the public domain that comes with "
                          "matplotlib)")
    model = features.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="NAME", default="swin_t_fpn",
                       help="a model by name (default: %(default)s); see --list-models")
    model.add_argument("--config", metavar="FILE",
                       help="an MMDetection 2.x config, .py or .json; it is read, not executed")
    features.add_argument("--checkpoint", metavar="FILE",
                          help="weights of the whole detector or of its backbone and neck "
                          "(default: random weights)")
    features.add_argument("--size", metavar="SHORTxLONG", default="800x1333",
                          help="the photograph is resized, its proportions kept, to fit these "
                          "sides in pixels (default: %(default)s)")
    features.add_argument("--device", metavar="DEVICE",
                          help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    features.add_argument("--allow-download", action="store_true",
                          help="read the pretrained weights that the config names, also from the "
                          "network; without it the config opens no file and no address")
    features.add_argument("--seed", type=_seed, default=0, metavar="N",
                          help="seed of the random weights (default: %(default)s)")
    features.add_argument("--out", metavar="DIR", default="out/features",
                          help="folder for the results (default: %(default)s)")
    features.add_argument("--list-models", action="store_true",
                          help="list the models that --model knows, and exit")
    features.set_defaults(module="features")

    for add in (add_detect, add_train, add_test, add_demo):
        add(commands)
    run_command.add(commands)
    verify.add(commands)
    convert.add(commands)
    export.add(commands)
    for name, purpose in bench.COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments, ``sys.argv[1:]`` by default.

    Returns:
        The exit status: 0, or 2 where something given is wrong or missing, or 1 where fastdet
        itself failed.
    """
    debug = os.environ.get("FASTDET_DEBUG", "0") == "1"
    try:
        argv = list(sys.argv[1:] if argv is None else argv)
        if argv and argv[0] in bench.COMMANDS:
            return bench.run(argv[0], argv[1:])
        args = _parser().parse_args(argv)
        # A command is imported when it is asked for: --help needs neither models nor matplotlib.
        return importlib.import_module(f"fastdet.cli.{args.module}").run(args)
    except CliError as e:
        if debug:
            raise
        print(f"fastdet: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as e:
        if debug:
            raise
        print(f"fastdet: error: unexpected {type(e).__name__}: {first_line(e)} "
              "(FASTDET_DEBUG=1 shows where)", file=sys.stderr)
        return 1
