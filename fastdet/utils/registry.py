"""Registries: a config's ``type`` string to the class it names, as in ``mmcv.utils``."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["Registry", "UnknownTypeError", "build_from_cfg", "resolve"]


class UnknownTypeError(KeyError):
    """A config names a type that no registry knows. A ``KeyError``, as MMDetection raises."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0])


class Registry:
    """Maps names to classes (or functions) and builds objects from config dicts.

    Args:
        name: what the registry holds, for messages.
        build_func: ``f(cfg, default_args=None, registry=self)`` behind :meth:`build`; the
            parent's, or :func:`build_from_cfg`, when not given.
        parent: a registry that is asked when this one does not know a name.
        scope: the prefix under which configs may write ``'scope.Type'``; the top-level package
            of the caller by default.
    """

    def __init__(self, name: str, build_func: Callable[..., Any] | None = None,
                 parent: Registry | None = None, scope: str | None = None) -> None:
        self.name = name
        if build_func is None:
            build_func = build_from_cfg if parent is None else parent.build_func
        self.build_func: Callable[..., Any] = build_func
        self.parent = parent
        self.scope = self.infer_scope() if scope is None else scope
        self._children: dict[str, Registry] = {}
        self._module_dict: dict[str, Any] = {}
        if parent is not None:
            parent._children[self.scope] = self

    @staticmethod
    def infer_scope() -> str:
        """The top-level package of the code that makes a registry; ours stands for mmdet's."""
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") == __name__ and frame.f_back is not None:
            frame = frame.f_back
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        return "mmdet" if package == "fastdet" else package

    @staticmethod
    def split_scope_key(key: str) -> tuple[str | None, str]:
        """``'scope.Type'`` as ``('scope', 'Type')``, and ``'Type'`` as ``(None, 'Type')``."""
        scope, found, name = key.partition(".")
        return (scope, name) if found else (None, key)

    @property
    def children(self) -> dict[str, Registry]:
        """The registries whose parent this is, by scope."""
        return self._children

    @property
    def module_dict(self) -> dict[str, Any]:
        """Registered names and what they stand for."""
        return self._module_dict

    def __len__(self) -> int:
        return len(self._module_dict)

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, types={sorted(self._module_dict)})"

    def get(self, key: str) -> Any | None:
        """The class registered as ``key`` (``'Type'`` or ``'scope.Type'``), or ``None``."""
        scope, name = self.split_scope_key(key)
        if scope in (None, self.scope):
            registry: Registry | None = self
            while registry is not None:
                if name in registry._module_dict:
                    return registry._module_dict[name]
                registry = registry.parent
            return None
        if scope in self._children:
            return self._children[scope].get(name)
        return None if self.parent is None else self.parent.get(key)

    def build(self, cfg: dict[str, Any], default_args: dict[str, Any] | None = None,
              **kwargs: Any) -> Any:
        """Build the object that ``cfg`` describes; ``kwargs`` are for a ``build_func`` of yours."""
        if default_args is not None:
            kwargs["default_args"] = default_args
        return self.build_func(cfg, **kwargs, registry=self)

    def register_module(self, name: str | list[str] | None = None, force: bool = False,
                        module: Any | None = None) -> Any:
        """Register a class, as a decorator or by ``module=``.

        Args:
            name: the name or names to register under; the class's own name by default.
            force: replace what is already registered under that name.
            module: register this at once instead of returning a decorator.

        Raises:
            KeyError: the name is taken and ``force`` is false.
        """
        if inspect.isclass(name) or inspect.isfunction(name):  # bare @REG.register_module
            return self.register_module(module=name)

        def register(target: Any) -> Any:
            names = [name] if isinstance(name, str) else name or [target.__name__]
            for key in names:
                if key in self._module_dict and not force:
                    raise KeyError(f"{key} is already registered in {self.name}; "
                                   "pass force=True to replace it")
                self._module_dict[key] = target
            return target

        return register if module is None else register(module)

    def unknown(self, key: str) -> UnknownTypeError:
        """The error for a name that is not registered; it names the nearest known ones."""
        known: list[str] = []
        registry: Registry | None = self
        while registry is not None:
            known += [k for k in registry.module_dict if k not in known]
            registry = registry.parent
        by_lower = {k.lower(): k for k in known}
        near = [by_lower[k] for k in difflib.get_close_matches(key.lower(), by_lower, n=3)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
        return UnknownTypeError(f"{key!r} is not in the {self.name} registry; {hint}")


def resolve(cfg: dict[str, Any], registry: Registry) -> tuple[Any, dict[str, Any]]:
    """Split a config into what its ``type`` names and the other arguments.

    Args:
        cfg: ``type`` (a registered name, a class or a function) and arguments. Not modified.
        registry: where a name is looked up.

    Returns:
        The class or function, and a new dict of the arguments.

    Raises:
        TypeError: ``cfg`` is not a dict, or ``type`` neither a name nor a class.
        KeyError: ``type`` is missing or unknown.
    """
    if not isinstance(cfg, dict):
        raise TypeError(f"a {registry.name} config must be a dict, "
                        f"got {type(cfg).__name__}: {cfg!r}")
    if "type" not in cfg:
        raise KeyError(f"a {registry.name} config needs the key 'type', got {cfg!r}")
    args = dict(cfg)
    kind = args.pop("type")
    if isinstance(kind, str):
        found = registry.get(kind)
        if found is None:
            raise registry.unknown(kind)
        return found, args
    if inspect.isclass(kind) or inspect.isfunction(kind):
        return kind, args
    raise TypeError(f"'type' in a {registry.name} config must be a name or a class, "
                    f"got {type(kind).__name__}: {kind!r}")


def build_from_cfg(cfg: dict[str, Any], registry: Registry,
                   default_args: dict[str, Any] | None = None) -> Any:
    """Build an object from a config dict.

    Args:
        cfg: the arguments of the constructor, and ``type``: a registered name or a class.
        registry: where a name is looked up.
        default_args: arguments that ``cfg`` overrides; ``type`` may be among them.

    Raises:
        TypeError: ``cfg`` is not a dict, or ``type`` neither a name nor a class.
        KeyError: ``type`` is missing or unknown.
    """
    merged = {**(default_args or {}), **cfg} if isinstance(cfg, dict) else cfg
    target, args = resolve(merged, registry)
    try:
        return target(**args)
    except (TypeError, ValueError, AssertionError) as e:
        # Name the component: a bad argument deep in a nested config is unfindable otherwise.
        if type(e) in (TypeError, ValueError, AssertionError):
            raise type(e)(f"{target.__name__}: {e}") from e
        raise
