"""A stop-watch, as in ``mmcv.utils.timer``."""

from __future__ import annotations

from time import time
from typing import Any

__all__ = ["Timer", "TimerError", "check_time"]


class TimerError(Exception):
    """A timer was asked before it was started."""


class Timer:
    """Seconds since it was started; as a context manager it prints them.

    Args:
        start: start at once.
        print_tmpl: the format of what is printed, with one field; ``'{:.3f}'`` by default.
    """

    def __init__(self, start: bool = True, print_tmpl: str | None = None) -> None:
        self._is_running = False
        self.print_tmpl = print_tmpl or "{:.3f}"
        if start:
            self.start()

    @property
    def is_running(self) -> bool:
        """Whether it was started."""
        return self._is_running

    def __enter__(self) -> Timer:
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        print(self.print_tmpl.format(self.since_last_check()))
        self._is_running = False

    def start(self) -> None:
        """Start, unless it runs already."""
        now = time()
        if not self._is_running:
            self._t_start = now
            self._is_running = True
        self._t_last = now

    def since_start(self) -> float:
        """Seconds since the start.

        Raises:
            TimerError: it was not started.
        """
        return self._check(since_last=False)

    def since_last_check(self) -> float:
        """Seconds since the last call of a ``since_`` method, or since the start.

        Raises:
            TimerError: it was not started.
        """
        return self._check(since_last=True)

    def _check(self, since_last: bool) -> float:
        if not self._is_running:
            raise TimerError("timer is not running")
        now = time()
        seconds = now - (self._t_last if since_last else self._t_start)
        self._t_last = now
        return seconds


_timers: dict[str, Timer] = {}


def check_time(timer_id: str) -> float:
    """Seconds since the last call with this id; 0 the first time."""
    if timer_id not in _timers:
        _timers[timer_id] = Timer()
        return 0
    return _timers[timer_id].since_last_check()
