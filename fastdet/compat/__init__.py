"""MMDetection's place, taken: ``fastdet.install()`` and what it reports."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fastdet.utils import Registry, numpy_names

from .finder import Finder, ours_for
from .origin import Source, is_original, known_fingerprints

__all__ = ["Report", "install", "installed", "uninstall"]


@dataclass
class Report:
    """What :func:`install` did.

    Attributes:
        mmdet: the folder of the installed MMDetection, or ``None``.
        numpy: the names that NumPy had removed and has again.
    """

    mmdet: Path | None
    numpy: list[str] = field(default_factory=list)

    @cached_property
    def _split(self) -> tuple[list[str], list[str]]:
        ours: list[str] = []
        theirs: list[str] = []
        if self.mmdet is not None:
            source = Source(self.mmdet)
            for module, names in known_fingerprints().items():
                for name in names:
                    if ours_for(module, name) is not None and name in source.definitions(module):
                        kept = not is_original(source, module, name)
                        (theirs if kept else ours).append(f"{module}.{name}")
        return ours, theirs

    @property
    def ours(self) -> list[str]:
        """Classes and functions of MMDetection in whose place ours stand."""
        return self._split[0]

    @property
    def theirs(self) -> list[str]:
        """Those that stay because their code is not MMDetection 2.26.0's."""
        return self._split[1]

    def __str__(self) -> str:
        from fastdet.mmcv import __version__ as mmcv_version
        from fastdet.version import __version__

        lines = [f"mmcv {mmcv_version}: fastdet {__version__}"]
        if self.mmdet is None:
            lines.append("mmdet: not installed; fastdet stands for the names it has")
        else:
            lines.append(f"mmdet: {self.mmdet}; {len(self.ours)} classes and functions are "
                         f"fastdet's, {len(self.theirs)} stay because they were changed")
            lines += [f"  stays: {name}" for name in self.theirs]
        if self.numpy:
            lines.append(f"numpy: gave back {', '.join(self.numpy)}")
        return "\n".join(lines)


_Registered = list[tuple[Registry, dict[str, Any], dict[str, Registry]]]


def _registered() -> _Registered:
    """What our registries hold."""
    found = {id(value): value for name in _of("fastdet")
             for value in list(vars(sys.modules[name]).values()) if isinstance(value, Registry)}
    return [(r, dict(r.module_dict), dict(r.children)) for r in found.values()]


def _put_back(before: _Registered) -> None:
    """Take what others registered since out of our registries."""
    for registry, modules, children in before:
        ours = {key: value for key, value in registry.module_dict.items()
                if value.__module__.partition(".")[0] == "fastdet"}
        registry.module_dict.clear()
        registry.module_dict.update({**ours, **modules})
        registry.children.clear()
        registry.children.update(children)


_finder: Finder | None = None
_before: _Registered = []
_report: Report | None = None


def _of(package: str) -> list[str]:
    return [m for m in sys.modules if m == package or m.startswith(f"{package}.")]


def install() -> Report:
    """Let ``mmcv`` mean fastdet, and ``mmdet`` MMDetection with our components in it.

    ``import mmcv`` and all below it then give our modules. ``import mmdet`` gives the MMDetection
    that is installed, or a repository's own copy of it, whose backbones, necks, anchor generators
    and layers are ours where their code is MMDetection 2.26.0's; where there is none it gives our
    modules. NumPy gets back the names that MMDetection uses and that it has removed.

    Calling it again changes nothing.

    Returns:
        What is whose.

    Raises:
        RuntimeError: the real mmcv, or an mmdet on top of it, is already imported.
    """
    global _finder, _report, _before
    if _report is not None:
        return _report
    for package in ("mmcv", "mmdet"):
        if package in sys.modules:
            where = getattr(sys.modules[package], "__file__", None) or "unknown place"
            raise RuntimeError(f"{package} is already imported, from {where}: call "
                               f"fastdet.install() before anything imports {package}")
    finder = Finder()
    # Our components register themselves when they are imported: before MMDetection's do, so that a
    # changed one can take their place in the registries that both share.
    for part in ("fastdet.core", "fastdet.models", "fastdet.mmcv", "fastdet.datasets",
                 "fastdet.apis"):
        importlib.import_module(part)
    _before = _registered()
    sys.meta_path.insert(0, finder)
    _finder = finder
    _report = Report(finder.installed_mmdet(), numpy_names.mend())
    return _report


def uninstall() -> None:
    """Undo :func:`install`: the names are free again, and NumPy is as it was.

    What was imported stays with those who hold it. Without an :func:`install` nothing happens.
    """
    global _finder, _report
    if _finder is None or _report is None:
        return
    sys.meta_path.remove(_finder)
    for module in [*_of("mmcv"), *_of("mmdet")]:
        del sys.modules[module]
    _finder.forget()
    _put_back(_before)
    numpy_names.undo(_report.numpy)
    _finder = _report = None


@contextmanager
def installed() -> Iterator[Report]:
    """``with fastdet.installed():`` installs for a block; inside another it changes nothing."""
    outer = _report is not None
    try:
        yield install()
    finally:
        if not outer:
            uninstall()
