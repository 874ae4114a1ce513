"""Momentum over a training, as in ``mmcv.runner.hooks.momentum_updater``."""

from __future__ import annotations

from numbers import Number
from typing import Any

from .hook import HOOKS, Hook
from .lr_updater import (
    anneal_function,
    annealing_cos,
    annealing_linear,
    check_cyclic,
    check_min,
    check_step,
    check_warmup,
    cyclic_phases,
    cyclic_value,
    decays,
    format_param,
    one_cycle_value,
    warmup_factor,
)

__all__ = ["CosineAnnealingMomentumUpdaterHook", "CyclicMomentumUpdaterHook",
           "LinearAnnealingMomentumUpdaterHook", "MomentumUpdaterHook",
           "OneCycleMomentumUpdaterHook", "StepMomentumUpdaterHook"]


def _set(group: dict[str, Any], momentum: float) -> None:
    """Set a parameter group's momentum, or its first beta; neither is fine."""
    if "momentum" in group:
        group["momentum"] = momentum
    elif "betas" in group:
        group["betas"] = (momentum, group["betas"][1])


class MomentumUpdaterHook(Hook):
    """Sets momentum, or the first beta; a subclass says which in :meth:`get_momentum`.

    Args:
        by_epoch: set it once an epoch, not in every iteration.
        warmup: ``'constant'``, ``'linear'`` or ``'exp'``: start with a larger momentum.
        warmup_iters: length of the warm-up in iterations.
        warmup_ratio: the policy's momentum is this part of the first.

    Raises:
        ValueError: an unknown ``warmup``, or its length or ratio is out of range.
    """

    def __init__(self, by_epoch: bool = True, warmup: str | None = None, warmup_iters: int = 0,
                 warmup_ratio: float = 0.9) -> None:
        if warmup is not None:
            check_warmup(warmup, warmup_iters, warmup_ratio)
        self.by_epoch = by_epoch
        self.warmup = warmup
        self.warmup_iters = warmup_iters
        self.warmup_ratio = warmup_ratio
        self.base_momentum: Any = []  # what the optimizer was made with
        self.regular_momentum: Any = []  # the policy's, without warm-up

    def _set_momentum(self, runner: Any, momentum_groups: Any) -> None:
        if isinstance(runner.optimizer, dict):
            pairs = [(o, momentum_groups[k]) for k, o in runner.optimizer.items()]
        else:
            pairs = [(runner.optimizer, momentum_groups)]
        for optimizer, values in pairs:
            for group, momentum in zip(optimizer.param_groups, values):
                _set(group, momentum)

    def _progress(self, runner: Any) -> tuple[int, int]:
        """Finished epochs (or iterations), and all of them."""
        if self.by_epoch:
            return runner.epoch, runner.max_epochs
        return runner.iter, runner.max_iters

    def get_momentum(self, runner: Any, base_momentum: Any) -> float:
        """The policy's momentum now, for a group whose first one is ``base_momentum``."""
        raise NotImplementedError(f"{type(self).__name__} has no policy: override get_momentum")

    def get_regular_momentum(self, runner: Any) -> Any:
        """The policy's momentum of all groups, without warm-up."""
        if isinstance(runner.optimizer, dict):
            return {k: [self.get_momentum(runner, m) for m in self.base_momentum[k]]
                    for k in runner.optimizer}
        return [self.get_momentum(runner, m) for m in self.base_momentum]

    def get_warmup_momentum(self, cur_iters: int) -> Any:
        """The momentum of all groups in an iteration of the warm-up."""
        factor = warmup_factor(self.warmup, cur_iters / self.warmup_iters, self.warmup_ratio)
        if isinstance(self.regular_momentum, dict):
            return {k: [m / factor for m in values]
                    for k, values in self.regular_momentum.items()}
        return [m / factor for m in self.regular_momentum]

    def before_run(self, runner: Any) -> None:
        """Note what the optimizer was made with; a checkpoint keeps it."""

        def first(optimizer: Any) -> list[float]:
            return [g.setdefault("initial_momentum",
                                 g["momentum"] if "momentum" in g else g["betas"][0])
                    for g in optimizer.param_groups]

        if isinstance(runner.optimizer, dict):
            self.base_momentum = {k: first(o) for k, o in runner.optimizer.items()}
        else:
            self.base_momentum = first(runner.optimizer)

    def before_train_epoch(self, runner: Any) -> None:
        """Set the momentum of this epoch."""
        if self.by_epoch:
            self.regular_momentum = self.get_regular_momentum(runner)
            self._set_momentum(runner, self.regular_momentum)

    def before_train_iter(self, runner: Any) -> None:
        """Set the momentum of this iteration."""
        warm = self.warmup is None or runner.iter >= self.warmup_iters
        if not self.by_epoch:
            self.regular_momentum = self.get_regular_momentum(runner)
        if not warm:
            self._set_momentum(runner, self.get_warmup_momentum(runner.iter))
        elif not self.by_epoch or (self.warmup is not None and runner.iter == self.warmup_iters):
            self._set_momentum(runner, self.regular_momentum)


@HOOKS.register_module()
class StepMomentumUpdaterHook(MomentumUpdaterHook):
    """``base * gamma ** steps``.

    Args:
        step: it falls every ``step`` epochs (or iterations), or at those listed.
        gamma: by this factor.
        min_momentum: not below this.
        kwargs: as for :class:`MomentumUpdaterHook`.
    """

    def __init__(self, step: int | list[int], gamma: float = 0.5,
                 min_momentum: float | None = None, **kwargs: Any) -> None:
        check_step(step)
        self.step = step
        self.gamma = gamma
        self.min_momentum = min_momentum
        super().__init__(**kwargs)

    def get_momentum(self, runner: Any, base_momentum: float) -> float:
        """See :meth:`MomentumUpdaterHook.get_momentum`."""
        momentum = base_momentum * self.gamma ** decays(self._progress(runner)[0], self.step)
        return momentum if self.min_momentum is None else max(momentum, self.min_momentum)


class _AnnealingMomentumUpdaterHook(MomentumUpdaterHook):
    """Policies that go to ``min_momentum``, or ``base * min_momentum_ratio``."""

    def __init__(self, min_momentum: float | None = None,
                 min_momentum_ratio: float | None = None, **kwargs: Any) -> None:
        check_min(min_momentum, min_momentum_ratio, "momentum")
        self.min_momentum = min_momentum
        self.min_momentum_ratio = min_momentum_ratio
        super().__init__(**kwargs)

    def _target(self, base_momentum: float) -> float:
        if self.min_momentum_ratio is not None:
            return base_momentum * self.min_momentum_ratio
        assert self.min_momentum is not None
        return self.min_momentum


@HOOKS.register_module()
class CosineAnnealingMomentumUpdaterHook(_AnnealingMomentumUpdaterHook):
    """Half a cosine over the training.

    Args:
        min_momentum: the last value, or
        min_momentum_ratio: its ratio to the first.
        kwargs: as for :class:`MomentumUpdaterHook`.
    """

    def get_momentum(self, runner: Any, base_momentum: float) -> float:
        """See :meth:`MomentumUpdaterHook.get_momentum`."""
        done, total = self._progress(runner)
        return annealing_cos(base_momentum, self._target(base_momentum), done / total)


@HOOKS.register_module()
class LinearAnnealingMomentumUpdaterHook(_AnnealingMomentumUpdaterHook):
    """A line over the training; see :class:`CosineAnnealingMomentumUpdaterHook`."""

    def get_momentum(self, runner: Any, base_momentum: float) -> float:
        """See :meth:`MomentumUpdaterHook.get_momentum`."""
        done, total = self._progress(runner)
        return annealing_linear(base_momentum, self._target(base_momentum), done / total)


@HOOKS.register_module()
class CyclicMomentumUpdaterHook(MomentumUpdaterHook):
    """Down and up in cycles, against a cyclic learning rate.

    Args:
        by_epoch: must be false.
        target_ratio: lowest and last momentum, as ratios to the first; the last is the lowest
            divided by 1e5 if only one is given.
        cyclic_times: cycles in the training.
        step_ratio_up: part of a cycle that goes to the first of ``target_ratio``.
        anneal_strategy: ``'cos'`` or ``'linear'``.
        gamma: factor on the amplitude after each cycle, in (0, 1].
        kwargs: as for :class:`MomentumUpdaterHook`.
    """

    def __init__(self, by_epoch: bool = False,
                 target_ratio: tuple[float, float] = (0.85 / 0.95, 1.0), cyclic_times: int = 1,
                 step_ratio_up: float = 0.4, anneal_strategy: str = "cos", gamma: float = 1.0,
                 **kwargs: Any) -> None:
        self.target_ratio = check_cyclic(target_ratio, step_ratio_up, by_epoch,
                                         lambda low: (low, low / 1e5))
        if not 0 < gamma <= 1:
            raise ValueError(f'"gamma" must be in range (0, 1], got {gamma}')
        self.cyclic_times = cyclic_times
        self.step_ratio_up = step_ratio_up
        self.gamma = gamma
        self.momentum_phases: list[list[float]] = []
        self.anneal_func = anneal_function(anneal_strategy)
        super().__init__(by_epoch, **kwargs)

    def before_run(self, runner: Any) -> None:
        """Lay out a cycle."""
        super().before_run(runner)
        self.max_iter_per_phase = runner.max_iters // self.cyclic_times
        self.momentum_phases = cyclic_phases(self.max_iter_per_phase, self.step_ratio_up,
                                             self.target_ratio)

    def get_momentum(self, runner: Any, base_momentum: float) -> float:
        """See :meth:`MomentumUpdaterHook.get_momentum`."""
        return cyclic_value(base_momentum, runner.iter, self.momentum_phases, self.gamma,
                            self.anneal_func)


@HOOKS.register_module()
class OneCycleMomentumUpdaterHook(MomentumUpdaterHook):
    """Down to ``base_momentum`` and up again, against a one-cycle learning rate.

    Args:
        base_momentum: the lowest; one for all groups, a list, or a dict by optimizer.
        max_momentum: the first and last; likewise.
        pct_start: part of the training that goes down.
        anneal_strategy: ``'cos'`` or ``'linear'``.
        three_phase: go up as fast as down, then stay.
        kwargs: as for :class:`MomentumUpdaterHook`.
    """

    def __init__(self, base_momentum: Any = 0.85, max_momentum: Any = 0.95,
                 pct_start: float = 0.3, anneal_strategy: str = "cos", three_phase: bool = False,
                 **kwargs: Any) -> None:
        if kwargs.setdefault("by_epoch", False):
            raise AssertionError('currently only support "by_epoch" = False')
        for name, value in (("base_momentum", base_momentum), ("max_momentum", max_momentum)):
            if not isinstance(value, Number | list | dict):
                raise ValueError(f"the type of {name} must be a number, a list or a dict, "
                                 f"got {type(value)}")
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        self._base_momentum = base_momentum
        self._max_momentum = max_momentum
        self.pct_start = pct_start
        self.anneal_func = anneal_function(anneal_strategy)
        self.three_phase = three_phase
        self.momentum_phases: list[dict[str, Any]] = []
        super().__init__(**kwargs)

    def before_run(self, runner: Any) -> None:
        """Note both ends in the parameter groups and lay out the cycle."""
        several = isinstance(runner.optimizer, dict)
        named = runner.optimizer if several else {
            type(runner.optimizer).__name__: runner.optimizer}
        for name, optimizer in named.items():
            if not {"momentum", "betas"} & set(optimizer.defaults):
                raise ValueError("OneCycleMomentumUpdaterHook needs an optimizer with momentum or "
                                 f"betas, got {type(optimizer).__name__}")
            ends = zip(optimizer.param_groups, format_param(name, optimizer, self._base_momentum),
                       format_param(name, optimizer, self._max_momentum))
            for group, low, high in ends:
                _set(group, high)
                group["base_momentum"] = low
                group["max_momentum"] = high
        up, end = self.pct_start * runner.max_iters, runner.max_iters - 1
        ways = [(up - 1, "max", "base"), (2 * up - 2, "base", "max"), (end, "max", "max")] \
            if self.three_phase else [(up - 1, "max", "base"), (end, "base", "max")]
        self.momentum_phases = [
            {"end_iter": float(last), "start_momentum": f"{a}_momentum",
             "end_momentum": f"{b}_momentum"} for last, a, b in ways]

    def get_momentum(self, runner: Any, param_group: Any) -> float:  # type: ignore[override]
        """The momentum of a parameter group now."""
        return one_cycle_value(
            runner.iter, [(p["end_iter"], param_group[p["start_momentum"]],
                           param_group[p["end_momentum"]]) for p in self.momentum_phases],
            self.anneal_func)

    def get_regular_momentum(self, runner: Any) -> Any:
        """See :meth:`MomentumUpdaterHook.get_regular_momentum`."""
        if isinstance(runner.optimizer, dict):
            return {k: [self.get_momentum(runner, g) for g in o.param_groups]
                    for k, o in runner.optimizer.items()}
        return [self.get_momentum(runner, g) for g in runner.optimizer.param_groups]
