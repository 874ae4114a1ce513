"""Batch norms folded into the convolutions before them, and weights laid channels last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastdet.cnn import fuse_conv_bn

__all__ = ["channels_last", "fold"]

_Undo = list[Callable[[], None]]
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
#: Those of other packages, by the module and name under which they are defined.
_FROZEN = ("torchvision.ops.misc", "FrozenBatchNorm2d")
_WITH_ACT = ("timm.layers.norm_act", "BatchNormAct2d")


class _Children(fx.Tracer):
    """Follows a module's own forward, and no child's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _parts(module: Any) -> tuple[_BatchNorm, nn.Module] | None:
    """A batch norm and what its module does after it; ``None`` for any other module."""
    kind = type(module)
    if kind in _NORMS:
        return module, nn.Identity()
    if (kind.__module__, kind.__qualname__) == _WITH_ACT:
        plain = type(module.drop) is nn.Identity
        return module, module.act if plain else nn.Sequential(module.drop, module.act)
    if (kind.__module__, kind.__qualname__) == _FROZEN:
        norm = nn.BatchNorm2d(module.weight.numel(), module.eps).to(module.weight)
        norm.load_state_dict(module.state_dict(), strict=False)
        return norm.eval(), nn.Identity()
    return None


def _pairs(parent: nn.Module) -> list[tuple[str, str]] | None:
    """Names of the children of which the second, a batch norm, takes the first's result alone.

    What follows what is read off the parent's forward, not off the order of its children; ``None``
    where it cannot be followed.
    """
    if type(parent).forward is nn.Sequential.forward:
        names = list(parent._modules)
        return list(pairwise(names))
    try:
        graph = _Children().trace(parent)
    except Exception:  # whatever a forward does to a proxy
        return None
    called = Counter(node.target for node in graph.nodes if node.op == "call_module")
    return [(str(before.target), str(node.target)) for node in graph.nodes
            if node.op == "call_module" and len(node.args) == 1 and not node.kwargs
            for before in [node.args[0]]
            if isinstance(before, fx.Node) and before.op == "call_module"
            and len(before.users) == 1 and called[node.target] == called[before.target] == 1]


def _objection(conv: nn.Module, module: nn.Module, norm: _BatchNorm, uses: Counter[int]
               ) -> str | None:
    if type(conv) is not nn.Conv2d:
        return f"a {type(conv).__name__} stands before it"
    if not norm.track_running_stats or norm.running_mean is None:
        return "it keeps no statistics"
    if uses[id(conv)] > 1 or uses[id(module)] > 1:
        return "it or its convolution is used in several places"
    for one in (conv, module):
        if any(getattr(one, f"_{kind}_hooks") for kind in ("forward", "forward_pre",
                                                              "backward", "backward_pre")):
            return "it or its convolution has hooks"
    return None


def _put_back(parent: nn.Module, name: str, norm: nn.Module, conv: nn.Module, weight: Any,
              bias: Any) -> Callable[[], None]:
    def undo() -> None:
        parent._modules[name] = norm
        conv.register_parameter("weight", weight)
        conv.register_parameter("bias", bias)
    return undo


def fold(model: nn.Module) -> tuple[list[str], dict[str, str], _Undo]:
    """Fold every batch norm that takes a 2-D convolution's result and nothing else does.

    Returns:
        Names of the norms that are part of the convolution now, the others with the reason, and
        what takes it back.
    """
    folded: list[str] = []
    left: dict[str, str] = {}
    undo: _Undo = []
    uses = Counter(id(m) for parent in model.modules() for m in parent._modules.values())
    for prefix, parent in list(model.named_modules()):
        norms = {name: parts for name, child in parent._modules.items()
                 if child is not None and (parts := _parts(child))}
        if not norms:
            continue
        pairs = _pairs(parent)
        before = {norm: conv for conv, norm in pairs or []}
        for name, (norm, rest) in norms.items():
            full = f"{prefix}.{name}".lstrip(".")
            if pairs is None:
                left[full] = "what it follows is not known: the forward around it does not trace"
                continue
            module, conv = parent._modules[name], parent._modules.get(before.get(name, ""))
            assert module is not None
            reason = "no convolution stands before it" if conv is None else \
                _objection(conv, module, norm, uses)
            if reason is not None or conv is None:
                left[full] = reason or ""
                continue
            undo.append(_put_back(parent, name, module, conv, conv.weight, conv.bias))
            fuse_conv_bn(nn.Sequential(conv, norm))
            parent._modules[name] = rest
            folded.append(full)
    return folded, left, undo


def channels_last(model: nn.Module) -> tuple[list[str], _Undo]:
    """Lay the weights of 2-D convolutions channels last, so that their results are, too.

    Left alone are those whose two formats are the same memory, and depth-wise ones.

    Returns:
        Names of the convolutions, and what takes it back.
    """
    done: list[str] = []
    undo: _Undo = []
    for name, module in model.named_modules():
        if type(module) is not nn.Conv2d or module.weight.shape[1] == 1:
            continue
        old = module.weight.data
        if old.is_contiguous(memory_format=torch.channels_last):
            continue
        module.weight.data = old.contiguous(memory_format=torch.channels_last)
        undo.append(partial(setattr, module.weight, "data", old))
        done.append(name)
    return done, undo
