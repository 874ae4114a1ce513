"""Config files of MMDetection 2.x, as ``mmcv.Config`` gives them, read without executing them.

mmcv imports a config file as a Python module. Here the file is parsed, and a small interpreter
evaluates the part of Python that configs are written in: literals, ``dict(...)``, names assigned
earlier and arithmetic. It reaches no module, no attribute and no function, its work and its values
are bounded, and everything else is refused with the file, the line and the construct.
"""

from __future__ import annotations

import ast
import copy
import json
import keyword
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Config", "ConfigDict", "ConfigError"]

BASE_KEY = "_base_"
DELETE_KEY = "_delete_"
RESERVED_KEYS = ("filename", "text", "pretty_text")

# The largest config of the model zoo needs some thousand steps and lists of a few hundred items.
MAX_BYTES = 4 << 20
MAX_STEPS = 1_000_000
MAX_ITEMS = 100_000
MAX_DEPTH = 100
MAX_BITS = 1024


class ConfigError(ValueError):
    """A config file that cannot be read.

    Attributes:
        file: the file, or ``None`` where there is none.
        line: the line in it, counted from 1, or ``None``.
        construct: what stands there and may not stand in a config, or ``None``.
    """

    def __init__(self, message: str, file: str | Path | None = None, line: int | None = None,
                 construct: str | None = None) -> None:
        where = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(where + message)
        self.file = file
        self.line = line
        self.construct = construct


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
    def fromfile(filename: str | Path) -> Config:
        """Read a ``.py`` or ``.json`` config and the files its ``_base_`` names.

        The file is not executed. ``{{ fileDirname }}``, ``{{ fileBasename }}``,
        ``{{ fileBasenameNoExtension }}`` and ``{{ fileExtname }}`` in strings stand for the file,
        ``{{_base_.x.y}}`` as a value for that value of the bases.

        Raises:
            ConfigError: the file is missing or not a config, or holds a construct that configs
                may not have.
        """
        path = Path(filename).expanduser().absolute()
        cfg_dict, text = _load(path, ())
        for key in RESERVED_KEYS:
            if key in cfg_dict:
                raise ConfigError(f"the name {key!r} is reserved for the config itself", path)
        _drop_delete_keys(cfg_dict)
        return Config(cfg_dict, cfg_text=text, filename=path)

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
        return "".join(f"{k} = {_pretty(v, 0)}\n" for k, v in self._cfg_dict.items())

    def dump(self, file: str | Path | None = None) -> str | None:
        """Write :attr:`pretty_text` to ``file``, or return it when there is none."""
        if file is None:
            return self.pretty_text
        Path(file).write_text(self.pretty_text, encoding="utf-8")
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
        merged = _merge(nested, self._cfg_dict, allow_list_keys)
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


def _merge(child: dict[str, Any], base: Any, allow_list_keys: bool = False) -> Any:
    """``base`` overridden by ``child``, by the rules of mmcv's ``_merge_a_into_b``."""
    merged = base.copy()
    for key, value in child.items():
        if allow_list_keys and isinstance(base, list) and key.isdigit():
            index = int(key)
            if index >= len(base):
                raise KeyError(f"Index {key} exceeds the length of list {base}")
            merged[index] = (_merge(value, base[index], allow_list_keys)
                             if isinstance(value, dict) else value)
        elif isinstance(base, list):
            raise TypeError(f"{key!r} is no index of the list {base}")
        elif not isinstance(value, dict) or key not in base or value.pop(DELETE_KEY, False):
            merged[key] = value
        elif isinstance(base[key], (dict, list) if allow_list_keys else dict):
            merged[key] = _merge(value, base[key], allow_list_keys)
        else:
            raise TypeError(
                f"{key}={value} in child config cannot inherit from base because {key} is a dict "
                f"in the child config but is of type {type(base[key])} in base config. You may "
                f"set `{DELETE_KEY}=True` to ignore the base config")
    return merged


def _drop_delete_keys(value: Any) -> None:
    """Remove ``_delete_`` where no base had anything to delete; mmcv leaves it to fail later."""
    if isinstance(value, dict):
        value.pop(DELETE_KEY, None)
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _drop_delete_keys(item)


def _load(path: Path, parents: tuple[Path, ...]) -> tuple[dict[str, Any], str]:
    """The merged content of ``path`` and its bases, and the text of all of them."""
    real = path.resolve()
    if real in parents:
        chain = " -> ".join(p.name for p in (*parents[parents.index(real):], real))
        raise ConfigError(f"the file is its own {BASE_KEY} ({chain})", path)
    if path.suffix not in (".py", ".json"):
        raise ConfigError("a config must be a .py or a .json file", path)
    text = _read(path)
    read = _read_python if path.suffix == ".py" else _read_json
    try:
        cfg_dict = read(path, text)
        _check_size(cfg_dict, path)
    except RecursionError:
        raise _too_deep(path) from None
    text = f"{path}\n{text}"

    if BASE_KEY not in cfg_dict:
        _resolve_references(cfg_dict, {}, path)
        return cfg_dict, text
    names = cfg_dict.pop(BASE_KEY)
    names = names if isinstance(names, list) else [names]
    base: dict[str, Any] = {}
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"{BASE_KEY} must be a path or a list of paths, got {name!r}", path)
        part, part_text = _load(path.parent / name, (*parents, real))
        twice = sorted(base.keys() & part.keys())
        if twice:
            raise ConfigError("Duplicate key is not allowed among bases. Duplicate keys: "
                              f"{', '.join(twice)}", path)
        base.update(part)
        text = f"{part_text}\n{text}"
    _resolve_references(cfg_dict, base, path)
    try:
        merged = _merge(cfg_dict, base)
        _check_size(merged, path)
    except TypeError as e:
        raise ConfigError(str(e), path) from None
    except RecursionError:
        raise _too_deep(path) from None
    return merged, text


def _too_deep(path: Path) -> ConfigError:
    return ConfigError("the config is nested too deeply", path)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as f:
            data = f.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError("there is no such config file", path) from None
    except OSError as e:
        raise ConfigError(f"the config cannot be read: {e.strerror}", path) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"the file exceeds {MAX_BYTES >> 20} MiB, so it is no config", path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError("the file is binary, so it is no config", path)
    return text


# ``{{_base_.x.y}}`` and the variables that stand for the file.

class _Reference:
    """``{{_base_.x.y}}`` before the bases are known."""

    def __init__(self, keys: str, line: int | None) -> None:
        self.keys = keys
        self.line = line


_REFERENCE = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")
_FILE_VARIABLE = re.compile(
    r"\{\{\s*(fileDirname|fileBasename|fileBasenameNoExtension|fileExtname)\s*\}\}")


def _fill_file_variables(string: str, path: Path) -> str:
    values = {"fileDirname": path.parent.as_posix(), "fileBasename": path.name,
              "fileBasenameNoExtension": path.stem, "fileExtname": path.suffix}
    return _FILE_VARIABLE.sub(lambda m: values[m[1]], string)


def _resolve_references(value: Any, base: dict[str, Any], path: Path) -> Any:
    """Replace references inside ``value``: dicts and lists in place, tuples by new ones."""
    if isinstance(value, _Reference):
        found: Any = base
        for key in value.keys.split("."):
            if not isinstance(found, dict) or key not in found:
                raise ConfigError(f"{BASE_KEY}.{value.keys} is not in the base config", path,
                                  value.line)
            found = found[key]
        return found
    if isinstance(value, dict):
        for key in value:
            value[key] = _resolve_references(value[key], base, path)
    elif isinstance(value, list):
        value[:] = [_resolve_references(v, base, path) for v in value]
    elif isinstance(value, tuple):
        return tuple(_resolve_references(v, base, path) for v in value)
    return value


def _check_size(value: Any, path: Path) -> None:
    """Refuse a value that holds itself, is deep, or is huge once what it shares is copied."""
    measured: dict[int, tuple[int, int] | None] = {}

    def measure(v: Any) -> tuple[int, int]:
        """How many values, and how deep."""
        if not isinstance(v, (dict, list, tuple)):
            return 1, 0
        if id(v) not in measured:
            measured[id(v)] = None
            inside = [measure(item) for item in (v.values() if isinstance(v, dict) else v)]
            measured[id(v)] = (1 + sum(size for size, _ in inside),
                               1 + max((depth for _, depth in inside), default=0))
        found = measured[id(v)]
        if found is None:
            raise ConfigError("a value contains itself", path)
        if found[0] > MAX_ITEMS:
            raise ConfigError(f"the config has more than {MAX_ITEMS} values", path)
        if found[1] > MAX_DEPTH:
            raise RecursionError
        return found

    measure(value)


def _read_json(path: Path, text: str) -> dict[str, Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, str):
            match = _REFERENCE.fullmatch(value)
            return _Reference(match[1], None) if match else _fill_file_variables(value, path)
        if isinstance(value, dict):
            return {_fill_file_variables(k, path): convert(v) for k, v in value.items()}
        return [convert(v) for v in value] if isinstance(value, list) else value

    try:
        found = json.loads(_REFERENCE.sub(lambda m: json.dumps(m[0]), text))
    except ValueError as e:
        line = getattr(e, "lineno", None)
        raise ConfigError(f"the file is not JSON ({getattr(e, 'msg', e)})", path, line) from None
    if not isinstance(found, dict):
        raise ConfigError(f"a config must be a dict, got {type(found).__name__}", path)
    return dict(convert(found))


def _read_python(path: Path, text: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as an invalid escape in a string
            tree = ast.parse(text, str(path))
    except SyntaxError as e:
        raise ConfigError(f"the file is not Python ({e.msg})", path, e.lineno) from None
    except (ValueError, MemoryError) as e:  # ast.parse has these for absurd input
        raise ConfigError(f"the file is not Python ({e})", path) from None
    interpreter = _Interpreter(path)
    interpreter.run(tree)
    return {k: v for k, v in interpreter.names.items() if not k.startswith("__")}


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}
_ITERABLE = (list, tuple, set, dict, str)

_CONSTRUCTS: dict[type[ast.AST], str] = {
    ast.Import: "an import", ast.ImportFrom: "an import",
    ast.FunctionDef: "a function definition", ast.AsyncFunctionDef: "a function definition",
    ast.ClassDef: "a class definition", ast.Lambda: "a lambda",
    ast.For: "a for loop", ast.AsyncFor: "a for loop", ast.While: "a while loop",
    ast.If: "an if statement", ast.IfExp: "a conditional expression",
    ast.With: "a with statement", ast.AsyncWith: "a with statement",
    ast.Try: "a try statement", ast.Raise: "a raise statement", ast.Assert: "an assert statement",
    ast.Delete: "a del statement", ast.Global: "a global statement",
    ast.GeneratorExp: "a generator expression", ast.ListComp: "a list comprehension",
    ast.DictComp: "a dict comprehension", ast.SetComp: "a set comprehension",
    ast.JoinedStr: "an f-string", ast.Await: "an await expression",
    ast.NamedExpr: "an assignment expression", ast.Compare: "a comparison",
    ast.BoolOp: "a boolean operation", ast.AnnAssign: "an annotated assignment",
}


class _Interpreter:
    """Evaluates one parsed file. ``names`` are its variables, in the order of assignment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, Any] = {}
        self.steps = 0

    # Errors

    def fail(self, node: ast.AST, message: str, construct: str | None = None) -> NoReturn:
        raise ConfigError(message, self.path, getattr(node, "lineno", None), construct)

    def refuse(self, node: ast.AST, construct: str | None = None) -> NoReturn:
        if construct is None:
            kind = "expression" if isinstance(node, ast.expr) else "statement"
            construct = _CONSTRUCTS.get(type(node)) or f"the {kind} '{_source(node)}'"
        self.fail(node, f"{construct} cannot stand in a config, which is read and not executed",
                  construct)

    def step(self, node: ast.AST, count: int = 1) -> None:
        self.steps += count
        if self.steps > MAX_STEPS:
            self.fail(node, f"the config takes more than {MAX_STEPS} steps to evaluate")

    def bounded(self, node: ast.AST, length: int) -> None:
        if length > MAX_ITEMS:
            self.fail(node, f"a value has more than {MAX_ITEMS} items")
        self.step(node, max(length, 0))

    def attempt(self, node: ast.AST, call: Callable[..., Any], /, *args: Any,
                **kwargs: Any) -> Any:
        """Call, and give an error its place in the file."""
        try:
            return call(*args, **kwargs)
        except (ArithmeticError, LookupError, TypeError, ValueError) as e:
            if isinstance(e, ConfigError):
                raise
            what = f"{e.args[0]!r} is not there" if isinstance(e, KeyError) else str(e)
            return self.fail(node, f"'{_source(node)}' cannot be evaluated: {what}")

    # Statements

    def run(self, tree: ast.Module) -> None:
        for node in tree.body:
            self.step(node)
            if isinstance(node, ast.Assign):
                value = self.eval(node.value)
                for target in node.targets:
                    self.assign(target, value)
            elif isinstance(node, ast.AugAssign):
                self.augment(node)
            elif isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.Call)):
                self.eval(node.value)
            else:
                self.refuse(node.value if isinstance(node, ast.Expr) else node)

    def assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            items = self.items(target, value)
            if len(items) != len(target.elts):
                self.fail(target, f"{len(items)} values for {len(target.elts)} names")
            for part, item in zip(target.elts, items):
                self.assign(part, item)
        elif isinstance(target, ast.Subscript):
            holder, key = self.eval(target.value), self.key(target.slice)
            if not isinstance(holder, (dict, list)):
                self.fail(target, f"a {type(holder).__name__} takes no assignment by [...]")
            self.attempt(target, operator.setitem, holder, key, value)
        else:
            self.refuse(target, f"an assignment to '{_source(target)}'")

    def augment(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Attribute):
            self.refuse(node.target, f"an assignment to '{_source(node.target)}'")
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
        if isinstance(node.value, str):
            return _fill_file_variables(node.value, self.path)
        if node.value is None or isinstance(node.value, (bool, int, float)):
            return node.value
        return self.refuse(node, f"the literal {_source(node)}")

    def eval_Name(self, node: ast.Name) -> Any:
        if node.id not in self.names:
            self.fail(node, f"the name '{node.id}' is not assigned earlier in the file",
                      f"the name '{node.id}'")
        return self.names[node.id]

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
                self.refuse(node, f"the reference '{_source(node)}'")
            return _Reference(keys.removeprefix(f"{BASE_KEY}."), node.lineno)
        items = self.elements(node.elts)
        if any(isinstance(item, _Reference) for item in items):
            self.refuse(node, f"a {BASE_KEY} reference in a set")
        return self.attempt(node, set, items)

    def eval_Dict(self, node: ast.Dict) -> dict[str, Any]:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values):
            if key is None:
                found.update(self.mapping(value, self.eval(value)))
            else:
                self.attempt(node, operator.setitem, found, self.key(key), self.eval(value))
        return found

    def eval_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.eval(node.operand)
        if type(node.op) not in _UNARY or not isinstance(value, (int, float)):
            self.refuse(node, f"the operation '{_source(node)}'")
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
            self.refuse(node, f"the operation '{_source(node)}'")
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
            self.fail(node, f"'{_source(node)}' is not a real number")
        return value

    def eval_Subscript(self, node: ast.Subscript) -> Any:
        value = self.eval(node.value)
        if not isinstance(value, (dict, list, tuple, str)):
            self.fail(node, f"'{_source(node.value)}' cannot be indexed")
        if isinstance(node.slice, ast.Slice):
            self.bounded(node, len(value))
            ends = (node.slice.lower, node.slice.upper, node.slice.step)
            key: Any = slice(*(None if end is None else self.eval(end) for end in ends))
        else:
            key = self.key(node.slice)
        return self.attempt(node, operator.getitem, value, key)

    def key(self, node: ast.expr) -> Any:
        key = self.eval(node)
        if isinstance(key, _Reference):
            self.refuse(node, f"a {BASE_KEY} reference as a key")
        return key

    def items(self, node: ast.AST, value: Any) -> list[Any]:
        if not isinstance(value, _ITERABLE):
            self.fail(node, f"a {_kind(value)} cannot be iterated over")
        self.bounded(node, len(value))
        return list(value)

    def mapping(self, node: ast.AST, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(node, f"a dict is needed here, got a {_kind(value)}")
        return value

    # Calls

    def eval_Call(self, node: ast.Call) -> Any:
        function = node.func
        if not isinstance(function, ast.Name) or function.id != "dict" or "dict" in self.names:
            return self.refuse(node, f"a call of '{_source(function)}'")
        args, kwargs = self.arguments(node)
        return self.attempt(node, self.make_dict, node, *args, **kwargs)

    def arguments(self, node: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        kwargs: dict[str, Any] = {}
        for kw in node.keywords:
            value = self.eval(kw.value)
            new = self.mapping(node, value) if kw.arg is None else {kw.arg: value}
            twice = next((k for k in new if k in kwargs), None)
            if twice is not None:
                self.fail(node, f"the keyword {twice!r} is given twice")
            kwargs.update(new)
        return self.elements(node.args), kwargs

    def make_dict(self, node: ast.AST, first: Any = (), /, **kwargs: Any) -> dict[Any, Any]:
        return {**dict(first if isinstance(first, dict) else self.items(node, first)), **kwargs}


def _kind(value: Any) -> str:
    return f"{BASE_KEY} reference" if isinstance(value, _Reference) else type(value).__name__


def _source(node: ast.AST) -> str:
    """The text of an expression, shortened for a message."""
    text = ast.unparse(node)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _pretty(value: Any, depth: int) -> str:
    """A value as source text; a dict, list or tuple that does not fit a line gets one line each."""
    if isinstance(value, dict):
        named = all(isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k)
                    for k in value)
        items = [f"{k}={_pretty(v, depth + 1)}" if named else f"{k!r}: {_pretty(v, depth + 1)}"
                 for k, v in value.items()]
        start, end = ("dict(", ")") if named else ("{", "}")
    elif isinstance(value, (list, tuple)):
        items = [_pretty(v, depth + 1) for v in value]
        start, end = ("[", "]") if isinstance(value, list) else ("(", ")")
        if isinstance(value, tuple) and len(value) == 1:
            items[0] += ","
    elif isinstance(value, float) and not math.isfinite(value):
        return "(1e999 - 1e999)" if math.isnan(value) else "1e999" if value > 0 else "-1e999"
    else:
        return repr(value)
    line = f"{start}{', '.join(items)}{end}"
    if len(line) + 4 * depth <= 96 and "\n" not in line:
        return line
    pad = " " * 4 * (depth + 1)
    return f"{start}\n{pad}" + f",\n{pad}".join(items) + end
