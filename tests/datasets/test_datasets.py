"""Data sets, samplers and evaluations against what MMDetection 2.26.0 made of the same files."""
# ruff: noqa: NPY002 -- the stream that MMDetection draws from

import itertools
import json

import numpy as np
import pytest
from datasets.recipe import NAMES, close, detections, draw_set, facts
from datasets.test_pipelines import RECORD

cv2 = pytest.importorskip("cv2", reason="needs the extra mmcv")
mask = pytest.importorskip("pycocotools.mask", reason="needs the extra mmcv")

from fastdet.datasets import (  # noqa: E402
    ClassBalancedDataset,
    CocoDataset,
    VOCDataset,
    build_dataloader,
    build_dataset,
    get_loading_pipeline,
    replace_ImageToTensor,
    samplers,
)

PIPELINE = [dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_set(tmp_path_factory.mktemp("set"), cv2.imwrite)


@pytest.fixture(scope="module")
def coco(root):
    return CocoDataset("ann.json", PIPELINE, NAMES, str(root), "img")


@pytest.fixture(scope="module")
def coco_test(root):
    return CocoDataset("ann.json", PIPELINE, NAMES, str(root), "img", test_mode=True)


def voc_config(root, **kwargs):
    return dict(type="VOCDataset", ann_file=str(root / "ids.txt"), pipeline=PIPELINE[:1],
                img_prefix=str(root / "VOC2007"), classes=NAMES, **kwargs)


@pytest.fixture(scope="module")
def voc(root):
    return build_dataset(voc_config(root))


@pytest.fixture(scope="module")
def voc_test(root):
    return build_dataset(voc_config(root, test_mode=True))


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_annotations_are_those_of_mmdetection(name, request):
    dataset = request.getfixturevalue(name)
    assert dataset.flag.tolist() == RECORD["flags"][name]
    assert [dataset.get_cat_ids(i) for i in range(len(dataset))] == RECORD["cats"][name]
    for i, expected in enumerate(RECORD["annotations"][name]):
        ann = {k: v for k, v in dataset.get_ann_info(i).items() if k != "masks"}
        close(facts(ann), expected)


def codes(dataset, i, boxes):
    info = dataset.data_infos[i]
    out = []
    for x1, y1, x2, y2, _ in boxes:
        drawn = np.zeros((info["height"], info["width"]), np.uint8)
        drawn[max(int(y1), 0):int(y2), max(int(x1), 0):int(x2)] = 1
        out.append(mask.encode(np.asfortranarray(drawn)))
    return out


def test_scores_are_those_of_mmdetection(coco_test, voc_test, monkeypatch):
    found, found_voc = detections(coco_test, 1), detections(voc_test, 2)
    proposals = [np.vstack(r) for r in found]
    segms = [(r, [codes(coco_test, i, b) for b in r]) for i, r in enumerate(found)]
    scores = {
        "bbox": coco_test.evaluate(found, logger="silent"),
        "segm": coco_test.evaluate(segms, ["bbox", "segm"], logger="silent"),
        "proposal": coco_test.evaluate(proposals, "proposal", logger="silent"),
        "proposal_fast": coco_test.evaluate(proposals, "proposal_fast", logger="silent"),
        "voc": voc_test.evaluate(found_voc, iou_thr=[0.5, 0.7], logger="silent"),
        "recall": voc_test.evaluate([np.vstack(r) for r in found_voc], "recall",
                                    iou_thr=[0.5, 0.6], logger="silent")}
    monkeypatch.setattr(voc_test, "year", 2012)
    scores["voc12"] = voc_test.evaluate(found_voc, logger="silent")
    for name, expected in RECORD["scores"].items():
        assert list(scores[name]) == list(expected)
        close(facts(scores[name]), expected, name)


def test_samplers_draw_what_mmdetection_draws(coco, voc):
    for key, expected in RECORD["samplers"].items():
        name, n, *rank = key.split()
        args = {"DistributedSampler": (2, *map(int, rank))}.get(
            name, (int(n), 2, *map(int, rank)))
        extra = {"DistributedSampler": dict(shuffle=True, seed=5),
                 "DistributedGroupSampler": dict(seed=5), "GroupSampler": {},
                 "ClassAwareSampler": dict(seed=3, num_sample_class=2)}.get(name, dict(seed=7))
        dataset = voc if name == "ClassAwareSampler" else coco
        if name == "GroupSampler":
            args = (int(n),)
            np.random.seed(3)
        sampler = getattr(samplers, name)(dataset, *args, **extra)
        if name == "ClassAwareSampler":
            sampler.set_epoch(1)
        elif name.startswith("Distributed"):
            sampler.set_epoch(2)
        assert list(itertools.islice(sampler, 12 if name.startswith("Inf") else None)) == \
            expected, key


def test_wrappers(root, voc, voc_test):
    assert ClassBalancedDataset(voc, 0.6).repeat_indices == RECORD["repeats"]
    twice = build_dataset(dict(type="RepeatDataset", times=2, dataset=voc_config(root)))
    assert len(twice) == 2 * len(voc)
    assert twice.get_cat_ids(len(voc) + 1) == voc.get_cat_ids(1)
    files = [str(root / "ids.txt")] * 2
    both = build_dataset({**voc_config(root, test_mode=True), "ann_file": files})
    found = detections(voc_test, 2)
    scores = both.evaluate(found * 2, logger="silent", iou_thr=0.5)
    assert scores["0_mAP"] == scores["1_mAP"] == voc_test.evaluate(found, logger="silent")["mAP"]
    whole = build_dataset({**voc_config(root, test_mode=True), "ann_file": files,
                           "separate_eval": False})
    assert 0 < whole.evaluate(found * 2, logger="silent")["mAP"] < 1
    with pytest.raises(ValueError, match="3 results for 24 images"):
        both.evaluate(found[:3])


def test_mixed_images_and_batches(root, voc):
    mixed = build_dataset(dict(
        type="MultiImageMixDataset", dataset=voc_config(root) | dict(pipeline=[
            PIPELINE[0], dict(type="LoadAnnotations", with_bbox=True)]),
        pipeline=[dict(type="Mosaic", img_scale=(60, 60)),
                  dict(type="MixUp", img_scale=(60, 60))]))
    np.random.seed(0)
    assert mixed[0]["img"].shape == (120, 120, 3)
    mixed.update_skip_type_keys(["Mosaic", "MixUp"])
    assert mixed[0]["img"].shape == voc[0]["img"].shape
    steps = [dict(type="Resize", img_scale=(64, 48)), dict(type="RandomFlip", flip_ratio=0.5),
             dict(type="Normalize", mean=[0] * 3, std=[1] * 3), dict(type="DefaultFormatBundle"),
             dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels"])]
    coco = CocoDataset("ann.json", [*PIPELINE, *steps], NAMES, str(root), "img")
    batch = next(iter(build_dataloader(coco, 2, 0, dist=False, seed=1)))
    assert batch["img"].data[0].shape[0] == 2
    assert len(batch["gt_bboxes"].data[0]) == len(batch["img_metas"].data[0]) == 2


def test_pipelines_are_rewritten():
    nested = [dict(type="MultiScaleFlipAug", transforms=[dict(type="ImageToTensor", keys=[])])]
    with pytest.warns(UserWarning, match="DefaultFormatBundle"):
        changed = replace_ImageToTensor(nested)
    assert changed[0]["transforms"] == [dict(type="DefaultFormatBundle")]
    assert get_loading_pipeline([*PIPELINE, dict(type="Pad", size_divisor=2)]) == PIPELINE
    with pytest.raises(ValueError, match="LoadImageFromFile and LoadAnnotations"):
        get_loading_pipeline(PIPELINE[:1])


def test_bad_files_and_settings_are_named(root, tmp_path, coco_test):
    broken = tmp_path / "broken.json"
    for text, message in (('{"images": [', "broken.json"), ("[]", "broken.json"),
                          ('{"images": []}', "no list 'categories'")):
        broken.write_text(text)
        with pytest.raises(ValueError, match=message):
            CocoDataset(str(broken), PIPELINE)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        CocoDataset(str(tmp_path / "none.json"), PIPELINE)
    double = json.loads((root / "ann.json").read_text())
    double["annotations"][1]["id"] = double["annotations"][0]["id"]
    broken.write_text(json.dumps(double))
    with pytest.raises(ValueError, match="not unique"):
        CocoDataset(str(broken), PIPELINE, NAMES)
    with pytest.raises(ValueError, match="VOC2007"):
        VOCDataset(ann_file=str(root / "ids.txt"), pipeline=PIPELINE, img_prefix=str(root),
                   test_mode=True, ann_subdir="VOC2007/Annotations")
    with pytest.raises(KeyError, match="metric mIoU is not supported"):
        coco_test.evaluate([], "mIoU")
    with pytest.raises(ValueError, match="1 results for 12 images"):
        coco_test.evaluate([[np.zeros((0, 5))] * 4])
    with pytest.raises(KeyError, match="CocoDataset"):
        build_dataset(dict(type="CocoDatset"))
    assert coco_test.evaluate([[np.zeros((0, 5))] * 4] * 12, logger="silent") == {}
