"""From a config file and its bases to one dict: Python, JSON and YAML, read within a budget."""

from __future__ import annotations

import ast
import json
import os
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .budget import MAX_ODD_KEYS, Budget
from .errors import ConfigError, ConfigNotFoundError
from .interpreter import BASE_KEY, Interpreter, Reference
from .merge import drop_delete_keys, merge, resolve_references

__all__ = ["SUFFIXES", "read_config"]

DEPRECATION_KEY = "_deprecation_"

_REFERENCE = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")
_FILE_VARIABLE = re.compile(
    r"\{\{\s*(fileDirname|fileBasename|fileBasenameNoExtension|fileExtname)\s*\}\}")

_ESCAPES = {".py": lambda s: re.sub(r"""(["'\\])""", r"\\\1", s),
            ".json": lambda s: json.dumps(s)[1:-1]}


def read_config(path: Path, variables: bool = True) -> tuple[dict[str, Any], str]:
    """The merged content of ``path`` and its bases, and the text of all of them.

    Args:
        path: an absolute path.
        variables: put the file's names in place of ``{{ fileDirname }}`` and the like.

    Raises:
        ConfigError: a file is missing or is no config, or the whole is beyond the budget.
    """
    reader = _Reader(variables)
    cfg_dict, text = reader.load(path, ())
    try:
        drop_delete_keys(cfg_dict)
    except RecursionError:
        raise _too_deep(path) from None
    return cfg_dict, text


def _too_deep(path: Path) -> ConfigError:
    return ConfigError("the config is nested too deeply", path)


class _Reader:
    """Reads each file once, however many name it as their base."""

    def __init__(self, variables: bool) -> None:
        self.variables = variables
        self.budget = Budget()
        self.done: dict[str, tuple[dict[str, Any], str]] = {}

    def load(self, path: Path, parents: tuple[str, ...]) -> tuple[dict[str, Any], str]:
        real = os.path.realpath(path)
        if real in parents:
            names = [Path(p).name for p in (*parents[parents.index(real):], real)]
            raise ConfigError(f"the file is its own {BASE_KEY} ({' -> '.join(names)})", path)
        key = str(path)
        if key not in self.done:
            try:
                self.done[key] = self.load_file(path, (*parents, real))
            except RecursionError:
                raise _too_deep(path) from None
        return self.done[key]

    def load_file(self, path: Path, parents: tuple[str, ...]) -> tuple[dict[str, Any], str]:
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"a config must be a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} "
                              "file", path)
        text = _read_text(path, self.budget)
        source = self.fill(text, path)
        cfg_dict = _READERS[path.suffix](path, source, self.budget)
        self.budget.take_value(cfg_dict, path)
        text = f"{path}\n{text}"
        _warn_deprecated(cfg_dict.pop(DEPRECATION_KEY, None), path)

        names = cfg_dict.pop(BASE_KEY, [])
        names = names if isinstance(names, list) else [names]
        base: dict[str, Any] = {}
        texts = []
        for name in names:
            if not isinstance(name, str):
                raise ConfigError(f"{BASE_KEY} must be a path or a list of paths, got {name!r}",
                                  path)
            if not name.isprintable() or len(name) > 4096:
                raise ConfigError(f"{BASE_KEY} is no path: {name[:200]!r}", path)
            part, part_text = self.load(Path(os.path.abspath(path.parent / name)), parents)
            twice = sorted(map(str, base.keys() & part.keys()))
            if twice:
                raise ConfigError("Duplicate key is not allowed among bases. Duplicate keys: "
                                  f"{', '.join(twice)[:200]}", path)
            base.update(part)
            self.budget.take("bytes", len(part_text), path)  # of the whole text, which is kept
            texts.append(part_text)
        resolve_references(cfg_dict, base, path)
        try:
            merged = merge(cfg_dict, base)
        except TypeError as e:
            raise ConfigError(str(e), path) from None
        self.budget.take_value(merged, path)
        return merged, "\n".join((*texts, text))

    def fill(self, text: str, path: Path) -> str:
        """``text`` with the names of its file for ``{{ fileDirname }}`` and the like."""
        if not self.variables or "{{" not in text:
            return text
        values = {"fileDirname": path.parent.as_posix(), "fileBasename": path.name,
                  "fileBasenameNoExtension": path.stem, "fileExtname": path.suffix}
        escape = _ESCAPES.get(path.suffix, str)
        found = sum(1 for _ in _FILE_VARIABLE.finditer(text))
        self.budget.take("bytes", found * len(str(path)), path)
        return _FILE_VARIABLE.sub(lambda m: escape(values[m[1]]), text)


def _read_text(path: Path, budget: Budget) -> str:
    budget.take("files", 1, path)
    try:
        # A named pipe would wait for a writer for ever if it were opened in the usual way.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as f:
            if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
                raise ConfigError("the config cannot be read: it is no regular file", path)
            data = f.read(max(budget.left["bytes"], 0) + 1)
    except FileNotFoundError:
        raise ConfigNotFoundError("there is no such config file", path) from None
    except OSError as e:
        raise ConfigError(f"the config cannot be read: {e.strerror or e}", path) from None
    budget.take("bytes", len(data), path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError("the file is binary, so it is no config", path)
    return text


def _warn_deprecated(given: Any, path: Path) -> None:
    if isinstance(given, dict):
        message = f"the config file {path} is deprecated"
        if "expected" in given:
            message += f"; use {given['expected']} instead"
        if "reference" in given:
            message += f"; more is said at {given['reference']}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)


# One reader for each kind of file

def _read_python(path: Path, text: str, budget: Budget) -> dict[str, Any]:
    budget.take_text(text, path)
    budget.take("marks", 4 * text.count("{"), path)  # each field of an f-string is a parse
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as an invalid escape in a string
            tree = ast.parse(text, str(path))
    except SyntaxError as e:
        raise ConfigError(f"the file is not Python ({e.msg})", path, e.lineno) from None
    except (ValueError, MemoryError) as e:  # ast.parse has these for absurd input
        raise ConfigError(f"the file is not Python ({str(e) or 'it is nested too deeply'})", path
                          ) from None
    interpreter = Interpreter(path, budget)
    interpreter.run(tree.body)
    return {k: v for k, v in interpreter.names.items() if not k.startswith("__")}


def _with_references(value: Any) -> Any:
    """A document's value with references for the strings that stand for them."""
    if isinstance(value, str):
        match = _REFERENCE.fullmatch(value)
        return Reference(match[1], None) if match else value
    if isinstance(value, dict):
        return {k: _with_references(v) for k, v in value.items()}
    return [_with_references(v) for v in value] if isinstance(value, list) else value


def _document(path: Path, found: Any, budget: Budget) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ConfigError(f"a config must be a dict, got {type(found).__name__}", path)
    odd = next((k for k in found if not isinstance(k, str)), None)
    if odd is not None:
        raise ConfigError(f"the keys of a config must be strings, got {odd!r}", path)
    budget.take_value(found, path)
    return dict(_with_references(found))


def _quoted_references(text: str) -> str:
    return _REFERENCE.sub(lambda m: json.dumps(m[0]), text)


def _read_json(path: Path, text: str, budget: Budget) -> dict[str, Any]:
    budget.take_text(text, path)
    try:
        found = json.loads(_quoted_references(text))
    except ValueError as e:
        line = getattr(e, "lineno", None)
        raise ConfigError(f"the file is not JSON ({getattr(e, 'msg', e)})", path, line) from None
    return _document(path, found, budget)


def _read_yaml(path: Path, text: str, budget: Budget) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise ConfigError("a YAML config needs PyYAML; install it with pip install pyyaml",
                          path) from None
    budget.take_text(text, path, weight=10)  # PyYAML is some ten times slower than a JSON reader

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """PyYAML's safe loader, with the cost of ``<<`` and of odd keys in view."""

        def flatten_mapping(self, node: Any) -> None:
            inherited = 0
            for key, value in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                        if isinstance(part, yaml.MappingNode):
                            self.flatten_mapping(part)
                            inherited += len(part.value)
                            budget.take("steps", len(part.value), path)
            super().flatten_mapping(node)
            odd = sum(key.tag.rpartition(":")[2] != "str" and len(key.value) > 9
                      for key, _ in node.value)
            if odd > MAX_ODD_KEYS:
                raise ConfigError(f"a dict has more than {MAX_ODD_KEYS} keys that are neither "
                                  "strings nor small integers", path)

    try:
        found = yaml.load(_quoted_references(text), Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        raise ConfigError(f"the file is not YAML ({getattr(e, 'problem', None) or e})", path,
                          mark and mark.line + 1) from None
    except (ValueError, TypeError) as e:
        if isinstance(e, ConfigError):
            raise
        raise ConfigError(f"the file is not YAML ({e})", path) from None
    return _document(path, found, budget)


_READERS: dict[str, Callable[[Path, str, Budget], dict[str, Any]]] = {
    ".py": _read_python, ".json": _read_json, ".yaml": _read_yaml, ".yml": _read_yaml,
}
SUFFIXES = tuple(_READERS)
