"""What is in ``mmcv.runner.checkpoint``: :mod:`fastdet.runner`'s, and file clients."""

from __future__ import annotations

import io
import os
from typing import Any

import torch
from torch import nn

from fastdet.runner import (
    CheckpointLoader,
    _load_checkpoint,
    _load_checkpoint_with_prefix,
    find_state_dict,
    get_state_dict,
    known_models,
    load_checkpoint,
    load_state_dict,
    make_checkpoint,
    read_checkpoint,
    weights_to_cpu,
)
from fastdet.runner import save_checkpoint as _save_checkpoint

from ..fileio import FileClient
from ..version import __version__

__all__ = ["CheckpointLoader", "_load_checkpoint", "_load_checkpoint_with_prefix",
           "find_state_dict", "get_deprecated_model_names", "get_external_models",
           "get_mmcls_models", "get_state_dict", "load_checkpoint", "load_state_dict",
           "save_checkpoint", "weights_to_cpu"]


def get_external_models() -> dict[str, str]:
    """Addresses of weights by what stands behind ``open-mmlab://``."""
    return dict(known_models()["open-mmlab"])


def get_mmcls_models() -> dict[str, str]:
    """Addresses of weights by what stands behind ``mmcls://``."""
    return dict(known_models()["mmcls"])


def get_deprecated_model_names() -> dict[str, str]:
    """New names behind ``open-mmlab://`` by the old."""
    return dict(known_models()["renamed"])


@CheckpointLoader.register_scheme("s3://")
def _load_object(name: str, map_location: Any) -> Any:
    content = io.BytesIO(FileClient.infer_client(uri=name).get(name))
    return read_checkpoint(name, content, map_location)


def save_checkpoint(model: nn.Module, filename: str, optimizer: Any = None,
                    meta: dict[str, Any] | None = None,
                    file_client_args: dict[str, Any] | None = None) -> None:
    """Save a checkpoint, whole or not at all; see :func:`fastdet.runner.save_checkpoint`.

    Args:
        model: the module.
        filename: a path, or a URI that ``FileClient`` knows.
        optimizer: the optimizer, or several by name.
        meta: what else to save.
        file_client_args: arguments of ``FileClient``.

    Raises:
        ValueError: a ``pavi://`` name, which only Pavi's own client can write.
    """
    if str(filename).startswith("pavi://"):
        raise ValueError(f"cannot save to {filename}: Pavi's model cloud is not supported; save to "
                         "a file or to a URI that FileClient knows")
    meta = {**(meta or {}), "mmcv_version": __version__} if isinstance(meta, dict | None) else meta
    client = FileClient.infer_client(file_client_args, filename)
    if client.name == "HardDiskBackend":
        _save_checkpoint(model, os.fspath(filename), optimizer, meta)
        return
    content = io.BytesIO()
    torch.save(make_checkpoint(model, optimizer, meta), content)
    client.put(content.getvalue(), filename)
