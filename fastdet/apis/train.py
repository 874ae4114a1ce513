"""Training of a detector by its config."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastdet.core.utils import sync_random_seed
from fastdet.datasets import build_dataloader, build_dataset
from fastdet.mmcv.runner import (
    DistSamplerSeedHook,
    EpochBasedRunner,
    Fp16OptimizerHook,
    OptimizerHook,
    build_optimizer,
    build_runner,
    get_dist_info,
    set_random_seed,
)

from .eval_hooks import DistEvalHook, EvalHook
from .utils import build_ddp, build_dp, compat_cfg, find_latest_checkpoint, get_root_logger

__all__ = ["auto_scale_lr", "init_random_seed", "set_random_seed", "train_detector"]


def init_random_seed(seed: int | None = None, device: Any = "cuda") -> int:
    """``seed``, or one that the first process draws for all."""
    return sync_random_seed(seed, device)


def auto_scale_lr(cfg: Any, distributed: bool, logger: Any) -> None:
    """Scale the learning rate by the batch, where ``cfg.auto_scale_lr`` is enabled."""
    settings = cfg.get("auto_scale_lr")
    if settings is None or not settings.get("enable", False):
        return
    base = settings.get("base_batch_size")
    if base is None:
        raise ValueError("auto_scale_lr needs base_batch_size, the batch that the learning rate "
                         "in the config is for")
    gpus = get_dist_info()[1] if distributed else len(cfg.gpu_ids)
    per_gpu = cfg.data.get("train_dataloader", {}).get("samples_per_gpu", 2)
    batch = gpus * per_gpu
    if batch != base:
        scaled = batch / base * cfg.optimizer.lr
        logger.info(f"The learning rate is scaled from {cfg.optimizer.lr} to {scaled}: a batch of "
                    f"{batch} ({gpus} x {per_gpu}) instead of {base}")
        cfg.optimizer.lr = scaled


def train_detector(model: nn.Module, dataset: Any, cfg: Any, distributed: bool = False,
                   validate: bool = False, timestamp: str | None = None,
                   meta: dict[str, Any] | None = None) -> None:
    """Train by a config's ``optimizer``, ``runner``, hooks and ``workflow``.

    Args:
        model: the detector, its weights initialised.
        dataset: the data set, or a list with one for each part of ``cfg.workflow``.
        cfg: the config, with ``work_dir``, ``gpu_ids``, ``seed`` and ``device``. ``bf16=True``
            computes losses under autocast to bfloat16; ``fsdp=True``, or arguments of
            :func:`shard_detector`, shards the weights over the processes.
        distributed: this is one of several processes.
        validate: evaluate on ``cfg.data.val`` as ``cfg.evaluation`` says.
        timestamp: names the log files.
        meta: kept in checkpoints and logs.
    """
    cfg = compat_cfg(cfg)
    logger = get_root_logger(log_level=cfg.get("log_level", "INFO"))
    datasets = dataset if isinstance(dataset, (list, tuple)) else [dataset]
    runner_type = cfg.runner.get("type", "EpochBasedRunner")
    loader_cfg = {
        **dict(samples_per_gpu=2, workers_per_gpu=2, num_gpus=len(cfg.gpu_ids), dist=distributed,
               seed=cfg.get("seed"), runner_type=runner_type, persistent_workers=False),
        **cfg.data.get("train_dataloader", {})}
    loaders = [build_dataloader(ds, **loader_cfg) for ds in datasets]
    wrapped = _wrapped(model, cfg, distributed)
    auto_scale_lr(cfg, distributed, logger)
    optimizer = build_optimizer(wrapped, cfg.optimizer)
    checkpoint_config = cfg.get("checkpoint_config")
    if cfg.get("fsdp"):
        from .fsdp import shard_optimizer  # a torch without torch.distributed has no FSDP

        shard_optimizer(optimizer)
        checkpoint_config = checkpoint_config and {**checkpoint_config,
                                                   "type": "ShardedCheckpointHook"}
    runner = build_runner(cfg.runner, default_args=dict(
        model=wrapped, optimizer=optimizer, work_dir=cfg.work_dir, logger=logger, meta=meta))
    runner.timestamp = timestamp
    runner.register_training_hooks(
        cfg.lr_config, _optimizer_hook(cfg, distributed), checkpoint_config,
        cfg.get("log_config"), cfg.get("momentum_config"),
        custom_hooks_config=cfg.get("custom_hooks"))
    if distributed and isinstance(runner, EpochBasedRunner):
        runner.register_hook(DistSamplerSeedHook())
    if validate:
        runner.register_hook(_eval_hook(cfg, distributed), priority="LOW")
    resume_from = cfg.get("resume_from")
    if resume_from is None and cfg.get("auto_resume"):
        resume_from = find_latest_checkpoint(cfg.work_dir)
    if resume_from is not None:
        runner.resume(resume_from)
    elif cfg.get("load_from"):
        runner.load_checkpoint(cfg.load_from)
    runner.run(loaders, cfg.get("workflow", [("train", 1)]))


def _in_bf16(step: Callable[..., Any], device: str) -> Callable[..., Any]:
    @functools.wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return step(*args, **kwargs)
    return run


def _wrapped(model: Any, cfg: Any, distributed: bool) -> Any:
    """The model as it is trained: on its device, in parallel, in its precision."""
    device = cfg.get("device", "cuda")
    if cfg.get("bf16"):
        for name in ("train_step", "val_step"):
            setattr(model, name, _in_bf16(getattr(model, name), device))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if cfg.get("fsdp"):
        if not distributed:
            raise ValueError("fsdp shards weights over several processes; start them by torchrun")
        from .fsdp import check_fsdp, shard_detector

        check_fsdp(cfg)
        settings = cfg.fsdp if isinstance(cfg.fsdp, dict) else {}
        return shard_detector(model, device, local_rank, **settings)
    if distributed:
        return build_ddp(model, device, device_ids=[local_rank], broadcast_buffers=False,
                         find_unused_parameters=cfg.get("find_unused_parameters", False))
    return build_dp(model, device, device_ids=cfg.gpu_ids)


def _optimizer_hook(cfg: Any, distributed: bool) -> Any:
    settings = cfg.optimizer_config
    if cfg.get("fp16") is not None:
        return Fp16OptimizerHook(**settings, **cfg.fp16, distributed=distributed)
    return OptimizerHook(**settings) if distributed and "type" not in settings else settings


def _eval_hook(cfg: Any, distributed: bool) -> EvalHook:
    loader_cfg = {**dict(samples_per_gpu=1, workers_per_gpu=2, dist=distributed, shuffle=False,
                         persistent_workers=False), **cfg.data.get("val_dataloader", {})}
    loader = build_dataloader(build_dataset(cfg.data.val, dict(test_mode=True)), **loader_cfg)
    settings = dict(cfg.get("evaluation", {}))
    settings["by_epoch"] = cfg.runner["type"] != "IterBasedRunner"
    if cfg.get("fsdp"):
        from .fsdp import ShardedEvalHook

        return ShardedEvalHook(loader, **settings)
    return (DistEvalHook if distributed else EvalHook)(loader, **settings)
