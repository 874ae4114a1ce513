"""``${...}`` in a config's strings."""

from __future__ import annotations

import re
from typing import Any

from fastdet.utils import Config

__all__ = ["replace_cfg_vals"]

_NAME = re.compile(r"\$\{([a-zA-Z\d_.]*)\}")


def replace_cfg_vals(ori_cfg: Any) -> Any:
    """A config with ``${model.type}`` in its strings replaced by what is there.

    A string that is one such name becomes the value itself; within a longer one it must be a
    string or a number.

    Raises:
        KeyError: there is no such setting.
    """
    def find(name: str) -> Any:
        value = ori_cfg
        for part in name.split("."):
            if not hasattr(value, "__getitem__") or part not in value:
                raise KeyError(f"${{{name}}}: the config has no {name}")
            value = value[part]
        return value

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: replaced(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(replaced(v) for v in value)
        if not isinstance(value, str):
            return value
        whole = _NAME.fullmatch(value)
        if whole:
            return replaced(find(whole.group(1)))
        return _NAME.sub(lambda m: _text(m.group(1)), value)

    def _text(name: str) -> str:
        value = replaced(find(name))
        if not isinstance(value, (str, int, float)):
            raise TypeError(f"${{{name}}} in a longer string must be a string or a number, got "
                            f"{type(value).__name__}")
        return str(value)

    updated = Config(replaced({k: ori_cfg[k] for k in ori_cfg}), filename=ori_cfg.filename)
    return updated
