"""Registries of optimizers, as in ``mmcv.runner.optimizer.builder``."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from fastdet.utils import Registry

__all__ = ["OPTIMIZERS", "OPTIMIZER_BUILDERS", "TORCH_OPTIMIZERS", "build_optimizer",
           "build_optimizer_constructor", "register_torch_optimizers"]

OPTIMIZERS = Registry("optimizer", scope="mmcv")
OPTIMIZER_BUILDERS = Registry("optimizer builder", scope="mmcv")


def register_torch_optimizers() -> list[str]:
    """Register every optimizer of ``torch.optim`` that is not registered yet; their names."""
    names = []
    for name, kind in vars(torch.optim).items():
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) \
                and not name.startswith("_") and name not in OPTIMIZERS.module_dict:
            OPTIMIZERS.register_module(module=kind)
            names.append(name)
    return names


TORCH_OPTIMIZERS = register_torch_optimizers()


def build_optimizer_constructor(cfg: dict[str, Any]) -> Any:
    """The object that makes an optimizer for a model; ``cfg['type']`` names its class."""
    return OPTIMIZER_BUILDERS.build(cfg)


def build_optimizer(model: nn.Module, cfg: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer that a config describes, for a model.

    Args:
        model: its parameters are optimised.
        cfg: ``type`` and arguments of the optimizer, and maybe ``paramwise_cfg`` (see
            :class:`DefaultOptimizerConstructor`) and ``constructor``, a name in
            ``OPTIMIZER_BUILDERS``.
    """
    optimizer_cfg = dict(cfg)
    constructor = build_optimizer_constructor({
        "type": optimizer_cfg.pop("constructor", "DefaultOptimizerConstructor"),
        "paramwise_cfg": optimizer_cfg.pop("paramwise_cfg", None),
        "optimizer_cfg": optimizer_cfg})
    return constructor(model)
