"""What a bug report should say, as in ``mmcv.utils.env``."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections import defaultdict

import torch

from fastdet.version import __version__ as fastdet_version

from ..version import __version__ as mmcv_version
from .parrots_wrapper import _get_cuda_home, get_build_config

__all__ = ["collect_env"]


def _first_line(*command: str) -> str:
    """The first line that a program prints, or that it is not there."""
    if shutil.which(command[0]) is None:
        return "n/a"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or ["n/a"])[0]


def _version(module: str) -> str:
    try:
        return importlib.import_module(module).__version__
    except ImportError:
        return "not installed"
    except (OSError, RuntimeError) as e:  # built for another torch
        return f"cannot be imported ({e})"


def collect_env() -> dict[str, str]:
    """Versions of the system, Python, the GPUs and compilers, torch, OpenCV and this package."""
    env = {"sys.platform": sys.platform, "Python": sys.version.replace("\n", ""),
           "CUDA available": str(torch.cuda.is_available())}
    if torch.cuda.is_available():
        devices: dict[str, list[str]] = defaultdict(list)
        for k in range(torch.cuda.device_count()):
            devices[torch.cuda.get_device_name(k)].append(str(k))
        env.update({f"GPU {','.join(ids)}": name for name, ids in devices.items()})
        home = _get_cuda_home()
        env["CUDA_HOME"] = str(home)
        if home is not None and os.path.isdir(home):
            nvcc = os.path.join(home, "bin", "nvcc")
            env["NVCC"] = _first_line(nvcc, "--version")
    env["GCC"] = _first_line("gcc", "--version")
    env["PyTorch"] = torch.__version__
    env["PyTorch compiling details"] = get_build_config()
    env["TorchVision"] = _version("torchvision")
    env["OpenCV"] = _version("cv2")
    env["MMCV"] = f"{mmcv_version} (fastdet {fastdet_version})"
    env["MMCV Compiler"] = env["MMCV CUDA Compiler"] = "none: Triton kernels"
    return env
