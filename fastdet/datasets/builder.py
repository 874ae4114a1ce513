"""The registries of data sets and of their pipelines, and what is built from configs."""

from __future__ import annotations

import copy
import random
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from fastdet.mmcv.parallel import collate
from fastdet.mmcv.runner import get_dist_info
from fastdet.utils import Registry, build_from_cfg

__all__ = ["DATASETS", "PIPELINES", "build_dataloader", "build_dataset", "worker_init_fn"]

DATASETS = Registry("dataset")
PIPELINES = Registry("pipeline")

#: Settings that are a list where the annotations are: an entry for each file.
_PER_FILE = ("img_prefix", "seg_prefix", "proposal_file")


def _concat_dataset(cfg: dict[str, Any], default_args: dict[str, Any] | None = None) -> Any:
    """One data set of several annotation files."""
    from .dataset_wrappers import ConcatDataset

    parts = []
    for i, file in enumerate(cfg["ann_file"]):
        part = copy.deepcopy(cfg)
        part.pop("separate_eval", None)
        part["ann_file"] = file
        for key in _PER_FILE:
            if isinstance(cfg.get(key), (list, tuple)):
                part[key] = cfg[key][i]
        parts.append(build_dataset(part, default_args))
    return ConcatDataset(parts, cfg.get("separate_eval", True))


def build_dataset(cfg: Any, default_args: dict[str, Any] | None = None) -> Any:
    """Build a data set from its config.

    Args:
        cfg: a config; a list of them is concatenated, and so are the files of an ``ann_file`` that
            is a list.
        default_args: arguments that ``cfg`` overrides.

    Raises:
        KeyError: ``type`` is missing or unknown.
    """
    from .dataset_wrappers import (
        ClassBalancedDataset,
        ConcatDataset,
        MultiImageMixDataset,
        RepeatDataset,
    )

    if isinstance(cfg, (list, tuple)):
        return ConcatDataset([build_dataset(c, default_args) for c in cfg])
    kind = cfg.get("type")
    if kind == "ConcatDataset":
        return ConcatDataset([build_dataset(c, default_args) for c in cfg["datasets"]],
                             cfg.get("separate_eval", True))
    if kind == "RepeatDataset":
        return RepeatDataset(build_dataset(cfg["dataset"], default_args), cfg["times"])
    if kind == "ClassBalancedDataset":
        return ClassBalancedDataset(build_dataset(cfg["dataset"], default_args),
                                    cfg["oversample_thr"])
    if kind == "MultiImageMixDataset":
        args = copy.deepcopy(cfg)
        args["dataset"] = build_dataset(args["dataset"])
        args.pop("type")
        return MultiImageMixDataset(**args)
    if isinstance(cfg.get("ann_file"), (list, tuple)):
        return _concat_dataset(cfg, default_args)
    return build_from_cfg(cfg, DATASETS, default_args)


def build_dataloader(dataset: Any, samples_per_gpu: int, workers_per_gpu: int, num_gpus: int = 1,
                     dist: bool = True, shuffle: bool = True, seed: int | None = None,
                     runner_type: str = "EpochBasedRunner", persistent_workers: bool = False,
                     class_aware_sampler: dict[str, Any] | None = None,
                     **kwargs: Any) -> DataLoader:
    """A loader of batches for one process.

    Args:
        dataset: the data set.
        samples_per_gpu: images in a batch of one GPU.
        workers_per_gpu: loading processes of one GPU.
        num_gpus: GPUs of this process; not used with ``dist``.
        dist: there is a process for each GPU.
        shuffle: draw anew in every epoch.
        seed: of the draws, and of the workers' augmentation.
        runner_type: an ``IterBasedRunner`` gets batches without end.
        persistent_workers: keep the workers between epochs.
        class_aware_sampler: settings of :class:`ClassAwareSampler`, to draw classes evenly.
        kwargs: of :class:`torch.utils.data.DataLoader`.
    """
    from .samplers import (
        ClassAwareSampler,
        DistributedGroupSampler,
        DistributedSampler,
        GroupSampler,
        InfiniteBatchSampler,
        InfiniteGroupBatchSampler,
    )

    rank, world_size = get_dist_info()
    batch_size = samples_per_gpu * (1 if dist else num_gpus)
    num_workers = workers_per_gpu * (1 if dist else num_gpus)
    sampler: Any = None
    batch_sampler: Any = None
    if runner_type == "IterBasedRunner":
        batches = InfiniteGroupBatchSampler if shuffle else InfiniteBatchSampler
        batch_sampler = batches(dataset, batch_size, world_size, rank, seed=seed, shuffle=shuffle)
        batch_size = 1
    elif class_aware_sampler is not None:
        sampler = ClassAwareSampler(
            dataset, samples_per_gpu, world_size, rank, seed=seed,
            num_sample_class=class_aware_sampler.get("num_sample_class", 1))
    elif dist and shuffle:
        sampler = DistributedGroupSampler(dataset, samples_per_gpu, world_size, rank, seed=seed)
    elif dist:
        sampler = DistributedSampler(dataset, world_size, rank, shuffle=False, seed=seed)
    elif shuffle:
        sampler = GroupSampler(dataset, samples_per_gpu)
    init = None if seed is None else partial(worker_init_fn, num_workers=num_workers, rank=rank,
                                             seed=seed)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers,
                      batch_sampler=batch_sampler,
                      collate_fn=partial(collate, samples_per_gpu=samples_per_gpu),
                      pin_memory=kwargs.pop("pin_memory", False), worker_init_fn=init,
                      persistent_workers=persistent_workers, **kwargs)


def worker_init_fn(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """Seed a loading process: another seed for every process of every rank."""
    own = num_workers * rank + worker_id + seed
    np.random.seed(own)  # noqa: NPY002 -- MMDetection's augmentations draw there
    random.seed(own)
    torch.manual_seed(own)
