"""Learning rates over a training, as in ``mmcv.runner.hooks.lr_updater``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, pi
from numbers import Number
from typing import Any

from .hook import HOOKS, Hook

__all__ = [
    "CosineAnnealingLrUpdaterHook", "CosineRestartLrUpdaterHook", "CyclicLrUpdaterHook",
    "ExpLrUpdaterHook", "FixedLrUpdaterHook", "FlatCosineAnnealingLrUpdaterHook",
    "InvLrUpdaterHook", "LinearAnnealingLrUpdaterHook", "LrUpdaterHook", "OneCycleLrUpdaterHook",
    "PolyLrUpdaterHook", "StepLrUpdaterHook", "annealing_cos", "annealing_linear",
    "format_param", "get_position_from_periods",
]


def annealing_cos(start: float, end: float, factor: float, weight: float = 1.0) -> float:
    """From ``start`` (at factor 0) to ``end`` (at 1) along half a cosine.

    Args:
        start, end: the ends.
        factor: how far.
        weight: factor on the distance from ``end``.
    """
    return end + 0.5 * weight * (start - end) * (cos(pi * factor) + 1)


def annealing_linear(start: float, end: float, factor: float) -> float:
    """From ``start`` (at factor 0) to ``end`` (at 1) along a line."""
    return start + (end - start) * factor


def anneal_function(strategy: str) -> Callable[..., float]:
    """``'cos'`` or ``'linear'`` as a function."""
    known = {"cos": annealing_cos, "linear": annealing_linear}
    if strategy not in known:
        raise ValueError('anneal_strategy must be one of "cos" or "linear", '
                         f"instead got {strategy}")
    return known[strategy]


def get_position_from_periods(iteration: int, cumulative_periods: Sequence[int]) -> int:
    """In which period an iteration lies.

    Args:
        iteration: the iteration.
        cumulative_periods: ends of the periods.

    Raises:
        ValueError: it lies behind the last.
    """
    for i, end in enumerate(cumulative_periods):
        if iteration < end:
            return i
    raise ValueError(f"Current iteration {iteration} exceeds cumulative_periods "
                     f"{cumulative_periods}")


def format_param(name: str, optim: Any, param: Any) -> list[Any]:
    """One value for each of an optimizer's parameter groups.

    Args:
        name: the optimizer's name, the key of ``param`` if that is a dict.
        optim: the optimizer.
        param: a number for all groups, a list of one for each, or a dict of these by name.
    """
    groups = len(optim.param_groups)
    if isinstance(param, Number):
        return [param] * groups
    if isinstance(param, list | tuple):
        if len(param) != groups:
            raise ValueError(f"expected {groups} values for {name}, got {len(param)}")
        return list(param)
    if name not in param:
        raise KeyError(f"{name} is not found in {list(param)}")
    return param[name]


def check_min(minimum: float | None, ratio: float | None, what: str) -> None:
    """Exactly one of a minimum and a minimal ratio must be given."""
    if (minimum is None) == (ratio is None):
        raise ValueError(f"give one of min_{what} and min_{what}_ratio, got {minimum} and {ratio}")


def check_step(step: Any) -> None:
    """A positive int, or a list of them."""
    for s in step if isinstance(step, list | tuple) else [step]:
        if not isinstance(s, int) or s <= 0:
            raise ValueError(f'"step" must be a positive integer or a list of them, got {step!r}')


def decays(progress: int, step: int | Sequence[int]) -> int:
    """How many steps have been passed."""
    if isinstance(step, int):
        return progress // step
    return next((i for i, s in enumerate(step) if progress < s), len(step))


def check_cyclic(target_ratio: Any, step_ratio_up: float, by_epoch: bool,
                 default: Callable[[float], tuple[float, float]]) -> tuple[float, float]:
    """Check a cyclic policy's arguments, and give the two ratios."""
    if by_epoch:
        raise AssertionError('currently only support "by_epoch" = False')
    if isinstance(target_ratio, float):
        target_ratio = default(target_ratio)
    elif isinstance(target_ratio, tuple) and len(target_ratio) == 1:
        target_ratio = default(target_ratio[0])
    elif not isinstance(target_ratio, tuple):
        raise ValueError(f"target_ratio should be either float or tuple, got {type(target_ratio)}")
    if len(target_ratio) != 2:
        raise ValueError(f'"target_ratio" must be list or tuple of two floats, got {target_ratio}')
    if not 0 <= step_ratio_up < 1:
        raise ValueError(f'"step_ratio_up" must be in range [0,1), got {step_ratio_up}')
    return target_ratio


def cyclic_phases(per_cycle: int, step_ratio_up: float,
                  ratios: tuple[float, float]) -> list[list[float]]:
    """``[first iteration, end, ratio there, ratio at the end]`` of the way up and down."""
    up = int(step_ratio_up * per_cycle)
    return [[0, up, 1, ratios[0]], [up, per_cycle, ratios[0], ratios[1]]]


def cyclic_value(base: float, iteration: int, phases: list[list[float]], gamma: float,
                 anneal: Callable[..., float]) -> float:
    """The value of a cyclic policy; each cycle's amplitude is ``gamma`` of the one before."""
    cycle, within = divmod(iteration, int(phases[-1][1]))
    scale = gamma ** cycle
    for start, end, first, last in phases:
        if start <= within < end:
            if start == 0:
                last = 1 - scale + last * scale
            else:
                first = 1 - scale + first * scale
            return anneal(base * first, base * last, (within - start) / (end - start))
    raise ValueError(f"iteration {within} of a cycle is in none of its phases {phases}")


class LrUpdaterHook(Hook):
    """Sets the learning rates; a subclass says which in :meth:`get_lr`.

    Args:
        by_epoch: set them once an epoch, not in every iteration.
        warmup: ``'constant'``, ``'linear'`` or ``'exp'``: start with a smaller rate.
        warmup_iters: length of the warm-up in iterations.
        warmup_ratio: the first rate is this part of the policy's.
        warmup_by_epoch: ``warmup_iters`` are epochs.

    Raises:
        ValueError: an unknown ``warmup``, or its length or ratio is out of range.
    """

    def __init__(self, by_epoch: bool = True, warmup: str | None = None, warmup_iters: int = 0,
                 warmup_ratio: float = 0.1, warmup_by_epoch: bool = False) -> None:
        if warmup is not None:
            check_warmup(warmup, warmup_iters, warmup_ratio)
        self.by_epoch = by_epoch
        self.warmup = warmup
        self.warmup_iters: int | None = warmup_iters
        self.warmup_ratio = warmup_ratio
        self.warmup_by_epoch = warmup_by_epoch
        self.warmup_epochs: int | None = None
        if warmup_by_epoch:
            self.warmup_epochs, self.warmup_iters = warmup_iters, None
        self.base_lr: Any = []  # the rates that the optimizer was made with
        self.regular_lr: Any = []  # the policy's, without warm-up

    def _set_lr(self, runner: Any, lr_groups: Any) -> None:
        if isinstance(runner.optimizer, dict):
            pairs = [(o, lr_groups[k]) for k, o in runner.optimizer.items()]
        else:
            pairs = [(runner.optimizer, lr_groups)]
        for optimizer, rates in pairs:
            for group, lr in zip(optimizer.param_groups, rates):
                group["lr"] = lr

    def _progress(self, runner: Any) -> tuple[int, int]:
        """Finished epochs (or iterations), and all of them."""
        if self.by_epoch:
            return runner.epoch, runner.max_epochs
        return runner.iter, runner.max_iters

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """The policy's rate now, for a group whose first rate is ``base_lr``."""
        raise NotImplementedError(f"{type(self).__name__} has no policy: override get_lr")

    def get_regular_lr(self, runner: Any) -> Any:
        """The policy's rates of all groups, without warm-up."""
        if isinstance(runner.optimizer, dict):
            return {k: [self.get_lr(runner, lr) for lr in self.base_lr[k]]
                    for k in runner.optimizer}
        return [self.get_lr(runner, lr) for lr in self.base_lr]

    def get_warmup_lr(self, cur_iters: int) -> Any:
        """The rates of all groups in an iteration of the warm-up."""
        assert self.warmup_iters is not None
        factor = warmup_factor(self.warmup, cur_iters / self.warmup_iters, self.warmup_ratio)
        if isinstance(self.regular_lr, dict):
            return {k: [lr * factor for lr in rates] for k, rates in self.regular_lr.items()}
        return [lr * factor for lr in self.regular_lr]

    def before_run(self, runner: Any) -> None:
        """Note the rates that the optimizer was made with; a checkpoint keeps them."""

        def first(optimizer: Any) -> list[float]:
            return [g.setdefault("initial_lr", g["lr"]) for g in optimizer.param_groups]

        if isinstance(runner.optimizer, dict):
            self.base_lr = {k: first(o) for k, o in runner.optimizer.items()}
        else:
            self.base_lr = first(runner.optimizer)

    def before_train_epoch(self, runner: Any) -> None:
        """Set the rates of this epoch."""
        if self.warmup_iters is None:
            assert self.warmup_epochs is not None
            self.warmup_iters = self.warmup_epochs * len(runner.data_loader)
        if self.by_epoch:
            self.regular_lr = self.get_regular_lr(runner)
            self._set_lr(runner, self.regular_lr)

    def before_train_iter(self, runner: Any) -> None:
        """Set the rates of this iteration."""
        warm = self.warmup is None or runner.iter >= (self.warmup_iters or 0)
        if not self.by_epoch:
            self.regular_lr = self.get_regular_lr(runner)
        if not warm:
            self._set_lr(runner, self.get_warmup_lr(runner.iter))
        elif not self.by_epoch or (self.warmup is not None and runner.iter == self.warmup_iters):
            self._set_lr(runner, self.regular_lr)


def check_warmup(warmup: str, iters: int, ratio: float) -> None:
    """Raise ValueError unless a warm-up's arguments make sense."""
    if warmup not in ("constant", "linear", "exp"):
        raise ValueError(f'"{warmup}" is not a supported type for warming up, valid types are '
                         '"constant", "linear" and "exp"')
    if iters <= 0:
        raise ValueError(f'"warmup_iters" must be a positive integer, got {iters}')
    if not 0 < ratio <= 1:
        raise ValueError(f'"warmup_ratio" must be in range (0,1], got {ratio}')


def warmup_factor(warmup: str | None, done: float, ratio: float) -> float:
    """The part of the policy's rate after ``done`` (0 to 1) of the warm-up."""
    if warmup == "constant":
        return ratio
    if warmup == "linear":
        return 1 - (1 - done) * (1 - ratio)
    return ratio ** (1 - done)


@HOOKS.register_module()
class FixedLrUpdaterHook(LrUpdaterHook):
    """The rate does not change, but for a warm-up. See :class:`LrUpdaterHook`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        return base_lr


@HOOKS.register_module()
class StepLrUpdaterHook(LrUpdaterHook):
    """``base_lr * gamma ** steps``.

    Args:
        step: the rate falls every ``step`` epochs (or iterations), or at those listed.
        gamma: by this factor.
        min_lr: not below this.
        kwargs: as for :class:`LrUpdaterHook`.
    """

    def __init__(self, step: int | list[int], gamma: float = 0.1, min_lr: float | None = None,
                 **kwargs: Any) -> None:
        check_step(step)
        self.step = step
        self.gamma = gamma
        self.min_lr = min_lr
        super().__init__(**kwargs)

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        lr = base_lr * self.gamma ** decays(self._progress(runner)[0], self.step)
        return lr if self.min_lr is None else max(lr, self.min_lr)


@HOOKS.register_module()
class ExpLrUpdaterHook(LrUpdaterHook):
    """``base_lr * gamma ** progress``. See :class:`LrUpdaterHook`."""

    def __init__(self, gamma: float, **kwargs: Any) -> None:
        self.gamma = gamma
        super().__init__(**kwargs)

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        return base_lr * self.gamma ** self._progress(runner)[0]


@HOOKS.register_module()
class PolyLrUpdaterHook(LrUpdaterHook):
    """``(base_lr - min_lr) * (1 - progress / total) ** power + min_lr``; see LrUpdaterHook."""

    def __init__(self, power: float = 1.0, min_lr: float = 0.0, **kwargs: Any) -> None:
        self.power = power
        self.min_lr = min_lr
        super().__init__(**kwargs)

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        done, total = self._progress(runner)
        return (base_lr - self.min_lr) * (1 - done / total) ** self.power + self.min_lr


@HOOKS.register_module()
class InvLrUpdaterHook(LrUpdaterHook):
    """``base_lr * (1 + gamma * progress) ** -power``. See :class:`LrUpdaterHook`."""

    def __init__(self, gamma: float, power: float = 1.0, **kwargs: Any) -> None:
        self.gamma = gamma
        self.power = power
        super().__init__(**kwargs)

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        return base_lr * (1 + self.gamma * self._progress(runner)[0]) ** -self.power


class _AnnealingLrUpdaterHook(LrUpdaterHook):
    """What policies that end at ``min_lr``, or ``base_lr * min_lr_ratio``, share."""

    def __init__(self, min_lr: float | None = None, min_lr_ratio: float | None = None,
                 **kwargs: Any) -> None:
        check_min(min_lr, min_lr_ratio, "lr")
        self.min_lr = min_lr
        self.min_lr_ratio = min_lr_ratio
        super().__init__(**kwargs)

    def _target(self, base_lr: float) -> float:
        if self.min_lr_ratio is not None:
            return base_lr * self.min_lr_ratio
        assert self.min_lr is not None
        return self.min_lr


@HOOKS.register_module()
class CosineAnnealingLrUpdaterHook(_AnnealingLrUpdaterHook):
    """Half a cosine over the training (Loshchilov and Hutter, SGDR).

    Args:
        min_lr: the last rate, or
        min_lr_ratio: its ratio to the first.
        kwargs: as for :class:`LrUpdaterHook`.
    """

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        done, total = self._progress(runner)
        return annealing_cos(base_lr, self._target(base_lr), done / total)


@HOOKS.register_module()
class FlatCosineAnnealingLrUpdaterHook(_AnnealingLrUpdaterHook):
    """The first rate, then half a cosine.

    Args:
        start_percent: when the cosine begins, in [0, 1) of the training.
        min_lr: the last rate, or
        min_lr_ratio: its ratio to the first.
        kwargs: as for :class:`LrUpdaterHook`.
    """

    def __init__(self, start_percent: float = 0.75, min_lr: float | None = None,
                 min_lr_ratio: float | None = None, **kwargs: Any) -> None:
        if not isinstance(start_percent, float) or not 0 <= start_percent <= 1:
            raise ValueError("expected float between 0 and 1 start_percent, "
                             f"but got {start_percent!r}")
        self.start_percent = start_percent
        super().__init__(min_lr, min_lr_ratio, **kwargs)

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        done, total = self._progress(runner)
        start = round(total * self.start_percent)
        if done < start:
            return base_lr
        return annealing_cos(base_lr, self._target(base_lr), (done - start) / (total - start))


@HOOKS.register_module()
class CosineRestartLrUpdaterHook(_AnnealingLrUpdaterHook):
    """Half a cosine in each period.

    Args:
        periods: their lengths.
        restart_weights: the factor on the rate of each.
        min_lr: the last rate of a period, or
        min_lr_ratio: its ratio to the first.
        kwargs: as for :class:`LrUpdaterHook`.
    """

    def __init__(self, periods: list[int], restart_weights: list[float] = [1],
                 min_lr: float | None = None, min_lr_ratio: float | None = None,
                 **kwargs: Any) -> None:
        if len(periods) != len(restart_weights):
            raise ValueError("periods and restart_weights should have the same length, got "
                             f"{len(periods)} and {len(restart_weights)}")
        self.periods = periods
        self.restart_weights = restart_weights
        super().__init__(min_lr, min_lr_ratio, **kwargs)
        self.cumulative_periods = [sum(periods[:i + 1]) for i in range(len(periods))]

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        done, _ = self._progress(runner)
        i = get_position_from_periods(done, self.cumulative_periods)
        start = self.cumulative_periods[i] - self.periods[i]
        return annealing_cos(base_lr, self._target(base_lr),
                             min((done - start) / self.periods[i], 1), self.restart_weights[i])


@HOOKS.register_module()
class CyclicLrUpdaterHook(LrUpdaterHook):
    """Up to a higher rate and down to a lower one, in cycles (Smith, 2017).

    Args:
        by_epoch: must be false.
        target_ratio: highest and lowest rate, as ratios to the first; the lowest is the highest
            divided by 1e5 if only one is given.
        cyclic_times: cycles in the training.
        step_ratio_up: part of a cycle that goes up.
        anneal_strategy: ``'cos'`` or ``'linear'``.
        gamma: factor on the amplitude after each cycle, in (0, 1].
        kwargs: as for :class:`LrUpdaterHook`.
    """

    def __init__(self, by_epoch: bool = False, target_ratio: Any = (10, 1e-4),
                 cyclic_times: int = 1, step_ratio_up: float = 0.4, anneal_strategy: str = "cos",
                 gamma: float = 1, **kwargs: Any) -> None:
        self.target_ratio = check_cyclic(target_ratio, step_ratio_up, by_epoch,
                                         lambda high: (high, high / 1e5))
        if not 0 < gamma <= 1:
            raise ValueError(f'"gamma" must be in range (0, 1], got {gamma}')
        self.cyclic_times = cyclic_times
        self.step_ratio_up = step_ratio_up
        self.gamma = gamma
        self.max_iter_per_phase: int | None = None
        self.lr_phases: list[list[float]] = []
        self.anneal_func = anneal_function(anneal_strategy)
        super().__init__(by_epoch, **kwargs)

    def before_run(self, runner: Any) -> None:
        """Lay out a cycle."""
        super().before_run(runner)
        self.max_iter_per_phase = runner.max_iters // self.cyclic_times
        self.lr_phases = cyclic_phases(self.max_iter_per_phase, self.step_ratio_up,
                                       self.target_ratio)

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        return cyclic_value(base_lr, runner.iter, self.lr_phases, self.gamma, self.anneal_func)


@HOOKS.register_module()
class OneCycleLrUpdaterHook(LrUpdaterHook):
    """Up to ``max_lr`` and down to nearly nothing, as ``torch.optim.lr_scheduler.OneCycleLR``.

    Args:
        max_lr: the highest rate; one for all groups, a list, or a dict by optimizer.
        total_steps: iterations of the cycle; those of the training by default.
        pct_start: part of it that goes up.
        anneal_strategy: ``'cos'`` or ``'linear'``.
        div_factor: ``max_lr`` divided by the first rate.
        final_div_factor: the first rate divided by the last.
        three_phase: go down to the first rate as fast as up, then to the last.
        kwargs: as for :class:`LrUpdaterHook`.
    """

    def __init__(self, max_lr: Any, total_steps: int | None = None, pct_start: float = 0.3,
                 anneal_strategy: str = "cos", div_factor: float = 25,
                 final_div_factor: float = 1e4, three_phase: bool = False, **kwargs: Any) -> None:
        if kwargs.setdefault("by_epoch", False):
            raise AssertionError('currently only support "by_epoch" = False')
        if not isinstance(max_lr, Number | list | dict):
            raise ValueError(f"the type of max_lr must be the one of list or dict, "
                             f"but got {type(max_lr)}")
        if total_steps is not None:
            if not isinstance(total_steps, int):
                raise ValueError("the type of total_steps must be int, "
                                 f"but got {type(total_steps)}")
            self.total_steps = total_steps
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"expected float between 0 and 1 pct_start, but got {pct_start}")
        self._max_lr = max_lr
        self.pct_start = pct_start
        self.anneal_func = anneal_function(anneal_strategy)
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.three_phase = three_phase
        self.lr_phases: list[list[float]] = []
        super().__init__(**kwargs)

    def before_run(self, runner: Any) -> None:
        """Lay out the cycle and note the first rates."""
        steps = getattr(self, "total_steps", runner.max_iters)
        if steps < runner.max_iters:
            raise ValueError("The total steps must be greater than or equal to max iterations "
                             f"{runner.max_iters} of runner, but total steps is {steps}.")

        def first(name: str, optimizer: Any) -> list[float]:
            rates = [lr / self.div_factor for lr in format_param(name, optimizer, self._max_lr)]
            for group, lr in zip(optimizer.param_groups, rates):
                group.setdefault("initial_lr", lr)
            return rates

        if isinstance(runner.optimizer, dict):
            self.base_lr = {k: first(k, o) for k, o in runner.optimizer.items()}
        else:
            self.base_lr = first(type(runner.optimizer).__name__, runner.optimizer)
        high, low = self.div_factor, 1 / self.final_div_factor
        if self.three_phase:
            self.lr_phases = [[self.pct_start * steps - 1, 1, high],
                              [2 * self.pct_start * steps - 2, high, 1], [steps - 1, 1, low]]
        else:
            self.lr_phases = [[self.pct_start * steps - 1, 1, high], [steps - 1, high, low]]

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        return one_cycle_value(runner.iter, [(end, base_lr * a, base_lr * b)
                                             for end, a, b in self.lr_phases], self.anneal_func)


def one_cycle_value(iteration: int, phases: list[tuple[float, float, float]],
                    anneal: Callable[..., float]) -> float:
    """The value in phases of ``(last iteration, first value, last value)``."""
    start = 0.0
    for end, first, last in phases:
        if iteration <= end:
            return anneal(first, last, (iteration - start) / (end - start))
        start = end
    raise ValueError(f"iteration {iteration} lies behind the last phase, which ends at {start:g}")


@HOOKS.register_module()
class LinearAnnealingLrUpdaterHook(_AnnealingLrUpdaterHook):
    """A line over the training.

    Args:
        min_lr: the last rate, or
        min_lr_ratio: its ratio to the first.
        kwargs: as for :class:`LrUpdaterHook`.
    """

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """See :meth:`LrUpdaterHook.get_lr`."""
        done, total = self._progress(runner)
        return annealing_linear(base_lr, self._target(base_lr), done / total)
