"""Whether a class in an ``mmdet`` package is MMDetection 2.26.0's own, told from its source.

Many repositories carry a changed copy of MMDetection. A class of theirs counts as MMDetection's
when its syntax tree, and those of everything in ``mmdet`` that it refers to, are: a backbone whose
own lines are untouched is not MMDetection's if a layer that it builds was changed. Comments,
docstrings, layout and the registry that it is in count for nothing.

``mmdet-2.26.0.json`` holds what :func:`fingerprints` gives for MMDetection 2.26.0: facts about its
files.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["REPLACED", "Source", "fingerprints", "is_original", "known_fingerprints",
           "registers"]

#: What stands in for MMDetection's own where ours has the name: subpackages and modules of
#: ``mmdet``.
REPLACED = (
    "apis.test", "core.anchor", "core.bbox", "core.bbox.assigners", "core.bbox.coder",
    "core.bbox.iou_calculators", "core.bbox.match_costs", "core.bbox.samplers", "core.mask",
    "core.post_processing", "models.backbones", "models.losses", "models.necks", "models.plugins",
    "models.roi_heads.roi_extractors", "models.utils", "utils.util_distribution")

_DATA = Path(__file__).with_name("mmdet-2.26.0.json")
# Fields that say nothing about what code does, or that only some versions of Python have.
_SILENT = frozenset({"type_comment", "type_params", "kind", "ctx", "type_ignores"})


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) \
            and isinstance(body[0].value.value, str):
        return body[1:]
    return body


def registers(decorator: ast.expr) -> bool:
    """Whether a decorator puts what it decorates into a registry: ``@X.register_module(...)``."""
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute) \
        and decorator.func.attr == "register_module"


def _names(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement refers to; those of a registry apart."""
    skipped = {id(n) for d in getattr(statement, "decorator_list", []) if registers(d)
               for n in ast.walk(d)}
    yield from (n.id for n in ast.walk(statement)
                if isinstance(n, ast.Name) and id(n) not in skipped)


def _canonical(node: Any) -> str:
    """A syntax tree as text that is the same under every version of Python."""
    if isinstance(node, ast.AST):
        parts = []
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(
                    node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                value = _without_docstring(value)
            if name == "decorator_list":
                value = [d for d in value if not registers(d)]
            if name not in _SILENT and value not in (None, []):
                parts.append(f"{name}={_canonical(value)}")
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement binds, those of nested blocks too."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield statement.name
    elif isinstance(statement, ast.Import):
        yield from (a.asname or a.name.partition(".")[0] for a in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        yield from (a.asname or a.name for a in statement.names)
    elif isinstance(statement, ast.If | ast.Try | ast.With):
        for child in ast.walk(statement):
            if child is not statement and isinstance(child, ast.stmt):
                yield from _bound(child)
    else:
        yield from (n.id for n in ast.walk(statement)
                    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


class _Module:
    """One file: which statements bind which of its names."""

    def __init__(self, name: str, path: Path) -> None:
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.statements: dict[str, list[ast.stmt]] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python thinks of their escape sequences
            tree = ast.parse(path.read_bytes())
        for statement in tree.body:
            for bound in _bound(statement):
                self.statements.setdefault(bound, []).append(statement)

    def imported_from(self, statement: ast.ImportFrom) -> str:
        """The absolute name of the module that a statement imports from."""
        if not statement.level:
            return statement.module or ""
        parts = self.package.split(".")
        base = parts[: len(parts) - statement.level + 1]
        return ".".join([*base, *([statement.module] if statement.module else [])])


class Source:
    """The source of an ``mmdet`` package.

    Args:
        root: the folder ``mmdet``.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._modules: dict[str, _Module | None] = {}
        self._digests: dict[tuple[str, str], str] = {}

    def path(self, module: str) -> Path | None:
        """The file of a module, ``mmdet.models.backbones.swin`` for one."""
        place = self.root.joinpath(*module.split(".")[1:])
        candidates = (place.with_suffix(".py"), place / "__init__.py")
        if module == "mmdet":
            candidates = candidates[1:]  # type: ignore[assignment]
        return next((p for p in candidates if p.is_file()), None)

    def module(self, name: str) -> _Module | None:
        """A parsed module; ``None`` where there is no such file or it is no Python."""
        if name not in self._modules:
            path = self.path(name)
            try:
                self._modules[name] = None if path is None else _Module(name, path)
            except SyntaxError:
                self._modules[name] = None
        return self._modules[name]

    def definitions(self, module: str) -> list[str]:
        """The classes and functions that a module defines."""
        found = self.module(module)
        if found is None:
            return []
        return [name for name, statements in found.statements.items()
                if isinstance(statements[-1], ast.ClassDef | ast.FunctionDef)]

    def _reach(self, start: tuple[str, str]) -> dict[tuple[str, str], str]:
        """Everything in the package that a name refers to, and its digest."""
        reached: dict[tuple[str, str], str] = {}
        waiting = [start]
        while waiting:
            key = waiting.pop()
            if key in reached:
                continue
            module, name = key
            found = self.module(module)
            statements = found.statements.get(name, []) if found else []
            texts = []
            for statement in statements:
                if isinstance(statement, ast.ImportFrom) and found is not None:
                    origin = found.imported_from(statement)
                    original = next(a.name for a in statement.names
                                    if (a.asname or a.name) == name)
                    if origin.partition(".")[0] == "mmdet":
                        waiting.append((origin, original))
                        texts.append("")
                    else:
                        texts.append(f"{origin}:{original}")
                    continue
                texts.append(self._digest(module, name, statement))
                if found is not None:
                    waiting += [(module, n) for n in _names(statement) if n in found.statements]
            reached[key] = "|".join(texts)
        return reached

    def _digest(self, module: str, name: str, statement: ast.stmt) -> str:
        key = (module, f"{name}@{statement.lineno}")
        if key not in self._digests:
            text = _canonical(statement)
            self._digests[key] = hashlib.sha256(text.encode()).hexdigest()
        return self._digests[key]

    def fingerprint(self, module: str, name: str) -> str:
        """A digest of a class or function and of all in ``mmdet`` that it refers to."""
        lines = sorted(f"{m}:{n}:{d}" for (m, n), d in self._reach((module, name)).items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@functools.cache
def known_fingerprints() -> dict[str, dict[str, str]]:
    """MMDetection 2.26.0's fingerprints, by module and name."""
    return json.loads(_DATA.read_text())


def is_original(source: Source, module: str, name: str) -> bool:
    """Whether a class or function is MMDetection 2.26.0's."""
    known = known_fingerprints().get(module, {}).get(name)
    return known is not None and known == source.fingerprint(module, name)


def fingerprints(root: str | Path) -> dict[str, dict[str, str]]:
    """The fingerprints of a whole ``mmdet`` package, by module and name.

    Args:
        root: the folder ``mmdet``.
    """
    source = Source(root)
    out: dict[str, dict[str, str]] = {}
    for part in REPLACED:
        place = source.root.joinpath(*part.split("."))
        for path in sorted(place.glob("*.py")) or [place.with_suffix(".py")]:
            module = ".".join(("mmdet", *path.relative_to(source.root).with_suffix("").parts))
            if path.name != "__init__.py" and (names := source.definitions(module)):
                out[module] = {name: source.fingerprint(module, name) for name in names}
    return out
