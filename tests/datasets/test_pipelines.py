"""Transforms against what MMDetection 2.26.0 computed from the same images and draws."""
# ruff: noqa: NPY002 -- the stream that MMDetection draws from

import copy
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from datasets.recipe import close, facts, sample

datasets = pytest.importorskip("fastdet.datasets", reason="needs the extra mmcv")

from fastdet.core.mask import BitmapMasks, PolygonMasks  # noqa: E402
from fastdet.datasets import PIPELINES  # noqa: E402
from fastdet.datasets.pipelines import Compose  # noqa: E402

RECORD = json.loads(gzip.decompress(
    (Path(__file__).parent / "mmdet-2.26.0.json.gz").read_bytes()))
_PAIRS = ("img_scale", "crop_size", "ratio_range", "ratios", "n_holes", "cutout_ratio",
          "center_ratio_range", "border", "scaling_ratio_range", "test_pad_mode",
          "min_gt_bbox_wh", "img")


def with_tuples(value, key=None):
    """A config out of JSON, with tuples where configs have them."""
    if isinstance(value, dict):
        return {k: with_tuples(v, k) for k, v in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(v, list) and v and not isinstance(v[0], (dict, list))
                         for v in value):
            return [tuple(v) for v in value]
        return tuple(value) if key in _PAIRS else [with_tuples(v) for v in value]
    return value


@pytest.mark.parametrize(("cfg", "inputs", "seed", "expected", "following"), RECORD["pipelines"],
                         ids=[f"{c['type']}-{i}" for i, (c, *_) in
                              enumerate(RECORD["pipelines"])])
def test_results_and_draws_are_those_of_mmdetection(cfg, inputs, seed, expected, following):
    inputs = dict(inputs)
    mix = inputs.pop("mix", 0)
    results = sample(seed, BitmapMasks, PolygonMasks, **inputs)
    if mix:
        results["mix_results"] = [sample(seed + 10 + i, BitmapMasks, PolygonMasks, **inputs)
                                  for i in range(mix)]
    transform = PIPELINES.build(with_tuples(copy.deepcopy(cfg)))
    np.random.seed(seed)
    out = transform(results)
    assert np.random.rand() == following, "it drew more or fewer numbers"
    if out is not None:
        out = {k: v for k, v in out.items() if k != "mix_results"}
    close(facts(out), expected)


@pytest.mark.parametrize(("cfg", "message"), [
    (dict(type="Resize", img_scale=[200, 100]), "img_scale must be a tuple"),
    (dict(type="Resize", img_scale=(2, 1), multiscale_mode="both"), "must be value or range"),
    (dict(type="RandomFlip", flip_ratio=1.5), "flip_ratio must be from 0 to 1"),
    (dict(type="RandomFlip", flip_ratio=[0.5], direction="horizontal"), "needs a direction"),
    (dict(type="Pad", size=(1, 1), size_divisor=2), "exactly one of size"),
    (dict(type="RandomCrop", crop_size=(0, 5)), "two positive integers"),
    (dict(type="RandomCrop", crop_size=(5, 5), crop_type="some"), "crop_type must be one of"),
    (dict(type="Shear", level=11), "level must be from 0 to 10"),
    (dict(type="CutOut", n_holes=1), "one of cutout_shape and cutout_ratio"),
    (dict(type="MultiScaleFlipAug", transforms=[]), "img_scale and scale_factor, got neither"),
    (dict(type="FilterAnnotations", by_box=False), "one of by_box and by_mask"),
    (dict(type="Resiz"), "Resize"),
    (dict(type="InstaBoost"), "InstaBoost needs the package instaboostfast"),
    (dict(type="Corrupt", corruption="fog"), "Corrupt needs the package imagecorruptions"),
    (dict(type="Albu", transforms=[]), "Albu needs the package albumentations"),
])
def test_bad_settings_are_named(cfg, message):
    with pytest.raises((TypeError, ValueError, KeyError, ImportError), match=message):
        PIPELINES.build(cfg)


def test_files_that_are_no_image_are_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff")
    load = PIPELINES.build(dict(type="LoadImageFromFile"))
    with pytest.raises(ValueError, match=r"x\.jpg"):
        load(dict(img_info=dict(filename="x.jpg"), img_prefix=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=r"y\.jpg"):
        load(dict(img_info=dict(filename="y.jpg"), img_prefix=str(tmp_path)))


def test_an_image_is_not_resized_twice_by_accident():
    step = dict(type="Resize", img_scale=(50, 40))
    with pytest.raises(ValueError, match="override=True"):
        Compose([step, step])(sample(0, BitmapMasks, PolygonMasks))


def test_what_collect_misses_is_named():
    collect = PIPELINES.build(dict(type="Collect", keys=["img", "gt_masks"]))
    with pytest.raises(KeyError, match="gt_masks, pad_shape"):
        collect(sample(0, BitmapMasks, PolygonMasks))
