"""When checkpoints are saved, as in ``mmcv.runner.hooks.checkpoint``."""

from __future__ import annotations

import os
import warnings
from typing import Any

from ...fileio import FileClient
from ..dist_utils import allreduce_params, master_only
from .hook import HOOKS, Hook

__all__ = ["CheckpointHook", "output_folder"]


def output_folder(out_dir: str | None, work_dir: str | None,
                  file_client_args: dict[str, Any] | None) -> tuple[Any, Any]:
    """The client and the folder of a hook's files.

    A folder other than the run's gets one of the run's name below it.
    """
    chosen = out_dir or work_dir
    if not chosen:
        raise ValueError("a hook that saves needs out_dir, or a runner with a work_dir")
    client = FileClient.infer_client(file_client_args, chosen)
    if work_dir and chosen != work_dir:
        chosen = client.join_path(chosen, os.path.basename(work_dir.rstrip(os.sep)))
    return client, chosen


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Saves checkpoints.

    Args:
        interval: epochs (or iterations) between them; none if not positive.
        by_epoch: count epochs.
        save_optimizer: save the optimizers too.
        out_dir: a folder, or a URI that ``FileClient`` knows; ``runner.work_dir`` by default. In
            another folder than this there is one of the run's name.
        max_keep_ckpts: how many of the latest are kept; all if not positive.
        save_last: save one at the end in any case.
        sync_buffer: average the buffers over the processes before.
        file_client_args: arguments of ``FileClient``.
        kwargs: further arguments of ``runner.save_checkpoint``, such as ``filename_tmpl``.
    """

    def __init__(self, interval: int = -1, by_epoch: bool = True, save_optimizer: bool = True,
                 out_dir: str | None = None, max_keep_ckpts: int = -1, save_last: bool = True,
                 sync_buffer: bool = False, file_client_args: dict[str, Any] | None = None,
                 **kwargs: Any) -> None:
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_optimizer = save_optimizer
        self.out_dir: Any = out_dir
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.args = kwargs
        self.sync_buffer = sync_buffer
        self.file_client_args = file_client_args

    def before_run(self, runner: Any) -> None:
        """Choose the folder."""
        self.file_client, self.out_dir = output_folder(self.out_dir, runner.work_dir,
                                                       self.file_client_args)
        runner.logger.info("Checkpoints will be saved to %s by %s.", self.out_dir,
                           self.file_client.name)
        links = self.file_client.allow_symlink
        if self.args.get("create_symlink", links) and not links:
            warnings.warn(f"create_symlink is set to False: {self.file_client.name} has no links",
                          stacklevel=2)
            self.args["create_symlink"] = False
        self.args.setdefault("create_symlink", links)

    def after_train_epoch(self, runner: Any) -> None:
        """Save, if by epochs and it is time."""
        if self.by_epoch and (self.every_n_epochs(runner, self.interval)
                              or (self.save_last and self.is_last_epoch(runner))):
            self._save(runner, f"{runner.epoch + 1} epochs")

    def after_train_iter(self, runner: Any) -> None:
        """Save, if by iterations and it is time."""
        if not self.by_epoch and (self.every_n_iters(runner, self.interval)
                                  or (self.save_last and self.is_last_iter(runner))):
            self._save(runner, f"{runner.iter + 1} iterations")

    def _save(self, runner: Any, when: str) -> None:
        runner.logger.info("Saving checkpoint at %s", when)
        if self.sync_buffer:
            allreduce_params(runner.model.buffers())
        self._save_checkpoint(runner)

    @master_only
    def _save_checkpoint(self, runner: Any) -> None:
        current = runner.epoch + 1 if self.by_epoch else runner.iter + 1
        template = self.args.get("filename_tmpl",
                                 "epoch_{}.pth" if self.by_epoch else "iter_{}.pth")
        runner.save_checkpoint(self.out_dir, save_optimizer=self.save_optimizer, **self.args)
        if runner.meta is not None:
            runner.meta.setdefault("hook_msgs", {})["last_ckpt"] = self.file_client.join_path(
                self.out_dir, template.format(current))
        if self.max_keep_ckpts > 0:
            oldest = current - self.max_keep_ckpts * self.interval
            for step in range(oldest, 0, -self.interval):
                path = self.file_client.join_path(self.out_dir, template.format(step))
                if not self.file_client.isfile(path):
                    break
                self.file_client.remove(path)
