"""Seeds, host and time, as in ``mmcv.runner.utils``."""

from __future__ import annotations

import os
import random
import time
from getpass import getuser
from socket import gethostname
from types import ModuleType
from typing import Any

import numpy as np
import torch

from .dist_utils import get_dist_info

__all__ = ["get_host_info", "get_time_str", "obj_from_dict", "set_random_seed"]


def get_host_info() -> str:
    """``user@host``, or ``''`` where there is no such user."""
    try:
        return f"{getuser()}@{gethostname()}"
    except (KeyError, OSError, ImportError):  # a container's user id may have no name
        return ""


def get_time_str() -> str:
    """Now, as in ``20260131_235959``."""
    return time.strftime("%Y%m%d_%H%M%S", time.localtime())


def obj_from_dict(info: dict[str, Any], parent: ModuleType | None = None,
                  default_args: dict[str, Any] | None = None) -> Any:
    """An object of the class that ``info['type']`` is or, in the module ``parent``, names.

    Args:
        info: ``type`` and arguments.
        parent: where a name is looked up.
        default_args: arguments that ``info`` overrides.

    Raises:
        TypeError: ``type`` is neither a name nor a class.
    """
    if not isinstance(info, dict) or "type" not in info:
        raise AssertionError(f"info must be a dict with the key 'type', got {info!r}")
    if not isinstance(default_args, dict | None):
        raise AssertionError("default_args must be a dict or None, "
                             f"got {type(default_args).__name__}")
    args = {**(default_args or {}), **info}
    kind = args.pop("type")
    if isinstance(kind, str):
        if parent is None:
            raise TypeError(f"the class {kind} is given by name and needs a parent to find it in")
        kind = getattr(parent, kind)
    elif not isinstance(kind, type):
        raise TypeError(f"type must be a str or valid type, but got {type(kind)}")
    return kind(**args)


def set_random_seed(seed: int, deterministic: bool = False, use_rank_shift: bool = False) -> None:
    """Seed ``random``, NumPy and torch.

    Args:
        seed: the seed.
        deterministic: let cuDNN choose deterministic algorithms alone.
        use_rank_shift: add the rank, so that processes draw different numbers.
    """
    if use_rank_shift:
        seed += get_dist_info()[0]
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- the stream that pipelines draw from
    torch.manual_seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
    if deterministic:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
