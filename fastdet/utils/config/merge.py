"""A config over its bases: mmcv's rules of merging, and references to a base's values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import ConfigError
from .interpreter import BASE_KEY, Reference

__all__ = ["DELETE_KEY", "drop_delete_keys", "merge", "resolve_references"]

DELETE_KEY = "_delete_"


def merge(child: dict[str, Any], base: Any, allow_list_keys: bool = False) -> Any:
    """``base`` overridden by ``child``, by the rules of mmcv; neither is changed."""
    merged = base.copy()
    for key, value in child.items():
        if allow_list_keys and isinstance(base, list) and key.isdigit():
            index = int(key)
            if index >= len(base):
                raise KeyError(f"Index {key} exceeds the length of list {base}")
            merged[index] = (merge(value, base[index], allow_list_keys)
                             if isinstance(value, dict) else value)
        elif isinstance(base, list):
            raise TypeError(f"{key!r} is no index of the list {base}")
        elif not isinstance(value, dict) or key not in base:
            merged[key] = value
        elif value.get(DELETE_KEY, False):
            merged[key] = {k: v for k, v in value.items() if k != DELETE_KEY}
        elif isinstance(base[key], (dict, list) if allow_list_keys else dict):
            inherits = {k: v for k, v in value.items() if k != DELETE_KEY}
            merged[key] = merge(inherits, base[key], allow_list_keys)
        else:
            raise TypeError(
                f"{key}={value} in child config cannot inherit from base because {key} is a dict "
                f"in the child config but is of type {type(base[key])} in base config. You may "
                f"set `{DELETE_KEY}=True` to ignore the base config")
    return merged


def drop_delete_keys(value: Any) -> None:
    """Remove ``_delete_`` where no base had anything to delete; mmcv leaves it to fail later."""
    if isinstance(value, dict):
        value.pop(DELETE_KEY, None)
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            drop_delete_keys(item)


def resolve_references(value: Any, base: dict[str, Any], path: Path | None) -> Any:
    """Replace references inside ``value``: dicts and lists in place, tuples by new ones."""
    if isinstance(value, Reference):
        found: Any = base
        for key in value.keys.split("."):
            if not isinstance(found, dict) or key not in found:
                raise ConfigError(f"{BASE_KEY}.{value.keys} is not in the base config", path,
                                  value.line)
            found = found[key]
        return found
    if isinstance(value, dict):
        for key in value:
            value[key] = resolve_references(value[key], base, path)
    elif isinstance(value, list):
        value[:] = [resolve_references(v, base, path) for v in value]
    elif isinstance(value, tuple):
        return tuple(resolve_references(v, base, path) for v in value)
    return value
