"""What all training loops share, as in ``mmcv.runner.base_runner``."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fastdet.runner import find_state_dict, get_state_dict
from fastdet.utils import build_from_cfg
from fastdet.utils.config import Config, ConfigError

from ..parallel import is_module_wrapper
from ..utils.path import mkdir_or_exist, symlink
from .checkpoint import load_checkpoint, save_checkpoint
from .dist_utils import get_dist_info
from .hooks.hook import HOOKS, Hook
from .log_buffer import LogBuffer
from .priority import Priority, get_priority
from .utils import get_time_str

__all__ = ["BaseRunner"]

HookConfig = dict[str, Any] | Hook | None


class BaseRunner(metaclass=ABCMeta):
    """A training loop: the model's steps, and the hooks around them.

    Args:
        model: has ``train_step(data_batch, optimizer, **kwargs)`` and ``val_step``, which return a
            dict of ``loss``, ``log_vars`` and ``num_samples``.
        batch_processor: deprecated; a function in their place.
        optimizer: an optimizer, or several by name.
        work_dir: folder of logs and checkpoints; it is made.
        logger: a ``logging.Logger``.
        meta: what is to be kept in checkpoints, such as the config.
        max_iters: length of the training, or
        max_epochs: so.

    Raises:
        TypeError: an argument is of another type.
        ValueError: both lengths are given.
    """

    def __init__(self, model: nn.Module, batch_processor: Callable[..., Any] | None = None,
                 optimizer: Any = None, work_dir: str | None = None,
                 logger: logging.Logger | None = None, meta: dict[str, Any] | None = None,
                 max_iters: int | None = None, max_epochs: int | None = None) -> None:
        inner = model.module if is_module_wrapper(model) else model
        if batch_processor is not None:
            if not callable(batch_processor):
                raise TypeError("batch_processor must be callable, "
                                f"but got {type(batch_processor)}")
            warnings.warn("batch_processor is deprecated, please implement train_step() and "
                          "val_step() in the model instead", DeprecationWarning, stacklevel=2)
            if hasattr(inner, "train_step") or hasattr(inner, "val_step"):
                raise RuntimeError("batch_processor and model.train_step()/model.val_step() "
                                   "cannot be both available")
        elif not (hasattr(inner, "train_step") and hasattr(inner, "val_step")):
            raise AssertionError(f"the model {type(inner).__name__} needs the methods train_step "
                                 "and val_step")
        optimizers = optimizer.values() if isinstance(optimizer, dict) else [optimizer]
        for one in optimizers:
            if not (isinstance(one, Optimizer) or optimizer is None):
                raise TypeError("optimizer must be a torch.optim.Optimizer object or dict of them "
                                f"or None, but got {type(one)}")
        if not isinstance(logger, logging.Logger):
            raise TypeError(f"logger must be a logging.Logger object, but got {type(logger)}")
        if not isinstance(meta, dict | None):
            raise TypeError(f"meta must be a dict or None, but got {type(meta)}")
        if not isinstance(work_dir, str | Path | None):
            raise TypeError(f'"work_dir" must be a str or None, got {type(work_dir).__name__}')
        if max_epochs is not None and max_iters is not None:
            raise ValueError("Only one of `max_epochs` or `max_iters` can be set.")
        self.model: Any = model
        self.batch_processor = batch_processor
        self.optimizer = optimizer
        self.logger = logger
        self.meta = meta
        self.work_dir = None if work_dir is None else os.path.abspath(work_dir)
        if self.work_dir is not None:
            mkdir_or_exist(self.work_dir)
        self._model_name = type(getattr(model, "module", model)).__name__
        self._rank, self._world_size = get_dist_info()
        self.timestamp = get_time_str()
        self.mode: str | None = None
        self._hooks: list[Any] = []
        self._epoch = 0
        self._iter = 0
        self._inner_iter = 0
        self._max_epochs = max_epochs
        self._max_iters = max_iters
        self.log_buffer = LogBuffer()

    @property
    def model_name(self) -> str:
        """Class name of the model."""
        return self._model_name

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return self._rank

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self._world_size

    @property
    def hooks(self) -> list[Any]:
        """The hooks in the order in which they run."""
        return self._hooks

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self._epoch

    @property
    def iter(self) -> int:
        """Finished iterations."""
        return self._iter

    @property
    def inner_iter(self) -> int:
        """Finished iterations of this epoch."""
        return self._inner_iter

    @property
    def max_epochs(self) -> int | None:
        """Length of the training in epochs."""
        return self._max_epochs

    @property
    def max_iters(self) -> int | None:
        """Length of the training in iterations."""
        return self._max_iters

    @abstractmethod
    def train(self) -> Any:
        """One unit of training."""

    @abstractmethod
    def val(self) -> Any:
        """One unit of validation."""

    @abstractmethod
    def run(self, data_loaders: list[Any], workflow: list[tuple[str, int]], **kwargs: Any) -> Any:
        """Run ``workflow``, pairs of a method's name and a number of units, to the end."""

    @abstractmethod
    def save_checkpoint(self, out_dir: str, filename_tmpl: str, save_optimizer: bool = True,
                        meta: dict[str, Any] | None = None, create_symlink: bool = True) -> None:
        """Save a checkpoint."""

    def _save_checkpoint(self, out_dir: str, filename_tmpl: str, number: int,
                         progress: dict[str, int], save_optimizer: bool,
                         meta: dict[str, Any] | None, create_symlink: bool) -> None:
        """Save ``filename_tmpl.format(number)`` with ``progress`` in its metadata."""
        if not isinstance(meta, dict | None):
            raise TypeError(f"meta should be a dict or None, but got {type(meta)}")
        # A resumed run's own meta holds the progress of the run before: it comes first.
        meta = {**(meta or {}), **(self.meta or {}), **progress}
        filename = filename_tmpl.format(number)
        save_checkpoint(self.model, os.path.join(out_dir, filename),
                        optimizer=self.optimizer if save_optimizer else None, meta=meta)
        if create_symlink:
            latest = os.path.join(out_dir, "latest.pth")
            if os.name == "nt":  # links need rights there
                shutil.copy(os.path.join(out_dir, filename), latest)
            else:
                symlink(filename, latest)

    def _of_groups(self, read: Callable[[dict[str, Any]], float], what: str) -> Any:
        if isinstance(self.optimizer, Optimizer):
            return [read(group) for group in self.optimizer.param_groups]
        if isinstance(self.optimizer, dict):
            return {name: [read(group) for group in optimizer.param_groups]
                    for name, optimizer in self.optimizer.items()}
        raise RuntimeError(f"{what} is not applicable because optimizer does not exist.")

    def current_lr(self) -> Any:
        """The learning rates of the parameter groups; with several optimizers by their names."""
        return self._of_groups(lambda group: group["lr"], "lr")

    def current_momentum(self) -> Any:
        """Momentum, or the first beta, of the parameter groups; 0 where there is neither."""

        def read(group: dict[str, Any]) -> float:
            return group["momentum"] if "momentum" in group else group.get("betas", (0,))[0]

        return self._of_groups(read, "momentum")

    def register_hook(self, hook: Hook, priority: int | str | Priority = "NORMAL") -> None:
        """Put a hook behind those of the same or a smaller (earlier) priority.

        Raises:
            TypeError: it is no :class:`Hook`.
            ValueError: it was registered before, or the priority is out of range.
        """
        if not isinstance(hook, Hook):
            raise TypeError(f"hook must be a Hook, got {type(hook).__name__}: {hook!r:.80}")
        if hasattr(hook, "priority"):
            raise ValueError('"priority" is a reserved attribute for hooks: '
                             f"{type(hook).__name__} has it, or is registered already")
        number = get_priority(priority)
        place = sum(1 for other in self._hooks if other.priority <= number)
        hook.priority = number  # type: ignore[attr-defined]
        self._hooks.insert(place, hook)

    def register_hook_from_cfg(self, hook_cfg: dict[str, Any]) -> None:
        """Build a hook and register it with the ``priority`` in its config."""
        hook_cfg = dict(hook_cfg)
        priority = hook_cfg.pop("priority", "NORMAL")
        self.register_hook(build_from_cfg(hook_cfg, HOOKS), priority=priority)

    def call_hook(self, fn_name: str) -> None:
        """Call a method of every hook."""
        for hook in self._hooks:
            getattr(hook, fn_name)(self)

    def get_hook_info(self) -> str:
        """Which hooks run at which stage, for people."""
        names = {p.value: p.name for p in Priority}
        stages: dict[str, list[str]] = {stage: [] for stage in Hook.stages}
        for hook in self.hooks:
            line = f"({names.get(hook.priority, hook.priority):<12}) {type(hook).__name__:<35}"
            for stage in hook.get_triggered_stages():
                stages[stage].append(line)
        return "\n".join("\n".join([f"{stage}:", *lines, " -------------------- "])
                         for stage, lines in stages.items() if lines)

    def load_checkpoint(self, filename: str, map_location: Any = "cpu", strict: bool = False,
                        revise_keys: Iterable[tuple[str, str]] = ((r"^module.", ""),)
                        ) -> dict[str, Any]:
        """Load weights; see :func:`fastdet.runner.load_checkpoint`."""
        return load_checkpoint(self.model, filename, map_location, strict, self.logger,
                               revise_keys=revise_keys)

    def resume(self, checkpoint: str, resume_optimizer: bool = True,
               map_location: Any = "default") -> None:
        """Go on from a checkpoint: weights, optimizers, progress and metadata.

        The number of iterations is scaled where the config in the checkpoint's metadata names
        another number of GPUs than there are processes now.

        Args:
            checkpoint: the file.
            resume_optimizer: restore the optimizers too.
            map_location: as for ``torch.load``; ``'default'`` is the current GPU, if any.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a checkpoint of a run, or one of another model.
        """
        found = self._load_for_resume(checkpoint, map_location, resume_optimizer)
        meta = found["meta"]
        self._epoch = meta["epoch"]
        self._iter = meta["iter"]
        if self.meta is None:
            self.meta = {}
        # What hooks know: the best score and the latest file.
        self.meta.setdefault("hook_msgs", {}).update(meta.get("hook_msgs", {}))
        before = self._gpus_before(meta, checkpoint)
        if before and before != self.world_size:
            self._iter = int(self._iter * before / self.world_size)
            self.logger.info("the iteration number is changed due to change of GPU number")
        self.meta = meta
        self.logger.info("resumed epoch %d, iter %d", self.epoch, self.iter)

    def _load_for_resume(self, checkpoint: str, map_location: Any,
                         resume_optimizer: bool) -> dict[str, Any]:
        """Load weights and optimizers; refuse, naming the file, what is of another model."""
        if map_location == "default":
            gpu = torch.cuda.is_available()
            where = f"cuda:{torch.cuda.current_device()}" if gpu else "cpu"
        else:
            where = map_location
        found = self.load_checkpoint(checkpoint, map_location=where)
        meta = found.get("meta")
        if not isinstance(meta, Mapping) or not {"epoch", "iter"} <= set(meta):
            raise ValueError(f"{checkpoint} holds weights but no training to resume: its meta has "
                             "no epoch and iter; load it with load_from instead")
        self._check_same_model(find_state_dict(found), checkpoint, resume_optimizer)
        if resume_optimizer and "optimizer" in found:
            self._resume_optimizer(found["optimizer"], checkpoint)
        return found

    def _check_same_model(self, saved: Mapping[str, Any], checkpoint: str, shapes: bool) -> None:
        own = get_state_dict(self.model)
        saved = {key.removeprefix("module."): value for key, value in saved.items()}
        common = [key for key in own if key in saved]
        if own and not common:
            raise ValueError(f"{checkpoint} is of another model: it has none of the parameters of "
                             f"{self.model_name}, such as {next(iter(own))}")
        for key in common if shapes else ():
            have, want = saved[key], own[key]
            if isinstance(have, torch.Tensor) and have.shape != want.shape:
                raise ValueError(f"{checkpoint} is of another model: its {key} is of shape "
                                 f"{tuple(have.shape)}, {self.model_name} has {tuple(want.shape)}")

    def _resume_optimizer(self, state: Any, checkpoint: str) -> None:
        if isinstance(self.optimizer, Optimizer):
            pairs = {"": (self.optimizer, state)}
        elif isinstance(self.optimizer, dict):
            if missing := set(self.optimizer) - set(state):
                raise ValueError(f"{checkpoint} has no state of the optimizer "
                                 f"{', '.join(sorted(missing))}")
            pairs = {name: (o, state[name]) for name, o in self.optimizer.items()}
        else:
            raise TypeError("Optimizer should be dict or torch.optim.Optimizer but got "
                            f"{type(self.optimizer)}")
        for name, (optimizer, saved) in pairs.items():
            try:
                optimizer.load_state_dict(saved)
            except (ValueError, KeyError, TypeError) as e:
                raise ValueError(
                    f"the state of the optimizer {name or type(optimizer).__name__} in "
                    f"{checkpoint} does not fit that of this run ({e}); resume with "
                    "resume_optimizer=False to start it anew") from e

    def _gpus_before(self, meta: Mapping[str, Any], checkpoint: str) -> int:
        """How many GPUs the config in a checkpoint's metadata names; 0 if it names none."""
        if not isinstance(meta.get("config"), str):
            return 0
        try:
            config = Config.fromstring(meta["config"], file_format=".py")
        except (ConfigError, SyntaxError) as e:
            self.logger.warning("cannot read the config in %s for its number of GPUs (%s); the "
                                "iteration number stays", checkpoint, e)
            return 0
        return len(config.get("gpu_ids") or ())

    def _register(self, cfg: HookConfig, priority: str, kind: str | None = None) -> None:
        """Register a hook, or the hook that a config describes, unless it is ``None``."""
        if cfg is None:
            return
        hook: Any = cfg
        if isinstance(cfg, dict):
            hook = build_from_cfg({"type": kind, **cfg} if kind else cfg, HOOKS)
        self.register_hook(hook, priority=priority)

    def _with_policy(self, cfg: HookConfig, kind: str) -> HookConfig:
        """``policy='step'`` as ``type='StepLrUpdaterHook'``; a name with capitals stays."""
        if not isinstance(cfg, dict):
            return cfg
        if "policy" not in cfg:
            raise KeyError(f"the config of a {kind} needs the key 'policy', got {cfg!r}")
        cfg = dict(cfg)
        policy = cfg.pop("policy")
        cfg["type"] = f"{policy.title() if policy == policy.lower() else policy}{kind}"
        return cfg

    def register_lr_hook(self, lr_config: HookConfig) -> None:
        """Register a policy of learning rates: a hook, or a dict with ``policy`` and arguments."""
        self._register(self._with_policy(lr_config, "LrUpdaterHook"), "VERY_HIGH")

    def register_momentum_hook(self, momentum_config: HookConfig) -> None:
        """Register a policy of momentum; as :meth:`register_lr_hook`."""
        self._register(self._with_policy(momentum_config, "MomentumUpdaterHook"), "HIGH")

    def register_optimizer_hook(self, optimizer_config: HookConfig) -> None:
        """Register what steps the optimizer: ``OptimizerHook`` unless a ``type`` is given."""
        self._register(optimizer_config, "ABOVE_NORMAL", "OptimizerHook")

    def register_checkpoint_hook(self, checkpoint_config: HookConfig) -> None:
        """Register what saves checkpoints: ``CheckpointHook`` unless a ``type`` is given."""
        self._register(checkpoint_config, "NORMAL", "CheckpointHook")

    def register_logger_hooks(self, log_config: dict[str, Any] | None) -> None:
        """Register loggers: ``interval`` and a list of configs ``hooks``."""
        if log_config is None:
            return
        for cfg in log_config["hooks"]:
            hook = build_from_cfg(cfg, HOOKS, default_args={"interval": log_config["interval"]})
            self.register_hook(hook, priority="VERY_LOW")

    def register_timer_hook(self, timer_config: HookConfig) -> None:
        """Register what measures iterations."""
        self._register(timer_config, "LOW")

    def register_custom_hooks(self, custom_config: Any) -> None:
        """Register one or a list of hooks or configs, each with its own ``priority``."""
        if custom_config is None:
            return
        for item in custom_config if isinstance(custom_config, list) else [custom_config]:
            if isinstance(item, dict):
                self.register_hook_from_cfg(item)
            else:
                self.register_hook(item, priority="NORMAL")

    def register_profiler_hook(self, profiler_config: HookConfig) -> None:
        """Register a profiler: ``ProfilerHook`` unless a ``type`` is given."""
        self._register(profiler_config, "NORMAL", "ProfilerHook")

    def register_training_hooks(
        self, lr_config: HookConfig, optimizer_config: HookConfig = None,
        checkpoint_config: HookConfig = None, log_config: dict[str, Any] | None = None,
        momentum_config: HookConfig = None,
        timer_config: dict[str, Any] | Hook = {"type": "IterTimerHook"},
        custom_hooks_config: Any = None,
    ) -> None:
        """Register what a training has.

        By default the order is: learning rate, momentum, optimizer, checkpoint and custom hooks,
        timer, loggers (``VERY_HIGH``, ``HIGH``, ``ABOVE_NORMAL``, ``NORMAL``, ``LOW``,
        ``VERY_LOW``).
        """
        self.register_lr_hook(lr_config)
        self.register_momentum_hook(momentum_config)
        self.register_optimizer_hook(optimizer_config)
        self.register_checkpoint_hook(checkpoint_config)
        self.register_timer_hook(timer_config)
        self.register_logger_hooks(log_config)
        self.register_custom_hooks(custom_hooks_config)
