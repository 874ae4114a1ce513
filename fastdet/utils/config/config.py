"""``Config`` and ``ConfigDict``: what a config file becomes, as in mmcv."""

from __future__ import annotations

import argparse
import copy
import json
import keyword
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .arguments import add_args
from .dump import pretty
from .errors import ConfigError
from .imports import import_modules_from_strings
from .merge import merge
from .reader import SUFFIXES, read_config

__all__ = ["Config", "ConfigDict"]

RESERVED_KEYS = ("filename", "text", "pretty_text")


class ConfigDict(dict[str, Any]):
    """A dict whose items are attributes too, as are those of the dicts inside it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__({k: _to_config_dict(v) for k, v in dict(*args, **kwargs).items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise self._no_attribute(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name):
            raise AttributeError(f"{name!r} is a method of ConfigDict; set cfg[{name!r}] instead")
        self[name] = _to_config_dict(value)

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise self._no_attribute(name) from None

    def _no_attribute(self, name: str) -> AttributeError:
        return AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def copy(self) -> ConfigDict:
        """A shallow copy."""
        return copy.copy(self)

    def deepcopy(self) -> ConfigDict:
        """A copy that shares nothing with this one."""
        return copy.deepcopy(self)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Take items over; a dict is merged into the dict that is there, as in mmcv."""
        for key, value in dict(*args, **kwargs).items():
            mine = self.get(key)
            if isinstance(mine, ConfigDict) and isinstance(value, dict):
                mine.update(value)
            else:
                self[key] = _to_config_dict(value)

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, dict):
            return NotImplemented
        new = self.copy()
        new.update(other)
        return new

    def __ior__(self, other: Any) -> ConfigDict:  # type: ignore[override,misc]
        self.update(other)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts all the way down."""
        return {k: _map_items(v, ConfigDict.to_dict) for k, v in self.items()}


def _map_items(value: Any, convert: Callable[[Any], Any]) -> Any:
    """``value`` with ``convert`` applied to the outermost dicts in it."""
    if isinstance(value, dict):
        return convert(value)
    if type(value) in (list, tuple):
        return type(value)(_map_items(v, convert) for v in value)
    return value


def _to_config_dict(value: Any) -> Any:
    return _map_items(value, ConfigDict)


class Config:
    """A config: a dict with attribute access that knows the file it came from.

    Args:
        cfg_dict: the content.
        cfg_text: the text of the file, for :attr:`text`.
        filename: the file, for :attr:`filename`.

    Raises:
        TypeError: ``cfg_dict`` is not a dict.
        KeyError: a top-level key is one of ``filename``, ``text``, ``pretty_text``.
    """

    _cfg_dict: ConfigDict
    _filename: str | None
    _text: str

    def __init__(self, cfg_dict: dict[str, Any] | None = None, cfg_text: str | None = None,
                 filename: str | Path | None = None) -> None:
        if cfg_dict is None:
            cfg_dict = {}
        if not isinstance(cfg_dict, dict):
            raise TypeError(f"cfg_dict must be a dict, got {type(cfg_dict).__name__}")
        for key in cfg_dict:
            if key in RESERVED_KEYS:
                raise KeyError(f"{key} is reserved for the config itself and cannot be a key")
        super().__setattr__("_cfg_dict", ConfigDict(cfg_dict))
        super().__setattr__("_filename", None if filename is None else str(filename))
        super().__setattr__("_text", cfg_text or "")

    @staticmethod
    def fromfile(filename: str | Path, use_predefined_variables: bool = True,
                 import_custom_modules: bool = True) -> Config:
        """Read a ``.py``, ``.json``, ``.yaml`` or ``.yml`` config and the files of its ``_base_``.

        The file is not executed: a small interpreter evaluates what configs are written in, and
        its work is bounded. ``{{_base_.x.y}}`` as a value stands for that value of the bases.

        Args:
            filename: the file.
            use_predefined_variables: put the file's own names in place of ``{{ fileDirname }}``,
                ``{{ fileBasename }}``, ``{{ fileBasenameNoExtension }}``, ``{{ fileExtname }}``.
            import_custom_modules: import the modules that ``custom_imports`` names. This runs
                their code; ``False`` leaves a config that is not trusted without it.

        Raises:
            ConfigError: the file is missing (a ``FileNotFoundError`` too) or not a config, or
                holds a construct that configs may not have, or takes too much work.
            ImportError: a module of ``custom_imports`` cannot be imported.
        """
        try:
            path = Path(filename).expanduser().absolute()
        except RuntimeError as e:  # no such home
            raise ConfigError(f"{filename}: {e}") from None
        if "\0" in str(path):
            raise ConfigError(f"the name of a config has a zero character: {str(filename)!r}")
        cfg_dict, text = read_config(path, use_predefined_variables)
        for key in RESERVED_KEYS:
            if key in cfg_dict:
                raise ConfigError(f"the name {key!r} is reserved for the config itself", path)
        if import_custom_modules and cfg_dict.get("custom_imports"):
            given = cfg_dict["custom_imports"]
            if not isinstance(given, dict) or given.keys() - {"imports", "allow_failed_imports"}:
                raise ConfigError("custom_imports must be dict(imports=[...], "
                                  f"allow_failed_imports=...), got {given!r}", path)
            import_modules_from_strings(**{"imports": None, **given})
        return Config(cfg_dict, cfg_text=text, filename=filename)

    @staticmethod
    def fromstring(cfg_str: str, file_format: str) -> Config:
        """Read a config from its text.

        Args:
            cfg_str: the text.
            file_format: ``'.py'``, ``'.json'``, ``'.yaml'`` or ``'.yml'``.

        Raises:
            ConfigError: as for :meth:`fromfile`, or the format is another one.
        """
        if file_format not in SUFFIXES:
            raise ConfigError(f"file_format must be one of {', '.join(SUFFIXES)}, got "
                              f"{file_format!r}")
        if file_format != ".py" and "dict(" in cfg_str:
            warnings.warn("the text has 'dict(' in it; is its file_format '.py'?", stacklevel=2)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"config{file_format}"
            path.write_text(cfg_str, encoding="utf-8")
            return Config.fromfile(path)

    @staticmethod
    def auto_argparser(description: str | None = None
                       ) -> tuple[argparse.ArgumentParser, Config]:
        """A parser with an option for every value of the config that the command line names.

        Returns:
            The parser, whose first argument is the config file, and that config.
        """
        first = argparse.ArgumentParser(description=description, add_help=False)
        first.add_argument("config", help="config file path")
        config = Config.fromfile(first.parse_known_args()[0].config)
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("config", help="config file path")
        add_args(parser, config._cfg_dict)
        return parser, config

    @property
    def filename(self) -> str | None:
        """The file this came from."""
        return self._filename

    @property
    def text(self) -> str:
        """The text of the file and of its bases."""
        return self._text

    @property
    def pretty_text(self) -> str:
        """The config as a Python config file without bases."""
        named = all(k.isidentifier() and not keyword.iskeyword(k) for k in self._cfg_dict)
        if not named:  # a config from JSON may have any keys; a Python file cannot
            raise ValueError("the config has keys that are no names of Python, such as "
                             f"{next(k for k in self._cfg_dict if not k.isidentifier())!r}; "
                             "dump it to a .json file")
        return "".join(f"{k} = {pretty(v)}\n" for k, v in self._cfg_dict.items())

    def dump(self, file: str | Path | None = None) -> str | None:
        """Write the config to ``file``, or return its text when there is none.

        The format is that of the suffix of ``file``, or else of :attr:`filename`: JSON, YAML, or
        :attr:`pretty_text`.
        """
        suffix = Path(str(file or self.filename or "")).suffix
        if suffix == ".json":
            text = json.dumps(self._cfg_dict.to_dict())
        elif suffix in (".yaml", ".yml"):
            import yaml

            text = yaml.safe_dump(json.loads(json.dumps(self._cfg_dict.to_dict())),
                                  sort_keys=False)
        else:
            text = self.pretty_text
        if file is None:
            return text
        Path(file).write_text(text, encoding="utf-8")
        return None

    def merge_from_dict(self, options: dict[str, Any], allow_list_keys: bool = True) -> None:
        """Override values by dotted keys, such as ``{'model.backbone.depth': 101}``.

        Args:
            options: keys and their new values.
            allow_list_keys: a numeric part of a key, as in ``'data.train.0'``, indexes a list.

        Raises:
            KeyError: an index is beyond the end of its list.
            TypeError: a key goes through something that is not a dict (or a list).
        """
        nested: dict[str, Any] = {}
        for dotted, value in options.items():
            *parents, last = dotted.split(".")
            target = nested
            for part in parents:
                target = target.setdefault(part, {})
                if not isinstance(target, dict):
                    raise TypeError(f"{dotted!r} goes through {part!r}, which is given a value too")
            target[last] = copy.deepcopy(value)
        merged = merge(nested, self._cfg_dict, allow_list_keys)
        super().__setattr__("_cfg_dict", ConfigDict(merged))

    def __repr__(self) -> str:
        return f"Config (path: {self.filename}): {self._cfg_dict!r}"

    def __len__(self) -> int:
        return len(self._cfg_dict)

    def __iter__(self) -> Iterator[str]:
        return iter(self._cfg_dict)

    def __contains__(self, key: object) -> bool:
        return key in self._cfg_dict

    def __getitem__(self, key: str) -> Any:
        return self._cfg_dict[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._cfg_dict[key] = _to_config_dict(value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_cfg_dict":  # copy and pickle probe for these
            raise AttributeError(f"'Config' object has no attribute {name!r}")
        return getattr(self._cfg_dict, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._cfg_dict, name, value)

    def __getstate__(self) -> tuple[ConfigDict, str | None, str]:
        return self._cfg_dict, self._filename, self._text

    def __setstate__(self, state: tuple[ConfigDict, str | None, str]) -> None:
        for name, value in zip(("_cfg_dict", "_filename", "_text"), state):
            super().__setattr__(name, value)
