"""Checkpoints in a folder, the root of the data, the environment."""

from __future__ import annotations

import glob
import os
import os.path as osp
import re
import warnings
from typing import Any

from fastdet.mmcv.utils import collect_env as _collect_env
from fastdet.mmcv.utils import get_git_hash, print_log

__all__ = ["collect_env", "find_latest_checkpoint", "update_data_root"]


def collect_env() -> dict[str, Any]:
    """Versions of what a training runs on."""
    info = _collect_env()
    info["MMDetection"] = f"2.26.0+{get_git_hash()[:7]}"
    return info


def find_latest_checkpoint(path: str, suffix: str = "pth") -> str | None:
    """The checkpoint to resume from in a folder.

    Args:
        path: the folder.
        suffix: of checkpoints' names.

    Returns:
        ``latest.SUFFIX`` if it is there, else the one of the most epochs or iterations; ``None``
        with a warning where there is none.
    """
    if not osp.exists(path):
        warnings.warn(f"the folder of checkpoints {path} does not exist", stacklevel=2)
        return None
    latest = osp.join(path, f"latest.{suffix}")
    if osp.exists(latest):
        return latest
    found = {}
    for name in glob.glob(osp.join(path, f"*.{suffix}")):
        number = re.search(r"_(\d+)\.[^.]*$", osp.basename(name))
        if number:
            found[name] = int(number.group(1))
    if not found:
        warnings.warn(f"there are no checkpoints in {path}", stacklevel=2)
        return None
    return max(found, key=lambda name: found[name])


def update_data_root(cfg: Any, logger: Any = None) -> None:
    """Put ``$MMDET_DATASETS`` in the place of ``cfg.data_root`` in every path of ``cfg.data``."""
    new = os.environ.get("MMDET_DATASETS")
    if new is None:
        return
    old = cfg.data_root
    print_log(f"MMDET_DATASETS has been set to be {new}. Using {new} as data root.", logger)

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                value[key] = replaced(value[key])
            return value
        if isinstance(value, list):
            return [replaced(v) for v in value]
        return value.replace(old, new) if isinstance(value, str) else value

    replaced(cfg.data)
    cfg.data_root = new
