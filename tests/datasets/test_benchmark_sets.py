"""Data sets of benchmarks against what MMDetection 2.26.0 made of the same files."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets.recipe import close, facts

cv2 = pytest.importorskip("cv2", reason="needs the extra mmcv")
pytest.importorskip("pycocotools", reason="needs the extra mmcv")

from datasets import benchmark_sets as sets  # noqa: E402

import fastdet.datasets as ours  # noqa: E402
from fastdet.datasets.api_wrappers import pq_compute_single_core  # noqa: E402

RECORD = json.loads(gzip.decompress(
    (Path(__file__).parent / "benchmark-sets.json.gz").read_bytes()))
MULTI = [dict(type="LoadImageFromFile"), dict(
    type="MultiScaleFlipAug", img_scale=(32, 32), flip=False,
    transforms=[dict(type="Resize", keep_ratio=True), dict(type="Normalize", mean=[0] * 3,
                                                           std=[1] * 3),
                dict(type="ImageToTensor", keys=["img"]), dict(type="Collect", keys=["img"])])]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    sets.draw(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", sets.PARTS)
def test_annotations_and_scores_are_those_of_mmdetection(part, root, monkeypatch, tmp_path):
    if part == "lvis":
        pytest.importorskip("lvis", reason="pip install --no-deps lvis")
    monkeypatch.chdir(tmp_path)
    without = importlib.util.find_spec("cityscapesscripts") is None
    done = set()
    if part == "cityscapes" and without:
        monkeypatch.setattr(sets, "CITYSCAPES_SCRIPTS", False)
    for name, value in sets.PARTS[part](ours, root):
        close(json.loads(json.dumps(facts(value))), RECORD[part][name], name)
        done.add(name)
    left_out = {"cityscapes scores", "cityscapes files"} if without else set()
    assert done >= RECORD[part].keys() - left_out
    assert not list(tmp_path.iterdir())


def open_images(root, **kwargs):
    files = dict(label_file="labels.csv", image_level_ann_file="levels.csv")
    kwargs = {**{key: str(root / name) for key, name in files.items()},
              **dict(ann_file="boxes.csv", hierarchy_file="tree.json", meta_file="metas.pkl",
                     data_root=str(root), pipeline=[], test_mode=True), **kwargs}
    return ours.build_dataset(dict(type="OpenImagesDataset", **kwargs))


def test_sizes_of_images_may_come_from_the_pipeline(root):
    for i, (h, w) in enumerate(sets.SIZES):
        cv2.imwrite(str(root / f"im{i}.jpg"), np.zeros((h, w, 3), np.uint8))
    dataset = open_images(root, pipeline=MULTI, load_from_file=False)
    found = [sets.detections(dataset, sets.SIZES, 6, 3, "parts") for _ in range(2)]
    with pytest.raises(ValueError, match="metas of 0 images, and the data set has 6"):
        dataset.evaluate(found[0], logger="silent")
    for i in range(6):
        dataset[i]
    close(dict(dataset.evaluate(found[1], logger="silent")),
          RECORD["open images"]["openimages scores 0"])


def test_wrong_files_of_open_images_are_named(root, tmp_path):
    with pytest.raises(ValueError, match=r"label_file must be a \.csv file, got ''"):
        open_images(root, label_file="")
    with pytest.raises(ValueError, match=r"needs hierarchy_file, a \.json file, got None"):
        open_images(root, hierarchy_file=None)
    (tmp_path / "few.csv").write_text("/m/a,a\n")
    with pytest.raises(ValueError, match=r"boxes\.csv names the class '/m/.*few\.csv has not"):
        open_images(root, label_file=str(tmp_path / "few.csv"))
    dataset = open_images(root, meta_file="metas.json")
    found = sets.detections(dataset, sets.SIZES, 6, 3, "parts")
    with pytest.raises(ValueError, match=r"meta_file must be a \.pkl file, got .*metas.json"):
        dataset.evaluate(found)
    with pytest.raises(ValueError, match="ioa_thr is needed for each iou_thr"):
        open_images(root).evaluate(found, iou_thr=[0.5, 0.6])
    (tmp_path / "short.txt").write_text("a.jpg\n60 80\n2\n1 0 0 1 1 0\n")
    with pytest.raises(ValueError, match=r"ends before the 2 boxes of a\.jpg"):
        ours.OpenImagesChallengeDataset(
            str(tmp_path / "short.txt"), label_file=str(root / "labels_challenge.csv"),
            hierarchy_file=str(root / "tree.np"), pipeline=[])


def test_cityscapes_asks_for_its_scripts(root, monkeypatch):
    name = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
    monkeypatch.setitem(sys.modules, name, None)
    dataset = ours.CityscapesDataset(str(root / "cityscapes.json"), [], test_mode=True,
                                     img_prefix=str(root / "leftImg8bit/val"))
    with pytest.raises(ImportError, match="needs the package cityscapesscripts"):
        dataset.evaluate([None] * 4, "cityscapes")
    with pytest.raises(KeyError, match="metric mAP is not supported, only cityscapes, bbox"):
        dataset.evaluate([None] * 4, "mAP")


@pytest.fixture(scope="module")
def panoptic(root):
    class Small(ours.CocoPanopticDataset):
        CLASSES = ("person", "car", "banner", "bridge")

    return Small(str(root / "panoptic.json"), [], seg_prefix=str(root / "panoptic"),
                 test_mode=True)


def test_a_perfect_panoptic_result_has_quality_100(panoptic):
    results = []
    for i in range(len(panoptic)):
        ann = panoptic.get_ann_info(i)
        ids = cv2.imread(f"{panoptic.seg_prefix}/{ann['seg_map']}")[..., ::-1] @ np.array(
            [1, 256, 65536])
        pan = np.full(ids.shape, 4)
        for n, segment in enumerate(ann["masks"], 1):
            pan[ids == segment["id"]] = segment["category"] + 1000 * n
        results.append(dict(pan_results=pan))
    scores = panoptic.evaluate(results, "pq", logger="silent")
    assert scores["PQ"] == scores["SQ_th"] == scores["RQ_st"] == 100


def test_wrong_panoptic_results_are_named(panoptic, tmp_path):
    with pytest.raises(KeyError, match="metric mIoU is not supported, only PQ, pq, bbox"):
        panoptic.evaluate([], "mIoU")
    with pytest.raises(ValueError, match="PQ needs results with 'pan_results'"):
        panoptic.evaluate([dict()] * 5, logger="silent")
    flat = [dict(pan_results=np.full(size, 2)) for size in sets.SIZES[:5]]
    with pytest.raises(ValueError, match="segm need results with 'ins_results'"):
        panoptic.evaluate(flat, "segm", logger="silent")
    things = [{**f, "ins_results": ([np.zeros((0, 5))] * 2, [[], []])} for f in flat]
    with pytest.raises(ValueError, match="segm need ins_ann_file"):
        panoptic.evaluate(things, "segm", logger="silent")
    flat[1]["pan_results"] = flat[1]["pan_results"][:-1]
    with pytest.raises(ValueError, match=r"image 11: the result is \(49, 64\).*\(50, 64\)"):
        panoptic.evaluate(flat, logger="silent")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4, 3), 1, np.uint8))
    truth = dict(image_id=3, file_name="a.png", segments_info=[])
    for segments, message in (([], "65793 is in the PNG and not in the JSON"),
                              ([dict(id=65793, category_id=9)], "unknown category 9"),
                              ([dict(id=65793, category_id=1), dict(id=2, category_id=1)],
                               "segment 2 is in the JSON and not in the PNG")):
        pair = (truth, {**truth, "segments_info": segments})
        with pytest.raises(KeyError, match=message):
            pq_compute_single_core(0, [pair], str(tmp_path), str(tmp_path), {1: {}})
