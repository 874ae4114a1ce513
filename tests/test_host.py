"""What calls of operators cost the host: counted, since a count is the same on every machine."""

import sys

import pytest

from benchmarks import host
from benchmarks.registry import ENTRIES
from fastdet.kernels import bound
from fastdet.kernels.autograd import Operator
from fastdet.kernels.dispatch import interpreting

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(interpreting() or bound._triton() is None,
                                reason="kernels are bound by Triton itself")

OPERATORS = [name for name, entry in ENTRIES.items() if entry.kind == "operator"]
#: Function calls, Python's and C's, for each launch and two more; fifty are about 0.4 of an
#: ``F.gelu`` there and back (``python -m benchmarks.host``). These are what they are today and a
#: tenth: lower them when they fall.
MOST = {
    "add_layer_norm": 54, "carafe": 40, "deform_conv2d": 41, "depthwise_conv_tokens": 42,
    "draw_gaussian": 38, "dyhead_attention": 49, "dyhead_convs": 45, "dynamic_conv": 52,
    "dyrelu": 44, "focal_losses": 46, "gaussian_targets": 37, "gelu_linear": 43,
    "grid_points": 41, "grid_priors": 43, "max_iou_assign": 29, "merge_layer_norm": 43,
    "multi_scale_deformable_attention": 47, "nms": 30, "roi_align": 42, "roi_align_max": 42,
    "spatial_reduction_attention": 45, "valid_flags": 62, "window_attention": 48,
}
#: Of one that is not there yet.
USUAL = 60


def calls(name, stub):
    """Function calls of one warm call, forward and backward, for each launch and two more."""
    entry, count = ENTRIES[name], 0

    def profile(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    call = host.call(entry, backward=entry.trains)
    for _ in range(2):
        call()
    before = stub.launched
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    assert stub.launched > before
    return count / (2 + stub.launched - before)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_call_is_as_cheap_as_it_was(name):
    with host.host() as stub:
        assert calls(name, stub) <= MOST.get(name, USUAL)


@pytest.mark.parametrize("slow", ["the dispatcher", "Triton's binder"])
def test_a_slower_way_shows(slow, monkeypatch):
    if slow == "the dispatcher":
        monkeypatch.setattr(Operator, "__call__", lambda self, *args: self.traced(*args))
    else:
        monkeypatch.setattr(bound, "_bound", lambda kernel, options, forms: None)
    with host.host() as stub:
        assert calls("window_attention", stub) > MOST["window_attention"]


def test_the_command_says_what_is_over_the_goal(capsys):
    assert host.main(["--operators", "dyrelu", "--goal", "100"]) == 0
    assert host.main(["--operators", "dyrelu", "--goal", "0.01", "--profile"]) == 1
    shown = capsys.readouterr().out
    assert "dyrelu" in shown
    assert "worst" in shown
    assert "run_backward" in shown
