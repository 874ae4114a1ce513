"""``fastdet env``: versions, devices, and the backend each operator takes here and why."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform

import torch

import fastdet
from fastdet.cli.backends import expected_backend, operators
from fastdet.cli.console import table
from fastdet.kernels.dispatch import interpreting

__all__ = ["run"]


def _version(package: str, otherwise: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return otherwise


def versions() -> list[tuple[str, str]]:
    """Names and versions of what fastdet runs on."""
    why_none = "triton publishes wheels for Linux only" if platform.system() != "Linux" else \
        "not installed: pip install triton"
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else \
        f"ROCm {torch.version.hip}" if torch.version.hip else "CPU only"
    return [
        ("fastdet", fastdet.__version__),
        ("python", f"{platform.python_version()} ({platform.system()} {platform.machine()})"),
        ("torch", f"{torch.__version__} ({built})"),
        ("triton", _version("triton", f"none ({why_none})")),
        ("numpy", _version("numpy", "none")),
        *((name, _version(name, "none (pip install 'fastdet[cli]')"))
          for name in ("pillow", "matplotlib", "rich")),
    ]


def devices() -> list[tuple[torch.device, str]]:
    """The devices of this machine and what they are."""
    found = [(torch.device("cpu"), f"{os.cpu_count()} logical cores, "
              f"{torch.get_num_threads()} threads")]
    # A torch built without a GPU runtime has no driver to ask.
    if (torch.version.cuda or torch.version.hip) and torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            found.append((torch.device("cuda", i), f"{p.name}, {p.total_memory / 2**30:.0f} GiB, "
                          f"compute capability {p.major}.{p.minor}"))
    return found


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    backend = fastdet.get_backend() + (", kernels interpreted on the CPU" if interpreting() else "")
    table("Versions", ("package", "version"), versions())
    found = devices()
    table("Devices", ("device", "what it is"), [(str(d), what) for d, what in found])
    rows = [(name, str(device), *expected_backend(device))
            for device, _ in found for name in operators()]
    table(f"Operators (FASTDET_BACKEND: {backend})", ("operator", "device", "backend", "why"),
          [(*row[:3], row[3] or "the device runs Triton kernels") for row in rows])
    return 0
