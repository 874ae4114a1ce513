"""Logs as text and as lines of JSON, as in ``mmcv.runner.hooks.logger.text``."""

from __future__ import annotations

import datetime
import os
from collections import OrderedDict
from typing import Any

import torch
from torch import distributed as dist

from ....fileio import FileClient, dump
from ....utils.misc import is_tuple_of
from ....utils.path import scandir
from ..hook import HOOKS
from .base import LoggerHook

__all__ = ["TextLoggerHook"]


@HOOKS.register_module()
class TextLoggerHook(LoggerHook):
    """Logs to ``runner.logger``, and a line of JSON each time to ``TIMESTAMP.log.json``.

    Args:
        by_epoch, interval, ignore_last, reset_flag: see :class:`LoggerHook`.
        interval_exp_name: iterations between logs of the experiment's name.
        out_dir: a folder, or a URI that ``FileClient`` knows, to which logs are copied at the end,
            into a folder of the run's name.
        out_suffix: which files of the run's folder are copied.
        keep_local: keep the local files then.
        file_client_args: arguments of ``FileClient``.
    """

    def __init__(self, by_epoch: bool = True, interval: int = 10, ignore_last: bool = True,
                 reset_flag: bool = False, interval_exp_name: int = 1000,
                 out_dir: str | None = None,
                 out_suffix: str | tuple[str, ...] = (".log.json", ".log", ".py"),
                 keep_local: bool = True,
                 file_client_args: dict[str, Any] | None = None) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch)
        if out_dir is None and file_client_args is not None:
            raise ValueError("file_client_args should be None when `out_dir` is not specified.")
        if not (out_dir is None or isinstance(out_dir, str) or is_tuple_of(out_dir, str)):
            raise TypeError(f"out_dir should be None or string, but got {out_dir!r}")
        self.time_sec_tot = 0.0
        self.interval_exp_name = interval_exp_name
        self.out_dir: Any = out_dir
        self.out_suffix = out_suffix
        self.keep_local = keep_local
        self.file_client_args = file_client_args
        if out_dir is not None:
            self.file_client = FileClient.infer_client(file_client_args, out_dir)

    def before_run(self, runner: Any) -> None:
        """Open the log with the run's metadata."""
        super().before_run(runner)
        if self.out_dir is not None:
            self.out_dir = self.file_client.join_path(
                self.out_dir, os.path.basename(runner.work_dir.rstrip(os.sep)))
            runner.logger.info("Text logs will be saved to %s by %s after the training process.",
                               self.out_dir, self.file_client.name)
        self.start_iter = runner.iter
        self.json_log_path = os.path.join(runner.work_dir, f"{runner.timestamp}.log.json")
        if runner.meta is not None:
            self._dump_log(runner.meta, runner)

    def _get_max_memory(self, runner: Any) -> int:
        """The most GPU memory that a process has taken, in MiB; of all processes on rank 0."""
        device = getattr(runner.model, "output_device", None)
        most = torch.tensor([torch.cuda.max_memory_allocated(device) // 2 ** 20],
                            dtype=torch.int, device=device)
        if runner.world_size > 1:
            dist.reduce(most, 0, op=dist.ReduceOp.MAX)
        return int(most.item())

    def _log_info(self, log_dict: dict[str, Any], runner: Any) -> None:
        """One line of text."""
        if runner.meta is not None and "exp_name" in runner.meta and (
                self.every_n_iters(runner, self.interval_exp_name)
                or (self.by_epoch and self.end_of_epoch(runner))):
            runner.logger.info("Exp name: %s", runner.meta["exp_name"])
        if log_dict["mode"] == "train":
            line = self._training_prefix(log_dict, runner)
        elif self.by_epoch:
            line = f"Epoch({log_dict['mode']}) [{log_dict['epoch']}][{log_dict['iter']}]\t"
        else:
            line = f"Iter({log_dict['mode']}) [{log_dict['iter']}]\t"
        shown = {"mode", "Epoch", "iter", "lr", "time", "data_time", "memory", "epoch"}
        line += ", ".join(f"{name}: {value:.4f}" if isinstance(value, float)
                          else f"{name}: {value}"
                          for name, value in log_dict.items() if name not in shown)
        runner.logger.info(line)

    def _training_prefix(self, log_dict: dict[str, Any], runner: Any) -> str:
        lr = log_dict["lr"]
        rates = " ".join(f"lr_{name}: {rate:.3e}" for name, rate in lr.items()) \
            if isinstance(lr, dict) else f"lr: {lr:.3e}"
        if self.by_epoch:
            place = (f"Epoch [{log_dict['epoch']}]"
                     f"[{log_dict['iter']}/{len(runner.data_loader)}]\t")
        else:
            place = f"Iter [{log_dict['iter']}/{runner.max_iters}]\t"
        line = f"{place}{rates}, "
        if "time" in log_dict:
            self.time_sec_tot += log_dict["time"] * self.interval
            mean = self.time_sec_tot / (runner.iter - self.start_iter + 1)
            left = datetime.timedelta(seconds=int(mean * (runner.max_iters - runner.iter - 1)))
            line += (f"eta: {left}, time: {log_dict['time']:.3f}, "
                     f"data_time: {log_dict['data_time']:.3f}, ")
            if torch.cuda.is_available():
                line += f"memory: {log_dict['memory']}, "
        return line

    def _dump_log(self, log_dict: dict[str, Any], runner: Any) -> None:
        """One line of JSON."""
        if runner.rank == 0:
            rounded = {name: self._round_float(value) for name, value in log_dict.items()}
            with open(self.json_log_path, "a+") as f:
                dump(rounded, f, file_format="json")
                f.write("\n")

    def _round_float(self, items: Any) -> Any:
        if isinstance(items, list):
            return [self._round_float(item) for item in items]
        return round(items, 5) if isinstance(items, float) else items

    def log(self, runner: Any) -> OrderedDict[str, Any]:
        """Log both lines, and return what they hold."""
        output = runner.log_buffer.output
        current = output.pop("eval_iter_num") if "eval_iter_num" in output \
            else self.get_iter(runner, inner_iter=True)
        lr = runner.current_lr()
        log_dict: OrderedDict[str, Any] = OrderedDict(
            mode=self.get_mode(runner), epoch=self.get_epoch(runner), iter=current,
            lr={name: rates[0] for name, rates in lr.items()} if isinstance(lr, dict) else lr[0])
        if "time" in output and torch.cuda.is_available():
            log_dict["memory"] = self._get_max_memory(runner)
        log_dict.update(output)
        self._log_info(log_dict, runner)
        self._dump_log(log_dict, runner)
        return log_dict

    def after_run(self, runner: Any) -> None:
        """Copy the logs to ``out_dir``."""
        if self.out_dir is None:
            return
        for name in scandir(runner.work_dir, self.out_suffix, True):
            local = os.path.join(runner.work_dir, name)
            out = self.file_client.join_path(self.out_dir, name)
            with open(local) as f:
                self.file_client.put_text(f.read(), out)
            runner.logger.info("The file %s has been uploaded to %s.", local, out)
            if not self.keep_local:
                os.remove(local)
                runner.logger.info("%s was removed due to the `self.keep_local=False`", local)
