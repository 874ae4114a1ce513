"""Helpers: sequences, versions, progress, registries, names of compiled operators."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

mmcv = pytest.importorskip("fastdet.mmcv", reason="needs the extra mmcv")
from fastdet.utils import Registry  # noqa: E402

FACTS = json.loads((Path(__file__).parent / "mmcv-1.7.2.json").read_text())


@pytest.mark.parametrize(("text", "expected"), FACTS["digit_version"])
def test_versions_compare_as_in_mmcv(text, expected):
    assert list(mmcv.digit_version(text)) == expected


def test_the_version_passes_the_gates_of_mmdetection():
    assert mmcv.__version__ == "1.7.2"
    low, high = (mmcv.digit_version(v) for v in ("1.3.17", "1.8.0"))
    assert low <= mmcv.digit_version(mmcv.__version__) <= high


def test_every_public_name_is_there():
    for module in (mmcv, mmcv.image, mmcv.utils, mmcv.fileio, mmcv.video, mmcv.parallel,
                   mmcv.visualization, mmcv.runner):
        assert not [n for n in module.__all__ if not hasattr(module, n)]


def test_sequences():
    assert mmcv.slice_list([1, 2, 3, 4], [1, 3]) == [[1], [2, 3, 4]]
    assert mmcv.slice_list([1, 2, 3, 4], 2) == [[1, 2], [3, 4]]
    parts = mmcv.slice_list(np.arange(3), [1, 2])
    assert isinstance(parts[1], np.ndarray), "a part of an array is an array"
    assert mmcv.concat_list([[1], [2, 3]]) == [1, 2, 3]
    assert mmcv.is_list_of([1, 2], int)
    assert not mmcv.is_tuple_of([1, 2], int)
    assert mmcv.utils.to_2tuple(3) == (3, 3)
    with pytest.raises(ValueError, match="3 != 4"):
        mmcv.slice_list([1, 2, 3, 4], [1, 2])


def test_deprecated_arguments_still_work():
    @mmcv.deprecated_api_warning({"old": "new"}, cls_name="C")
    def f(new=0):
        return new

    with pytest.warns(DeprecationWarning, match=r"'old' is deprecated in C\.f"):
        assert f(old=3) == 3
    with pytest.raises(AssertionError, match="both 'old'"):
        f(1, old=3)


def test_modules_by_name():
    assert mmcv.import_modules_from_strings(["json", "os.path"])[0] is json
    with pytest.raises(ImportError, match="no_such_module"):
        mmcv.import_modules_from_strings(["no_such_module"])
    with pytest.warns(UserWarning, match="no_such_module"):
        assert mmcv.import_modules_from_strings("no_such_module", True) is None


def test_progress_is_shown():
    file = io.StringIO()
    assert mmcv.track_progress(lambda x, k: x + k, [1, 2], file=file, k=1) == [2, 3]
    assert "2/2" in file.getvalue()
    assert file.getvalue().endswith("\n")
    file = io.StringIO()
    assert mmcv.track_parallel_progress(abs, [-1, -2, -3], 2, file=file) == [1, 2, 3]
    assert "3/3" in file.getvalue()


def test_a_timer_must_run():
    with pytest.raises(mmcv.TimerError, match="timer is not running"):
        mmcv.Timer(start=False).since_start()
    assert mmcv.Timer().since_last_check() >= 0


def test_a_logger_is_set_up_once(tmp_path):
    name = "test_a_logger_is_set_up_once"
    logger = mmcv.get_logger(name, str(tmp_path / "log"))
    try:
        assert mmcv.get_logger(f"{name}.child") is not logger
        assert mmcv.get_logger(name) is logger
        mmcv.print_log("words", name)
        assert f"{name} - INFO - words" in (tmp_path / "log").read_text()
        with pytest.raises(TypeError, match="logger should be"):
            mmcv.print_log("words", 3)
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logging.Logger.manager.loggerDict.pop(name)
        mmcv.utils.logging.logger_initialized.pop(name)


def test_registries_have_parents_and_children():
    root = Registry("model", scope="mmcv", build_func=lambda cfg, registry: (cfg, registry.name))
    child = Registry("models", parent=root)
    assert child.scope == __name__.partition(".")[0]
    assert root.children == {child.scope: child}
    root.register_module("A", module=int)
    child.register_module("B", module=str)
    assert child.get("A") is int
    assert child.get(f"{child.scope}.B") is str
    assert root.get(f"{child.scope}.B") is str
    assert child.get("mmcv.A") is int
    assert root.get("B") is None
    assert child.build("cfg") == ("cfg", "models"), "the parent's way to build"


def test_compiled_functions_by_name():
    ext = mmcv.utils.ext_loader.load_ext(
        "_ext", ["ms_deform_attn_forward", "ms_deform_attn_backward", "three_nn_forward"])
    from fastdet.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = torch.tensor([[3, 4], [2, 2]])
    start = torch.tensor([0, 12])
    value = torch.randn(1, 16, 2, 4, requires_grad=True)
    places = torch.rand(1, 3, 2, 2, 2, 2, requires_grad=True)
    weights = torch.rand(1, 3, 2, 2, 2, requires_grad=True)
    expected = multi_scale_deformable_attn_pytorch(value, shapes, places, weights)
    out = ext.ms_deform_attn_forward(value, shapes, start, places, weights, im2col_step=64)
    torch.testing.assert_close(out, expected)
    assert not out.requires_grad
    grad = torch.randn_like(out)
    inputs = (value, places, weights)
    grads = [torch.zeros_like(t) for t in inputs]
    ext.ms_deform_attn_backward(value, shapes, start, places, weights, grad, *grads, im2col_step=64)
    for got, want in zip(grads, torch.autograd.grad(expected, inputs, grad)):
        torch.testing.assert_close(got, want)
    with pytest.raises(NotImplementedError, match="three_nn_forward has no counterpart"):
        ext.three_nn_forward()


def test_what_is_not_served_says_so():
    from fastdet.mmcv.device.npu import NPUDataParallel
    from fastdet.mmcv.tensorrt import TRTWraper, is_tensorrt_plugin_loaded, onnx2trt

    assert not is_tensorrt_plugin_loaded()
    for call in (TRTWraper, onnx2trt, lambda: NPUDataParallel(torch.nn.Linear(1, 1))):
        with pytest.raises(NotImplementedError, match="is not available: "):
            call()
