"""Whether every kernel compiles under the Triton that is installed here; no GPU is needed.

    python -m benchmarks.compile_all
    python -m benchmarks.compile_all --targets sm_80 gfx942 --operators deform_conv2d

The ledger holds what one version of Triton makes of the kernels. This asks of any version only
that it takes them: every launch of every case of the ledger goes through ``JITFunction.warmup``
with a driver that stands for the GPU. Nothing it uses differs between Triton 3.3 and 3.9.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import starmap

import torch

from .binary import compile_launch, record
from .registry import ENTRIES
from .targets import TARGETS

__all__ = ["compile_case", "main"]


def compile_case(name: str, case: str, target: str) -> tuple[list[str], list[str]]:
    """Compile what one case of one entry launches.

    Returns:
        The names of the kernels that compiled, and one line for each that did not.
    """
    done, failed = [], []
    seen = set()
    for launch in record(ENTRIES[name], case, TARGETS[target]):
        kernel = launch.kernel.__name__
        args = [str(a.dtype) if isinstance(a, torch.Tensor) else a for a in launch.args]
        if (key := (kernel, str(args), str(sorted(launch.options.items())))) in seen:
            continue
        seen.add(key)
        try:
            compile_launch(launch, TARGETS[target])
            done.append(kernel)
        except Exception as error:  # whatever a compiler throws is the answer
            reason = str(error).strip().splitlines() or [""]
            failed.append(f"{case} for {target}: {kernel}: {type(error).__name__}: {reason[-1]}")
    return done, failed


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 1 where a kernel does not compile."""
    operators = sorted({entry.operator for entry in ENTRIES.values() if entry.ledger})
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_all",
                                     description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=["sm_90"])
    parser.add_argument("--operators", nargs="+", choices=operators, default=operators)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args(argv)

    import triton

    jobs = [(entry.name, case, target) for entry in ENTRIES.values()
            if entry.operator in options.operators
            for case in entry.ledger for target in options.targets]
    if options.jobs > 1:
        # Each process is a new one: an abort in the compiler's C++ names itself, and kills no
        # other's work without a word.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
            results = list(pool.map(compile_case, *zip(*jobs)))
    else:
        results = list(starmap(compile_case, jobs))
    failed = [line for _, lines in results for line in lines]
    compiled = sum(len(kernels) for kernels, _ in results)
    print(f"triton {triton.__version__}: {compiled} kernels compiled, {len(failed)} did not")
    print(*failed, sep="\n", end="\n" if failed else "")
    return int(bool(failed) or not compiled)


if __name__ == "__main__":
    sys.exit(main())
