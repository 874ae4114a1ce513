"""What is logged between two lines of a log, as in ``mmcv.runner.log_buffer``."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

__all__ = ["LogBuffer"]


class LogBuffer:
    """Values by name since the last :meth:`clear`, and what loggers are to show of them.

    Attributes:
        val_history: the values of each name, in order.
        n_history: how many samples each of them stands for.
        output: what loggers show.
        ready: whether ``output`` is filled.
    """

    def __init__(self) -> None:
        self.val_history: OrderedDict[str, list[Any]] = OrderedDict()
        self.n_history: OrderedDict[str, list[int]] = OrderedDict()
        self.output: OrderedDict[str, Any] = OrderedDict()
        self.ready = False

    def clear(self) -> None:
        """Forget everything."""
        self.val_history.clear()
        self.n_history.clear()
        self.clear_output()

    def clear_output(self) -> None:
        """Forget what loggers have shown."""
        self.output.clear()
        self.ready = False

    def update(self, vars: dict[str, Any], count: int = 1) -> None:
        """Add a value to each name's history.

        Args:
            vars: values by name.
            count: how many samples they stand for.
        """
        if not isinstance(vars, dict):
            raise TypeError(f"vars must be a dict, got {type(vars).__name__}")
        for name, value in vars.items():
            self.val_history.setdefault(name, []).append(value)
            self.n_history.setdefault(name, []).append(count)

    def average(self, n: int = 0) -> None:
        """Put the mean over samples of the latest ``n`` values, or of all, in ``output``."""
        if n < 0:
            raise ValueError(f"n must not be negative, got {n}")
        for name, values in self.val_history.items():
            latest = np.array(values[-n:])
            counts = np.array(self.n_history[name][-n:])
            self.output[name] = np.sum(latest * counts) / np.sum(counts)
        self.ready = True
