"""The command line: what it prints, what it writes, and one sentence for every bad input."""

import builtins
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image

import fastdet
from fastdet.cli import features, main, picture, pipeline
from fastdet.cli.backends import expected_backend, operators, record_choices
from fastdet.cli.console import plain_table
from fastdet.cli.errors import CliError
from fastdet.cli.image import (
    read_photo,
)
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
    for seed in ("many", "1" * 23, "-1", "9" * 9999):
        assert_refused(cli("features", f"--seed={seed}"), "--seed", "from 0 to 2**64 - 1", seed)


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


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, whose axes tests look at."""
    figures = []

    def save(figure, path):
        figures.append(figure)
        path.write_bytes(b"")

    monkeypatch.setattr(picture.Figure, "savefig", save)
    return figures


def visible_boxes(axes):
    """For each drawn box whether it lies in the axes' view."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for collection in axes.collections:
        if isinstance(collection, picture.LineCollection):
            for box in collection.get_segments():
                yield (box[:, 0].min() >= left and box[:, 0].max() <= right
                       and box[:, 1].min() >= top and box[:, 1].max() <= bottom)


@pytest.mark.parametrize(("size", "limits"), [
    ((600, 400), "256x384"), ((30, 40), "32x48"), ((20000, 10), "800x1333"), ((10, 900), "64x96"),
])
def test_what_the_picture_shows(cli, config, drawn, tmp_path, size, limits):
    path = tmp_path / "photo.png"
    Image.new("RGB", size, (90, 120, 60)).save(path)
    assert cli("features", "--config", config(), "--size", limits, image=path)[0] == 0
    (figure,) = drawn
    width, height = figure.get_size_inches()
    assert 0.3 < width / height < 4
    assert width < 24
    assert height < 24
    with_boxes = [list(visible_boxes(axes)) for axes in figure.axes]
    with_boxes = [boxes for boxes in with_boxes if boxes]
    assert all(map(all, with_boxes)), "an anchor is cut off"
    assert len(with_boxes) >= 5
    texts = [t.get_text() for axes in figure.axes for t in axes.texts]
    cells = json.loads((tmp_path / "out" / "levels.json").read_text())["levels"]
    single = sum(level["shape"][1:] == [1, 1] for level in cells)
    assert texts == ["one cell:\nno map to draw"] * single
    if limits == "256x384":
        assert len(with_boxes) > 5, "specks are not shown enlarged"
    assert any("drawn thicker" in t.get_text() for t in figure.texts) == (min(size) == 10)


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


INF = float("inf")


@pytest.mark.parametrize(("checkpoint", "parts"), [
    ({1: torch.zeros(1)}, ["the keys of a state dict must be", "int 1"]),
    ({"state_dict": {1: torch.zeros(1)}}, ["the keys of a state dict must be", "int 1"]),
    ({"backbone.conv1.weight": "x"}, ["'backbone.conv1.weight' is a str, not a tensor"]),
    ({"backbone.conv1.weight": torch.full((64, 3, 7, 7), float("nan"))},
     ["holds NaN or infinity, first in 'backbone.conv1.weight'"]),
    ({"backbone.conv1.weight": torch.full((64, 3, 7, 7), INF)}, ["holds NaN or infinity"]),
    ({"backbone.conv1.weight": torch.full((64, 3, 7, 7), 1e38)},
     ["gives NaN or infinity on level 0, 1, 2, 3, 4 of 5; nothing is written"]),
    ([1], ["holds a list"]),
])
def test_bad_checkpoints(cli, config, tmp_path, checkpoint, parts):
    path = tmp_path / "bad.pth"
    torch.save(checkpoint, path)
    status, out, err = cli("features", "--config", config(), "--checkpoint", path)
    assert status == 2
    assert not out
    last = err.splitlines()[-1]
    assert last.startswith("fastdet: error: ")
    assert all(part in last for part in parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("metadata", [3, {"backbone": 3}, {1: {"version": 1}}])
def test_odd_metadata_of_a_checkpoint(cli, config, tmp_path, metadata):
    state = build("tiny", model_config("", str(config()))[1]).state_dict()
    state._metadata = metadata
    torch.save(state, tmp_path / "odd.pth")
    status, _, err = cli("features", "--config", config(), "--checkpoint", tmp_path / "odd.pth")
    assert status in (0, 2)  # what is read all the same is right
    assert "unexpected" not in err
    assert err.count("\n") <= 1


LOADS = dict(type="Pretrained", checkpoint="http://example.org/w.pth")


@pytest.mark.parametrize("form", [
    dict(init_cfg=LOADS), dict(init_cfg=[LOADS]), dict(init_cfg=(LOADS,)),
    dict(init_cfg=dict(type="Kaiming", layer="Conv2d", override=dict(name="conv1", **LOADS))),
    dict(init_cfg=[dict(type="Kaiming", layer="Conv2d",
                        override=[dict(name="conv1", **LOADS)])]),
    dict(pretrained="http://example.org/w.pth"), dict(pretrained="torchvision://resnet18"),
    dict(init_cfg=dict(checkpoint="http://example.org/w.pth")),
    dict(plugins=[dict(cfg=dict(type="ContextBlock", ratio=0.25, init_cfg=[LOADS]), position=
                       "after_conv2", stages=(False, False, False, True))], depth=50),
], ids=str)
def test_no_address_is_opened(cli, config, tmp_path, monkeypatch, form):
    asked = []

    def download(address, **kwargs):
        asked.append(address)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    backbone = dict(type="ResNet", depth=18, out_indices=(2, 3)) | form
    path = config(f"model = dict(backbone={backbone!r})")
    status, _, err = cli("features", "--config", path)
    assert (status, err, asked) == (0, "", [])
    if "plugins" not in form:  # a context block initialises itself
        result = cli("features", "--config", path, "--allow-download")
        assert result[0] == 2 or "checkpoint" in form.get("init_cfg", ())
        if asked:
            assert_refused(result, "://", "no route to host")


def test_an_address_in_an_unknown_place(cli, config):
    text = "model = dict(backbone=dict(type='ResNet', depth=18, weights='s3://bucket/w.pth'))"
    assert_refused(cli("features", "--config", config(text)), "s3://bucket/w.pth",
                   "--allow-download")
    assert_refused(cli("features", "--config", config(text), "--allow-download"), "weights")


def test_without_weights_keeps_the_rest():
    init = [dict(type="Kaiming", layer="Conv2d"), LOADS]
    assert without_weights(dict(a=[dict(init_cfg=init)], depth=1)) == dict(
        a=[dict(init_cfg=init[:1])], depth=1)
    assert without_weights(dict(init_cfg=[LOADS], x=())) == dict(x=())


def test_a_checkpoint_that_cannot_be_fetched(cli, config, monkeypatch):
    def download(address, **kwargs):
        raise urllib.error.HTTPError(address, 404, "Not Found", None, None)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    assert_refused(cli("features", "--config", config(), "--checkpoint", "http://a.org/b.pth"),
                   "http://a.org/b.pth", "404")


def test_a_folder_where_a_file_is_to_be(cli, config, tmp_path, monkeypatch):
    assert cli("features", "--config", config())[0] == 0
    out = tmp_path / "out"
    (out / "levels.txt").unlink()
    before = {name: (out / name).read_bytes() for name in FILES[:-1]}
    (out / "levels.txt").mkdir()
    (out / "levels.txt" / "mine").write_text("")
    assert_refused(cli("features", "--config", config(), "--seed", 1), "levels.txt is a folder")
    monkeypatch.setattr(features, "_check_out", lambda out: None)
    monkeypatch.setattr(features.Path, "exists", lambda path: path.name != "levels.txt")
    assert_refused(cli("features", "--config", config(), "--seed", 1), "cannot write")
    monkeypatch.undo()
    assert {name: (out / name).read_bytes() for name in FILES[:-1]} == before
    assert (out / "levels.txt" / "mine").exists()


@pytest.mark.parametrize("where", ["fastdet.cli.features", "torch"])
def test_an_interrupt_during_import(where):
    code = f"""
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {where!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
sys.argv = ['fastdet', 'features', '--list-models']
import fastdet.__main__
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_bad_backend_at_the_command_line():
    done = subprocess.run([sys.executable, "-m", "fastdet", "env"], capture_output=True, text=True,
                          check=False, env={**os.environ, "FASTDET_BACKEND": "bogus"})
    assert done.returncode == 2
    assert re.fullmatch(r"fastdet: error: FASTDET_BACKEND: .*'bogus'.*\n", done.stderr)


@pytest.mark.parametrize(("text", "parts"), [
    ("import os", ["tiny.py:1", "an import"]),
    ("x = (", ["tiny.py:1", "not Python"]),
    ("x = 1", ["no model with a backbone"]),
    ("model = dict(backbone=dict(type='ResNot', depth=18))", ["backbone", "ResNot", "ResNet"]),
    ("model = dict(backbone=dict(depth=18))", ["backbone", "type"]),
    ("model = dict(backbone=dict(type='ResNet', depth=17))",
     ["cannot be built: ResNet has no depth 17"]),
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
    assert_refused(cli("features", "--config", photo), ".py, .json, .yaml or .yml")
    assert_refused(cli("features", "--config", tmp_path / "none.py"), "no such config file")
    assert_refused(cli("features", image=tmp_path / "none.jpg"), "there is no image file")
    assert_refused(cli("features", image=tmp_path), "is a folder, not an image")
    with pytest.raises(CliError, match="IMAGE is an empty name"):
        read_photo("")
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
    assert_refused(cli("features", "--config", config(), "--out", file / "sub"),
                   "is below", "a file")
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
