"""``fastdet verify``: every operator on this device, against float64."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any

import torch

from fastdet.cli.errors import CliError, first_line

__all__ = ["add", "run"]


def add(commands: Any) -> None:
    """The command's arguments."""
    verify = commands.add_parser(
        "verify", help="compute every operator on this device and hold it against float64",
        description="Run every operator over shapes and data types, forward and backward, and hold "
        "it against MMDetection's algorithm in float64. On a GPU the kernels run; on a CPU the "
        "CPU's own path, or the kernels under Triton's interpreter with --interpret.",
        epilog="The exit status is 1 where an operator is wrong or differs from run to run.")
    verify.add_argument("names", nargs="*", metavar="OPERATOR", help="operators (default: all)")
    verify.add_argument("--dtypes", nargs="+", metavar="DTYPE", default=[],
                        help="of fp32, fp16, bf16 (default: all)")
    verify.add_argument("--device", metavar="DEVICE",
                        help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    verify.add_argument("--interpret", action="store_true",
                        help="run the kernels on the CPU, under Triton's interpreter")
    verify.add_argument("--seconds", type=float, default=60.0, metavar="N",
                        help="time for all; what does not fit is left out and counted "
                        "(default: %(default)g)")
    verify.set_defaults(module="verify")


def _device(args: argparse.Namespace) -> torch.device:
    name = args.device or ("cuda" if torch.cuda.is_available() and not args.interpret else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise CliError(f"device {name!r}: {first_line(e)}") from None
    if args.interpret and device.type != "cpu":
        raise CliError("--interpret runs the kernels on the CPU, and --device says "
                       f"{name!r}; give one of them")
    return device


def _interpreted(args: argparse.Namespace) -> int:
    """The same command in a process of its own: fastdet and triton read the switch at import."""
    command = [sys.executable, "-m", "fastdet", "verify", "--interpret", "--seconds",
               str(args.seconds), *(["--dtypes", *args.dtypes] if args.dtypes else []), "--",
               *args.names]
    return subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"},
                          check=False).returncode


def run(args: argparse.Namespace) -> int:
    """Print a line for every case; 1 where one did not pass."""
    device = _device(args)
    if args.interpret and os.environ.get("TRITON_INTERPRET") != "1":
        return _interpreted(args)
    from fastdet.benchmarks.registry import DTYPES, ENTRIES
    from fastdet.benchmarks.verify import cases, known, verify

    operators = {name: e for name, e in ENTRIES.items() if e.kind == "operator"}
    try:
        names = known("operator", args.names, operators)
        dtypes = known("data type", args.dtypes, DTYPES)
    except ValueError as e:
        raise CliError(str(e)) from None
    grid = cases(names, dtypes, device, args.interpret)
    if not grid:
        raise CliError(f"{', '.join(names)} has none of the data types {', '.join(dtypes)}")
    kernels = args.interpret or device.type == "cuda"
    path = "kernels, interpreted" if args.interpret else "kernels" if kernels else "CPU path"
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"fastdet verify on {on} ({path}), torch {torch.__version__}; {len(grid)} cases\n"
          f"{'':10}{'operator':34}{'shape':24}{'dtype':6}{'pass':9}{'error/granted':>14}  "
          "deterministic", flush=True)
    findings = []
    for nth, found in enumerate(verify(grid, device, kernels, args.seconds), 1):
        findings.append(found)
        case = found.case
        said = found.error or (f"{found.share:13.0%}   {'yes' if found.deterministic else 'NO'}"
                               + ("" if found.share <= 1 else f"   {found.where}"))
        print(f"{nth:4} {'ok' if found.passed else 'FAIL':4} {case.entry.name:34}{case.shape:24}"
              f"{case.dtype:6}{case.passes:9}{said}", flush=True)
    failed, left = sum(not f.passed for f in findings), len(grid) - len(findings)
    print(f"{len(findings) - failed} passed, {failed} failed"
          + (f", {left} left out after {args.seconds:g} s (--seconds)" if left else ""))
    reached = {found.case.entry.name for found in findings}
    if unreached := [name for name in names if name not in reached]:
        print(f"not reached at all: {', '.join(unreached)}")
    return 1 if failed or not findings else 0
