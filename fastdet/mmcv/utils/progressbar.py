"""Progress on the console, as in ``mmcv.utils.progressbar``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from multiprocessing import Pool
from typing import Any, TextIO

from .timer import Timer

__all__ = ["ProgressBar", "track_iter_progress", "track_parallel_progress", "track_progress"]


class ProgressBar:
    """A bar with speed, elapsed and remaining time.

    Args:
        task_num: number of tasks; 0 for unknown, which counts without a bar.
        bar_width: characters of the bar, fewer on a narrow terminal.
        start: show it and start its clock at once.
        file: where it is written.
    """

    def __init__(self, task_num: int = 0, bar_width: int = 50, start: bool = True,
                 file: TextIO = sys.stdout) -> None:
        self.task_num = task_num
        self.bar_width = bar_width
        self.completed = 0
        self.file = file
        if start:
            self.start()

    @property
    def terminal_width(self) -> int:
        """Columns of the terminal."""
        return shutil.get_terminal_size().columns

    def start(self) -> None:
        """Show the empty bar and start the clock."""
        if self.task_num > 0:
            self.file.write(f"[{' ' * self.bar_width}] 0/{self.task_num}, elapsed: 0s, ETA:")
        else:
            self.file.write("completed: 0, elapsed: 0s")
        self.file.flush()
        self.timer = Timer()

    def update(self, num_tasks: int = 1) -> None:
        """Count ``num_tasks`` more tasks as done."""
        if num_tasks <= 0:
            raise ValueError(f"num_tasks must be positive, got {num_tasks}")
        self.completed += num_tasks
        elapsed = self.timer.since_start()
        fps = self.completed / elapsed if elapsed > 0 else float("inf")
        if self.task_num > 0:
            done = self.completed / self.task_num
            left = int(elapsed * (1 - done) / done + 0.5)
            message = (f"{self.completed}/{self.task_num}, {fps:.1f} task/s, "
                       f"elapsed: {int(elapsed + 0.5)}s, ETA: {left:5}s")
            width = min(self.bar_width, self.terminal_width - len(message) - 4,
                        int(self.terminal_width * 0.6))
            width = max(2, width)
            filled = int(width * done)
            self.file.write(f"\r[{'>' * filled}{' ' * (width - filled)}] {message}")
        else:
            self.file.write(f"completed: {self.completed}, elapsed: {int(elapsed + 0.5)}s, "
                            f"{fps:.1f} tasks/s")
        self.file.flush()


def _counted(tasks: Any) -> tuple[Any, int]:
    """The tasks and their number, of a sized iterable or of an ``(iterator, number)`` pair."""
    if isinstance(tasks, tuple) and len(tasks) == 2 and isinstance(tasks[0], Iterable) \
            and isinstance(tasks[1], int):
        return tasks
    if isinstance(tasks, Iterable) and isinstance(tasks, Sized):
        return tasks, len(tasks)
    raise TypeError('"tasks" must be an iterable object or a (iterator, int) tuple')


def track_progress(func: Callable[..., Any], tasks: Any, bar_width: int = 50,
                   file: TextIO = sys.stdout, **kwargs: Any) -> list[Any]:
    """``[func(task, **kwargs) for task in tasks]`` with a progress bar.

    Args:
        func: applied to each task.
        tasks: a sized iterable, or a pair of an iterator and its length.
        bar_width, file: see :class:`ProgressBar`.
    """
    return [func(task, **kwargs) for task in track_iter_progress(tasks, bar_width, file)]


def _init_worker(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    if initializer is not None:
        initializer(*initargs)


def track_parallel_progress(func: Callable[..., Any], tasks: Any, nproc: int,
                            initializer: Callable[..., None] | None = None,
                            initargs: tuple[Any, ...] | None = None, bar_width: int = 50,
                            chunksize: int = 1, skip_first: bool = False,
                            keep_order: bool = True, file: TextIO = sys.stdout) -> list[Any]:
    """``[func(task) for task in tasks]`` in ``nproc`` processes with a progress bar.

    Args:
        func: applied to each task; must be picklable.
        tasks: a sized iterable, or a pair of an iterator and its length.
        nproc: number of processes.
        initializer, initargs: called once in each process.
        bar_width, file: see :class:`ProgressBar`.
        chunksize: tasks handed to a process at once.
        skip_first: leave the first task of each process out of the bar's clock.
        keep_order: give the results in the order of the tasks.
    """
    iterable, number = _counted(tasks)
    results = []
    with Pool(nproc, _init_worker, (initializer, tuple(initargs or ()))) as pool:
        number -= nproc * chunksize * int(skip_first)
        bar = ProgressBar(number, bar_width, not skip_first, file)
        done = (pool.imap if keep_order else pool.imap_unordered)(func, iterable, chunksize)
        for result in done:
            results.append(result)
            if skip_first and len(results) <= nproc * chunksize:
                if len(results) == nproc * chunksize:
                    bar.start()
                continue
            bar.update()
        pool.close()
        pool.join()
    file.write("\n")
    return results


def track_iter_progress(tasks: Any, bar_width: int = 50,
                        file: TextIO = sys.stdout) -> Iterator[Any]:
    """Yield the tasks with a progress bar.

    Args:
        tasks: a sized iterable, or a pair of an iterator and its length.
        bar_width, file: see :class:`ProgressBar`.
    """
    iterable, number = _counted(tasks)
    bar = ProgressBar(number, bar_width, file=file)
    for task in iterable:
        yield task
        bar.update()
    file.write("\n")
