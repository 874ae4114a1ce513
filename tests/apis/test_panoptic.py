"""Panoptic detectors from the command line: tested, drawn, written down."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

cv2 = pytest.importorskip("cv2", reason="needs the extra mmcv")
pytest.importorskip("pycocotools", reason="needs the extra mmcv")

from datasets import benchmark_sets as sets  # noqa: E402

from fastdet.cli import main  # noqa: E402
from fastdet.core.evaluation.panoptic_utils import rgb2id  # noqa: E402
from fastdet.models import build_detector  # noqa: E402
from fastdet.testing import golden  # noqa: E402
from fastdet.utils import Config  # noqa: E402

RECORD = Path(__file__).parents[1] / "golden/detectors/detector__maskformer.json.gz"
CLASSES = ("person", "car", "banner", "bridge")


def small(value):
    """The record's config, of two kinds of things and two of stuff."""
    if isinstance(value, dict):
        value = {**value, **{k: 2 for k in ("num_things_classes", "num_stuff_classes")
                             if k in value}}
        if isinstance(value.get("class_weight"), list):
            value["class_weight"] = [1.0] * 4 + [0.1]
        return {k: small(v) for k, v in value.items()}
    return value


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("panoptic")
    sets.draw_panoptic(folder)
    rng = np.random.default_rng(0)
    for i, (h, w) in enumerate(sets.SIZES[:5]):
        cv2.imwrite(str(folder / f"{i}.jpg"), rng.integers(0, 255, (h, w, 3), dtype=np.uint8))
    steps = [dict(type="Resize", keep_ratio=True),
             dict(type="Normalize", mean=[0.0] * 3, std=[50.0] * 3, to_rgb=True),
             dict(type="Pad", size_divisor=32), dict(type="ImageToTensor", keys=["img"]),
             dict(type="Collect", keys=["img"])]
    data = dict(type="CocoPanopticDataset", classes=CLASSES, img_prefix=str(folder),
                ann_file=str(folder / "panoptic.json"), seg_prefix=str(folder / "panoptic"),
                pipeline=[dict(type="LoadImageFromFile"),
                          dict(type="MultiScaleFlipAug", img_scale=(64, 64), flip=False,
                               transforms=steps)])
    model = small(golden.decode(golden.load(RECORD)["model"], None, None))
    model["test_cfg"].update(object_mask_thr=0.0, iou_thr=0.0)  # random weights find little
    cfg = Config(dict(model=model, data=dict(samples_per_gpu=1, workers_per_gpu=0, test=data)))
    cfg.dump(folder / "config.py")
    torch.manual_seed(0)
    state = build_detector(cfg.model).state_dict()
    state["panoptic_head.cls_embed.bias"] += torch.tensor([0.0, 0.0, 0.0, 9.0, 0.0])  # bridges
    torch.save(dict(state_dict=state, meta=dict(CLASSES=CLASSES)), folder / "weights.pth")
    return folder


def test_quality_and_pictures(root, tmp_path, capsys):
    assert main(["test", str(root / "config.py"), str(root / "weights.pth"), "--eval", "PQ",
                 "--show-dir", str(tmp_path), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "Panoptic Evaluation Results" in out
    assert "PQ_st: " in out
    assert len(list(tmp_path.iterdir())) == 5


def test_segments_are_written_in_cocos_format(root, tmp_path, capsys):
    assert main(["detect", str(root / "0.jpg"), str(root / "1.jpg"), "--config",
                 str(root / "config.py"), "--checkpoint", str(root / "weights.pth"), "--out",
                 str(tmp_path), "--device", "cpu"]) == 0
    assert "[2/2] 1.jpg: 1 bridge" in capsys.readouterr().out
    records = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    assert [(r["image_id"], r["file_name"]) for r in records] == [(1, "0.png"), (2, "1.png")]
    for record, size in zip(records, sets.SIZES):
        ids = rgb2id(cv2.imread(str(tmp_path / "panoptic" / record["file_name"]))[..., ::-1])
        assert ids.shape == size
        areas = {s["id"]: s["area"] for s in record["segments_info"]}
        assert {i: int((ids == i).sum()) for i in np.unique(ids) if i} == areas != {}
        assert {s["category_id"] for s in record["segments_info"]} == {4}
    assert (tmp_path / "0.jpg").exists()
