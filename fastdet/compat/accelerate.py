"""Models that are already built, made faster: ``fastdet.accelerate(model)``.

A module that is recognised becomes an instance of a subclass of its own class, whose forward calls
our operator. So parameters, buffers, their names, hooks, data type, device and mode stay what they
are, and taking the class back undoes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from . import folding
from .swaps import FAMILIES, Family, Refusal

__all__ = ["Accelerated", "accelerate"]

#: Modules whose places tell how to take back what was folded.
_Undo = Callable[[], None]


@dataclass
class Accelerated:
    """What :func:`accelerate` did to a model.

    Attributes:
        model: the model.
        swapped: names of modules that run on our operators, and which operator.
        folded: names of batch norms that are part of the convolution before them now.
        channels_last: names of convolutions whose weights lie channels last now.
        left: names of modules that look as if something could be done, and why it was not.
    """

    model: nn.Module
    swapped: dict[str, str] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)
    channels_last: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    _undo: list[_Undo] = field(default_factory=list, repr=False)

    def undo(self) -> nn.Module:
        """Make the model what it was before; a second call does nothing.

        Returns:
            The model.
        """
        while self._undo:
            self._undo.pop()()
        return self.model

    def __str__(self) -> str:
        lines = [f"{len(self.swapped)} modules swapped, {len(self.folded)} batch norms folded, "
                 f"{len(self.channels_last)} convolutions channels last, {len(self.left)} left"]
        for operator in dict.fromkeys(self.swapped.values()):
            names = [name for name, by in self.swapped.items() if by == operator]
            lines.append(f"  {operator}: {_several(names)}")
        for why in dict.fromkeys(self.left.values()):
            names = [name for name, reason in self.left.items() if reason == why]
            lines.append(f"  left: {_several(names)}: {why}")
        return "\n".join(lines)


def _several(names: list[str]) -> str:
    shown = ", ".join(name or "the model itself" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _restore(original: type[nn.Module]) -> nn.Module:
    """An empty instance of the subclass of a class, for copies and pickles."""
    family = _family(original)
    if not isinstance(family, Family):
        raise TypeError(f"{original.__module__}.{original.__qualname__} is no module that "
                        "fastdet accelerates")
    cls = _subclass(original, family)
    return cls.__new__(cls)


_subclasses: dict[type, type[nn.Module]] = {}


def _subclass(original: type[nn.Module], family: Family) -> type[nn.Module]:
    if original in _subclasses:
        return _subclasses[original]

    def reduce(self: nn.Module, protocol: int) -> Any:
        return _restore, (original,), self.__dict__

    _subclasses[original] = type(f"Fast{original.__name__}", (original,), {
        "__module__": __name__, "__doc__": f"{original.__name__} on fastdet's operators.",
        "__reduce_ex__": reduce, family.method: family.forward})
    return _subclasses[original]


def _family(cls: type) -> Family | None:
    """Who knows a class: by the module and name under which it was defined."""
    return FAMILIES.get((cls.__module__, cls.__qualname__))


def _has_hooks(module: nn.Module) -> bool:
    return any(getattr(module, name, None) for name in (
        "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"))


def _device_of(module: nn.Module) -> torch.device | None:
    return next((t.device for t in chain(module.parameters(), module.buffers())), None)


def _objection(module: nn.Module, family: Family, device: torch.device, force: bool
               ) -> str | None:
    """Why a module that looks known is left alone."""
    if family.refuses:
        return family.refuses
    if family.cpu and device.type == "cpu" and not force:
        return (f"{family.operator} brings nothing on a CPU (measured: {family.cpu}); force=True "
                "swaps it all the same, device='cuda' for a model that is yet to move")
    try:
        bypassed = family.fits(module)
    except Refusal as e:
        return str(e)
    except AttributeError as e:
        return f"its structure is not the known one: {e}"
    for name in bypassed:
        if _has_hooks(module.get_submodule(name)):
            return f"its {name} has hooks, which would not run"
    return None


def accelerate(model: nn.Module, fold: bool = False, device: torch.device | str | None = None,
               force: bool = False) -> Accelerated:
    """Swap the modules of a built model that fastdet has a faster form of, in place.

    Known are the window attention of MMDetection's 2.x and 3.x, timm's, torchvision's and
    transformers' Swin, the attention of transformers' PVT and PVTv2, and torchvision's
    ``DeformConv2d``, ``RoIAlign`` and ``MultiScaleRoIAlign``: by class and by structure; a
    subclass of one is not it. Outputs and gradients stay equal, to rounding; an input for which a
    module has a form of its own (attention maps that are asked for, a map that does not divide
    into timm's windows) takes the module's own path. Where a swap was measured to bring nothing on
    the device, which today is the attentions on a CPU, the module is left alone.

    Args:
        model: any module, the whole of it or a part.
        fold: also fold batch norms into the convolutions before them, and lay the weights of
            convolutions channels last; for inference alone.
        device: where the model will run (default: where it is).
        force: also swap what brings nothing there.

    Returns:
        What was done and what was not; ``undo()`` takes it back.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``fold`` for a model that is in training mode.
        RuntimeError: there is no such kind of device.

    Example:
        >>> import fastdet, torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
        >>> fastdet.accelerate(model.eval(), fold=True).folded
        ['1']
    """
    if not isinstance(model, nn.Module):
        hint = "; eval() and train() of MMDetection's backbones return None, call them first" \
            if model is None else ""
        raise TypeError(f"accelerate: expected a torch.nn.Module, got {type(model).__name__}{hint}")
    if fold and any(m.training for m in model.modules()):
        raise ValueError("accelerate: fold=True makes a model for inference; call model.eval() "
                         "first")
    done = Accelerated(model)
    given = None if device is None else torch.device(device)
    usual = _device_of(model) or torch.device("cpu")
    for name, module in model.named_modules():
        family = _family(type(module))
        if family is None:
            continue
        reason = _objection(module, family, given or _device_of(module) or usual, force)
        if reason is not None:
            done.left[name] = reason
            continue
        original = type(module)
        module.__class__ = _subclass(original, family)
        done.swapped[name] = family.operator
        done._undo.append(partial(setattr, module, "__class__", original))
    if fold:
        with torch.no_grad():
            done.folded, left, undo = folding.fold(model)
            done._undo += undo
            done.left.update(left)
            done.channels_last, undo = folding.channels_last(model)
            done._undo += undo
    return done
