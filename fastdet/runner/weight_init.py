"""Weight initialisation by functions and by ``init_cfg`` dicts, as in ``mmcv.cnn``.

It stands below :mod:`fastdet.cnn`, which exports it, because :class:`BaseModule` needs it.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import nn

from fastdet.utils import Registry, build_from_cfg

from .checkpoint import _load_checkpoint_with_prefix, load_checkpoint, load_state_dict

__all__ = [
    "INITIALIZERS",
    "Caffe2XavierInit", "ConstantInit", "KaimingInit", "NormalInit", "PretrainedInit",
    "TruncNormalInit", "UniformInit", "XavierInit",
    "bias_init_with_prob", "caffe2_xavier_init", "constant_init", "initialize", "kaiming_init",
    "normal_init", "trunc_normal_", "trunc_normal_init", "uniform_init", "xavier_init",
]

INITIALIZERS = Registry("initializer")


def _fill(module: nn.Module, fill: Callable[..., Any], *args: Any, bias: float,
          **kwargs: Any) -> None:
    """Apply ``fill`` to a module's weight and set its bias; either may be absent."""
    if isinstance(getattr(module, "weight", None), torch.Tensor):
        fill(module.weight, *args, **kwargs)
    if isinstance(getattr(module, "bias", None), torch.Tensor):
        nn.init.constant_(module.bias, bias)  # type: ignore[arg-type]


def _by_distribution(distribution: str, **fills: Callable[..., Any]) -> Callable[..., Any]:
    if distribution not in fills:
        raise ValueError(f"distribution must be 'uniform' or 'normal', got {distribution!r}")
    return fills[distribution]


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """Set a module's weight to ``val`` and its bias to ``bias``."""
    _fill(module, nn.init.constant_, val, bias=bias)


def xavier_init(module: nn.Module, gain: float = 1, bias: float = 0,
                distribution: str = "normal") -> None:
    """Draw a module's weight by Glorot and Bengio's rule.

    Args:
        module: has a weight of two or more dimensions.
        gain: factor on the standard deviation.
        bias: value of the bias.
        distribution: ``'normal'`` or ``'uniform'``.
    """
    fill = _by_distribution(distribution, uniform=nn.init.xavier_uniform_,
                            normal=nn.init.xavier_normal_)
    _fill(module, fill, gain=gain, bias=bias)


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Draw a module's weight from a normal distribution."""
    _fill(module, nn.init.normal_, mean, std, bias=bias)


def trunc_normal_(tensor: torch.Tensor, mean: float = 0, std: float = 1, a: float = -2,
                  b: float = 2) -> torch.Tensor:
    """Fill a tensor in place from a normal distribution cut off at the values ``a`` and ``b``.

    By the inverse of the distribution function, as mmcv does. ``torch.nn.init.trunc_normal_`` did
    so too; since it draws by rejection it makes other numbers of the same seed.
    """
    if not a - 2 * std <= mean <= b + 2 * std:
        warnings.warn(f"mean {mean} is more than two std ({std}) outside [{a}, {b}]; few distinct "
                      "values can be drawn there", stacklevel=2)
    scale = std * math.sqrt(2)
    with torch.no_grad():
        tensor.uniform_(math.erf((a - mean) / scale), math.erf((b - mean) / scale))
        return tensor.erfinv_().mul_(scale).add_(mean).clamp_(a, b)


def trunc_normal_init(module: nn.Module, mean: float = 0, std: float = 1, a: float = -2,
                      b: float = 2, bias: float = 0) -> None:
    """Draw a module's weight from a normal distribution cut off at the values ``a`` and ``b``."""
    _fill(module, trunc_normal_, mean, std, a, b, bias=bias)


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Draw a module's weight uniformly from ``a`` to ``b``."""
    _fill(module, nn.init.uniform_, a, b, bias=bias)


def kaiming_init(module: nn.Module, a: float = 0, mode: str = "fan_out",
                 nonlinearity: str = "relu", bias: float = 0,
                 distribution: str = "normal") -> None:
    """Draw a module's weight by He et al.'s rule.

    Args:
        module: has a weight of two or more dimensions.
        a: negative slope of a leaky ReLU that follows.
        mode: ``'fan_out'`` keeps the variance of gradients, ``'fan_in'`` that of activations.
        nonlinearity: what follows, as for ``torch.nn.init.calculate_gain``.
        bias: value of the bias.
        distribution: ``'normal'`` or ``'uniform'``.
    """
    fill = _by_distribution(distribution, uniform=nn.init.kaiming_uniform_,
                            normal=nn.init.kaiming_normal_)
    _fill(module, fill, a=a, mode=mode, nonlinearity=nonlinearity, bias=bias)


# What Caffe2 calls XavierFill.
_CAFFE2_XAVIER = {"a": 1, "mode": "fan_in", "nonlinearity": "leaky_relu",
                  "distribution": "uniform"}


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """Draw a module's weight as Caffe2's ``XavierFill``: uniform of variance 1 / fan_in."""
    kaiming_init(module, bias=bias, **_CAFFE2_XAVIER)  # type: ignore[arg-type]


def bias_init_with_prob(prior_prob: float) -> float:
    """The bias at which a sigmoid gives ``prior_prob``."""
    return -math.log((1 - prior_prob) / prior_prob)


class BaseInit:
    """Applies one rule to the submodules that an ``init_cfg`` selects.

    Args:
        bias: value of biases.
        bias_prob: the bias as the probability that a sigmoid makes of it, instead of ``bias``.
        layer: class name or names. A submodule is initialised if its class, or a class that its
            class directly derives from, is named. Without names no submodule is.
    """

    wholemodule = False  # initialise every submodule, whatever ``layer`` says

    def __init__(self, *, bias: float = 0, bias_prob: float | None = None,
                 layer: str | list[str] | None = None) -> None:
        if not isinstance(bias, Real) or isinstance(bias, bool):
            raise TypeError(f"bias must be a number, got {bias!r}")
        if not isinstance(bias_prob, float | None):
            raise TypeError(f"bias_prob must be a float or None, got {bias_prob!r}")
        if not isinstance(layer, str | list | tuple | None):
            raise TypeError(f"layer must be a class name or a list of them, got {layer!r}")
        self.bias: float = bias if bias_prob is None else bias_init_with_prob(bias_prob)
        self.layer: list[str] = [layer] if isinstance(layer, str) else list(layer or ())

    def fill(self, module: nn.Module) -> None:
        """Initialise the parameters of one module, not of its children."""
        raise TypeError(f"{type(self).__name__} has no rule to initialise a module by")

    def __call__(self, module: nn.Module) -> None:
        """Initialise the selected modules among ``module`` and all below it."""
        def visit(m: nn.Module) -> None:
            names = {c.__name__ for c in (type(m), *type(m).__bases__)}
            if self.wholemodule or not names.isdisjoint(self.layer):
                self.fill(m)

        module.apply(visit)


@INITIALIZERS.register_module("Constant")
class ConstantInit(BaseInit):
    """Sets weights to ``val``. For ``bias``, ``bias_prob``, ``layer`` see :class:`BaseInit`."""

    def __init__(self, val: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val = val

    def fill(self, module: nn.Module) -> None:
        constant_init(module, self.val, self.bias)


@INITIALIZERS.register_module("Xavier")
class XavierInit(BaseInit):
    """Draws weights as :func:`xavier_init` does; see :class:`BaseInit` for the rest."""

    def __init__(self, gain: float = 1, distribution: str = "normal", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain = gain
        self.distribution = distribution

    def fill(self, module: nn.Module) -> None:
        xavier_init(module, self.gain, self.bias, self.distribution)


@INITIALIZERS.register_module("Normal")
class NormalInit(BaseInit):
    """Draws weights as :func:`normal_init` does; see :class:`BaseInit` for the rest."""

    def __init__(self, mean: float = 0, std: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.std = std

    def fill(self, module: nn.Module) -> None:
        normal_init(module, self.mean, self.std, self.bias)


@INITIALIZERS.register_module("TruncNormal")
class TruncNormalInit(BaseInit):
    """Draws weights as :func:`trunc_normal_init` does; see :class:`BaseInit` for the rest."""

    def __init__(self, mean: float = 0, std: float = 1, a: float = -2, b: float = 2,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.std = std
        self.a = a
        self.b = b

    def fill(self, module: nn.Module) -> None:
        trunc_normal_init(module, self.mean, self.std, self.a, self.b, self.bias)


@INITIALIZERS.register_module("Uniform")
class UniformInit(BaseInit):
    """Draws weights as :func:`uniform_init` does; see :class:`BaseInit` for the rest."""

    def __init__(self, a: float = 0, b: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.a = a
        self.b = b

    def fill(self, module: nn.Module) -> None:
        uniform_init(module, self.a, self.b, self.bias)


@INITIALIZERS.register_module("Kaiming")
class KaimingInit(BaseInit):
    """Draws weights as :func:`kaiming_init` does; see :class:`BaseInit` for the rest."""

    def __init__(self, a: float = 0, mode: str = "fan_out", nonlinearity: str = "relu",
                 distribution: str = "normal", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.a = a
        self.mode = mode
        self.nonlinearity = nonlinearity
        self.distribution = distribution

    def fill(self, module: nn.Module) -> None:
        kaiming_init(module, self.a, self.mode, self.nonlinearity, self.bias, self.distribution)


@INITIALIZERS.register_module("Caffe2Xavier")
class Caffe2XavierInit(KaimingInit):
    """Draws weights as :func:`caffe2_xavier_init` does; see :class:`BaseInit` for the rest."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**_CAFFE2_XAVIER, **kwargs)  # type: ignore[arg-type]


@INITIALIZERS.register_module("Pretrained")
class PretrainedInit:
    """Loads weights from a checkpoint; what does not match is logged.

    Args:
        checkpoint: see :meth:`fastdet.runner.CheckpointLoader.load_checkpoint`.
        prefix: load only the keys below it, such as ``'backbone.'`` of a whole detector.
        map_location: as for ``torch.load``.
    """

    def __init__(self, checkpoint: str, prefix: str | None = None,
                 map_location: Any = None) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint into ``module``."""
        if self.prefix is None:
            load_checkpoint(module, self.checkpoint, self.map_location)
        else:
            load_state_dict(module, _load_checkpoint_with_prefix(
                self.prefix, self.checkpoint, self.map_location))


def initialize(module: nn.Module, init_cfg: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Initialise a module as configs say, one after another.

    Args:
        module: the module whose submodules, itself included, are initialised.
        init_cfg: one config or a list. ``type`` names an initialiser of :data:`INITIALIZERS`, the
            other keys are its arguments. ``override``, a dict or a list of them, then initialises
            whole attributes of ``module`` by ``name``: with the same config if it has no other
            key, else with its own ``type`` and arguments.

            With neither ``layer`` nor ``override`` nothing is initialised (except by
            ``'Pretrained'``).

    Raises:
        TypeError: ``init_cfg`` or ``override`` is neither a dict nor a list of dicts.
        ValueError: an ``override`` lacks ``name``, or has other keys but no ``type``.
        RuntimeError: an ``override`` names an attribute that the module does not have.
        KeyError: a ``type`` is missing or unknown.

    Example:
        >>> head = nn.Sequential()
        >>> head.conv_cls = nn.Conv2d(4, 2, 1)
        >>> initialize(head, dict(type='Normal', layer='Conv2d', std=0.01, override=dict(
        ...     type='Normal', name='conv_cls', std=0.01, bias_prob=0.01)))
        >>> round(float(head.conv_cls.bias[0].sigmoid()), 4)
        0.01
    """
    for cfg in _dicts(init_cfg, "init_cfg"):
        args = copy.deepcopy(cfg)  # one dict may be shared by many modules
        override = args.pop("override", None)
        overrides = [] if override is None else _dicts(override, "override")
        build_from_cfg(args, INITIALIZERS)(module)
        args.pop("layer", None)
        for override in overrides:
            if "name" not in override:
                raise ValueError(f"an override in init_cfg needs the key 'name', got {override}")
            name = override.pop("name")
            if override and "type" not in override:
                raise ValueError(f"the override of {name!r} in init_cfg has arguments but no "
                                 f"'type': {override}")
            if not hasattr(module, name):
                raise RuntimeError(f"init_cfg overrides {name!r}, which {type(module).__name__} "
                                   "does not have")
            initializer = build_from_cfg(override or args, INITIALIZERS)
            initializer.wholemodule = True
            initializer(getattr(module, name))


def _dicts(cfg: Any, what: str) -> list[dict[str, Any]]:
    cfgs = [cfg] if isinstance(cfg, dict) else cfg
    if not isinstance(cfgs, list) or not all(isinstance(c, dict) for c in cfgs):
        raise TypeError(f"{what} must be a dict or a list of dicts, got {cfg!r}")
    return cfgs
