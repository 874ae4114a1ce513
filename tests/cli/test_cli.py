"""The command line: what it prints, what it writes, and one sentence for every bad input."""

import builtins
import json
import re
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from PIL import Image

import fastdet
from fastdet.cli import features, main, picture, pipeline
from fastdet.cli.backends import expected_backend, operators, record_choices
from fastdet.cli.console import plain_table
from fastdet.cli.image import Normalization, normalization_of, normalize, parse_size, resize
from fastdet.cli.model import build, model_config, without_weights
from fastdet.cli.presets import PRESETS, preset

MODEL = """
model = dict(
    backbone=dict(type='ResNet', depth=18, out_indices=(0, 1, 2, 3), norm_eval=True,
                  init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=16, num_outs=5),
    rpn_head=dict(anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0],
                                        strides=[4, 8, 16, 32, 64])))
"""
FILES = ["features.npz", "features.png", "levels.json", "levels.txt"]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def config(tmp_path):
    def write(text=MODEL, name="tiny.py"):
        path = tmp_path / name
        path.write_text(text)
        return path
    return write


@pytest.fixture
def cli(capsys, tmp_path, photo):
    """Runs ``fastdet`` on the small photograph; gives status, output and error."""
    def run(*args, image=None):
        head, *rest = map(str, args)
        if head == "features":
            defaults = {"--size": "64x96", "--out": tmp_path / "out", "--device": "cpu"}
            rest = [str(image or photo), *rest]
            for key, value in defaults.items():
                if not any(arg.startswith(key) for arg in rest):
                    rest += [key, str(value)]
        status = main([head, *rest])
        out, err = capsys.readouterr()
        return status, out, err
    return run


def assert_refused(result, *parts):
    status, _, err = result
    assert status == 2, err
    assert err.startswith("fastdet: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def test_version_and_help(capsys):
    for argument, part in (("--version", fastdet.__version__), ("--help", "features")):
        with pytest.raises(SystemExit) as done:
            main([argument])
        assert done.value.code == 0
        assert part in capsys.readouterr().out


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "fastdet", "--version"], capture_output=True,
                          text=True, check=True)
    assert done.stdout == f"fastdet {fastdet.__version__}\n"


def test_bad_arguments(cli):
    assert_refused(cli("fly"), "fly", "--help")
    assert_refused(cli("features", "--model", "r50_fpn", "--config", "x.py"), "not allowed with")
    assert_refused(cli("features", "--seed", "many"), "many")


def test_env(cli):
    status, out, _ = cli("env")
    assert status == 0
    for part in (fastdet.__version__, torch.__version__, np.__version__, "cpu", *operators()):
        assert part in out
    assert operators()


def test_env_without_rich_and_triton(cli, monkeypatch):
    import importlib.metadata

    known = importlib.metadata.version

    def version(name):
        if name in ("triton", "rich"):
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    status, out, _ = cli("env")
    assert status == 0
    assert re.search(r"triton +none \(", out)
    assert re.search(r"rich +none \(pip install 'fastdet\[cli\]'\)", out)


def test_expected_backend():
    cpu = torch.device("cpu")
    with fastdet.backend("torch"):
        assert expected_backend(cpu) == ("torch", "the torch backend was asked for")
    with fastdet.backend("auto"):
        assert expected_backend(cpu)[0] == "torch"
        assert expected_backend(torch.device("meta")) == (
            "torch", "there are no Triton kernels for meta devices")
    with fastdet.backend("triton"):
        assert expected_backend(torch.device("meta"))[0] == "error"


def test_choices_are_those_of_the_calls():
    from fastdet.kernels.valid_flags import op

    decide = op.use_triton
    with record_choices() as choices:
        for _ in range(2):
            assert not op.use_triton("valid_flags", torch.device("cpu"), "too odd")
    assert op.use_triton is decide
    assert choices["valid_flags"]["torch"][0] == 2


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_build(name):
    parts = build(name, preset(name))
    assert list(parts) == ["backbone", "neck"]


def test_list_models(cli):
    status, out, _ = cli("features", "--list-models")
    assert status == 0
    assert all(name in out for name in PRESETS)


def test_a_run_from_a_config(cli, config, tmp_path):
    status, out, err = cli("features", "--config", config())
    assert (status, err) == (0, "")
    folder = tmp_path / "out"
    assert sorted(p.name for p in folder.iterdir()) == FILES
    report = json.loads((folder / "levels.json").read_text())
    assert report["photo"] == [64, 85]
    assert report["padded"] == [64, 96]
    assert report["weights"] == "random weights"
    shapes = [[16, -(-64 // s), -(-96 // s)] for s in (4, 8, 16, 32, 64)]
    assert [level["shape"] for level in report["levels"]] == shapes
    assert [level["anchors"] for level in report["levels"]] == [2 * h * w for _, h, w in shapes]
    assert set(report["milliseconds"]) == {"backbone", "neck"}
    assert "grid_priors" in report["operators"]
    maps = np.load(folder / "features.npz")
    assert [list(maps[f"level{i}"].shape) for i in range(5)] == shapes
    assert Image.open(folder / "features.png").size[0] > 1000
    assert "P6" in (folder / "levels.txt").read_text()
    assert "P6" in out
    assert not list(tmp_path.glob(".*"))


def test_a_run_of_a_preset_is_repeatable(cli, tmp_path):
    runs = []
    for out in ("a", "b"):
        assert cli("features", "--model", "r18_fpn", "--out", tmp_path / out)[0] == 0
        runs.append(np.load(tmp_path / out / "features.npz")["level4"])
    assert np.array_equal(*runs)
    assert np.isfinite(runs[0]).all()


def test_the_picture_of_an_upright_photograph(cli, config, tmp_path):
    path = tmp_path / "upright.png"
    Image.new("L", (40, 90), 128).save(path)
    assert cli("features", "--config", config(), image=path)[0] == 0
    width, height = Image.open(tmp_path / "out" / "features.png").size
    assert width > height


def test_a_config_without_neck_and_anchors(cli, config, tmp_path):
    text = "model = dict(backbone=dict(type='ResNet', depth=18, out_indices=(2, 3)))"
    assert cli("features", "--config", config(text))[0] == 0
    report = json.loads((tmp_path / "out" / "levels.json").read_text())
    assert [level["stride"] for level in report["levels"]] == [[16, 16], [32, 32]]
    assert [level["anchors_per_cell"] for level in report["levels"]] == [3, 3]


def test_a_chain_of_necks(cli, config):
    text = MODEL.replace("neck=dict(", "neck=[dict(").replace(
        "num_outs=5)", "num_outs=5), dict(type='BFP', in_channels=16, num_levels=5)]")
    assert cli("features", "--config", config(text))[0] == 0


def test_anchors_for_other_levels_are_not_drawn(cli, config):
    status, _, err = cli("features", "--config", config(MODEL.replace(", 64])", "])")))
    assert status == 0
    assert "the config's anchors are for 4 levels, the model has 5" in err


def test_checkpoint(cli, config, tmp_path):
    parts = build("tiny", model_config("", str(config()))[1])
    state = {f"module.{k}": torch.zeros_like(v) for k, v in parts.state_dict().items()}
    state["module.rpn_head.weight"] = torch.zeros(1)
    whole, part, other = (tmp_path / f"{n}.pth" for n in ("whole", "part", "other"))
    torch.save({"state_dict": state}, whole)
    status, _, err = cli("features", "--config", config(), "--checkpoint", whole)
    assert (status, err) == (0, "")
    assert not np.load(tmp_path / "out" / "features.npz")["level0"].any()
    assert json.loads((tmp_path / "out" / "levels.json").read_text())["weights"] == "whole.pth"

    state.pop("module.neck.fpn_convs.0.conv.bias")
    state["module.neck.extra"] = torch.zeros(1)
    torch.save(state, part)
    status, _, err = cli("features", "--config", config(), "--checkpoint", part)
    assert status == 0
    assert "missing keys in source state_dict: neck.fpn_convs.0.conv.bias\n" in err
    assert "unexpected key in source state_dict: neck.extra\n" in err

    torch.save({"head.weight": torch.zeros(1)}, other)
    assert_refused(cli("features", "--config", config(), "--checkpoint", other),
                   "no weights of this model", "'head.weight'")
    assert_refused(cli("features", "--config", config(), "--checkpoint", tmp_path / "none.pth"),
                   "none.pth")
    other.write_text("no checkpoint")
    assert_refused(cli("features", "--config", config(), "--checkpoint", other), "other.pth")


@pytest.mark.parametrize(("text", "parts"), [
    ("import os", ["tiny.py:1", "an import"]),
    ("x = (", ["tiny.py:1", "not Python"]),
    ("x = 1", ["no model with a backbone"]),
    ("model = dict(backbone=dict(type='ResNot', depth=18))", ["backbone", "ResNot", "ResNet"]),
    ("model = dict(backbone=dict(depth=18))", ["backbone", "type"]),
    ("model = dict(backbone=dict(type='ResNet', depth=17))", ["backbone", "17"]),
    ("model = dict(backbone=dict(type='ResNet', depth=18, out_indices=(0, 9)))", ["backbone", "9"]),
    ("model = dict(backbone=dict(type='ResNet', depth=18, deep=1))", ["backbone", "deep"]),
    (MODEL.replace("type='FPN'", "type='FPM'"), ["neck", "FPM"]),
    (MODEL.replace("512]", "99]"), ["neck of tiny.py", "cannot run on a 96x64 image"]),
    (MODEL.replace("scales=[8]", "scale=[8]"), ["anchor generator", "scale"]),
    (MODEL + "img_norm_cfg = dict(mean=[1], std=[1, 1, 1])", ["three means"]),
    (MODEL + "img_norm_cfg = 3", ["img_norm_cfg must be a dict"]),
])
def test_bad_configs(cli, config, tmp_path, text, parts):
    assert_refused(cli("features", "--config", config(text)),
                   *(p.replace("tiny.py", "tiny") if "neck of" in p else p for p in parts))
    assert not (tmp_path / "out").exists()


def test_bad_files(cli, photo, tmp_path):
    assert_refused(cli("features", "--config", photo), ".py or a .json")
    assert_refused(cli("features", "--config", tmp_path / "none.py"), "no such config file")
    assert_refused(cli("features", image=tmp_path / "none.jpg"), "there is no image file")
    text = tmp_path / "photo.jpg"
    text.write_text("no image")
    assert_refused(cli("features", image=text), "is not an image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(photo.read_bytes()[:2000])
    assert_refused(cli("features", image=cut), "is not an image")


@pytest.mark.parametrize("size", ["800", "0x0", "axb", "800x", "-1x5", "16x64", "800x99999"])
def test_bad_sizes(cli, size):
    assert_refused(cli("features", f"--size={size}"), "--size", size)


def test_bad_models_and_devices(cli, monkeypatch):
    assert_refused(cli("features", "--model", "r50"), "unknown model 'r50'", "r50_fpn")
    assert_refused(cli("features", "--device", "tpu9"), "device 'tpu9'")
    if not torch.cuda.is_available():
        assert_refused(cli("features", "--device", "cuda"), "device 'cuda' is not available")


@pytest.mark.parametrize(("module", "package"),
                         [("PIL.Image", "pillow"), ("matplotlib", "matplotlib")])
def test_missing_extras(cli, monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    assert_refused(cli("features"), f"needs {package}", "pip install 'fastdet[cli]'")


def test_a_place_that_cannot_be_written(cli, config, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("mine")
    assert_refused(cli("features", "--config", config(), "--out", file), "is a file")
    assert_refused(cli("features", "--config", config(), "--out", file / "sub"), "is below", "a file")
    assert file.read_text() == "mine"

    def refuse(**kwargs):  # permissions do not bind root, whom tests may run as
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert_refused(cli("features", "--config", config()), "cannot write", "Permission denied")
    assert not (tmp_path / "out").exists()


def test_nothing_is_half_written(cli, config, tmp_path, monkeypatch):
    assert cli("features", "--config", config())[0] == 0

    def content():
        return {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    before = content()

    def fail(result, path):
        path.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picture, "draw", fail)
    for out in ("out", "new"):
        assert_refused(cli("features", "--config", config(), "--seed", 1, "--out", tmp_path / out),
                       "No space left")
    assert content() == before
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*"))


def test_an_error_of_our_own_and_debug(cli, monkeypatch):
    def fail(args):
        raise ZeroDivisionError("first\nsecond")

    monkeypatch.setattr(features, "run", fail)
    status, _, err = cli("features")
    assert status == 1
    assert err == ("fastdet: error: unexpected ZeroDivisionError: first "
                   "(FASTDET_DEBUG=1 shows where)\n")
    monkeypatch.setenv("FASTDET_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli("features")


def test_resize_fits_the_limits():
    photo = np.zeros((600, 512, 3), dtype=np.uint8)
    assert resize(photo, (800, 1333)).shape == (938, 800, 3)
    assert resize(photo.transpose(1, 0, 2), (800, 900)).shape == (768, 900, 3)
    assert resize(np.full((1, 500, 3), 7, np.uint8), (64, 64)).shape == (1, 64, 3)
    flat = resize(np.full((9, 7, 3), 7, np.uint8), (64, 96))
    assert (flat == 7).all()


def test_normalisation():
    photo = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    usual = normalize(photo, Normalization())
    assert usual.shape == (1, 3, 32, 32)
    assert usual[0, 0, 0, 0] == torch.tensor((0 - 123.675) / 58.395)
    assert not usual[..., 2:, :].any()
    assert not usual[..., 3:].any()
    caffe = normalize(photo, Normalization((103.53, 116.28, 123.675), (1, 1, 1), False, 2))
    assert caffe.shape == (1, 3, 2, 4)
    assert caffe[0, 0, 0, 0] == torch.tensor(2 - 103.53)  # blue first


def test_normalisation_of_a_config():
    assert normalization_of({}) == Normalization()
    norm = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=False)
    want = Normalization((1, 2, 3), (4, 5, 6), False)
    assert normalization_of({"img_norm_cfg": norm}) == want
    steps = [dict(type="MultiScaleFlipAug", transforms=[
        dict(type="Normalize", **norm), dict(type="Pad", size_divisor=64)])]
    want = Normalization((1, 2, 3), (4, 5, 6), False, 64)
    assert normalization_of({"test_pipeline": steps}) == want
    assert normalization_of({"data": {"test": {"pipeline": steps}}}) == want
    pre = dict(mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=False, pad_size_divisor=64)
    assert normalization_of({"model": {"data_preprocessor": pre}}) == want


def test_parse_size():
    assert parse_size("1333x800") == parse_size("800x1333") == (800, 1333)


@pytest.mark.parametrize(("padded", "size", "want"), [
    ((800, 1344), (200, 336), 4), ((800, 1344), (13, 21), 64), ((800, 1344), (7, 11), 128),
    ((480, 416), (8, 7), 64), ((224, 224), (16, 16), 14), ((32, 32), (64, 64), 1),
])
def test_strides(padded, size, want):
    assert pipeline._stride(padded, size) == want


def test_tables_without_rich(capsys, monkeypatch):
    real = builtins.__import__

    def no_rich(name, *args, **kwargs):
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_rich)
    assert main(["features", "--list-models"]) == 0
    assert "swin_t_fpn" in capsys.readouterr().out
    assert plain_table(("a", "bb"), [("ccc", "d")]) == "a    bb\n---  --\nccc  d"
