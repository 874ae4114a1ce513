"""Learning rate and weight decay of each parameter, as in mmcv's constructor of optimizers."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn import GroupNorm, LayerNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fastdet.ops import DeformConv2d, ModulatedDeformConv2d

from .builder import OPTIMIZER_BUILDERS, OPTIMIZERS

__all__ = ["DefaultOptimizerConstructor"]


@OPTIMIZER_BUILDERS.register_module()
class DefaultOptimizerConstructor:
    """Makes an optimizer with one parameter group for each parameter, if there are rules.

    Args:
        optimizer_cfg: ``type`` and arguments of the optimizer; ``lr`` and ``weight_decay`` are
            what the factors below are applied to.
        paramwise_cfg: the rules, all of them optional:

            * ``custom_keys``: a dict of ``lr_mult`` and ``decay_mult`` by a part of parameters'
              names; the longest part wins, and no other rule then holds.
            * ``bias_lr_mult``, ``bias_decay_mult``: for biases, but not those of norms and of
              deformable convolutions.
            * ``norm_decay_mult``: for weights and biases of norms.
            * ``dwconv_decay_mult``: for weights and biases of depth-wise convolutions.
            * ``dcn_offset_lr_mult``: for the offsets' convolution in deformable ones.
            * ``bypass_duplicate``: leave out a parameter that is there already, with a warning.

    Raises:
        TypeError: an argument, or ``custom_keys``, is no dict.
        ValueError: a rule for the rate or the decay, and no ``lr`` or ``weight_decay``.
    """

    def __init__(self, optimizer_cfg: dict[str, Any],
                 paramwise_cfg: dict[str, Any] | None = None) -> None:
        if not isinstance(optimizer_cfg, dict):
            raise TypeError(f"optimizer_cfg should be a dict, but got {type(optimizer_cfg)}")
        self.optimizer_cfg = optimizer_cfg
        self.paramwise_cfg: Any = {} if paramwise_cfg is None else paramwise_cfg
        self.base_lr = optimizer_cfg.get("lr")
        self.base_wd = optimizer_cfg.get("weight_decay")
        self._validate_cfg()

    def _validate_cfg(self) -> None:
        if not isinstance(self.paramwise_cfg, dict):
            raise TypeError("paramwise_cfg should be None or a dict, "
                            f"but got {type(self.paramwise_cfg)}")
        custom = self.paramwise_cfg.get("custom_keys", {})
        if not isinstance(custom, dict):
            raise TypeError(f"If specified, custom_keys must be a dict, but got {type(custom)}")
        rates = {"bias_lr_mult", "dcn_offset_lr_mult"}
        if self.base_lr is None and (rates & set(self.paramwise_cfg) or any(
                "lr_mult" in rule for rule in custom.values())):
            raise ValueError("base_lr should not be None: paramwise_cfg has factors for an lr that "
                             "the optimizer's config does not give")
        decays = {"bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult"}
        if self.base_wd is None and (decays & set(self.paramwise_cfg) or any(
                "decay_mult" in rule for rule in custom.values())):
            raise ValueError("base_wd should not be None: paramwise_cfg has factors for a "
                             "weight_decay that the optimizer's config does not give")

    def _is_in(self, param_group: dict[str, Any], param_group_list: list[dict[str, Any]]) -> bool:
        """Whether a group shares a parameter with one of a list."""
        mine = {id(p) for p in param_group["params"]}
        return any(id(p) in mine for group in param_group_list for p in group["params"])

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "",
                   is_dcn_module: int | float | None = None) -> None:
        """Add a group for each parameter of a module and of those below it.

        Args:
            params: the groups; it is changed.
            module: the module.
            prefix: its name.
            is_dcn_module: whether the module above it is a deformable convolution.
        """
        cfg = self.paramwise_cfg
        bypass = cfg.get("bypass_duplicate", False)
        custom = cfg.get("custom_keys", {})
        keys = sorted(sorted(custom), key=len, reverse=True)
        for name, parameter in module.named_parameters(recurse=False):
            group: dict[str, Any] = {"params": [parameter]}
            if not parameter.requires_grad:
                params.append(group)
                continue
            if bypass and self._is_in(group, params):
                warnings.warn(f"{prefix} is duplicate. It is skipped since "
                              f"bypass_duplicate={bypass}", stacklevel=2)
                continue
            rule = next((custom[key] for key in keys if key in f"{prefix}.{name}"), None)
            if rule is not None:
                if self.base_lr is not None:
                    group["lr"] = self.base_lr * rule.get("lr_mult", 1.0)
                if self.base_wd is not None:
                    group["weight_decay"] = self.base_wd * rule.get("decay_mult", 1.0)
            else:
                group.update(self._by_kind(module, name, prefix, bool(is_dcn_module)))
            params.append(group)
        is_dcn_module = isinstance(module, DeformConv2d | ModulatedDeformConv2d)
        for child_name, child in module.named_children():
            self.add_params(params, child, prefix=f"{prefix}.{child_name}".removeprefix("."),
                            is_dcn_module=is_dcn_module)

    def _by_kind(self, module: nn.Module, name: str, prefix: str,
                 in_dcn: bool) -> dict[str, float]:
        """Rate and decay of a parameter by what kind of module it is of."""
        cfg = self.paramwise_cfg
        is_norm = isinstance(module, (_BatchNorm, _InstanceNorm, GroupNorm, LayerNorm))
        is_conv = isinstance(module, nn.Conv2d)
        out = {}
        if self.base_lr is not None and name == "bias" and not (is_norm or in_dcn):
            out["lr"] = self.base_lr * cfg.get("bias_lr_mult", 1.0)
        if self.base_lr is not None and in_dcn and is_conv and "conv_offset" in prefix:
            out["lr"] = self.base_lr * cfg.get("dcn_offset_lr_mult", 1.0)
        if self.base_wd is not None:
            if is_norm:
                out["weight_decay"] = self.base_wd * cfg.get("norm_decay_mult", 1.0)
            elif is_conv and module.in_channels == module.groups:  # type: ignore[union-attr]
                out["weight_decay"] = self.base_wd * cfg.get("dwconv_decay_mult", 1.0)
            elif name == "bias" and not in_dcn:
                out["weight_decay"] = self.base_wd * cfg.get("bias_decay_mult", 1.0)
        return out

    def __call__(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a model."""
        model = getattr(model, "module", model)  # type: ignore[assignment]
        params: Any = model.parameters()
        if self.paramwise_cfg:
            params = []
            self.add_params(params, model)
        return OPTIMIZERS.build({**self.optimizer_cfg, "params": params})
