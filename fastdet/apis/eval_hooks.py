"""Evaluation of detectors during training, its interval by the epoch."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

from fastdet.mmcv.runner.hooks import DistEvalHook as _DistEvalHook
from fastdet.mmcv.runner.hooks import EvalHook as _EvalHook

from .test import multi_gpu_test, single_gpu_test

__all__ = ["DistEvalHook", "EvalHook"]


class EvalHook(_EvalHook):
    """:class:`fastdet.mmcv.runner.EvalHook` with results of :func:`single_gpu_test`.

    Args:
        args: see there.
        dynamic_intervals: pairs of an epoch (or iteration) and the interval from then on.
        kwargs: see there.
    """

    def __init__(self, *args: Any, dynamic_intervals: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.use_dynamic_intervals = dynamic_intervals is not None
        steps = [(0, self.interval), *(dynamic_intervals or ())]
        self.dynamic_milestones = [when for when, _ in steps]
        self.dynamic_intervals = [interval for _, interval in steps]

    @staticmethod
    def _default_test_fn() -> Callable[..., Any]:
        return single_gpu_test

    def _decide_interval(self, progress: int) -> None:
        if self.use_dynamic_intervals:
            step = bisect.bisect(self.dynamic_milestones, progress + 1)
            self.interval = self.dynamic_intervals[step - 1]

    def before_train_epoch(self, runner: Any) -> None:
        """Take the epoch's interval."""
        self._decide_interval(runner.epoch)
        super().before_train_epoch(runner)

    def before_train_iter(self, runner: Any) -> None:
        """Take the iteration's interval."""
        if not self.by_epoch:
            self._decide_interval(runner.iter)
        super().before_train_iter(runner)


class DistEvalHook(EvalHook, _DistEvalHook):
    """:class:`EvalHook` on several processes; see :class:`fastdet.mmcv.runner.DistEvalHook`."""

    @staticmethod
    def _default_test_fn() -> Callable[..., Any]:
        return multi_gpu_test
