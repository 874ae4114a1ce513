"""``fastdet run``: a script or module written for MMDetection, on fastdet."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from types import TracebackType

from fastdet.cli.errors import CliError

__all__ = ["add", "run"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command ``run`` to the command line."""
    parser = commands.add_parser(
        "run", help="run a script written for MMDetection 2.x and mmcv 1.x, unedited",
        usage="fastdet run [--report] SCRIPT [ARG ...]\n"
        "       fastdet run [--report] -m MODULE [ARG ...]",
        description="Run a script, or a module with -m, as python does, with fastdet in the "
        "place of mmcv, and its components in MMDetection's.",
        epilog="example: fastdet run tools/train.py configs/retinanet/retinanet_r50_fpn_1x_coco.py"
        "; under torchrun: torchrun --nproc_per_node 8 -m fastdet run tools/train.py CONFIG "
        "--launcher pytorch")
    parser.add_argument("--report", action="store_true",
                        help="first say on stderr which parts are fastdet's")
    parser.add_argument("-m", dest="as_module", action="store_true",
                        help="what follows is the name of a module")
    parser.add_argument("target", metavar="SCRIPT", help="the script, or the module with -m")
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="ARG",
                        help="arguments of the script")
    parser.set_defaults(module="run")


def _own_part(error: BaseException, file: str) -> TracebackType | None:
    """An error's traceback from the script's own first line on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != file:
        trace = trace.tb_next
    return trace


def _origin(module: str) -> str:
    """The file that ``-m MODULE`` runs.

    Raises:
        CliError: there is no such module, or it cannot be run.
    """
    try:
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{module}.__main__")
    except ModuleNotFoundError as e:
        raise CliError(f"there is no module {module}: {e}") from e
    if spec is None or spec.origin is None:
        raise CliError(f"there is no module {module} that can be run")
    return spec.origin


def run(args: argparse.Namespace) -> int:
    """Run the script; its own errors show as they would under python, and give 1."""
    if importlib.util.find_spec("cv2") is None:
        raise CliError("this command needs OpenCV; install it with pip install 'fastdet[mmcv]'")
    file = args.target
    if args.as_module:
        sys.path[0] = os.getcwd()
        file = _origin(args.target)
    elif not os.path.isfile(file):
        raise CliError(f"there is no script {file}")
    # Only now: what stands behind it takes seconds to import.
    import fastdet
    from fastdet.compat.script import run_module, run_script

    report = fastdet.install()
    if args.report:
        print(report, file=sys.stderr)
    try:
        (run_module if args.as_module else run_script)(args.target, args.args)
    except Exception as e:
        trace = _own_part(e, file)
        sys.excepthook(type(e), e.with_traceback(trace), trace)
        return 1
    return 0
