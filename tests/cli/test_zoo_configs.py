"""``fastdet features`` on a config of every neck, written in the manner of the model zoo."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastdet.cli import main, picture
from fastdet.models import NECKS, necks

CONFIGS = Path(__file__).parent / "configs"
FROM_P2, FROM_P3 = (4, 8, 16, 32, 64), (8, 16, 32, 64, 128)

#: Config -> channels of the levels (one number where all are alike) and their strides.
LEVELS = {
    "atss_r50_fpn_dyhead": (32, FROM_P3),
    "centernet_r18": (16, (4,)),
    "deformable_detr_r50_mapper": (32, (8, 16, 32, 64)),
    "detectors_r50_rfp": (16, FROM_P2),
    "faster_rcnn_hrnet_hrfpn": (16, FROM_P2),
    "faster_rcnn_r50_fpg": (16, FROM_P2),
    "faster_rcnn_r50_fpn": (16, FROM_P2),
    "faster_rcnn_r50_fpn_carafe": (16, FROM_P2),
    "faster_rcnn_r50_pafpn": (16, FROM_P2),
    "fcos_r50_nasfcos_fpn": (16, FROM_P3),
    "libra_r50_fpn_bfp": (16, FROM_P2),
    "mask_rcnn_swin_fpn": (16, FROM_P2),
    "retinanet_pvt_fpn": (16, FROM_P3),
    "retinanet_pvtv2_fpn": (16, FROM_P3),
    "retinanet_r50_fpn": (16, FROM_P3),
    "retinanet_r50_nasfpn": (16, FROM_P3),
    "ssd300": ((512, 1024, 32, 16, 16), FROM_P3),
    "yolof_r50_dilated": (32, (32,)),
    "yolov3_d53": ((32, 16, 8), (32, 16, 8)),
    "yolox_nano": (32, (8, 16, 32)),
}
#: Anchors of a cell, of all levels or of each, where they are not three.
ANCHORS = {"atss_r50_fpn_dyhead": 1, "retinanet_r50_fpn": 9, "retinanet_pvt_fpn": 9,
           "retinanet_pvtv2_fpn": 9, "retinanet_r50_nasfpn": 9, "ssd300": (4, 6, 6, 6, 4),
           "yolof_r50_dilated": 5}


@pytest.fixture(scope="module", autouse=True)
def _small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "DPI", 16)  # a page at full resolution takes longer than a model
        yield


def test_all_configs_are_run():
    assert sorted(LEVELS) == sorted(p.stem for p in CONFIGS.glob("*.py"))


def test_all_necks_are_run():
    text = "".join(p.read_text() for p in CONFIGS.rglob("*.py"))
    registered = [name for name in necks.__all__ if name in NECKS]
    assert len(registered) > 10
    assert not [name for name in registered if f"type='{name}'" not in text]


@pytest.mark.parametrize("name", LEVELS)
def test_features_of(name, tmp_path, capsys):
    out = tmp_path / "out"
    status = main(["features", "--config", str(CONFIGS / f"{name}.py"), "--size", "64x96",
                   "--device", "cpu", "--out", str(out)])
    _, err = capsys.readouterr()
    assert not err
    assert status == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "features.npz", "features.png", "levels.json", "levels.txt"]

    report = json.loads((out / "levels.json").read_text())
    channels, strides = LEVELS[name]
    channels = channels if isinstance(channels, tuple) else (channels,) * len(strides)
    height, width = report["padded"]
    shapes = [[c, -(-height // s), -(-width // s)] for c, s in zip(channels, strides)]
    assert report["model"] == name
    assert report["photo"] == [75, 64]
    assert [level["shape"] for level in report["levels"]] == shapes
    assert [level["stride"] for level in report["levels"]] == [[s, s] for s in strides]
    counts = ANCHORS.get(name, 3)
    counts = counts if isinstance(counts, tuple) else (counts,) * len(strides)
    assert [level["anchors_per_cell"] for level in report["levels"]] == list(counts)
    assert [level["anchors"] for level in report["levels"]] == [
        n * h * w for n, (_, h, w) in zip(counts, shapes)]

    maps = np.load(out / "features.npz")
    assert sorted(maps) == sorted(f"level{i}" for i in range(len(strides)))
    for i, shape in enumerate(shapes):
        level = maps[f"level{i}"]
        assert list(level.shape) == shape
        assert np.isfinite(level).all()
        assert level.any()
