"""Evaluates the part of Python that configs are written in, without executing Python.

Literals, names assigned earlier, ``dict(...)`` and some other functions (:mod:`.functions`),
arithmetic, comparisons, conditions, comprehensions, f-strings, ``for`` and ``if``. It reaches no
module and no attribute, and all that it does is paid from a :class:`~.budget.Budget`.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from .budget import MAX_BITS, MAX_ITEMS, MAX_ODD_KEYS, Budget, is_plain_key
from .errors import ConfigError
from .functions import FUNCTIONS, METHODS

__all__ = ["BASE_KEY", "Interpreter", "Reference"]

BASE_KEY = "_base_"


class Reference:
    """``{{_base_.x.y}}`` before the bases are known."""

    def __init__(self, keys: str, line: int | None) -> None:
        self.keys = keys
        self.line = line


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}
_ITERABLE = (list, tuple, set, dict, str, range)

_CONSTRUCTS: dict[type[ast.AST], str] = {
    ast.Import: "an import", ast.ImportFrom: "an import",
    ast.FunctionDef: "a function definition", ast.AsyncFunctionDef: "a function definition",
    ast.ClassDef: "a class definition", ast.Lambda: "a lambda",
    ast.AsyncFor: "an asynchronous for loop", ast.While: "a while loop",
    ast.With: "a with statement", ast.AsyncWith: "a with statement",
    ast.Try: "a try statement", ast.Raise: "a raise statement", ast.Assert: "an assert statement",
    ast.Delete: "a del statement", ast.Global: "a global statement",
    ast.Await: "an await expression", ast.NamedExpr: "an assignment expression",
    ast.AnnAssign: "an annotated assignment",
}


class Interpreter:
    """Evaluates one parsed file. ``names`` are its variables, in the order of assignment."""

    def __init__(self, path: Path | None, budget: Budget) -> None:
        self.path = path
        self.budget = budget
        self.names: dict[str, Any] = {}
        self.inner: list[dict[str, Any]] = []  # variables of the comprehensions around a place

    # Errors and costs

    def fail(self, node: ast.AST, message: str, construct: str | None = None) -> NoReturn:
        raise ConfigError(message, self.path, getattr(node, "lineno", None), construct)

    def refuse(self, node: ast.AST, construct: str | None = None) -> NoReturn:
        if construct is None:
            kind = "expression" if isinstance(node, ast.expr) else "statement"
            construct = _CONSTRUCTS.get(type(node)) or f"the {kind} {source(node)}"
        self.fail(node, f"{construct} cannot stand in a config, which is read and not executed",
                  construct)

    def step(self, node: ast.AST, count: int = 1) -> None:
        self.budget.take("steps", count, self.path, getattr(node, "lineno", None))

    def bounded(self, node: ast.AST, length: int) -> None:
        """Pay for a value of ``length`` items, before it is made."""
        if length > MAX_ITEMS:
            self.fail(node, f"a value has more than {MAX_ITEMS} items")
        self.step(node, max(length, 0))

    def weigh(self, node: ast.AST, *values: Any) -> None:
        """Pay for work that looks at all of ``values``, such as comparing or printing them."""
        for value in values:
            if isinstance(value, Reference):
                self.refuse(node, f"a {BASE_KEY} reference in {source(node)}")
            self.step(node, self.budget.take_value(value, self.path, getattr(node, "lineno", None)))

    def hashable(self, node: ast.AST, key: Any, holder: dict[Any, Any] | set[Any]) -> Any:
        """``key``, paid for, for a look-up or a new place in ``holder``."""
        if isinstance(key, Reference):
            self.refuse(node, f"a {BASE_KEY} reference as a key")
        if not is_plain_key(key):
            self.weigh(node, key)
            self.step(node, len(holder))
            if sum(not is_plain_key(k) for k in holder) >= MAX_ODD_KEYS:
                self.fail(node, f"a dict or set has more than {MAX_ODD_KEYS} keys that are neither "
                          "strings nor small integers")
        return key

    def attempt(self, node: ast.AST, call: Callable[..., Any], /, *args: Any,
                **kwargs: Any) -> Any:
        """Call, and give an error its place in the file."""
        try:
            return call(*args, **kwargs)
        except (ArithmeticError, LookupError, TypeError, ValueError) as e:
            if isinstance(e, ConfigError):
                raise
            what = f"{e.args[0]!r} is not there" if isinstance(e, KeyError) else str(e)
            return self.fail(node, f"{source(node)} cannot be evaluated: {what}")

    # Statements

    def run(self, body: list[ast.stmt]) -> None:
        for node in body:
            self.step(node)
            if isinstance(node, ast.Assign):
                value = self.eval(node.value)
                for target in node.targets:
                    self.assign(target, value)
            elif isinstance(node, ast.AugAssign):
                self.augment(node)
            elif isinstance(node, ast.If):
                self.run(node.body if self.truth(node.test) else node.orelse)
            elif isinstance(node, ast.For):
                for item in self.items(node, self.eval(node.iter)):
                    self.assign(node.target, item)
                    self.run(node.body)
                self.run(node.orelse)
            elif isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.Call)):
                self.eval(node.value)
            elif not isinstance(node, ast.Pass):
                self.refuse(node.value if isinstance(node, ast.Expr) else node)

    def assign(self, target: ast.expr, value: Any, scope: dict[str, Any] | None = None) -> None:
        self.step(target)
        if isinstance(target, ast.Name):
            (self.names if scope is None else scope)[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            items = self.items(target, value)
            if len(items) != len(target.elts):
                self.fail(target, f"{len(items)} values for {len(target.elts)} names")
            for part, item in zip(target.elts, items):
                self.assign(part, item, scope)
        elif isinstance(target, ast.Subscript):
            holder, key = self.eval(target.value), self.eval(target.slice)
            if isinstance(holder, dict):
                self.attempt(target, self.put, target, holder, key, value)
            elif isinstance(holder, list):
                self.attempt(target, operator.setitem, holder, key, value)
            else:
                self.fail(target, f"a {type(holder).__name__} takes no assignment by [...]")
        else:
            self.refuse(target, f"an assignment to {source(target)}")

    def put(self, node: ast.AST, holder: dict[Any, Any], key: Any, value: Any) -> None:
        holder[self.hashable(node, key, holder)] = value

    def put_all(self, node: ast.AST, holder: dict[Any, Any], new: dict[Any, Any]) -> None:
        self.bounded(node, len(holder) + len(new))
        for key, value in list(new.items()):
            self.put(node, holder, key, value)

    def augment(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Attribute):
            self.refuse(node.target, f"an assignment to {source(node.target)}")
        before, value = self.eval(node.target), self.eval(node.value)
        if isinstance(before, list) and isinstance(node.op, ast.Add):  # in place, as in Python
            items = self.items(node, value)
            self.bounded(node, len(before) + len(items))
            before.extend(items)
        else:
            self.assign(node.target, self.binary(node, node.op, before, value))

    # Expressions

    def eval(self, node: ast.expr) -> Any:
        self.step(node)
        method = getattr(self, f"eval_{type(node).__name__}", None)
        return method(node) if method else self.refuse(node)

    def eval_Constant(self, node: ast.Constant) -> Any:
        value = node.value
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            self.fail(node, f"a number has more than {MAX_BITS} bits")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return self.refuse(node, f"the literal {ast.unparse(node)}")

    def visible(self, name: str) -> dict[str, Any] | None:
        """The innermost variables that hold ``name``."""
        return next((scope for scope in (*reversed(self.inner), self.names) if name in scope), None)

    def eval_Name(self, node: ast.Name) -> Any:
        scope = self.visible(node.id)
        if scope is None:
            self.fail(node, f"the name '{node.id}' is not assigned earlier in the file",
                      f"the name '{node.id}'")
        return scope[node.id]

    def elements(self, nodes: list[ast.expr]) -> list[Any]:
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                found += self.items(node, self.eval(node.value))
            else:
                found.append(self.eval(node))
        return found

    def eval_List(self, node: ast.List) -> list[Any]:
        return self.elements(node.elts)

    def eval_Tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.elements(node.elts))

    def eval_Set(self, node: ast.Set) -> Any:
        inner = node.elts[0]
        if len(node.elts) == 1 and isinstance(inner, ast.Set):  # {{...}}: no set holds a set
            keys = ast.unparse(inner.elts[0])
            if len(inner.elts) > 1 or not re.fullmatch(r"_base_(\.\w+)+", keys):
                self.refuse(node, f"the reference {source(node)}")
            return Reference(keys.removeprefix(f"{BASE_KEY}."), node.lineno)
        return self.attempt(node, self.make_set, node, self.elements(node.elts))

    def make_set(self, node: ast.AST, items: list[Any]) -> set[Any]:
        found: set[Any] = set()
        for item in items:
            if isinstance(item, Reference):
                self.refuse(node, f"a {BASE_KEY} reference in a set")
            found.add(self.hashable(node, item, found))
        return found

    def eval_Dict(self, node: ast.Dict) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values):
            if key is None:
                self.put_all(node, found, self.mapping(value, self.eval(value)))
            else:
                self.attempt(node, self.put, node, found, self.eval(key), self.eval(value))
        return found

    def eval_UnaryOp(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            return not self.truth(node.operand)
        value = self.eval(node.operand)
        if type(node.op) not in _UNARY or not isinstance(value, (int, float)):
            self.refuse(node, f"the operation {source(node)}")
        return _UNARY[type(node.op)](value)

    def eval_BinOp(self, node: ast.BinOp) -> Any:
        return self.binary(node, node.op, self.eval(node.left), self.eval(node.right))

    def binary(self, node: ast.AST, op: ast.operator, left: Any, right: Any) -> Any:
        compute = _ARITHMETIC.get(type(op))
        sequences = [v for v in (left, right) if isinstance(v, (list, tuple, str))]
        numbers = [v for v in (left, right) if isinstance(v, (int, float))]
        joins = len(sequences) == 2 and isinstance(op, ast.Add)
        repeats = len(sequences) == len(numbers) == 1 and isinstance(op, ast.Mult)
        if compute is None or not (len(numbers) == 2 or joins or repeats):
            self.refuse(node, f"the operation {source(node)}")
        if joins:
            self.bounded(node, len(left) + len(right))
        elif repeats and isinstance(numbers[0], int):
            self.bounded(node, len(sequences[0]) * numbers[0])
        elif all(isinstance(v, int) for v in numbers):
            bits = [v.bit_length() for v in (left, right)]
            grown = bits[0] * right if isinstance(op, ast.Pow) else sum(bits)
            if grown > MAX_BITS:
                self.fail(node, f"a number has more than {MAX_BITS} bits")
        value = self.attempt(node, compute, left, right)
        if isinstance(value, complex):
            self.fail(node, f"{source(node)} is not a real number")
        return value

    # Conditions

    def truth(self, node: ast.expr) -> bool:
        value = self.eval(node)
        if isinstance(value, Reference):
            self.refuse(node, f"a {BASE_KEY} reference as a condition")
        return bool(value)

    def eval_IfExp(self, node: ast.IfExp) -> Any:
        return self.eval(node.body if self.truth(node.test) else node.orelse)

    def eval_BoolOp(self, node: ast.BoolOp) -> Any:
        value: Any = None
        for part in node.values:
            value = self.eval(part)
            if isinstance(value, Reference):
                self.refuse(part, f"a {BASE_KEY} reference as a condition")
            if bool(value) == isinstance(node.op, ast.Or):
                break
        return value

    def eval_Compare(self, node: ast.Compare) -> bool:
        left = self.eval(node.left)
        for op, part in zip(node.ops, node.comparators):
            right = self.eval(part)
            if not isinstance(op, (ast.Is, ast.IsNot)):
                self.weigh(node, left, right)
            if not self.attempt(node, _COMPARE[type(op)], left, right):
                return False
            left = right
        return True

    # Strings

    def eval_JoinedStr(self, node: ast.JoinedStr) -> str:
        parts: list[str] = []
        length = 0
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                value = self.eval(part.value)
                if part.conversion > 0 or not isinstance(value, (str, int, float)):
                    self.weigh(part.value, value)
                    value = {"r": repr, "a": ascii}.get(chr(max(part.conversion, 0)), str)(value)
                spec = self.eval(part.format_spec) if part.format_spec else ""
                if re.search(r"\d{4}", spec):
                    self.fail(node, f"the width in {source(node)} is more than 999")
                parts.append(self.attempt(node, format, value, spec))
            else:
                parts.append(self.eval(part))
            length += len(parts[-1])
            self.bounded(part, len(parts[-1]))
            if length > MAX_ITEMS:
                self.fail(node, f"a value has more than {MAX_ITEMS} items")
        return "".join(parts)

    # Comprehensions: all of them are evaluated at once, a generator too

    def comprehend(self, node: ast.AST, generators: list[ast.comprehension],
                   scope: dict[str, Any] | None = None) -> Iterator[None]:
        """Once for every turn of nested loops, their variables assigned."""
        first, *rest = generators
        if first.is_async:
            self.refuse(node, "an asynchronous comprehension")
        items = self.items(first.iter, self.eval(first.iter))  # evaluated outside, as in Python
        outermost = scope is None
        scope = {} if scope is None else scope
        if outermost:
            self.inner.append(scope)
        for item in items:
            self.assign(first.target, item, scope)
            if all(self.truth(test) for test in first.ifs):
                if rest:
                    yield from self.comprehend(node, rest, scope)
                else:
                    yield
        if outermost:
            self.inner.pop()

    def eval_ListComp(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> list[Any]:
        found = []
        for _ in self.comprehend(node, node.generators):
            found.append(self.eval(node.elt))
            self.step(node)
        return found

    eval_GeneratorExp = eval_ListComp

    def eval_SetComp(self, node: ast.SetComp) -> set[Any]:
        return self.attempt(node, self.make_set, node, self.eval_ListComp(node))

    def eval_DictComp(self, node: ast.DictComp) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in self.comprehend(node, node.generators):
            self.attempt(node, self.put, node, found, self.eval(node.key), self.eval(node.value))
        return found

    # Items

    def eval_Subscript(self, node: ast.Subscript) -> Any:
        value = self.eval(node.value)
        if not isinstance(value, (dict, list, tuple, str, range)):
            self.fail(node, f"{source(node.value)} cannot be indexed")
        if isinstance(node.slice, ast.Slice):
            self.bounded(node, self.length(node, value))
            ends = (node.slice.lower, node.slice.upper, node.slice.step)
            key: Any = slice(*(None if end is None else self.eval(end) for end in ends))
        else:
            key = self.eval(node.slice)
            if isinstance(key, Reference):
                self.refuse(node, f"a {BASE_KEY} reference as a key")
            if isinstance(value, dict) and not is_plain_key(key):
                self.weigh(node, key)
        return self.attempt(node, operator.getitem, value, key)

    def length(self, node: ast.AST, value: Any) -> int:
        try:
            return len(value)
        except OverflowError:  # of a range
            self.fail(node, f"a value has more than {MAX_ITEMS} items")

    def items(self, node: ast.AST, value: Any) -> list[Any]:
        """The items of a value that can be iterated over, in a list of their own."""
        if not isinstance(value, _ITERABLE):
            self.fail(node, f"a {kind(value)} cannot be iterated over")
        self.bounded(node, self.length(node, value))
        return list(value)

    def mapping(self, node: ast.AST, value: Any) -> dict[Any, Any]:
        if not isinstance(value, dict):
            self.fail(node, f"a dict is needed here, got a {kind(value)}")
        return value

    # Calls

    def eval_Call(self, node: ast.Call) -> Any:
        function = node.func
        if isinstance(function, ast.Name) and self.visible(function.id) is None:
            call = FUNCTIONS.get(function.id)
            holder: tuple[Any, ...] = ()
        elif isinstance(function, ast.Attribute):
            value = self.eval(function.value)
            call = METHODS.get(type(value), {}).get(function.attr)
            holder = (value,)
        else:
            call = None
        if call is None:
            return self.refuse(node, f"a call of {source(function)}")
        args, kwargs = self.arguments(node)
        return self.attempt(node, call, self, node, *holder, *args, **kwargs)

    def arguments(self, node: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        kwargs: dict[str, Any] = {}
        for kw in node.keywords:
            value = self.eval(kw.value)
            new = self.mapping(node, value) if kw.arg is None else {kw.arg: value}
            self.step(node, len(new))
            twice = next((k for k in new if k in kwargs), None)
            if twice is not None:
                self.fail(node, f"the keyword {twice!r} is given twice")
            kwargs.update(new)
        return self.elements(node.args), kwargs


def kind(value: Any) -> str:
    """What a value is, for a message."""
    return f"{BASE_KEY} reference" if isinstance(value, Reference) else type(value).__name__


def source(node: ast.AST) -> str:
    """The text of a piece of code, in quotes and shortened for a message."""
    if sum(1 for _ in itertools.islice(ast.walk(node), 100)) == 100:
        return "a long piece of code"
    text = ast.unparse(node)
    return f"'{text if len(text) <= 60 else text[:57] + '...'}'"
