"""Profiles of a training, as in ``mmcv.runner.hooks.profiler``, by ``torch.profiler``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

from .hook import HOOKS, Hook

__all__ = ["ProfilerHook"]

_ACTIVITIES = {"cpu": ProfilerActivity.CPU, "cuda": ProfilerActivity.CUDA}


@HOOKS.register_module()
class ProfilerHook(Hook):
    """Profiles the first epochs (or iterations).

    Args:
        by_epoch: count epochs.
        profile_iters: how many are profiled.
        activities: ``'cpu'``, ``'cuda'``.
        schedule: arguments of ``torch.profiler.schedule``.
        on_trace_ready: ``f(profiler)``, or ``dict(type='log_trace')`` with arguments of
            ``key_averages().table`` to print, or ``dict(type='tb_trace')`` with arguments of
            ``torch.profiler.tensorboard_trace_handler``, whose folder is ``tf_tracing_logs`` in
            the run's by default.
        record_shapes, profile_memory, with_stack, with_flops: as for ``torch.profiler.profile``.
        json_trace_path: a file for Chrome's trace viewer.
    """

    def __init__(self, by_epoch: bool = True, profile_iters: int = 1,
                 activities: list[str] = ["cpu", "cuda"], schedule: dict[str, Any] | None = None,
                 on_trace_ready: Callable[..., Any] | dict[str, Any] | None = None,
                 record_shapes: bool = False, profile_memory: bool = False,
                 with_stack: bool = False, with_flops: bool = False,
                 json_trace_path: str | None = None) -> None:
        if not isinstance(by_epoch, bool):
            raise AssertionError(f"``by_epoch`` should be a boolean, got {by_epoch!r}")
        if profile_iters < 1:
            raise ValueError(f"profile_iters should be greater than 0, but got {profile_iters}")
        if not isinstance(activities, list) or not set(activities) <= set(_ACTIVITIES):
            raise ValueError(f"activities should be a list of {', '.join(_ACTIVITIES)}, "
                             f"but got {activities!r}")
        self.by_epoch = by_epoch
        self.profile_iters = profile_iters
        self.activities = [_ACTIVITIES[a] for a in activities]
        self.schedule = None if schedule is None else _schedule(schedule)
        self.on_trace_ready = on_trace_ready
        self.record_shapes = record_shapes
        self.profile_memory = profile_memory
        self.with_stack = with_stack
        self.with_flops = with_flops
        self.json_trace_path = json_trace_path

    def _handler(self, runner: Any) -> Callable[..., Any] | None:
        if not isinstance(self.on_trace_ready, dict):
            return self.on_trace_ready
        cfg = dict(self.on_trace_ready)
        kind = cfg.pop("type", None)
        if kind == "log_trace":
            return lambda profiler: print(profiler.key_averages().table(**cfg))
        if kind == "tb_trace":
            cfg.setdefault("dir_name", os.path.join(runner.work_dir, "tf_tracing_logs"))
            return tensorboard_trace_handler(**cfg)
        raise ValueError(f'the type of on_trace_ready must be "log_trace" or "tb_trace", '
                         f"got {kind!r}")

    def before_run(self, runner: Any) -> None:
        """Start the profiler."""
        limit = runner.max_epochs if self.by_epoch else runner.max_iters
        if limit is not None and limit < self.profile_iters:
            raise ValueError(f"profile_iters must not be greater than the training's {limit}, "
                             f"got {self.profile_iters}")
        self.profiler = profile(
            activities=self.activities, schedule=self.schedule,
            on_trace_ready=self._handler(runner), record_shapes=self.record_shapes,
            profile_memory=self.profile_memory, with_stack=self.with_stack,
            with_flops=self.with_flops)
        self.profiler.__enter__()
        runner.logger.info("profiler is profiling...")

    def _end(self, runner: Any) -> None:
        runner.logger.info("profiler may take a few minutes...")
        self.profiler.__exit__(None, None, None)
        if self.json_trace_path is not None:
            self.profiler.export_chrome_trace(self.json_trace_path)

    def after_train_epoch(self, runner: Any) -> None:
        """Stop after the last epoch that is profiled."""
        if self.by_epoch and runner.epoch == self.profile_iters - 1:
            self._end(runner)

    def after_train_iter(self, runner: Any) -> None:
        """Tell the profiler that a step is over; stop after the last that is profiled."""
        done = runner.epoch if self.by_epoch else runner.iter
        if done < self.profile_iters:
            self.profiler.step()
        if not self.by_epoch and runner.iter == self.profile_iters - 1:
            self._end(runner)


def _schedule(cfg: dict[str, Any]) -> Callable[..., Any]:
    return schedule(**cfg)
