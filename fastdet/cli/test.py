"""``fastdet test``: evaluate a detector on its data set."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from fastdet.cli.console import note
from fastdet.cli.errors import CliError, first_line
from fastdet.cli.job import (
    load_weights,
    needs,
    output_folder,
    quiet,
    read_config,
    start,
    with_loaders,
)
from fastdet.cli.model import USER_ERRORS

__all__ = ["run"]


def _check(args: argparse.Namespace) -> None:
    if not (args.eval or args.out or args.format_only or args.show_dir):
        raise CliError("say what to do with the results: --eval, --out, --format-only or "
                       "--show-dir")
    if args.eval and args.format_only:
        raise CliError("--eval and --format-only cannot be given together")
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise CliError(f"--out must be a .pkl file, got {args.out}")
    if not Path(args.checkpoint).is_file():
        raise CliError(f"there is no checkpoint {args.checkpoint}")
    for option, path in (("--out", args.out and Path(args.out).parent),
                         ("--show-dir", args.show_dir)):
        if path:
            output_folder(Path(path), option)


def _model(cfg: Any, checkpoint: str, classes: Any) -> Any:
    from fastdet.models import build_detector

    if "pretrained" in cfg.model:
        cfg.model.pretrained = None
    elif "init_cfg" in cfg.model.get("backbone", {}):
        cfg.model.backbone.init_cfg = None
    cfg.model.train_cfg = None
    try:
        model: Any = build_detector(cfg.model, test_cfg=cfg.get("test_cfg"))
    except USER_ERRORS as e:
        raise CliError(f"the detector cannot be built: {first_line(e)}") from e
    model.CLASSES = load_weights(model, checkpoint).get("CLASSES") or classes
    return model


def run(args: argparse.Namespace) -> int:
    """Test."""
    needs()
    _check(args)
    cfg = read_config(args.config, args.cfg_options)
    distributed = start(args, cfg)
    if distributed and args.show_dir:
        raise CliError("--show-dir draws in one process; start fastdet test without torchrun")
    from fastdet.apis import multi_gpu_test, single_gpu_test
    from fastdet.apis.utils import build_ddp, build_dp
    from fastdet.datasets import build_dataloader, build_dataset, replace_ImageToTensor
    from fastdet.mmcv.fileio import dump
    from fastdet.mmcv.runner import get_dist_info, wrap_fp16_model

    if "total_epochs" not in cfg:
        cfg.setdefault("runner", dict(type="EpochBasedRunner", max_epochs=1))  # it is not run
    cfg = with_loaders(cfg)
    loader_cfg = {**dict(samples_per_gpu=1, workers_per_gpu=2), **cfg.data.test_dataloader}
    with quiet():
        if loader_cfg["samples_per_gpu"] > 1 and "pipeline" in cfg.data.test:
            cfg.data.test.pipeline = replace_ImageToTensor(cfg.data.test.pipeline)
        try:
            dataset = build_dataset(cfg.data.test, dict(test_mode=True))
        except USER_ERRORS as e:
            raise CliError(f"the data set cannot be built: {first_line(e)}") from e
        model = _model(cfg, args.checkpoint, dataset.CLASSES)
    known = getattr(dataset, "METRICS", None)
    for metric in args.eval or ():  # before the images are looked at, which takes its time
        if known is not None and metric not in known:
            raise CliError(f"--eval {metric}: {type(dataset).__name__} knows {', '.join(known)}")
    loader = build_dataloader(dataset, dist=distributed, shuffle=False, **loader_cfg)
    if cfg.get("fp16") is not None:
        wrap_fp16_model(model)
    if distributed:
        wrapped = build_ddp(model, cfg.device, broadcast_buffers=False,
                            device_ids=[int(os.environ.get("LOCAL_RANK", 0))])
        test: Any = partial(multi_gpu_test, wrapped, loader, args.tmpdir, args.gpu_collect)
    else:
        wrapped = build_dp(model, cfg.device, device_ids=cfg.gpu_ids)
        test = partial(single_gpu_test, wrapped, loader, False, args.show_dir, args.show_score_thr)
    try:
        results = test()
    except (OSError, ValueError) as e:
        raise CliError(f"the test stopped: {first_line(e)}") from e
    if get_dist_info()[0] != 0 or results is None:
        return 0
    note("")
    if args.out:
        dump(results, args.out)
        note(f"Results written to {args.out}")
    options = args.eval_options or {}
    try:
        if args.format_only:
            dataset.format_results(results, **options)
        if args.eval:
            settings = {k: v for k, v in cfg.get("evaluation", {}).items() if k not in (
                "interval", "tmpdir", "start", "gpu_collect", "save_best", "rule",
                "dynamic_intervals")}
            for name, value in dataset.evaluate(
                    results, **{**settings, "metric": args.eval, **options}).items():
                note(f"{name}: {value}")
    except (KeyError, ValueError, TypeError) as e:
        raise CliError(f"the results cannot be evaluated: {first_line(e)}") from e
    return 0
