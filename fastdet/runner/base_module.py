"""Modules that initialise their own weights from a config, as in ``mmcv.runner``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn

from fastdet.utils.types import InitCfg

from .weight_init import initialize

__all__ = ["BaseModule", "ModuleDict", "ModuleList", "Sequential"]



class BaseModule(nn.Module):
    """A module whose weights ``init_weights()`` sets as ``init_cfg`` says.

    Building a module leaves its parameters as torch draws them; ``init_weights()`` then applies
    the configs from the outside in.

    Args:
        init_cfg: one initialiser's config, a list of them, or ``None`` to leave this module's
            own parameters alone. See :func:`fastdet.cnn.initialize`.
    """

    _is_init = False

    def __init__(self, init_cfg: InitCfg = None) -> None:
        super().__init__()
        self.init_cfg = copy.deepcopy(init_cfg)

    @property
    def is_init(self) -> bool:
        """Whether ``init_weights()`` has run; not set by a checkpoint (type ``'Pretrained'``)."""
        return self._is_init

    def init_weights(self) -> None:
        """Initialise the weights of this module and its children, once.

        ``init_cfg`` is applied to this module first, then every child that has ``init_weights``
        runs its own, so that a child's config wins over its parent's. A single config of type
        ``'Pretrained'`` is final: the children keep what the checkpoint gave them. A second call
        warns and changes nothing.
        """
        if self._is_init:
            warnings.warn(f"init_weights of {type(self).__name__} has been called more than once; "
                          "this call does nothing", stacklevel=2)
            return
        if self.init_cfg:
            initialize(self, self.init_cfg)
            if isinstance(self.init_cfg, dict) and self.init_cfg["type"] == "Pretrained":
                return
        for child in self.children():
            init_weights = getattr(child, "init_weights", None)
            if init_weights is not None:
                init_weights()
        self._is_init = True

    def __repr__(self) -> str:
        text = super().__repr__()
        return f"{text}\ninit_cfg={self.init_cfg}" if self.init_cfg else text


class Sequential(BaseModule, nn.Sequential):
    """``nn.Sequential`` with ``init_weights()``.

    Args:
        *args: the modules in order, or one ``OrderedDict`` of them.
        init_cfg: see :class:`BaseModule`.
    """

    def __init__(self, *args: Any, init_cfg: InitCfg = None) -> None:
        nn.Sequential.__init__(self, *args)
        self.init_cfg = copy.deepcopy(init_cfg)


class ModuleList(BaseModule, nn.ModuleList):
    """``nn.ModuleList`` with ``init_weights()``.

    Args:
        modules: the modules.
        init_cfg: see :class:`BaseModule`.
    """

    def __init__(self, modules: Iterable[nn.Module] | None = None,
                 init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg)
        self.extend(modules or ())


class ModuleDict(BaseModule, nn.ModuleDict):
    """``nn.ModuleDict`` with ``init_weights()``.

    Args:
        modules: the modules by name.
        init_cfg: see :class:`BaseModule`.
    """

    def __init__(self, modules: dict[str, nn.Module] | None = None,
                 init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg)
        self.update(modules or {})
