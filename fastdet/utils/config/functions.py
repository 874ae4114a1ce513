"""The functions and methods that a config may call.

Each is called as ``function(interpreter, node, *args, **kwargs)``, a method with its object before
the arguments, and pays for its work before it does it. What Python makes lazy is a list here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .interpreter import Interpreter

__all__ = ["FUNCTIONS", "METHODS"]

Function = Callable[..., Any]


def _dict(ip: Interpreter, node: ast.AST, first: Any = (), /, **kwargs: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    _update(ip, node, found, first, **kwargs)
    return found


def _update(ip: Interpreter, node: ast.AST, holder: dict[Any, Any], first: Any = (), /,
            **kwargs: Any) -> None:
    if isinstance(first, dict):
        ip.put_all(node, holder, first)
    else:
        for pair in ip.items(node, first):
            key, value = ip.items(node, pair)
            ip.put(node, holder, key, value)
    ip.put_all(node, holder, kwargs)


def _str(ip: Interpreter, node: ast.AST, value: Any = "", /) -> str:
    ip.weigh(node, value)
    return str(value)


def _number(make: Callable[..., Any]) -> Function:
    def function(ip: Interpreter, node: ast.AST, *args: Any) -> Any:
        for arg in args:
            ip.weigh(node, arg)
            if isinstance(arg, str) and len(arg) > 300:
                raise ValueError("the text of a number is longer than 300 characters")
        return make(*args)
    return function


def _round(value: Any, digits: int | None = None, /) -> Any:
    if digits is not None and abs(digits) > 300:
        raise ValueError("more than 300 digits")
    return round(value, digits)


def _extreme(choose: Callable[..., Any]) -> Function:
    def function(ip: Interpreter, node: ast.AST, *args: Any, **kwargs: Any) -> Any:
        if kwargs.keys() - {"default"}:
            raise TypeError("only default= may be given by keyword")
        ip.weigh(node, *args)
        return choose(*(ip.items(node, a) for a in args), **kwargs) if len(args) == 1 \
            else choose(*args, **kwargs)
    return function


def _sum(ip: Interpreter, node: ast.AST, items: Any, start: Any = 0, /) -> Any:
    for item in ip.items(node, items):
        start = ip.binary(node, ast.Add(), start, item)
    return start


def _sorted(ip: Interpreter, node: ast.AST, items: Any, /, *, reverse: bool = False) -> list[Any]:
    found = ip.items(node, items)
    for _ in range(len(found).bit_length()):
        ip.weigh(node, found)
    return sorted(found, reverse=bool(reverse))


def _zip(ip: Interpreter, node: ast.AST, *columns: Any) -> list[Any]:
    return list(zip(*(ip.items(node, c) for c in columns)))


def _truths(combine: Callable[[list[Any]], bool]) -> Function:
    def function(ip: Interpreter, node: ast.AST, items: Any, /) -> bool:
        ip.weigh(node, items)
        return combine(ip.items(node, items))
    return function


def _range(ip: Interpreter, node: ast.AST, *args: Any) -> range:
    return range(*args)


def _bool(ip: Interpreter, node: ast.AST, value: Any = False, /) -> bool:
    ip.weigh(node, value)
    return bool(value)


FUNCTIONS: dict[str, Function] = {
    "dict": _dict, "str": _str, "bool": _bool, "range": _range, "zip": _zip, "sum": _sum,
    "int": _number(int), "float": _number(float), "abs": _number(abs), "round": _number(_round),
    "min": _extreme(min), "max": _extreme(max), "sorted": _sorted,
    "any": _truths(any), "all": _truths(all),
    "len": lambda ip, node, value, /: ip.length(node, value),
    "list": lambda ip, node, items=(), /: ip.items(node, items),
    "tuple": lambda ip, node, items=(), /: tuple(ip.items(node, items)),
    "set": lambda ip, node, items=(), /: ip.make_set(node, ip.items(node, items)),
    "reversed": lambda ip, node, items, /: ip.items(node, items)[::-1],
    "enumerate": lambda ip, node, items, start=0: list(enumerate(ip.items(node, items), start)),
}


def _copied(ip: Interpreter, node: ast.AST, holder: Any, /) -> Any:
    ip.bounded(node, len(holder))
    return holder.copy()


def _keyed(method: Callable[..., Any]) -> Function:
    """A dict's method whose first argument is a key."""
    def function(ip: Interpreter, node: ast.AST, holder: dict[Any, Any], key: Any, /,
                 *default: Any) -> Any:
        return method(holder, ip.hashable(node, key, holder), *default)
    return function


def _setdefault(ip: Interpreter, node: ast.AST, holder: dict[Any, Any], key: Any,
                default: Any = None, /) -> Any:
    return holder.setdefault(ip.hashable(node, key, holder), default)


def _extend(ip: Interpreter, node: ast.AST, holder: list[Any], items: Any, /) -> None:
    new = ip.items(node, items)
    ip.bounded(node, len(holder) + len(new))
    holder.extend(new)


def _searched(method: Callable[..., Any]) -> Function:
    """A method that compares the items with its argument."""
    def function(ip: Interpreter, node: ast.AST, holder: Any, value: Any, /) -> Any:
        ip.weigh(node, holder, value)
        return method(holder, value)
    return function


def _moved(method: Callable[..., Any]) -> Function:
    """A list's method that moves its items."""
    def function(ip: Interpreter, node: ast.AST, holder: list[Any], /, *args: Any) -> Any:
        ip.bounded(node, 1 + len(holder) // 64)
        return method(holder, *args)
    return function


def _text(method: Callable[..., Any]) -> Function:
    """A string's method whose result is not longer than the string, give or take a letter."""
    def function(ip: Interpreter, node: ast.AST, text: str, /, *args: Any) -> Any:
        ip.bounded(node, len(text))
        return method(text, *args)
    return function


def _replace(ip: Interpreter, node: ast.AST, text: str, old: str, new: str, count: int = -1, /
             ) -> str:
    ip.bounded(node, len(text) + (text.count(old) + 1) * len(new))
    return text.replace(old, new, count)


def _join(ip: Interpreter, node: ast.AST, text: str, items: Any, /) -> str:
    parts = ip.items(node, items)
    ip.bounded(node, sum(len(text) + len(p) for p in parts if isinstance(p, str)))
    return text.join(parts)


METHODS: dict[type, dict[str, Function]] = {
    dict: {
        "update": _update, "copy": _copied, "setdefault": _setdefault,
        "get": _keyed(dict.get), "pop": _keyed(dict.pop),
        "keys": lambda ip, node, d, /: ip.items(node, d),
        "values": lambda ip, node, d, /: ip.items(node, d) and list(d.values()),
        "items": lambda ip, node, d, /: ip.items(node, d) and list(d.items()),
    },
    list: {
        "append": _moved(list.append), "insert": _moved(list.insert), "pop": _moved(list.pop),
        "reverse": _moved(list.reverse), "extend": _extend, "copy": _copied,
        "index": _searched(list.index), "count": _searched(list.count),
        "remove": _searched(list.remove),
    },
    tuple: {"index": _searched(tuple.index), "count": _searched(tuple.count)},
    str: {
        **{name: _text(getattr(str, name)) for name in (
            "lower", "upper", "title", "capitalize", "strip", "lstrip", "rstrip", "startswith",
            "endswith", "split", "rsplit", "removeprefix", "removesuffix", "isdigit")},
        "replace": _replace, "join": _join,
    },
}
