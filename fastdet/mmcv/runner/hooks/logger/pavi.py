"""Logs for Pavi, as in ``mmcv.runner.hooks.logger.pavi``."""

from __future__ import annotations

import json
import os
from typing import Any

from ....parallel import is_module_wrapper, scatter
from ....utils.misc import optional_import
from ...dist_utils import master_only
from ..hook import HOOKS
from .base import LoggerHook

__all__ = ["PaviLoggerHook"]


@HOOKS.register_module()
class PaviLoggerHook(LoggerHook):
    """Logs to Pavi; needs the package ``pavi``.

    Args:
        init_kwargs: arguments of ``pavi.SummaryWriter``.
        add_graph: deprecated, as ``add_graph_kwargs['active']``.
        img_key: deprecated, as ``add_graph_kwargs['img_key']``.
        add_last_ckpt: send the last checkpoint at the end.
        interval, ignore_last, reset_flag, by_epoch: see :class:`LoggerHook`.
        add_graph_kwargs: send the model's graph: ``active``, ``start``, ``interval`` (in epochs,
            or iterations), ``img_key``, ``opset_version``, ``dummy_forward_kwargs``.
        add_ckpt_kwargs: send checkpoints: ``active``, ``start``, ``interval``.
    """

    def __init__(self, init_kwargs: dict[str, Any] | None = None, add_graph: bool | None = None,
                 img_key: str | None = None, add_last_ckpt: bool = False, interval: int = 10,
                 ignore_last: bool = True, reset_flag: bool = False, by_epoch: bool = True,
                 add_graph_kwargs: dict[str, Any] | None = None,
                 add_ckpt_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch)
        self.init_kwargs = init_kwargs
        graph = add_graph_kwargs or {}
        self.add_graph = graph.get("active", False) if add_graph is None else add_graph
        self.add_graph_start = graph.get("start", 0)
        self.add_graph_interval = graph.get("interval", 1)
        self.img_key = graph.get("img_key", "img") if img_key is None else img_key
        self.opset_version = graph.get("opset_version", 11)
        self.dummy_forward_kwargs = graph.get("dummy_forward_kwargs", {})
        ckpt = add_ckpt_kwargs or {}
        self.add_ckpt = ckpt.get("active", False)
        self.add_last_ckpt = add_last_ckpt
        self.add_ckpt_start = ckpt.get("start", 0)
        self.add_ckpt_interval = ckpt.get("interval", 1)

    @master_only
    def before_run(self, runner: Any) -> None:
        """Open the log."""
        super().before_run(runner)
        pavi = optional_import("pavi", "PaviLoggerHook")
        self.run_name = os.path.basename(runner.work_dir.rstrip(os.sep))
        kwargs = {"name": self.run_name, "model": runner.model_name, **(self.init_kwargs or {})}
        if runner.meta is not None:
            if "exp_name" in runner.meta:
                kwargs.setdefault("task", runner.meta["exp_name"])
            kwargs.setdefault("session_text", json.dumps(runner.meta, default=str))
        self.writer = pavi.SummaryWriter(**kwargs)

    def get_step(self, runner: Any) -> int:
        """The epoch of a validation by epochs; otherwise the iteration."""
        if self.get_mode(runner) == "val" and self.by_epoch:
            return self.get_epoch(runner)
        return self.get_iter(runner)

    def _add_ckpt(self, runner: Any, ckpt_path: str, step: int) -> None:
        if os.path.islink(ckpt_path):
            ckpt_path = os.path.join(runner.work_dir, os.readlink(ckpt_path))
        if os.path.isfile(ckpt_path):
            self.writer.add_snapshot_file(tag=self.run_name, snapshot_file_path=ckpt_path,
                                          iteration=step)

    def _add_graph(self, runner: Any, step: int) -> None:
        model = runner.model.module if is_module_wrapper(runner.model) else runner.model
        device = next(model.parameters()).device
        batch = next(iter(runner.data_loader))
        image = scatter(batch[self.img_key], [-1])[0][0:1].to(device)
        training = model.training
        model.eval()
        self.writer.add_graph(model, image, tag=f"{self.run_name}_{step}",
                              opset_version=self.opset_version, **self.dummy_forward_kwargs)
        model.train(training)

    @master_only
    def log(self, runner: Any) -> None:
        """Log numbers at this step."""
        if tags := self.get_loggable_tags(runner, add_mode=False):
            self.writer.add_scalars(self.get_mode(runner), tags, self.get_step(runner))

    @master_only
    def after_run(self, runner: Any) -> None:
        """Send the last checkpoint; close the log."""
        if self.add_last_ckpt:
            self._add_ckpt(runner, os.path.join(runner.work_dir, "latest.pth"),
                           runner.epoch if self.by_epoch else runner.iter)
        self.writer.close()

    def _due(self, done: int, start: int, interval: int) -> bool:
        return done >= start and (done - start) % interval == 0

    def _before(self, runner: Any, done: int) -> None:
        if self.add_graph and self._due(done, self.add_graph_start, self.add_graph_interval):
            self._add_graph(runner, done)

    def _after(self, runner: Any, done: int, template: str) -> None:
        if self.add_ckpt and self._due(done, self.add_ckpt_start, self.add_ckpt_interval):
            self._add_ckpt(runner, os.path.join(runner.work_dir, template.format(done)), done)

    @master_only
    def before_train_epoch(self, runner: Any) -> None:
        """Send the graph, if by epochs and it is time."""
        super().before_train_epoch(runner)
        if self.by_epoch:
            self._before(runner, runner.epoch)

    @master_only
    def before_train_iter(self, runner: Any) -> None:
        """Send the graph, if by iterations and it is time."""
        super().before_train_iter(runner)
        if not self.by_epoch:
            self._before(runner, runner.iter)

    @master_only
    def after_train_epoch(self, runner: Any) -> None:
        """Log; send a checkpoint, if by epochs and it is time."""
        super().after_train_epoch(runner)
        if self.by_epoch:
            self._after(runner, runner.epoch + 1, "epoch_{}.pth")

    @master_only
    def after_train_iter(self, runner: Any) -> None:
        """Log; send a checkpoint, if by iterations and it is time."""
        super().after_train_iter(runner)
        if not self.by_epoch:
            self._after(runner, runner.iter + 1, "iter_{}.pth")
