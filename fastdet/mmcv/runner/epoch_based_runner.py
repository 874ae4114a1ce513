"""Training by epochs, as in ``mmcv.runner.epoch_based_runner``."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from .base_runner import BaseRunner
from .builder import RUNNERS
from .utils import get_host_info

__all__ = ["EpochBasedRunner", "Runner"]


@RUNNERS.register_module()
class EpochBasedRunner(BaseRunner):
    """Trains by epochs; a unit of ``workflow`` is an epoch. See :class:`BaseRunner`."""

    def run_iter(self, data_batch: Any, train_mode: bool, **kwargs: Any) -> None:
        """One step of the model; what it returns is in ``self.outputs``, its log in the buffer.

        Raises:
            TypeError: the model returns no dict.
        """
        if self.batch_processor is not None:
            outputs = self.batch_processor(self.model, data_batch, train_mode=train_mode, **kwargs)
        elif train_mode:
            outputs = self.model.train_step(data_batch, self.optimizer, **kwargs)
        else:
            outputs = self.model.val_step(data_batch, self.optimizer, **kwargs)
        if not isinstance(outputs, dict):
            raise TypeError('"batch_processor()" or "model.train_step()" and "model.val_step()" '
                            f"must return a dict, got {type(outputs).__name__}")
        if "log_vars" in outputs:
            self.log_buffer.update(outputs["log_vars"], outputs["num_samples"])
        self.outputs = outputs

    def _run_epoch(self, mode: str, **kwargs: Any) -> None:
        self.call_hook(f"before_{mode}_epoch")
        for i, data_batch in enumerate(self.data_loader):
            self.data_batch = data_batch
            self._inner_iter = i
            self.call_hook(f"before_{mode}_iter")
            self.run_iter(data_batch, train_mode=mode == "train", **kwargs)
            self.call_hook(f"after_{mode}_iter")
            del self.data_batch
            if mode == "train":
                self._iter += 1
        self.call_hook(f"after_{mode}_epoch")

    def train(self, data_loader: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """One epoch of training."""
        self.model.train()
        self.mode = "train"
        self.data_loader = data_loader
        if self._max_epochs is not None:
            self._max_iters = self._max_epochs * len(data_loader)
        self._run_epoch("train", **kwargs)
        self._epoch += 1

    @torch.no_grad()
    def val(self, data_loader: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """One epoch of validation."""
        self.model.eval()
        self.mode = "val"
        self.data_loader = data_loader
        self._run_epoch("val", **kwargs)

    def run(self, data_loaders: list[Any], workflow: list[tuple[str, int]],
            max_epochs: int | None = None, **kwargs: Any) -> None:
        """Run ``workflow`` until all epochs of training are done.

        Args:
            data_loaders: one for each flow.
            workflow: pairs such as ``('train', 2)``: a method and its epochs.
            max_epochs: deprecated; give it to the constructor.
            kwargs: for the methods, and so for the model's steps.
        """
        check_workflow(self, data_loaders, workflow)
        if max_epochs is not None:
            warnings.warn("setting max_epochs in run is deprecated, please set max_epochs in "
                          "runner_config", DeprecationWarning, stacklevel=2)
            self._max_epochs = max_epochs
        if self._max_epochs is None:
            raise AssertionError("max_epochs must be specified during instantiation")
        for (mode, _), data_loader in zip(workflow, data_loaders):
            if mode == "train":
                self._max_iters = self._max_epochs * len(data_loader)
                break
        announce(self, workflow, f"{self._max_epochs} epochs")
        self.call_hook("before_run")
        while self.epoch < self._max_epochs:
            for (mode, epochs), data_loader in zip(workflow, data_loaders):
                for _ in range(epochs):
                    if mode == "train" and self.epoch >= self._max_epochs:
                        break
                    getattr(self, mode)(data_loader, **kwargs)
        self.call_hook("after_run")

    def save_checkpoint(self, out_dir: str, filename_tmpl: str = "epoch_{}.pth",
                        save_optimizer: bool = True, meta: dict[str, Any] | None = None,
                        create_symlink: bool = True) -> None:
        """Save a checkpoint after this epoch.

        Args:
            out_dir: a folder, or a URI that ``FileClient`` knows.
            filename_tmpl: its name, with a place for the number of epochs.
            save_optimizer: save the optimizers too.
            meta: what else to save beside the runner's own.
            create_symlink: link ``latest.pth`` to it.
        """
        self._save_checkpoint(out_dir, filename_tmpl, self.epoch + 1,
                              {"epoch": self.epoch + 1, "iter": self.iter}, save_optimizer, meta,
                              create_symlink)


@RUNNERS.register_module()
class Runner(EpochBasedRunner):
    """The old name of :class:`EpochBasedRunner`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("Runner was deprecated, please use EpochBasedRunner", DeprecationWarning,
                      stacklevel=2)
        super().__init__(*args, **kwargs)


def check_workflow(runner: BaseRunner, data_loaders: Any, workflow: Any) -> None:
    """Raise unless every flow is ``(a method's name, how often)`` and has a loader."""
    if not isinstance(data_loaders, list | tuple):
        raise TypeError(f"data_loaders must be a list, got {type(data_loaders).__name__}")
    if not isinstance(workflow, list | tuple):
        raise TypeError(f"workflow must be a list, got {type(workflow).__name__}")
    for flow in workflow:
        if not isinstance(flow, list | tuple) or len(flow) != 2:
            raise TypeError(f"workflow must be a list of pairs such as ('train', 1), got {flow!r}")
        if not isinstance(flow[0], str):
            raise TypeError(f"mode in workflow must be a str, but got {type(flow[0])}")
        if not hasattr(runner, flow[0]):
            raise ValueError(f'runner has no method named "{flow[0]}" to run an epoch')
    if len(data_loaders) != len(workflow):
        raise AssertionError("each flow of workflow needs one of data_loaders, got "
                             f"{len(workflow)} and {len(data_loaders)}")


def announce(runner: BaseRunner, workflow: Any, length: str) -> None:
    """Log where a run is started, and with which hooks."""
    runner.logger.info("Start running, host: %s, work_dir: %s", get_host_info(),
                       runner.work_dir if runner.work_dir is not None else "NONE")
    runner.logger.info("Hooks will be executed in the following order:\n%s",
                       runner.get_hook_info())
    runner.logger.info("workflow: %s, max: %s", workflow, length)
