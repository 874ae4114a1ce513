"""``fastdet.install()``: whose module a name gives, before, meanwhile and after."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdet

pytest.importorskip("fastdet.mmcv", reason="needs the extra mmcv")
from fastdet.cli import main
from fastdet.compat import finder
from fastdet.compat.names import RENAMED, our_module
from fastdet.compat.origin import (
    REPLACED,
    Source,
    fingerprints,
    is_original,
    known_fingerprints,
)
from fastdet.utils import Registry

SWIN = "mmdet.models.backbones.swin"


@pytest.fixture(scope="module")
def original():
    """The folder of MMDetection 2.26.0."""
    spec = importlib.util.find_spec("mmdet")
    if spec is None:
        pytest.skip("needs mmdet 2.26.0")
    return Path(spec.origin).parent


@pytest.fixture
def fork(original, tmp_path, monkeypatch):
    """A repository with a copy of MMDetection whose package imports less than MMDetection's."""
    copy = tmp_path / "mmdet"
    for part in ("models/backbones", "models/utils", "utils", "core/utils"):
        shutil.copytree(original / part, copy / part)
    for name in ("__init__.py", "version.py"):
        shutil.copy(original / name, copy / name)
    for folder in ("core", "core/utils", "models", "models/backbones", "models/utils", "utils"):
        (copy / folder / "__init__.py").write_text("")
    (copy / "models/builder.py").write_text(
        "from mmcv.utils import Registry\nMODELS = Registry('models')\nBACKBONES = MODELS\n")
    (copy / "utils/__init__.py").write_text("from .logger import get_root_logger\n")
    (copy / "models/utils/__init__.py").write_text(
        "from .transformer import PatchEmbed\nfrom .ckpt_convert import pvt_convert\n"
        "from .positional_encoding import SinePositionalEncoding\n"
        "from .res_layer import ResLayer\n")
    monkeypatch.syspath_prepend(tmp_path)
    return copy


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture
def no_mmdet(monkeypatch):
    """As if MMDetection were not installed."""
    monkeypatch.setattr(finder.Finder, "_elsewhere", lambda *_: None)


def test_mmcv_is_ours_under_the_same_module_objects():
    with fastdet.installed() as report:
        import mmcv
        import mmcv.cnn.utils.weight_init as init
        import mmcv.ops.deform_conv
        from mmcv.cnn.bricks.transformer import FFN
        from mmcv.parallel import collate
        from mmcv.runner.fp16_utils import auto_fp16
        from mmcv.utils.config import Config

        assert mmcv is importlib.import_module("fastdet.mmcv")
        assert mmcv.ops.deform_conv is importlib.import_module("fastdet.ops.deform_conv")
        assert init is importlib.import_module("fastdet.cnn.utils.weight_init")
        assert FFN is importlib.import_module("fastdet.cnn.bricks.transformer").FFN
        assert auto_fp16 is importlib.import_module("fastdet.runner").auto_fp16
        assert Config is importlib.import_module("fastdet.utils").Config
        assert callable(collate), "a module took the place of the function of its name"
        assert mmcv.__name__ == "fastdet.mmcv"
        assert mmcv.__spec__.name == "fastdet.mmcv"
        assert fastdet.install() is report
    assert "mmcv" not in sys.modules
    if importlib.util.find_spec("mmcv") is None:
        with pytest.raises(ModuleNotFoundError, match="No module named 'mmcv'"):
            import mmcv


@pytest.mark.parametrize("name", [n for n in RENAMED if n.startswith("mmcv")])
def test_renamed_modules_are_there(name):
    with fastdet.installed():
        assert importlib.import_module(name).__name__ == our_module(name)


def test_a_name_that_nobody_has_says_so():
    with fastdet.installed():
        with pytest.raises(ModuleNotFoundError, match="fastdet stands for mmcv here and has no"):
            import mmcv.no_such_module  # noqa: F401
        with pytest.raises(ImportError, match="cannot import name 'NoSuchName'"):
            from mmcv.ops import NoSuchName  # noqa: F401


@pytest.mark.usefixtures("no_mmdet")
def test_without_mmdetection_its_names_are_ours():
    with fastdet.installed() as report:
        import mmdet
        from mmdet.core.anchor import AnchorGenerator
        from mmdet.models import SwinTransformer
        from mmdet.models.backbones.swin import SwinTransformer as Same

        assert mmdet.__version__ == "2.26.0"
        assert SwinTransformer is Same
        assert SwinTransformer is importlib.import_module("fastdet.models").SwinTransformer
        assert AnchorGenerator.__module__.startswith("fastdet.core")
        for name in ("mmdet.no_such_module", "mmdet.kernels", "mmdet.cli"):
            with pytest.raises(ModuleNotFoundError, match="MMDetection itself is not installed"):
                importlib.import_module(name)
    assert "not installed" in str(report)
    assert "mmdet" not in sys.modules


def test_the_real_mmcv_is_not_pushed_aside(monkeypatch):
    other = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("mmcv", None))
    monkeypatch.setitem(sys.modules, "mmcv", other)
    with pytest.raises(RuntimeError, match="mmcv is already imported"):
        fastdet.install()
    assert not any(isinstance(f, finder.Finder) for f in sys.meta_path)


def test_numpy_gets_its_names_back_and_loses_them_again():
    before = set(vars(np))
    with fastdet.installed() as report:
        assert vars(np)["int"] is int
        assert np.array([1], dtype=vars(np)["float"]).dtype == np.float64
        assert "int" in report.numpy
        assert np.bool in (bool, np.bool_), "NumPy's own name stays"
    assert set(vars(np)) == before


def test_what_others_registered_goes_again():
    from fastdet.cnn import CONV_LAYERS

    before = dict(CONV_LAYERS.module_dict)
    with fastdet.installed():
        from mmcv.cnn import CONV_LAYERS as SAME

        SAME.register_module("Mine", module=int)
        Registry("below", parent=SAME, scope="mine")
        assert CONV_LAYERS.get("Mine") is int
    assert CONV_LAYERS.module_dict == before
    assert "mine" not in CONV_LAYERS.children


def test_the_recorded_fingerprints_are_mmdetections(original):
    assert fingerprints(original) == known_fingerprints()


def test_only_code_counts(fork):
    file = fork / "models/backbones/swin.py"
    file.write_text("# a comment\n" + file.read_text().replace('"""', '"""Another text. ', 1))
    assert is_original(Source(fork), SWIN, "SwinTransformer")


@pytest.mark.parametrize(("file", "old", "new"), [
    ("models/backbones/swin.py", "self.num_heads = num_heads", "self.num_heads = num_heads + 0"),
    ("models/utils/transformer.py", "class PatchEmbed(BaseModule):",
     "class PatchEmbed(BaseModule):\n    mine = 1\n"),
])
def test_a_change_in_what_a_class_builds_is_a_change_of_the_class(fork, file, old, new):
    change(fork / file, old, new)
    source = Source(fork)
    assert not is_original(source, SWIN, "SwinTransformer")
    assert is_original(source, "mmdet.models.backbones.resnet", "ResNet")


def test_mmdetections_own_classes_become_ours(fork):
    with fastdet.installed() as report:
        swin = importlib.import_module(SWIN)
        from mmdet.models.builder import BACKBONES

        ours = importlib.import_module("fastdet.models.backbones.swin").SwinTransformer
        assert swin.SwinTransformer is ours
        assert BACKBONES.get("SwinTransformer") is ours
        assert f"{SWIN}.SwinTransformer" in report.ours
        assert "mmdet.models.backbones.resnet.ResNet" in report.ours
        assert report.mmdet == fork

        @BACKBONES.register_module(force=True)
        class SwinTransformer(ours):
            pass

        assert type(BACKBONES.build({"type": "SwinTransformer", "depths": (1, 1, 1, 1)})) \
            is SwinTransformer, "a user's own class wins"


def test_a_changed_class_stays_and_is_told(fork):
    change(fork / "models/backbones/swin.py", "class SwinTransformer(BaseModule):",
           "class SwinTransformer(BaseModule):\n    mine = True\n")
    change(fork / "models/utils/positional_encoding.py", "self.temperature = temperature",
           "self.temperature = 1 * temperature")
    from fastdet.cnn.bricks.registry import POSITIONAL_ENCODING

    importlib.import_module("fastdet.models")
    mine = POSITIONAL_ENCODING.get("SinePositionalEncoding")
    with fastdet.installed() as report:
        from mmdet.models.backbones.swin import SwinTransformer
        from mmdet.models.builder import BACKBONES
        from mmdet.models.utils.positional_encoding import SinePositionalEncoding

        assert SwinTransformer.mine
        assert BACKBONES.get("SwinTransformer") is SwinTransformer
        assert POSITIONAL_ENCODING.get("SinePositionalEncoding") is SinePositionalEncoding
        assert {f"{SWIN}.SwinTransformer",
                "mmdet.models.utils.positional_encoding.SinePositionalEncoding"
                } <= set(report.theirs)
        assert "mmdet.models.backbones.resnet.ResNet" in report.ours
        assert "stays: mmdet.models.backbones.swin.SwinTransformer" in str(report)
    assert POSITIONAL_ENCODING.get("SinePositionalEncoding") is mine


def test_replaced_parts_are_parts_of_mmdet():
    assert not [part for part in REPLACED if our_module(f"mmdet.{part}") is None]


SCRIPT = """
import multiprocessing, sys
import mmcv

def version(x):
    import mmcv
    return mmcv.__version__

if __name__ == '__main__':
    if 'fail' in sys.argv:
        raise ValueError('my own error')
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        print(sys.argv[1:], sys.path[0], mmcv.__version__, pool.map(version, [0]))
    sys.exit(7)
"""


def run(folder, *args):
    (folder / "script.py").write_text(SCRIPT)
    root = Path(fastdet.__file__).parents[1]
    return subprocess.run([sys.executable, "-m", "fastdet", "run", *args], cwd=folder, text=True,
                          capture_output=True, check=False, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(root)})


def test_a_script_runs_and_so_does_what_it_spawns(tmp_path):
    done = run(tmp_path, "script.py", "--help", "-m", "x")
    assert done.returncode == 7, done.stderr
    assert done.stdout.strip() == f"['--help', '-m', 'x'] {tmp_path} 1.7.2 ['1.7.2']"


def test_a_module_runs_and_its_error_is_its_own(tmp_path):
    done = run(tmp_path, "-m", "script", "fail")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.rstrip().endswith("ValueError: my own error")
    assert "fastdet" not in done.stderr


@pytest.mark.parametrize(("args", "message"), [
    (["none.py"], "there is no script none.py"),
    (["-m", "no.such"], "there is no module no.such"),
])
def test_a_script_that_is_not_there_is_named(args, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["run", *args]) == 2
    assert message in capsys.readouterr().err
