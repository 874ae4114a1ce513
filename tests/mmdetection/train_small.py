"""Trains a small Faster R-CNN by MMDetection's own train_detector, on drawn images.

``python train_small.py FOLDER WORK [--resume FILE] [--die] [--test]``; under torchrun it trains on
several processes.
"""

import argparse
import json
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import torch

import fastdet

CLASSES = ("box", "disc")
IMAGES = {"train": 28, "val": 12}
SCALE = (128, 128)


def draw(folder):
    """A data set in COCO's format: bright shapes on noise."""
    rng = np.random.default_rng(0)
    for part, count in IMAGES.items():
        (folder / part).mkdir(parents=True)
        images, annotations = [], []
        for i in range(count):
            height, width = (int(n) for n in rng.integers(96, 129, 2))
            image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
            for _ in range(rng.integers(1, 4)):
                size = int(rng.integers(20, 40))
                x, y = int(rng.integers(0, width - size)), int(rng.integers(0, height - size))
                kind = int(rng.integers(2))
                if kind == 0:
                    cv2.rectangle(image, (x, y), (x + size, y + size), (40, 200, 220), -1)
                else:
                    cv2.circle(image, (x + size // 2, y + size // 2), size // 2,
                               (220, 120, 40), -1)
                annotations.append({
                    "id": len(annotations) + 1, "image_id": i, "category_id": kind + 1,
                    "bbox": [x, y, size, size], "area": size * size, "iscrowd": 0})
            cv2.imwrite(str(folder / part / f"{i}.png"), image)
            images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        (folder / f"{part}.json").write_text(json.dumps(
            {"images": images, "annotations": annotations, "categories": categories}))


def config(folder, work):
    from mmcv import Config

    norm = dict(mean=[60, 60, 60], std=[60, 60, 60], to_rgb=True)
    train = [
        dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True),
        dict(type="Resize", img_scale=SCALE, keep_ratio=True),
        dict(type="RandomFlip", flip_ratio=0.5), dict(type="Normalize", **norm),
        dict(type="Pad", size_divisor=32), dict(type="DefaultFormatBundle"),
        dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels"])]
    test = [
        dict(type="LoadImageFromFile"),
        dict(type="MultiScaleFlipAug", img_scale=SCALE, flip=False, transforms=[
            dict(type="Resize", keep_ratio=True), dict(type="Normalize", **norm),
            dict(type="Pad", size_divisor=32), dict(type="ImageToTensor", keys=["img"]),
            dict(type="Collect", keys=["img"])])]

    def data(part, pipeline):
        return dict(type="CocoDataset", classes=CLASSES, ann_file=str(folder / f"{part}.json"),
                    img_prefix=str(folder / part), pipeline=pipeline)

    def coder(stds):
        return dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds)

    def training(pos, neg, low, num):
        return dict(
            assigner=dict(type="MaxIoUAssigner", pos_iou_thr=pos, neg_iou_thr=neg, min_pos_iou=neg,
                          match_low_quality=low, ignore_iof_thr=-1),
            sampler=dict(type="RandomSampler", num=num, pos_fraction=0.25, neg_pos_ub=-1,
                         add_gt_as_proposals=not low),
            allowed_border=-1, pos_weight=-1, debug=False)

    proposals = dict(nms_pre=100, max_per_img=60, nms=dict(type="nms", iou_threshold=0.7),
                     min_bbox_size=0)
    return Config(dict(
        model=dict(
            type="FasterRCNN",
            backbone=dict(type="ResNet", depth=18, base_channels=8, num_stages=4, style="pytorch",
                          out_indices=(1, 2, 3), frozen_stages=-1, norm_eval=False),
            neck=dict(type="FPN", in_channels=[16, 32, 64], out_channels=16, num_outs=3),
            rpn_head=dict(
                type="RPNHead", in_channels=16, feat_channels=16,
                anchor_generator=dict(type="AnchorGenerator", scales=[4], ratios=[1.0],
                                      strides=[8, 16, 32]),
                bbox_coder=coder([1.0] * 4), loss_bbox=dict(type="L1Loss", loss_weight=1.0),
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0)),
            roi_head=dict(
                type="StandardRoIHead",
                bbox_roi_extractor=dict(
                    type="SingleRoIExtractor", out_channels=16, featmap_strides=[8, 16, 32],
                    roi_layer=dict(type="RoIAlign", output_size=5, sampling_ratio=0)),
                bbox_head=dict(
                    type="Shared2FCBBoxHead", in_channels=16, fc_out_channels=64, roi_feat_size=5,
                    num_classes=2, reg_class_agnostic=False,
                    bbox_coder=coder([0.1, 0.1, 0.2, 0.2]),
                    loss_bbox=dict(type="L1Loss", loss_weight=1.0),
                    loss_cls=dict(type="CrossEntropyLoss", loss_weight=1.0))),
            train_cfg=dict(rpn=training(0.7, 0.3, True, 64), rpn_proposal=proposals,
                           rcnn=training(0.5, 0.5, False, 32)),
            test_cfg=dict(rpn=proposals, rcnn=dict(
                score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=20))),
        data=dict(samples_per_gpu=4, workers_per_gpu=0, train=data("train", train),
                  val=data("val", test), test=data("val", test)),
        evaluation=dict(interval=1, metric="bbox", save_best="bbox_mAP"),
        optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4,
                       paramwise_cfg=dict(norm_decay_mult=0.0)),
        optimizer_config=dict(grad_clip=dict(max_norm=10, norm_type=2)),
        lr_config=dict(policy="step", warmup="linear", warmup_iters=5, warmup_ratio=0.1, step=[1]),
        runner=dict(type="EpochBasedRunner", max_epochs=2), checkpoint_config=dict(interval=1),
        log_config=dict(interval=1, hooks=[dict(type="TextLoggerHook")]),
        custom_hooks=[dict(type="NumClassCheckHook"), dict(type="SeedOfEpoch", priority="HIGHEST")],
        log_level="INFO", workflow=[("train", 1)], load_from=None, resume_from=None,
        work_dir=str(work), gpu_ids=[0], seed=3, device="cpu"))


def register_hooks():
    from mmcv.runner import HOOKS, Hook, set_random_seed

    @HOOKS.register_module()
    class SeedOfEpoch(Hook):
        """Draws the same numbers in an epoch whether or not the run was resumed before it."""

        def before_train_epoch(self, runner):
            set_random_seed(runner.epoch + 10 * runner.rank)

    @HOOKS.register_module()
    class Die(Hook):
        """What a machine that fails does in the second epoch."""

        def after_train_iter(self, runner):
            if runner.epoch == 1 and runner.inner_iter == 1:
                os.kill(os.getpid(), signal.SIGKILL)


def test_checkpoint(cfg, dataset, checkpoint):
    """Scores of a checkpoint by ``tools/test.py``'s own steps."""
    from mmcv.parallel import MMDataParallel
    from mmcv.runner import load_checkpoint
    from mmdet.apis import single_gpu_test
    from mmdet.datasets import build_dataloader
    from mmdet.models import build_detector

    loader = build_dataloader(dataset, samples_per_gpu=1, workers_per_gpu=0, dist=False,
                              shuffle=False)
    model = build_detector(cfg.model, test_cfg=cfg.get("test_cfg"))
    meta = load_checkpoint(model, checkpoint, map_location="cpu", strict=True)["meta"]
    model.CLASSES = meta["CLASSES"]
    results = single_gpu_test(MMDataParallel(model, device_ids=[-1]), loader)
    return dataset.evaluate(results, metric="bbox")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--resume")
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--test", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    fastdet.install()

    from mmcv.runner import get_dist_info, init_dist
    from mmdet.apis import set_random_seed, train_detector
    from mmdet.datasets import build_dataset
    from mmdet.models import build_detector

    distributed = "WORLD_SIZE" in os.environ
    if distributed:
        init_dist("pytorch", backend="gloo")
    cfg = config(args.folder, args.work)
    cfg.resume_from = args.resume
    cfg.gpu_ids = list(range(get_dist_info()[1]))
    register_hooks()
    if args.die:
        cfg.custom_hooks.append(dict(type="Die", priority="LOWEST"))
    args.work.mkdir(parents=True, exist_ok=True)
    set_random_seed(cfg.seed)
    model = build_detector(cfg.model)
    model.init_weights()
    dataset = build_dataset(cfg.data.train)
    model.CLASSES = dataset.CLASSES
    cfg.checkpoint_config.meta = dict(CLASSES=dataset.CLASSES)
    train_detector(model, [dataset], cfg, distributed=distributed, validate=True,
                   timestamp=time.strftime("%Y%m%d_%H%M%S"),
                   meta=dict(seed=cfg.seed, exp_name="small", config=cfg.pretty_text))
    if args.test:
        scores = test_checkpoint(cfg, build_dataset(cfg.data.test, dict(test_mode=True)),
                                 str(args.work / "latest.pth"))
        (args.work / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
