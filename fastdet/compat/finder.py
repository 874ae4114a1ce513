"""The finder that makes ``import mmcv`` and ``import mmdet`` mean what fastdet has."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from fastdet.utils import Registry

from .names import ELSEWHERE, RENAMED, our_module
from .origin import REPLACED, Source, is_original, known_fingerprints, registers

__all__ = ["Finder", "ours_for"]


def ours_for(module: str, name: str) -> Any | None:
    """Our class or function for one of MMDetection's; ``None`` if there is none."""
    if not any(f"{module}.".startswith(f"mmdet.{part}.") for part in REPLACED):
        return None
    ours = our_module(module)
    return None if ours is None else getattr(importlib.import_module(ours), name, None)


class _AliasLoader(Loader):
    """Gives a module of ours under another name: the same object, not a copy."""

    def __init__(self, target: str) -> None:
        self.target = target

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.target)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the alias's there


class _Rewriter(ast.NodeTransformer):
    """Puts an import of ours where MMDetection defines a class or function that we have.

    ``@REGISTRY.register_module() class C`` becomes ``from fastdet... import C`` and
    ``REGISTRY.register_module(force=True, module=C)``: configs then build ours, and so does a
    subclass further down in the file. Any other definition stays, and takes the place that ours
    may have in a registry that both share.
    """

    def __init__(self, module: str, source: Source) -> None:
        self.module = module
        self.source = source

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return self._definition(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return self._definition(node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        """``REGISTRY = Registry(...)`` becomes an import of ours.

        What MMDetection and its users register is then found by our components, and the reverse.
        """
        made = node.value.func if isinstance(node.value, ast.Call) else None
        name = node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""
        if not (isinstance(made, ast.Name) and made.id == "Registry"
                and isinstance(ours_for(self.module, name), Registry)):
            return node
        ours = ast.ImportFrom(our_module(self.module), [ast.alias(name)], 0)
        return ast.fix_missing_locations(ast.copy_location(ours, node))

    def visit_Expr(self, node: ast.Expr) -> Any:
        """``REGISTRY.register_module(...)``: ours may have the name already."""
        if registers(node.value):
            node.value = _forced(node.value)
        return node

    def _definition(self, node: Any) -> Any:
        registered = [_forced(d) for d in node.decorator_list if registers(d)]
        if ours_for(self.module, node.name) is None or not is_original(
                self.source, self.module, node.name):
            others = [d for d in node.decorator_list if not registers(d)]
            node.decorator_list = [*registered, *others]
            return node
        out: list[ast.stmt] = [ast.ImportFrom(our_module(self.module), [ast.alias(node.name)], 0)]
        for call in registered:
            call.keywords.append(ast.keyword("module", ast.Name(node.name, ast.Load())))
            out.append(ast.Expr(call))
        return [ast.fix_missing_locations(ast.copy_location(s, node)) for s in out]


def _forced(decorator: Any) -> ast.Call:
    """A ``register_module(...)`` that replaces what is there."""
    decorator.keywords = [k for k in decorator.keywords if k.arg != "force"]
    decorator.keywords.append(ast.keyword("force", ast.Constant(True)))
    return ast.fix_missing_locations(decorator)


class _RewritingLoader(SourceFileLoader):
    """Loads a module of MMDetection with our components in place of its own."""

    def __init__(self, fullname: str, path: str, source: Source) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:  # no .pyc: it would hold MMDetection's own
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        # Only the module's own statements: a class in a class is its owner's business.
        rewriter = _Rewriter(fullname, self._source)
        body: list[ast.stmt] = []
        for node in tree.body:
            own = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Assign | ast.Expr)
            new = rewriter.visit(node) if own else node
            body += new if isinstance(new, list) else [new]
        tree.body = body
        return compile(tree, path, "exec", dont_inherit=True)


class Finder(MetaPathFinder):
    """Finds ``mmcv`` and ``mmdet``; stands first in ``sys.meta_path`` while installed."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._children: list[tuple[ModuleType, str]] = []

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        if top == "mmcv":
            return self._alias(fullname)
        if top != "mmdet":
            return None
        installed = self.installed_mmdet()
        if installed is None:
            return self._alias(fullname)
        spec = self._elsewhere(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader \
                and spec.origin is not None and (
                    fullname in known_fingerprints()
                    or b"register_module(" in Path(spec.origin).read_bytes()):
            spec.loader = _RewritingLoader(fullname, spec.origin, self._source(installed))
            spec.cached = None
        return spec

    def _elsewhere(self, fullname: str, path: Sequence[str] | None,
                   target: ModuleType | None = None) -> ModuleSpec | None:
        """What the other finders find."""
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)):
                return spec
        return None

    def installed_mmdet(self) -> Path | None:
        """The folder of the ``mmdet`` package that is imported or would be; ``None`` if none."""
        if (module := sys.modules.get("mmdet")) is not None:
            file = getattr(module, "__file__", None)
            return None if module.__name__ != "mmdet" or file is None else Path(file).parent
        spec = self._elsewhere("mmdet", None)
        return Path(spec.origin).parent if spec and spec.origin else None

    def _source(self, root: Path) -> Source:
        return self._sources.setdefault(str(root), Source(root))

    def _alias(self, fullname: str) -> ModuleSpec:
        ours = our_module(fullname)
        if ours is None:
            whose = "mmcv" if fullname.startswith("mmcv") else "MMDetection"
            hint = "" if whose == "mmcv" else ", and MMDetection itself is not installed"
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: fastdet stands for {whose} here and has no such "
                f"module{hint}", name=fullname)
        module = importlib.import_module(ours)
        self._register(fullname, module)
        for name, home in ELSEWHERE.get(fullname, {}).items():
            if not hasattr(module, name):
                setattr(module, name, getattr(importlib.import_module(home), name))
                self._children.append((module, name))
        return ModuleSpec(fullname, _AliasLoader(ours), is_package=hasattr(module, "__path__"))

    def _register(self, alias: str, module: ModuleType) -> None:
        """Give names to what is below a module and imported already.

        The import system would set the parent's attribute again when it finds them, and so put the
        module ``nms`` in the place of the function ``nms``.
        """
        ours = module.__name__
        for name, child in list(sys.modules.items()):
            if name.startswith(f"{ours}.") and child is not None \
                    and our_module(alias + name[len(ours):]) == name:
                sys.modules.setdefault(alias + name[len(ours):], child)
        for name, target in RENAMED.items():
            parent, _, leaf = name.rpartition(".")
            owner = our_module(parent) if parent.startswith(alias) else None
            if owner is None or our_module(name) != target:
                continue
            package = importlib.import_module(owner)
            child = sys.modules.setdefault(name, importlib.import_module(target))
            if not hasattr(package, leaf):
                setattr(package, leaf, child)
                self._children.append((package, leaf))

    def forget(self) -> None:
        """Undo what was done to our own modules."""
        for module, leaf in self._children:
            module.__dict__.pop(leaf, None)
        self._children.clear()
