"""MMDetection's own detectors on fastdet: the zoo's state dicts, and whole-detector records.

The plain suite takes a model of each class and four records; ``make mmdetection`` takes them all.
"""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORDS = ROOT / "tests" / "golden" / "detectors"

pytestmark = [
    pytest.mark.mmdetection,
    pytest.mark.skipif(importlib.util.find_spec("mmdet") is None,
                       reason="MMDetection is not installed: pip install mmdet==2.26.0"),
]


def differences(*args):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "through_mmdet.py"), *args], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: found for name, found in json.loads(done.stdout.splitlines()[-1]).items()
            if found}


def one_of_each_class():
    rows = json.loads(gzip.decompress((RECORDS / "zoo-models.json.gz").read_bytes()))
    return list({row["model"]["type"]: row["files"][0] for row in reversed(rows)}.values())


def test_a_model_of_each_class_has_its_state_dict():
    assert differences("zoo", *one_of_each_class()) == {}


def test_whole_detectors():
    names = ("retinanet", "faster-rcnn", "fcos", "mask-rcnn-swin")
    assert differences("records", *(f"detector__{name}" for name in names)) == {}


@pytest.mark.records
def test_every_model_of_the_zoo():
    assert differences("zoo") == {}


@pytest.mark.records
@pytest.mark.parametrize("name", sorted(
    path.name.removesuffix(".json.gz") for path in RECORDS.glob("detector__*")))
def test_every_detector(name):
    assert differences("records", name) == {}
