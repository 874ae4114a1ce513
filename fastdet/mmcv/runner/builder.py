"""Registries of runners, as in ``mmcv.runner.builder``."""

from __future__ import annotations

from typing import Any

from fastdet.utils import Registry

__all__ = ["RUNNERS", "RUNNER_BUILDERS", "build_runner", "build_runner_constructor"]

RUNNERS = Registry("runner", scope="mmcv")
RUNNER_BUILDERS = Registry("runner builder", scope="mmcv")


def build_runner_constructor(cfg: dict[str, Any]) -> Any:
    """The object that makes a runner when it is called; ``cfg['type']`` names its class."""
    return RUNNER_BUILDERS.build(cfg)


def build_runner(cfg: dict[str, Any], default_args: dict[str, Any] | None = None) -> Any:
    """A runner from its config.

    Args:
        cfg: ``type``, the runner's arguments, and maybe ``constructor``, a name in
            ``RUNNER_BUILDERS``.
        default_args: arguments that ``cfg`` overrides.
    """
    runner_cfg = dict(cfg)
    constructor = runner_cfg.pop("constructor", "DefaultRunnerConstructor")
    return build_runner_constructor({"type": constructor, "runner_cfg": runner_cfg,
                                     "default_args": default_args})()
