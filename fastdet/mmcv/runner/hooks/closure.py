"""A function as a hook, as in ``mmcv.runner.hooks.closure``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .hook import HOOKS, Hook

__all__ = ["ClosureHook"]


@HOOKS.register_module()
class ClosureHook(Hook):
    """Calls ``fn(runner)`` at the stage ``fn_name``."""

    def __init__(self, fn_name: str, fn: Callable[..., Any]) -> None:
        if not hasattr(self, fn_name) or not callable(fn):
            raise AssertionError(f"fn_name must name a stage of a hook and fn be callable, got "
                                 f"{fn_name!r} and {fn!r}")
        setattr(self, fn_name, fn)
