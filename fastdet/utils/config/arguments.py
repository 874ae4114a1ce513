"""Configs on the command line: ``KEY=VALUE`` options, and options made of a config's keys."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

__all__ = ["DictAction", "add_args"]

_BRACKETS = {"(": ")", "[": "]"}


class DictAction(argparse.Action):
    """An argparse action that collects ``KEY=VALUE`` arguments into a dict.

    A value is an int, a float, ``true`` or ``false`` (in any case), ``None``, or else a string;
    ``V1,V2`` and ``[V1,V2]`` are lists, ``(V1,V2)`` is a tuple, and they nest:
    ``[(1,2),(3,4)]``. Quotes and blanks count for nothing.
    """

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace,
                 values: Any, option_string: str | None = None) -> None:
        options = {}
        for text in [values] if isinstance(values, str) else values:
            key, equals, value = text.partition("=")
            if not equals or not key:
                parser.error(f"argument {option_string or self.dest}: expected KEY=VALUE, got "
                             f"{text!r}")
            try:
                options[key] = self._parse_iterable(value)
            except ValueError as e:
                parser.error(f"argument {option_string or self.dest}: {e}")
        setattr(namespace, self.dest, options)

    @staticmethod
    def _parse_int_float_bool(val: str) -> Any:
        for number in (int, float):
            try:
                return number(val)
            except ValueError:
                pass
        return {"true": True, "false": False}.get(val.lower(), None if val == "None" else val)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """The value that a text stands for.

        Raises:
            ValueError: its brackets do not match.
        """
        text = "".join(c for c in val if c not in "'\"" and not c.isspace())
        bracketed = text[:1] in _BRACKETS and text.endswith(_BRACKETS[text[0]])
        if "," not in text and not bracketed:
            return DictAction._parse_int_float_bool(text)
        parts = _split(text)
        if bracketed and parts == [text]:
            values = map(DictAction._parse_iterable, _split(text[1:-1]))
            return tuple(values) if text[0] == "(" else list(values)
        return [DictAction._parse_iterable(part) for part in parts]


def _split(text: str) -> list[str]:
    """The parts between the commas that stand in no brackets."""
    parts: list[str] = [""]
    open_: list[str] = []
    for c in text:
        if c in _BRACKETS:
            open_.append(_BRACKETS[c])
        elif c in _BRACKETS.values() and (not open_ or open_.pop() != c):
            raise ValueError(f"the brackets of {text!r} do not match")
        if c == "," and not open_:
            parts.append("")
        else:
            parts[-1] += c
        if len(open_) > 50:
            raise ValueError(f"{text[:20]!r}... is nested too deeply")
    if open_:
        raise ValueError(f"the brackets of {text!r} do not match")
    return parts if parts[-1] else parts[:-1]


def add_args(parser: argparse.ArgumentParser, cfg: dict[str, Any], prefix: str = ""
             ) -> argparse.ArgumentParser:
    """Give ``parser`` an option for each value of ``cfg``; those of inner dicts have dots.

    A value of a type that has no option, such as ``None``, is warned of.
    """
    for key, value in cfg.items():
        name = f"--{prefix}{key}"
        if isinstance(value, dict):
            add_args(parser, value, f"{prefix}{key}.")
        elif isinstance(value, (int, float, str)):
            # A bool is given as 0 or 1, as in mmcv.
            parser.add_argument(name, type=int if isinstance(value, bool) else type(value))
        elif isinstance(value, (list, tuple)) and value:
            parser.add_argument(name, type=type(value[0]), nargs="+")
        else:
            warnings.warn(f"the config's {prefix}{key} has no option: its type is "
                          f"{type(value).__name__}", stacklevel=2)
    return parser

