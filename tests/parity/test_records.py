"""Every component against the golden records of MMDetection 2.26.0."""

import json
import math
from pathlib import Path

import pytest
import torch

import fastdet
from fastdet.testing import golden

RECORDS = Path(__file__).parents[1] / "golden"


def kernel_records():
    """Records of components that run Triton kernels, small enough for the interpreter."""
    for path in golden.records(RECORDS, "anchor__*"):
        if "float64" not in json.dumps(golden.load(path)["calls"]):  # no kernel writes it
            yield path
    yield from golden.records(RECORDS, "backbone__swin-exact")
    yield from golden.records(RECORDS, "backbone__swin-patch2-cp")


def name(path):
    return path.name.removesuffix(".json.gz")


def test_there_are_records():
    assert len(golden.records(RECORDS)) == 245


@pytest.mark.parametrize("path", golden.records(RECORDS), ids=name)
def test_float64(path):
    case = golden.load(path)
    assert golden.mismatches(case, golden.run(case)) == []


@pytest.mark.parametrize("path", golden.records(RECORDS, "anchor__retina"), ids=name)
def test_a_wrong_number_is_found(path):
    case = golden.load(path)
    values = next(iter(case["want"]["results"][2].values()))["values"]
    values[7] = math.nextafter(values[7], math.inf)
    assert len(golden.mismatches(case, golden.run(case))) == 1


@pytest.mark.kernel
@pytest.mark.parametrize("path", list(kernel_records()), ids=name)
def test_kernels_float32(path, kernel_device):
    """A whole component on its kernels loses no more than twice what torch loses in float32."""
    case = golden.load(path)
    if case["form"] == "calls":
        moved = json.loads(json.dumps(case).replace('"cpu"', json.dumps(str(kernel_device))))
        assert golden.mismatches(case, golden.run(moved, device=kernel_device)) == []
        return
    got = golden.run(case, torch.float32, kernel_device)
    with fastdet.backend("torch"):
        torchs = golden.run(case, torch.float32, kernel_device)
    for part in ("outputs", "input_grads", "param_grads"):
        for key, want in case["want"][part].items():
            lost = golden.error(want, torchs[part][key])
            assert golden.error(want, got[part][key]) <= 2 * lost + 1e-5, key
