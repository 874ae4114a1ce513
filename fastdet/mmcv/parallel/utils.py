"""What wraps a model, as in ``mmcv.parallel.utils``."""

from __future__ import annotations

from torch import nn

from fastdet.utils import Registry

from .registry import MODULE_WRAPPERS

__all__ = ["is_module_wrapper"]


def is_module_wrapper(module: nn.Module) -> bool:
    """Whether a module is a wrapper with the model in its ``module``.

    Such are torch's data-parallel classes and what is registered in ``MODULE_WRAPPERS`` or a
    registry below it.
    """

    def known(registry: Registry) -> tuple[type, ...]:
        below = [c for child in registry.children.values() for c in known(child)]
        return (*registry.module_dict.values(), *below)

    return isinstance(module, known(MODULE_WRAPPERS))
