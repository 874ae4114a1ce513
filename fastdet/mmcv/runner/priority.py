"""In which order hooks run, as in ``mmcv.runner.priority``."""

from __future__ import annotations

from enum import Enum

__all__ = ["Priority", "get_priority"]


class Priority(Enum):
    """Named priorities of hooks; the smallest number runs first."""

    HIGHEST = 0
    VERY_HIGH = 10
    HIGH = 30
    ABOVE_NORMAL = 40
    NORMAL = 50
    BELOW_NORMAL = 60
    LOW = 70
    VERY_LOW = 90
    LOWEST = 100


def get_priority(priority: int | str | Priority) -> int:
    """The number of a priority that is given as a number, a name in any case or a member.

    Raises:
        ValueError: a number outside [0, 100].
        KeyError: an unknown name.
        TypeError: none of the three.
    """
    if isinstance(priority, int):
        if not 0 <= priority <= 100:
            raise ValueError(f"priority must be between 0 and 100, got {priority}")
        return priority
    if isinstance(priority, Priority):
        return priority.value
    if not isinstance(priority, str):
        raise TypeError("priority must be an integer or Priority enum value, "
                        f"got {type(priority).__name__}")
    if priority.upper() not in Priority.__members__:
        raise KeyError(f"unknown priority {priority!r}; known are "
                       f"{', '.join(Priority.__members__)}")
    return Priority[priority.upper()].value
