"""Reading and writing checkpoints, as in ``mmcv.runner``, without running code from a file."""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import pickle
import re
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from fastdet.utils import ConfigDict
from fastdet.version import __version__

__all__ = ["CheckpointLoader", "find_state_dict", "get_state_dict", "load_checkpoint",
           "load_state_dict", "make_checkpoint", "read_checkpoint", "save_checkpoint",
           "weights_to_cpu"]

logger_ = logging.getLogger("fastdet")

Loader = Callable[[str, Any], Any]

# What torch.load raises on a file that it cannot read.
_UNREADABLE = (pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError,
               AttributeError, RuntimeError, struct.error)

# ``torchvision://NAME``: the weights of torchvision 0.12, which MMDetection's models start from.
_TORCHVISION = {
    "mobilenet_v2": "mobilenet_v2-b0353104",
    "resnet18": "resnet18-f37072fd",
    "resnet34": "resnet34-b627a593",
    "resnet50": "resnet50-0676ba61",
    "resnet101": "resnet101-63fe2227",
    "resnet152": "resnet152-394f9c45",
    "resnext50_32x4d": "resnext50_32x4d-7cdf4587",
    "resnext101_32x8d": "resnext101_32x8d-8ba56ff5",
    "vgg16": "vgg16-397923af",
    "vgg16_bn": "vgg16_bn-6c64b313",
    "wide_resnet50_2": "wide_resnet50_2-95faca4d",
    "wide_resnet101_2": "wide_resnet101_2-32ee1156",
}


class CheckpointLoader:
    """Reads checkpoints from where a name's scheme (``'http://'``, none for a path) says."""

    _schemes: dict[str, Loader] = {}  # noqa: RUF012  (one table for all, on purpose)

    @classmethod
    def register_scheme(cls, prefixes: str | Iterable[str], loader: Loader | None = None,
                        force: bool = False) -> Any:
        """Register ``loader(filename, map_location) -> checkpoint`` for names with a prefix.

        Args:
            prefixes: what the names start with, such as ``'s3://'``; one or several.
            loader: the function; without it a decorator is returned.
            force: replace what is already registered.

        Raises:
            KeyError: a prefix is taken and ``force`` is false.
        """
        def register(function: Loader) -> Loader:
            for prefix in [prefixes] if isinstance(prefixes, str) else prefixes:
                if prefix in cls._schemes and not force:
                    raise KeyError(f"{prefix} is already registered as a checkpoint scheme; "
                                   "pass force=True to replace it")
                cls._schemes[prefix] = function
            return function

        return register if loader is None else register(loader)

    @classmethod
    def load_checkpoint(cls, filename: str | os.PathLike[str], map_location: Any = None,
                        logger: logging.Logger | None = None) -> dict[str, Any]:
        """Read a checkpoint with ``weights_only=True``; nothing in the file is executed.

        Args:
            filename: a path, an ``http(s)://`` address, ``torchvision://NAME``,
                ``open-mmlab://NAME`` or ``mmcls://NAME``, or a name with a
                scheme given to :meth:`register_scheme`.
            map_location: as for ``torch.load``.
            logger: told what is read.

        Returns:
            The dict that the file holds, be it a whole checkpoint or a bare state dict.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the scheme is unknown, the file is not a checkpoint, or it needs pickle.
        """
        name = os.fspath(filename)
        prefix = max(filter(name.startswith, cls._schemes), key=len, default=None)
        if prefix is None and "://" in name:
            raise ValueError(
                f"cannot load {name}: known schemes are {', '.join(cls._schemes)}; download the "
                "checkpoint and pass its path, or register_scheme() a loader for it")
        (logger or logger_).info("loading the checkpoint %s", name)
        load = _load_path if prefix is None else cls._schemes[prefix]
        checkpoint = load(name, map_location)
        if not isinstance(checkpoint, dict):
            raise ValueError(f"{name} holds a {type(checkpoint).__name__}, not a checkpoint or a "
                             "state dict")
        return checkpoint


def _read(name: str, read: Callable[[], Any]) -> Any:
    """Call ``read``, telling in one sentence why ``name`` is not readable when it fails."""
    try:
        return read()
    except _UNREADABLE as e:
        # No memory or no such device says nothing about the file; torch's own message does.
        if isinstance(e, torch.OutOfMemoryError) or "map_location" in str(e):
            raise
        if found := re.search(r"GLOBAL (\S+)", str(e)):
            raise ValueError(
                f"{name} needs pickle to make a {found[1]}, which could run code, and is refused; "
                "if you trust it, convert it once: torch.save({'state_dict': torch.load(path, "
                "weights_only=False)['state_dict']}, new_path)") from e
        raise ValueError(f"{name} is not a checkpoint that torch.save wrote, or it is damaged"
                         ) from e


def _latin1(text: str, encoding: str) -> bytes:
    """The bytes of an array, which old pickles hold as text."""
    if encoding != "latin1":
        raise ValueError(f"an array's bytes must be in latin1, got {encoding!r}")
    return text.encode(encoding)


class _Namespace(argparse.Namespace):
    """Arguments of a program, as DETR's checkpoints hold them."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def _plain_types() -> list[Any]:
    """What training programs put beside tensors, all of it plain data, by its name in a file.

    NumPy's numbers and arrays (scores, statistics) and the containers of configs.
    """
    arrays = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core")
                                     else "numpy.core.multiarray")
    named = [(getattr(arrays, name), f"numpy.{core}.multiarray.{name}")
             for name in ("scalar", "_reconstruct") for core in ("core", "_core")]
    # torch looks a dtype up by its class.
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDSU"}
    return [*named, np.ndarray, np.dtype, *dtypes, (_latin1, "_codecs.encode"),
            (_Namespace, "argparse.Namespace"),
            # torch fills no other dicts than these.
            *((OrderedDict, name) for name in ("mmcv.utils.config.ConfigDict", "addict.addict.Dict",
                                               "fastdet.utils.config.config.ConfigDict"))]


def read_checkpoint(name: str, file: Any, map_location: Any) -> Any:
    """What an open file, or the path of one, holds; ``name`` is for messages.

    Raises:
        ValueError: it is not a checkpoint, or it needs pickle.
    """

    def read() -> Any:
        with torch.serialization.safe_globals(_plain_types()):
            return torch.load(file, map_location=map_location, weights_only=True)

    return _read(name, read)


def _load_path(name: str, map_location: Any) -> Any:
    path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    return read_checkpoint(name, path, map_location)


@CheckpointLoader.register_scheme(["http://", "https://"])
def _load_url(name: str, map_location: Any, check_hash: bool = False) -> Any:
    # Ranks that download at once do no harm: a finished file is moved into the cache whole.
    def read() -> Any:
        with torch.serialization.safe_globals(_plain_types()):
            return torch.hub.load_state_dict_from_url(
                name, map_location=map_location, check_hash=check_hash, weights_only=True)

    return _read(name, read)


@CheckpointLoader.register_scheme("torchvision://")
def _load_torchvision(name: str, map_location: Any) -> Any:
    model = name.removeprefix("torchvision://")
    if model not in _TORCHVISION:
        raise ValueError(f"cannot load {name}: known are {', '.join(_TORCHVISION)}; download the "
                         "weights and pass their path")
    return _load_url(f"https://download.pytorch.org/models/{_TORCHVISION[model]}.pth",
                     map_location, check_hash=True)


def find_state_dict(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The state dict in a checkpoint: under ``'state_dict'``, under ``'model'``, or itself.

    Raises:
        ValueError: its keys are not names, or its ``_metadata`` is not a dict of dicts.
    """
    found = next((checkpoint[key] for key in ("state_dict", "model")
                  if isinstance(checkpoint.get(key), Mapping)), checkpoint)
    _check_state_dict(found)
    return found


def _check_state_dict(state_dict: Mapping[str, Any]) -> None:
    odd = next((key for key in state_dict if not isinstance(key, str)), None)
    if odd is not None:
        raise ValueError("the keys of a state dict must be names of parameters, "
                         f"got the {type(odd).__name__} {odd!r}")
    versions = getattr(state_dict, "_metadata", {})
    if not isinstance(versions, Mapping) or not all(
            isinstance(name, str) and isinstance(v, Mapping) for name, v in versions.items()):
        raise ValueError("the _metadata of a state dict must be a dict of dicts by module name, "
                         f"got {versions!r:.80}")


def _rename(state_dict: Mapping[str, Any], rename: Callable[[str], str | None]
            ) -> OrderedDict[str, Any]:
    """A state dict under new keys, its modules' versions too; ``None`` drops a key."""
    out: OrderedDict[str, Any] = OrderedDict()
    for key, value in state_dict.items():
        if (new := rename(key)) is not None:
            out[new] = value
    versions: OrderedDict[str, Any] = OrderedDict()
    for name, version in getattr(state_dict, "_metadata", {}).items():
        if (new := rename(f"{name}.")) is not None:
            versions[new.removesuffix(".")] = version
    out._metadata = versions  # type: ignore[attr-defined]
    return out


def _load_checkpoint(filename: str | os.PathLike[str], map_location: Any = None,
                     logger: logging.Logger | None = None) -> dict[str, Any]:
    """:meth:`CheckpointLoader.load_checkpoint` under the name that mmcv's users import."""
    return CheckpointLoader.load_checkpoint(filename, map_location, logger)


def _load_checkpoint_with_prefix(prefix: str, filename: str | os.PathLike[str],
                                 map_location: Any = None) -> OrderedDict[str, Any]:
    """The part of a checkpoint's state dict below ``prefix``, which its keys lose.

    ``_load_checkpoint_with_prefix('backbone', path)`` takes a backbone out of a detector.

    Raises:
        ValueError: no key has the prefix.
    """
    prefix = f"{prefix.removesuffix('.')}."
    state_dict = find_state_dict(CheckpointLoader.load_checkpoint(filename, map_location))
    part = _rename(state_dict, lambda k: k[len(prefix):] if k.startswith(prefix) else None)
    if not part:
        raise ValueError(f"no key of {filename} starts with {prefix!r}; the first is "
                         f"{next(iter(state_dict), None)!r}")
    return part


def load_checkpoint(
    model: nn.Module,
    filename: str | os.PathLike[str],
    map_location: Any = None,
    strict: bool = False,
    logger: logging.Logger | None = None,
    revise_keys: Iterable[tuple[str, str]] = ((r"^module\.", ""),),
) -> dict[str, Any]:
    """Load a checkpoint into a model.

    Args:
        model: the module that receives the weights.
        filename: see :meth:`CheckpointLoader.load_checkpoint`.
        map_location: as for ``torch.load``.
        strict: raise where the keys or shapes do not match, instead of logging a warning.
        logger: receives the warning; the logger ``fastdet`` by default.
        revise_keys: ``(pattern, replacement)`` pairs for ``re.sub`` on the keys, in this order.
            The default drops the ``module.`` of ``DataParallel``.

    Returns:
        The checkpoint as it was in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint, or it needs pickle.
        RuntimeError: ``strict``, and something does not match.
    """
    checkpoint = CheckpointLoader.load_checkpoint(filename, map_location, logger)
    state_dict = find_state_dict(checkpoint)
    for pattern, replacement in revise_keys:
        state_dict = _rename(state_dict, functools.partial(re.sub, pattern, replacement))
    load_state_dict(model, state_dict, strict, logger)
    return checkpoint


def load_state_dict(module: nn.Module, state_dict: Mapping[str, Any], strict: bool = False,
                    logger: logging.Logger | None = None) -> None:
    """Load a state dict; unlike torch, also past keys whose shapes differ.

    What does not match is listed: unexpected and missing keys (a missing
    ``num_batches_tracked`` is fine) and sizes that differ. ``DataParallel`` wrappers inside
    ``module`` count for nothing in the keys.

    Args:
        module: receives the weights.
        state_dict: tensors by key. It is not changed.
        strict: raise instead of logging a warning.
        logger: receives the warning; the logger ``fastdet`` by default.

    Raises:
        RuntimeError: ``strict``, and something does not match.
        ValueError: a key is not a name, or ``_metadata`` is not a dict of dicts.
    """
    _check_state_dict(state_dict)
    versions = getattr(state_dict, "_metadata", {})
    # One dict for all modules, not a part for each: modules of an older version rename keys in it,
    # some of them (deformable convolutions) keys that lie outside their own prefix.
    state: OrderedDict[str, Any] = OrderedDict(state_dict)
    missing: list[str] = []
    unexpected: list[str] = []
    problems: list[str] = []

    def load(part: nn.Module, prefix: str) -> None:
        part = _unwrap(part)
        part._load_from_state_dict(state, prefix, versions.get(prefix[:-1], {}), True,
                                   missing, unexpected, problems)
        for name, child in part._modules.items():
            if child is not None:
                load(child, f"{prefix}{name}.")

    load(module, "")
    unexpected = [k for k in unexpected if k in state]  # the rest was renamed after it was listed
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if unexpected:
        problems.append(f"unexpected key in source state_dict: {', '.join(unexpected)}")
    if missing:
        problems.append(f"missing keys in source state_dict: {', '.join(missing)}")
    if not problems:
        return
    message = "\n".join(["The model and loaded state dict do not match exactly", *problems])
    if strict:
        raise RuntimeError(message)
    if not torch.distributed.is_available() or not torch.distributed.is_initialized() \
            or torch.distributed.get_rank() == 0:
        (logger or logger_).warning(message)


def _unwrap(module: nn.Module) -> nn.Module:
    while isinstance(module, DataParallel | DistributedDataParallel):
        module = module.module
    return module


def get_state_dict(module: nn.Module, destination: dict[str, Any] | None = None,
                   prefix: str = "", keep_vars: bool = False) -> Any:
    """The state dict of a module, whose keys do not show ``DataParallel`` wrappers.

    Args:
        module: the module.
        destination: a dict to put it into, and to return.
        prefix: put before all keys.
        keep_vars: give the parameters themselves, not detached from autograd.
    """
    wrapped = [f"{name}.module.".removeprefix(".") for name, part in module.named_modules()
               if isinstance(part, DataParallel | DistributedDataParallel)]

    def rename(key: str) -> str:
        for wrapper in reversed(wrapped):  # innermost first, while the outer prefixes still fit
            if key.startswith(wrapper):
                key = wrapper.removesuffix("module.") + key[len(wrapper):]
        return prefix + key

    found = _rename(module.state_dict(keep_vars=keep_vars), rename)
    if destination is None:
        return found
    destination.update(found)
    return destination


def weights_to_cpu(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """A copy of a state dict with its tensors on the CPU; modules' versions are kept."""
    out = _rename(state_dict, lambda k: k)
    out.update((k, v.cpu()) for k, v in out.items() if isinstance(v, torch.Tensor))
    return out


def _plain(value: Any) -> Any:
    """Metadata that any torch.load reads: configs as dicts, NumPy's numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, ConfigDict) or type(value) is dict:
        return {k: _plain(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def make_checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer] | None = None,
    meta: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A dict of ``meta``, ``state_dict`` on the CPU and, if given, ``optimizer``.

    See :func:`save_checkpoint`.
    """
    if not isinstance(meta, dict | None):
        raise TypeError(f"meta must be a dict or None, got {type(meta).__name__}")
    meta = {**_plain(meta or {}), "fastdet_version": __version__, "time": time.asctime()}
    classes = getattr(_unwrap(model), "CLASSES", None)
    if classes is not None:
        meta["CLASSES"] = classes
    checkpoint: dict[str, Any] = {"meta": meta, "state_dict": weights_to_cpu(get_state_dict(model))}
    if isinstance(optimizer, Mapping):
        checkpoint["optimizer"] = {name: o.state_dict() for name, o in optimizer.items()}
    elif optimizer is not None:
        checkpoint["optimizer"] = optimizer.state_dict()
    return checkpoint


def save_checkpoint(
    model: nn.Module,
    filename: str | os.PathLike[str],
    optimizer: torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer] | None = None,
    meta: dict[str, Any] | None = None,
) -> None:
    """Save a model as a dict of ``meta``, ``state_dict`` and, if given, ``optimizer``.

    The file is there whole or not at all: a training that is killed while it saves leaves what
    was there before.

    Args:
        model: the module; ``DataParallel`` is stripped. Its ``CLASSES``, if any, go to ``meta``.
        filename: the file to write; its folder is created.
        optimizer: the optimizer, or several by name, to save the state of.
        meta: what else to save. Only plain values and NumPy's can be loaded again.

    Raises:
        TypeError: ``meta`` is not a dict.
    """
    checkpoint = make_checkpoint(model, optimizer, meta)
    path = Path(filename).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        torch.save(checkpoint, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
