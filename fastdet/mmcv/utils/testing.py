"""Checks for tests, as in ``mmcv.utils.testing``."""

from __future__ import annotations

import runpy
import shlex
import sys
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

__all__ = [
    "assert_attrs_equal", "assert_dict_contains_subset", "assert_dict_has_keys",
    "assert_is_norm_layer", "assert_keys_equal", "assert_params_all_zeros", "check_python_script",
]


def check_python_script(cmd: str) -> None:
    """Run a script with arguments, given as one line, in this process; ``python`` may lead."""
    args = shlex.split(cmd)
    if args[0] == "python":
        args = args[1:]
    with patch.object(sys, "argv", args):
        runpy.run_path(args[0], run_name="__main__")


def _differ(a: Any, b: Any) -> bool:
    """Whether two values, which may be arrays or tensors, differ anywhere."""
    differ = a != b
    return bool(np.any(differ.cpu().numpy() if torch.is_tensor(differ) else differ))


def assert_dict_contains_subset(dict_obj: dict[Any, Any], expected_subset: dict[Any, Any]) -> bool:
    """Whether ``dict_obj`` has every key of ``expected_subset``, with an equal value."""
    return all(key in dict_obj and not _differ(dict_obj[key], value)
               for key, value in expected_subset.items())


def assert_attrs_equal(obj: Any, expected_attrs: dict[str, Any]) -> bool:
    """Whether ``obj`` has these attributes, with equal values."""
    return all(hasattr(obj, name) and not _differ(getattr(obj, name), value)
               for name, value in expected_attrs.items())


def assert_dict_has_keys(obj: dict[str, Any], expected_keys: Iterable[str]) -> bool:
    """Whether ``obj`` has all of these keys."""
    return set(expected_keys).issubset(obj)


def assert_keys_equal(result_keys: Iterable[str], target_keys: Iterable[str]) -> bool:
    """Whether both hold the same keys, in whatever order."""
    return set(result_keys) == set(target_keys)


def assert_is_norm_layer(module: nn.Module) -> bool:
    """Whether ``module`` is a batch, group or layer norm."""
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.instancenorm import _InstanceNorm

    return isinstance(module, _BatchNorm | _InstanceNorm | nn.GroupNorm | nn.LayerNorm)


def assert_params_all_zeros(module: nn.Module) -> bool:
    """Whether the weight and the bias (where it has one) of a layer are all zero."""
    weight_zero = not torch.any(module.weight)  # type: ignore[arg-type]
    bias = getattr(module, "bias", None)
    return bool(weight_zero and (bias is None or not torch.any(bias)))
