"""Hooks of detectors' trainings, as in ``mmdet.core.hook``."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from fastdet.core.utils import all_reduce_dict
from fastdet.mmcv.parallel import is_module_wrapper
from fastdet.mmcv.runner import get_dist_info
from fastdet.mmcv.runner.hooks import HOOKS, CosineAnnealingLrUpdaterHook, Hook
from fastdet.mmcv.utils.misc import optional_import

__all__ = ["BaseEMAHook", "CheckInvalidLossHook", "ExpMomentumEMAHook", "LinearMomentumEMAHook",
           "MemoryProfilerHook", "SetEpochInfoHook", "SyncNormHook", "YOLOXLrUpdaterHook",
           "YOLOXModeSwitchHook"]


def _inner(model: Any) -> Any:
    return model.module if is_module_wrapper(model) else model


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Stops a training whose loss is no longer finite.

    Args:
        interval: iterations between checks.

    Raises:
        ValueError: (when called) a loss is not finite; the losses and the images are named.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Any) -> None:
        """Check the iteration's loss."""
        if not self.every_n_iters(runner, self.interval) \
                or torch.isfinite(runner.outputs["loss"]).all():
            return
        bad = [name for name, value in runner.outputs["log_vars"].items()
               if not math.isfinite(value)]
        message = f"the loss is not finite in iteration {runner.iter + 1}: {', '.join(bad)}"
        metas = (getattr(runner, "data_batch", None) or {}).get("img_metas")
        groups = getattr(metas, "data", None) or []
        names = [str(meta.get("filename")) for group in groups for meta in group]
        if names:
            message += f"; the batch's images are {', '.join(names)}"
        raise ValueError(message)


@HOOKS.register_module()
class SetEpochInfoHook(Hook):
    """Tells the model which epoch it is, by its ``set_epoch``."""

    def before_train_epoch(self, runner: Any) -> None:
        """Tell it."""
        _inner(runner.model).set_epoch(runner.epoch)


@HOOKS.register_module()
class MemoryProfilerHook(Hook):
    """Logs the memory of the host and of this process.

    Args:
        interval: iterations between two lines.

    Raises:
        ImportError: the package psutil is not installed.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._psutil = optional_import("psutil", "MemoryProfilerHook")

    def after_iter(self, runner: Any) -> None:
        """Log, if it is time."""
        if not self.every_n_iters(runner, self.interval):
            return
        memory, swap = self._psutil.virtual_memory(), self._psutil.swap_memory()
        own = self._psutil.Process().memory_info().rss
        told = [("available_memory", memory.available), ("used_memory", memory.used),
                ("available_swap_memory", swap.free), ("used_swap_memory", swap.used),
                ("current_process_memory", own)]
        lines = [f"{name}: {round(value / 2**20)} MB" for name, value in told]
        lines.insert(2, f"memory_utilization: {memory.percent} %")
        lines.insert(5, f"swap_memory_utilization: {swap.percent} %")
        runner.logger.info(f"Memory information {', '.join(lines)}")


class BaseEMAHook(Hook):
    """A moving average of the weights and buffers, in their place in evaluation and checkpoints.

    Args:
        momentum: the part that a new value has.
        interval: iterations between updates.
        skip_buffers: average parameters alone.
        resume_from: a checkpoint to resume once the averages' buffers are there.
        momentum_fun: the momentum by the iteration, instead.
    """

    def __init__(self, momentum: float = 0.0002, interval: int = 1, skip_buffers: bool = False,
                 resume_from: str | None = None,
                 momentum_fun: Callable[[int], float] | None = None) -> None:
        if not 0 < momentum < 1:
            raise ValueError(f"momentum must lie between 0 and 1, got {momentum!r}")
        self.momentum = momentum
        self.skip_buffers = skip_buffers
        self.interval = interval
        self.checkpoint = resume_from
        self.momentum_fun = momentum_fun

    def before_run(self, runner: Any) -> None:
        """Add the averages to the model, as buffers ``ema_…``."""
        model = _inner(runner.model)
        self.model_parameters = dict(model.named_parameters()) if self.skip_buffers \
            else model.state_dict()
        self.param_ema_buffer = {name: f"ema_{name.replace('.', '_')}"
                                 for name in self.model_parameters}
        for name, value in self.model_parameters.items():
            model.register_buffer(self.param_ema_buffer[name], value.data.clone())
        self.model_buffers = dict(model.named_buffers())
        if self.checkpoint is not None:
            runner.resume(self.checkpoint)

    def get_momentum(self, runner: Any) -> float:
        """The momentum of this iteration."""
        return self.momentum if self.momentum_fun is None else self.momentum_fun(runner.iter)

    def after_train_iter(self, runner: Any) -> None:
        """Move the averages of what has a fraction."""
        if (runner.iter + 1) % self.interval:
            return
        momentum = self.get_momentum(runner)
        for name, value in self.model_parameters.items():
            if value.dtype.is_floating_point:
                average = self.model_buffers[self.param_ema_buffer[name]]
                average.mul_(1 - momentum).add_(value.data, alpha=momentum)

    def after_train_epoch(self, runner: Any) -> None:
        """Put the averages in the weights' place."""
        self._swap()

    def before_train_epoch(self, runner: Any) -> None:
        """Put the weights back."""
        self._swap()

    def _swap(self) -> None:
        for name, value in self.model_parameters.items():
            average = self.model_buffers[self.param_ema_buffer[name]]
            kept = value.data.clone()
            value.data.copy_(average.data)
            average.data.copy_(kept)


@HOOKS.register_module()
class ExpMomentumEMAHook(BaseEMAHook):
    """:class:`BaseEMAHook` whose momentum falls to ``momentum`` (YOLOX, arXiv:2107.08430).

    Args:
        total_iter: the greater, the slower it falls.
        kwargs: see there.
    """

    def __init__(self, total_iter: int = 2000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        m = self.momentum
        self.momentum_fun = lambda x: (1 - m) * math.exp(-(1 + x) / total_iter) + m


@HOOKS.register_module()
class LinearMomentumEMAHook(BaseEMAHook):
    """:class:`BaseEMAHook` whose momentum rises to ``momentum ** interval``.

    Args:
        warm_up: the smaller, the longer it rises.
        kwargs: see there.
    """

    def __init__(self, warm_up: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        m = self.momentum ** self.interval
        self.momentum_fun = lambda x: min(m, (1 + x) / (warm_up + x))


@HOOKS.register_module()
class SyncNormHook(Hook):
    """Averages what normalisations hold over all processes after an epoch (YOLOX).

    Args:
        num_last_epochs: in so many last epochs after every one.
        interval: epochs between averages before.
    """

    def __init__(self, num_last_epochs: int = 15, interval: int = 1) -> None:
        self.interval = interval
        self.num_last_epochs = num_last_epochs

    def before_train_epoch(self, runner: Any) -> None:
        """Take the last epochs' interval."""
        if runner.epoch + 1 == runner.max_epochs - self.num_last_epochs:
            self.interval = 1

    def after_train_epoch(self, runner: Any) -> None:
        """Average."""
        if not self.every_n_epochs(runner, self.interval) or get_dist_info()[1] == 1:
            return
        states: OrderedDict[str, Any] = OrderedDict()
        for name, module in runner.model.named_modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                states.update((f"{name}.{k}", v) for k, v in module.state_dict().items())
        if states:
            runner.model.load_state_dict(all_reduce_dict(states, op="mean"), strict=False)


@HOOKS.register_module()
class YOLOXLrUpdaterHook(CosineAnnealingLrUpdaterHook):
    """A quadratic warm-up, a cosine, and the least rate in the last epochs (YOLOX).

    Args:
        num_last_epochs: with the least rate.
        kwargs: of :class:`fastdet.mmcv.runner.CosineAnnealingLrUpdaterHook`.
    """

    def __init__(self, num_last_epochs: int, **kwargs: Any) -> None:
        self.num_last_epochs = num_last_epochs
        super().__init__(**kwargs)

    def get_warmup_lr(self, cur_iters: int) -> Any:
        """The rates of all groups in an iteration of the warm-up."""
        assert self.warmup_iters is not None
        k = self.warmup_ratio * ((cur_iters + 1) / float(self.warmup_iters)) ** 2
        if isinstance(self.base_lr, dict):
            return {name: [lr * k for lr in rates] for name, rates in self.base_lr.items()}
        return [lr * k for lr in self.base_lr]

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """The rate after the warm-up."""
        last = len(runner.data_loader) * self.num_last_epochs
        done, total = (runner.epoch, runner.max_epochs) if self.by_epoch else (
            runner.iter, runner.max_iters)
        done += 1
        least: Any = self.min_lr if self.min_lr_ratio is None else base_lr * self.min_lr_ratio
        if done >= total - last:
            return least
        warmup = self.warmup_iters or 0
        part = (done - warmup) / (total - warmup - last)
        return least + 0.5 * (base_lr - least) * (math.cos(math.pi * part) + 1)


@HOOKS.register_module()
class YOLOXModeSwitchHook(Hook):
    """Turns mixing of images off and the L1 loss on for the last epochs (YOLOX).

    Args:
        num_last_epochs: how many.
        skip_type_keys: transforms that are left out then.
    """

    def __init__(self, num_last_epochs: int = 15,
                 skip_type_keys: Sequence[str] = ("Mosaic", "RandomAffine", "MixUp")) -> None:
        self.num_last_epochs = num_last_epochs
        self.skip_type_keys = skip_type_keys
        self._restart_dataloader = False

    def before_train_epoch(self, runner: Any) -> None:
        """Switch when the time has come."""
        loader = runner.data_loader
        if runner.epoch + 1 == runner.max_epochs - self.num_last_epochs:
            runner.logger.info("No mosaic and mixup aug now!")
            loader.dataset.update_skip_type_keys(self.skip_type_keys)
            if getattr(loader, "persistent_workers", False):
                # Their copies of the data set are old: new workers are started.
                loader._DataLoader__initialized = False
                loader._iterator = None
                self._restart_dataloader = True
            runner.logger.info("Add additional L1 loss now!")
            _inner(runner.model).bbox_head.use_l1 = True
        elif self._restart_dataloader:
            loader._DataLoader__initialized = True
