"""Whole detectors as graphs of ``torch.export`` and as ONNX files that onnxruntime runs."""

import json
import sys
from pathlib import Path

import pytest
import small_detectors
import torch

from fastdet.apis import DetectionProgram, export_onnx, export_program
from fastdet.cli import main
from fastdet.testing import drawn

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")

#: What is traced; what runs are other numbers of images, and other sizes.
TRACED = (160, 192)


def image(*shape):
    return drawn.draw(f"image{shape}", shape).float()


def close(got, want):
    """The same labels in the same order, and what is real to float32's rounding."""
    assert got.keys() == want.keys()
    for name in got:
        at = dict(boxes=1e-2, scores=1e-5, masks=1e-3).get(name, 0)
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=at)
    assert want["counts"].sum() > 0


def run(file, program, img):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file)
    found = session.run(None, {"image": img.numpy()})
    return dict(zip(program.outputs, map(torch.from_numpy, found)))


@pytest.mark.parametrize(("name", "shapes"), [
    ("retinanet", [(2, 3, 96, 128), (1, 3, 128, 160)]),
    ("mask-rcnn", [(2, 3, 96, 128), (1, 3, 128, 160), (3, 3, 100, 130)])])
@torch.no_grad()
def test_onnx(name, shapes, tmp_path):
    pytest.importorskip("onnxscript")
    model = small_detectors.build(name).train()
    model.CLASSES = tuple("abcde")
    file = tmp_path / "model.onnx"
    export_onnx(model, file, TRACED)
    assert model.training
    program = DetectionProgram(model.eval())
    for shape in shapes:
        img = image(*shape)
        close(run(file, program, img), program(img))
    import onnx

    made = onnx.load(file)
    assert {entry.domain for entry in made.opset_import} == {""}  # no operator of anybody's own
    assert json.loads({p.key: p.value for p in made.metadata_props}["classes"]) == list("abcde")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@torch.no_grad()
def test_onnx_of_one_size_with_masks_in_the_image(tmp_path):
    pytest.importorskip("onnxscript")
    model = small_detectors.build("mask-rcnn").eval()
    file, img = tmp_path / "model.onnx", image(2, 3, 96, 128)
    export_onnx(model, file, (96, 128), batch_size=2, dynamic=False, masks="image")
    program = DetectionProgram(model, masks="image")
    got, want = run(file, program, img), program(img)
    assert want["masks"].shape == (2, 20, 96, 128)
    assert (got.pop("masks") != want.pop("masks")).float().mean() < 1e-3
    close(got, want)


@torch.no_grad()
def test_torch_export():
    model = small_detectors.build("faster-rcnn").eval()
    exported = export_program(model, TRACED)
    program = DetectionProgram(model)
    for shape in ((2, 3, 96, 128), (1, 3, 100, 130)):
        got, want = exported.module()(image(*shape)), program(image(*shape))
        torch.testing.assert_close(got, want)
    # A model that was exported holds nothing of the trace.
    assert program(image(1, 3, 64, 64))["counts"].item() >= 0


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    model = small_detectors.build("retinanet")
    with pytest.raises(TypeError, match="Linear has no padded detections"):
        export_program(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"multiples of divisor=32.* 100 x 96"):
        export_program(model, (100, 96), divisor=32)
    with pytest.raises(ValueError, match="more than a cell of the coarsest map, 33 at least"):
        export_program(model, (32, 96))
    with pytest.raises(ValueError, match="masks must be 'boxes', 'image' or None, got 'all'"):
        DetectionProgram(model, masks="all")
    with pytest.raises(ValueError, match="opset must be 18 or newer, got 11"):
        export_onnx(model, tmp_path / "model.onnx", opset=11)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"onnx and onnxscript.*fastdet\[onnx\]"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = small_detectors.build("retinanet").eval()
    Path("config.py").write_text(f"model = {small_detectors.CONFIGS['retinanet']!r}\n")
    torch.save({"state_dict": model.state_dict(), "meta": {"CLASSES": tuple("abcde")}}, "it.pth")
    given = ["export", "config.py", "--checkpoint", "it.pth", "--size", "96x128"]
    assert main([*given, "--out", "it.pt2", "--fixed"]) == 0
    assert "RetinaNet in it.pt2" in capsys.readouterr().out
    img = image(1, 3, 96, 128)
    found = torch.export.load("it.pt2").module()(img)
    torch.testing.assert_close(found, DetectionProgram(model)(img))
    for more, said in ((["--out", "it.tflite"], "must end in .onnx or .pt2"),
                       (["--out", "it.pt2", "--size", "96"], "HEIGHTxWIDTH"),
                       (["--out", "it.pt2", "--divisor", "64"], "multiples of divisor=64")):
        assert main([*given, *more]) == 2
        assert said in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.py", "it.pt2", "it.pth"]
