"""``fastdet train``: train a detector by its config."""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

from fastdet.cli.errors import CliError, first_line
from fastdet.cli.job import needs, output_folder, quiet, read_config, start, with_loaders
from fastdet.cli.model import USER_ERRORS, addresses
from fastdet.utils import UnknownTypeError

__all__ = ["run"]


def _model(cfg: Any, allow_download: bool) -> Any:
    """The detector, its weights initialised."""
    from fastdet.models import build_detector

    named = sorted(set(addresses(cfg.model)))
    if named and not allow_download:
        raise CliError(f"the config begins with the weights of {', '.join(named)}; "
                       "--allow-download reads them from the network, "
                       "--cfg-options model.backbone.init_cfg=None does without")
    try:
        model = build_detector(cfg.model, train_cfg=cfg.get("train_cfg"),
                               test_cfg=cfg.get("test_cfg"))
        model.init_weights()  # type: ignore[operator]
    except USER_ERRORS as e:
        raise CliError(f"the detector cannot be built: {first_line(e)}") from e
    return model


def _datasets(cfg: Any) -> list[Any]:
    from fastdet.datasets import build_dataset

    try:
        sets = [build_dataset(cfg.data.train)]
        if len(cfg.get("workflow", [("train", 1)])) == 2:
            val = copy.deepcopy(cfg.data.val)
            val.pipeline = cfg.data.train.get("pipeline", cfg.data.train.get("dataset", {}).get(
                "pipeline"))
            sets.append(build_dataset(val))
    except USER_ERRORS as e:
        raise CliError(f"the data set cannot be built: {first_line(e)}") from e
    if not all(map(len, sets)):
        raise CliError("the data set has no image to train on: none that is large enough and, "
                       "unless filter_empty_gt=False, has objects of its classes")
    return sets


def run(args: argparse.Namespace) -> int:
    """Train."""
    needs()
    cfg = read_config(args.config, args.cfg_options)
    distributed = start(args, cfg)
    from fastdet.apis import get_root_logger, init_random_seed, set_random_seed, train_detector
    from fastdet.apis.utils import collect_env
    from fastdet.mmcv.runner import get_dist_info
    from fastdet.version import __version__

    work_dir = Path(args.work_dir or cfg.get("work_dir") or f"work_dirs/{Path(args.config).stem}")
    cfg.work_dir = str(work_dir)
    output_folder(work_dir, "--work-dir")
    if args.resume_from is not None:
        if not Path(args.resume_from).is_file():
            raise CliError(f"there is no checkpoint {args.resume_from}")
        cfg.resume_from = args.resume_from
    cfg.auto_resume = args.auto_resume
    if args.bf16:
        cfg.bf16 = True
    if args.fsdp:
        cfg.fsdp = cfg.get("fsdp") or True
    if cfg.get("fsdp"):
        if not distributed:
            raise CliError("--fsdp shards weights over several processes; start them by "
                           "torchrun --nproc_per_node=N -m fastdet train ...")
        from fastdet.apis.fsdp import check_fsdp

        try:
            check_fsdp(cfg)
        except ValueError as e:
            raise CliError(first_line(e)) from None
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise CliError("--auto-scale-lr: the config has no auto_scale_lr.base_batch_size")
        cfg.auto_scale_lr.enable = True
    timestamp = time.strftime("%Y%m%d_%H%M%S")
    logger = get_root_logger(str(work_dir / f"{timestamp}.log"), cfg.get("log_level", "INFO"))
    seed = init_random_seed(args.seed, cfg.device)
    set_random_seed(seed + (get_dist_info()[0] if cfg.get("diff_seed") else 0),
                    deterministic=args.deterministic)
    cfg.seed = seed
    if get_dist_info()[0] == 0:
        cfg.dump(work_dir / Path(args.config).name)
    env = "\n".join(f"{k}: {v}" for k, v in collect_env().items())
    logger.info(f"Environment:\n{env}\nDistributed training: {distributed}, seed {seed}\n"
                f"Config:\n{cfg.pretty_text}")
    cfg = with_loaders(cfg)
    with quiet():
        model = _model(cfg, args.allow_download)
        datasets = _datasets(cfg)
    model.CLASSES = datasets[0].CLASSES
    if cfg.get("checkpoint_config") is not None:
        cfg.checkpoint_config.meta = dict(mmdet_version=f"2.26.0+fastdet{__version__}",
                                          CLASSES=model.CLASSES)
    meta = dict(env_info=env, config=cfg.pretty_text, seed=seed, exp_name=Path(args.config).name)
    if cfg.get("fp16") is None:  # whose scaler sees to losses that overflow
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or ()),
                            dict(type="CheckInvalidLossHook", interval=1)]
    try:
        train_detector(model, datasets, cfg, distributed=distributed,
                       validate=not args.no_validate, timestamp=timestamp, meta=meta)
    except (OSError, ValueError, FloatingPointError, UnknownTypeError) as e:
        raise CliError(f"the training stopped: {first_line(e)}") from e
    return 0
