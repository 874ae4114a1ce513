"""``fastdet demo``: a small detector learns to find drawn shapes, in about a minute on a CPU."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fastdet.cli.console import note
from fastdet.cli.errors import CliError, require

__all__ = ["draw_set", "run"]

CLASSES = ("circle", "square", "triangle")
SIZE = 128
NORM = dict(mean=[110.0] * 3, std=[60.0] * 3, to_rgb=False)


def _scene(rng: Any) -> tuple[np.ndarray, list[tuple[int, list[float], list[float]]]]:
    """A picture [SIZE, SIZE, 3], and of each shape its class, box (x, y, w, h) and outline."""
    import cv2

    low, high = rng.integers(40, 170, (2, 3))
    ramp = np.linspace(0, 1, SIZE)[:, None, None]
    img = np.broadcast_to(low * (1 - ramp) + high * ramp, (SIZE, SIZE, 3)).astype(np.float64)
    img = (img + rng.normal(0, 6, img.shape)).clip(0, 255).astype(np.uint8)
    shapes: list[tuple[int, list[float], list[float]]] = []
    taken: list[np.ndarray] = []
    for _ in range(int(rng.integers(4, 9))):
        radius = int(rng.integers(9, 24))
        centre = rng.integers(radius + 2, SIZE - radius - 2, 2)
        if any(np.abs(centre - other[:2]).max() < radius + other[2] for other in taken):
            continue  # shapes do not touch
        taken.append(np.array([*centre, radius]))
        kind = int(rng.integers(len(CLASSES)))
        turn = rng.uniform(0, 2 * np.pi)
        corners = (40, 4, 3)[kind]
        angles = turn + np.arange(corners) * 2 * np.pi / corners
        outline = np.stack([np.cos(angles), np.sin(angles)], 1) * radius + centre
        colour = rng.integers(0, 256, 3).tolist()
        cv2.fillPoly(img, [np.rint(outline * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
        low_xy, high_xy = outline.min(0), outline.max(0)
        shapes.append((kind, [*low_xy, *(high_xy - low_xy)], outline.reshape(-1).tolist()))
    return img, shapes


def draw_set(folder: Path, count: int, seed: int) -> Path:
    """Draw pictures into a folder, with annotations in COCO's format.

    Returns:
        The annotation file.
    """
    import cv2

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        img, shapes = _scene(rng)
        cv2.imwrite(str(folder / f"{i:04}.png"), img)
        images.append(dict(id=i, file_name=f"{i:04}.png", width=SIZE, height=SIZE))
        for kind, box, outline in shapes:
            annotations.append(dict(
                id=len(annotations) + 1, image_id=i, category_id=kind + 1, bbox=box,
                area=box[2] * box[3], iscrowd=0, segmentation=[outline]))
    file = folder / "annotations.json"
    file.write_text(json.dumps(dict(
        images=images, annotations=annotations,
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)])))
    return file


def _config(root: Path, epochs: int, seed: int) -> dict[str, Any]:
    def data(part: str, pipeline: list[Any], **kwargs: Any) -> dict[str, Any]:
        return dict(type="CocoDataset", ann_file=str(root / part / "annotations.json"),
                    img_prefix=str(root / part), classes=list(CLASSES), pipeline=pipeline,
                    **kwargs)

    train = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True),
             dict(type="RandomFlip", flip_ratio=0.5, direction="horizontal"),
             dict(type="Normalize", **NORM), dict(type="DefaultFormatBundle"),
             dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels"])]
    test = [dict(type="LoadImageFromFile"),
            dict(type="MultiScaleFlipAug", img_scale=(SIZE, SIZE), flip=False, transforms=[
                dict(type="Resize", keep_ratio=True), dict(type="RandomFlip"),
                dict(type="Normalize", **NORM), dict(type="DefaultFormatBundle"),
                dict(type="Collect", keys=["img"])])]
    model = dict(
        type="RetinaNet",
        backbone=dict(type="ResNet", depth=18, base_channels=16, num_stages=4,
                      out_indices=(1, 2, 3), norm_cfg=dict(type="BN"), norm_eval=False,
                      style="pytorch"),
        neck=dict(type="FPN", in_channels=[32, 64, 128], out_channels=48, num_outs=3,
                  norm_cfg=dict(type="BN")),
        bbox_head=dict(
            type="RetinaHead", num_classes=len(CLASSES), in_channels=48, stacked_convs=2,
            feat_channels=48, norm_cfg=dict(type="BN"),
            anchor_generator=dict(type="AnchorGenerator", octave_base_scale=3,
                                  scales_per_octave=2, ratios=[1.0], strides=[8, 16, 32]),
            bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4,
                            target_stds=[0.2] * 4),
            loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0)),
        train_cfg=dict(assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4,
                                     min_pos_iou=0, ignore_iof_thr=-1),
                       allowed_border=-1, pos_weight=-1, debug=False),
        test_cfg=dict(nms_pre=200, min_bbox_size=0, score_thr=0.05,
                      nms=dict(type="nms", iou_threshold=0.5), max_per_img=20))
    return dict(
        model=model, seed=seed, device="cpu", gpu_ids=[0], work_dir=str(root / "work"),
        log_level="WARNING",
        data=dict(train=data("train", train), val=data("val", test), test=data("val", test),
                  train_dataloader=dict(samples_per_gpu=8, workers_per_gpu=0),
                  val_dataloader=dict(samples_per_gpu=8, workers_per_gpu=0)),
        optimizer=dict(type="AdamW", lr=3e-3, weight_decay=1e-4),
        optimizer_config=dict(grad_clip=dict(max_norm=10, norm_type=2)),
        lr_config=dict(policy="CosineAnnealing", by_epoch=False, min_lr=2e-5, warmup="linear",
                       warmup_iters=20, warmup_ratio=0.1),
        runner=dict(type="EpochBasedRunner", max_epochs=epochs), workflow=[("train", 1)])


def _evaluate(model: Any, cfg: Any) -> tuple[float, list[Any], Any]:
    """mAP on the pictures for the test, the results, and the data set."""
    from fastdet.datasets import build_dataloader, build_dataset
    from fastdet.mmcv.parallel import MMDataParallel

    dataset = build_dataset(cfg.data.val, dict(test_mode=True))
    loader = build_dataloader(dataset, 8, 0, dist=False, shuffle=False)
    wrapped = MMDataParallel(model.eval(), device_ids=[-1])
    results = [r for data in loader for r in wrapped(return_loss=False, rescale=True, **data)]
    if not any(len(boxes) for r in results for boxes in r):
        return 0.0, results, dataset
    return dataset.evaluate(results, logger="silent")["bbox_mAP"], results, dataset


def _progress_hook(epochs: int) -> Any:
    from fastdet.mmcv.runner.hooks import Hook

    class Progress(Hook):
        """A line for every epoch."""

        def before_train_epoch(self, runner: Any) -> None:
            self.losses: list[float] = []
            self.start = time.perf_counter()

        def after_train_iter(self, runner: Any) -> None:
            self.losses.append(runner.outputs["log_vars"]["loss"])

        def after_train_epoch(self, runner: Any) -> None:
            done = runner.epoch + 1
            note(f"  epoch {done:2}/{epochs}  [{'#' * (24 * done // epochs):24}]  loss "
                 f"{np.mean(self.losses):.3f}  {time.perf_counter() - self.start:.1f} s")

    return Progress()


def _sheet(dataset: Any, results: list[Any], model: Any, path: Path, columns: int = 4,
           rows: int = 2) -> None:
    """Some pictures with what was found in them, side by side."""
    import cv2

    from fastdet.core.visualization.image import imshow_det_bboxes, unpack

    colours = [(66, 133, 244), (219, 68, 55), (15, 157, 88)]
    tiles = []
    for info, result in list(zip(dataset.data_infos, results))[:columns * rows]:
        img: Any = cv2.imread(str(Path(dataset.img_prefix) / info["filename"]))
        img = cv2.resize(img, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        boxes, labels, _ = unpack(result)
        boxes = boxes.copy()
        boxes[:, :4] *= 2
        tile = imshow_det_bboxes(img, boxes, labels, class_names=CLASSES, score_thr=0.4,
                                 bbox_color=colours, text_color=(255, 255, 255), font_size=8,
                                 show=False)
        tiles.append(cv2.copyMakeBorder(tile, 4, 4, 4, 4, cv2.BORDER_CONSTANT,
                                        value=(255, 255, 255)))
    lines = [np.hstack(tiles[i:i + columns]) for i in range(0, len(tiles), columns)]
    cv2.imwrite(str(path), np.vstack(lines))


def run(args: argparse.Namespace) -> int:
    """Draw, train, compare, show."""
    for module, package in (("cv2", "opencv-python-headless"), ("pycocotools", "pycocotools"),
                            ("matplotlib", "matplotlib")):
        require(module, package)
    if args.epochs < 1:
        raise CliError(f"--epochs must be at least 1, got {args.epochs}")
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise CliError(f"cannot write to {out}: {e.strerror}") from None
    import torch

    from fastdet.apis import set_random_seed, train_detector
    from fastdet.datasets import build_dataset
    from fastdet.models import build_detector
    from fastdet.utils import Config

    logging.getLogger("mmdet").setLevel(logging.WARNING)
    work = Path(tempfile.mkdtemp(prefix=".fastdet-demo-", dir=out))
    try:
        note(f"Drawing 400 pictures to learn from and 80 to test on ({SIZE}x{SIZE})")
        draw_set(work / "train", 400, args.seed)
        draw_set(work / "val", 80, args.seed + 1_000_003)
        cfg = Config(_config(work, args.epochs, args.seed))
        set_random_seed(args.seed)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model: Any = build_detector(cfg.model)
            model.init_weights()
        model.CLASSES = CLASSES
        before, _, _ = _evaluate(model, cfg)
        count = sum(p.numel() for p in model.parameters())
        note(f"Training a RetinaNet of {count / 1e6:.2f} million weights on "
             f"{torch.get_num_threads()} threads\n  mAP before: {before:.3f}")
        cfg.custom_hooks = [_progress_hook(args.epochs)]
        start = time.perf_counter()
        train_detector(model, build_dataset(cfg.data.train), cfg)
        seconds = time.perf_counter() - start
        after, results, dataset = _evaluate(model, cfg)
        note(f"  mAP after:  {after:.3f}  ({seconds:.0f} s of training)")
        _sheet(dataset, results, model, work / "detections.png")
        (work / "detections.png").replace(out / "detections.png")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    note(f"What it finds in pictures that it has not seen: {out / 'detections.png'}")
    return 0
