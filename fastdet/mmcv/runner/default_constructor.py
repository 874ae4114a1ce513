"""How a runner is made of its config, as in ``mmcv.runner.default_constructor``."""

from __future__ import annotations

from typing import Any

from .builder import RUNNER_BUILDERS, RUNNERS

__all__ = ["DefaultRunnerConstructor"]


@RUNNER_BUILDERS.register_module()
class DefaultRunnerConstructor:
    """Makes the runner that a config describes; a subclass may do more.

    Args:
        runner_cfg: ``type`` and arguments.
        default_args: arguments that ``runner_cfg`` overrides.
    """

    def __init__(self, runner_cfg: dict[str, Any],
                 default_args: dict[str, Any] | None = None) -> None:
        if not isinstance(runner_cfg, dict):
            raise TypeError(f"runner_cfg should be a dict, but got {type(runner_cfg)}")
        self.runner_cfg = runner_cfg
        self.default_args = default_args

    def __call__(self) -> Any:
        return RUNNERS.build(self.runner_cfg, default_args=self.default_args)
