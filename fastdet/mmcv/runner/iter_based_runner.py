"""Training by iterations, as in ``mmcv.runner.iter_based_runner``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch

from .base_runner import BaseRunner
from .builder import RUNNERS
from .epoch_based_runner import announce, check_workflow
from .hooks.iter_timer import IterTimerHook

__all__ = ["IterBasedRunner", "IterLoader"]


class IterLoader:
    """The batches of a loader without end.

    Args:
        dataloader: a ``DataLoader``; its sampler is told the epoch at which it starts again.
    """

    def __init__(self, dataloader: Any) -> None:
        self._dataloader = dataloader
        self.iter_loader: Iterator[Any] = iter(dataloader)
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """How often it has started again."""
        return self._epoch

    def __next__(self) -> Any:
        try:
            return next(self.iter_loader)
        except StopIteration:
            self._epoch += 1
            if hasattr(self._dataloader.sampler, "set_epoch"):
                self._dataloader.sampler.set_epoch(self._epoch)
            self.iter_loader = iter(self._dataloader)
            return next(self.iter_loader)

    def __len__(self) -> int:
        return len(self._dataloader)


@RUNNERS.register_module()
class IterBasedRunner(BaseRunner):
    """Trains by iterations; a unit of ``workflow`` is one. See :class:`BaseRunner`."""

    def _step(self, mode: str, data_loader: Any, **kwargs: Any) -> None:
        self.mode = mode
        self.data_loader = data_loader
        if mode == "train":
            self._epoch = data_loader.epoch
        data_batch = next(data_loader)
        self.data_batch = data_batch
        self.call_hook(f"before_{mode}_iter")
        if mode == "train":
            outputs = self.model.train_step(data_batch, self.optimizer, **kwargs)
        else:
            outputs = self.model.val_step(data_batch, **kwargs)
        if not isinstance(outputs, dict):
            raise TypeError(f"model.{mode}_step() must return a dict, "
                            f"got {type(outputs).__name__}")
        if "log_vars" in outputs:
            self.log_buffer.update(outputs["log_vars"], outputs["num_samples"])
        self.outputs = outputs
        self.call_hook(f"after_{mode}_iter")
        del self.data_batch
        self._inner_iter += 1

    def train(self, data_loader: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """One iteration of training."""
        self.model.train()
        self._step("train", data_loader, **kwargs)
        self._iter += 1

    @torch.no_grad()
    def val(self, data_loader: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """One iteration of validation."""
        self.model.eval()
        self._step("val", data_loader, **kwargs)

    def run(self, data_loaders: list[Any], workflow: list[tuple[str, int]],
            max_iters: int | None = None, **kwargs: Any) -> None:
        """Run ``workflow`` until all iterations of training are done.

        Args:
            data_loaders: one for each flow.
            workflow: pairs such as ``('train', 1000)``: a method and how often to call it.
            max_iters: deprecated; give it to the constructor.
            kwargs: for the methods, and so for the model's steps.
        """
        check_workflow(self, data_loaders, workflow)
        if max_iters is not None:
            warnings.warn("setting max_iters in run is deprecated, please set max_iters in "
                          "runner_config", DeprecationWarning, stacklevel=2)
            self._max_iters = max_iters
        if self._max_iters is None:
            raise AssertionError("max_iters must be specified during instantiation")
        announce(self, workflow, f"{self._max_iters} iters")
        self.call_hook("before_run")
        loaders = [IterLoader(data_loader) for data_loader in data_loaders]
        self.call_hook("before_epoch")
        while self.iter < self._max_iters:
            for (mode, iters), loader in zip(workflow, loaders):
                self._inner_iter = 0
                for _ in range(iters):
                    if mode == "train" and self.iter >= self._max_iters:
                        break
                    getattr(self, mode)(loader, **kwargs)
        self.call_hook("after_epoch")
        self.call_hook("after_run")

    def resume(self, checkpoint: str, resume_optimizer: bool = True,
               map_location: Any = "default") -> None:
        """Go on from a checkpoint; see :meth:`BaseRunner.resume`. Iterations are not scaled."""
        found = self._load_for_resume(checkpoint, map_location, resume_optimizer)
        self._epoch = found["meta"]["epoch"]
        self._iter = self._inner_iter = found["meta"]["iter"]
        self.meta = found["meta"]
        self.logger.info("resumed from epoch: %d, iter %d", self.epoch, self.iter)

    def save_checkpoint(  # type: ignore[override]
            self, out_dir: str, filename_tmpl: str = "iter_{}.pth",
            meta: dict[str, Any] | None = None, save_optimizer: bool = True,
            create_symlink: bool = True) -> None:
        """Save a checkpoint after this iteration; see :meth:`EpochBasedRunner.save_checkpoint`."""
        self._save_checkpoint(out_dir, filename_tmpl, self.iter + 1,
                              {"epoch": self.epoch + 1, "iter": self.iter}, save_optimizer, meta,
                              create_symlink)

    def register_training_hooks(  # type: ignore[override]
            self, lr_config: Any, optimizer_config: Any = None, checkpoint_config: Any = None,
            log_config: Any = None, momentum_config: Any = None,
            custom_hooks_config: Any = None) -> None:
        """As :meth:`BaseRunner.register_training_hooks`; intervals are iterations by default."""

        def by_iter(cfg: Any) -> Any:
            return {"by_epoch": False, **cfg} if isinstance(cfg, dict) else cfg

        if log_config is not None:
            log_config = {**log_config, "hooks": [by_iter(h) for h in log_config["hooks"]]}
        super().register_training_hooks(
            by_iter(lr_config), optimizer_config, by_iter(checkpoint_config), log_config,
            momentum_config, IterTimerHook(), custom_hooks_config)
