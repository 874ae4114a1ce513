"""FPN: every way to choose levels, make extra outputs and upsample."""

import pytest
import torch
import torch.nn.functional as F

from fastdet.models import FPN

IN_CHANNELS = [4, 6, 8, 10]
SIZES = [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.fixture
def inputs():
    return [torch.randn(2, c, *s) for c, s in zip(IN_CHANNELS, SIZES)]


def shapes(outs):
    return [tuple(out.shape[2:]) for out in outs]


def test_top_down_sum_and_order_of_the_convolutions(inputs):
    fpn = FPN(IN_CHANNELS, 5, 4).eval()
    merged = fpn.lateral_convs[3].conv(inputs[3])
    wanted = [fpn.fpn_convs[3].conv(merged)]
    for i in (2, 1, 0):
        merged = fpn.lateral_convs[i].conv(inputs[i]) + merged.repeat_interleave(
            2, 2).repeat_interleave(2, 3)
        wanted.insert(0, fpn.fpn_convs[i].conv(merged))
    outs = fpn(inputs)
    assert isinstance(outs, tuple)
    for out, want in zip(outs, wanted, strict=True):
        torch.testing.assert_close(out, want)


def test_without_extra_convs_the_last_output_is_subsampled(inputs):
    outs = FPN(IN_CHANNELS, 5, 6)(inputs)
    assert shapes(outs) == [*SIZES, (1, 2), (1, 1)]
    assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])
    assert torch.equal(outs[5], outs[4][:, :, ::2, ::2])


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("source", [True, "on_input", "on_lateral", "on_output"])
def test_extra_convs_read_their_source(inputs, source, relu):
    fpn = FPN(IN_CHANNELS, 5, 6, add_extra_convs=source, relu_before_extra_convs=relu)
    outs = fpn(inputs)
    lateral = fpn.lateral_convs[3](inputs[3])
    first = {True: inputs[3], "on_input": inputs[3], "on_lateral": lateral,
             "on_output": outs[3]}[source]
    torch.testing.assert_close(outs[4], fpn.fpn_convs[4](first))
    second = F.relu(outs[4]) if relu else outs[4]
    torch.testing.assert_close(outs[5], fpn.fpn_convs[5](second))
    assert fpn.add_extra_convs == ("on_input" if source is True else source)


@pytest.mark.parametrize(("start", "end", "num_outs", "wanted"), [
    (0, -1, 4, SIZES),
    (1, -1, 3, SIZES[1:]),
    (1, 3, 4, [*SIZES[1:], (1, 2)]),  # the last level by its index allows extra outputs
    (0, 2, 3, SIZES[:3]),
    (1, 2, 2, SIZES[1:3]),
])
def test_levels(inputs, start, end, num_outs, wanted):
    fpn = FPN(IN_CHANNELS, 5, num_outs, start_level=start, end_level=end)
    assert shapes(fpn(inputs)) == wanted
    assert len(fpn.lateral_convs) == (3 if end == -1 else end) - start + (end != -1 or 1)


def test_norm_and_activation_and_no_norm_on_lateral():
    args = {"norm_cfg": {"type": "GN", "num_groups": 1}, "act_cfg": {"type": "ReLU"}}
    fpn = FPN(IN_CHANNELS, 5, 4, **args)
    assert all(m.with_norm and m.with_activation for m in [*fpn.lateral_convs, *fpn.fpn_convs])
    fpn = FPN(IN_CHANNELS, 5, 4, no_norm_on_lateral=True, **args)
    assert not any(m.with_norm for m in fpn.lateral_convs)
    assert all(m.with_norm for m in fpn.fpn_convs)


@pytest.mark.parametrize("cfg", [
    {"mode": "nearest"}, {"mode": "nearest", "scale_factor": 2},
    {"mode": "bilinear", "align_corners": False}, {"mode": "bilinear", "scale_factor": 2}])
def test_upsample_cfg(inputs, cfg):
    given = dict(cfg)
    fpn = FPN(IN_CHANNELS, 5, 4, upsample_cfg=cfg)
    coarse = fpn.lateral_convs[3](inputs[3])
    up = F.interpolate(coarse, **({"size": SIZES[2]} | cfg if "scale_factor" not in cfg else cfg))
    merged = fpn.lateral_convs[2](inputs[2]) + up
    torch.testing.assert_close(fpn(inputs)[2], fpn.fpn_convs[2](merged))
    assert cfg == given


def test_odd_sizes_follow_the_finer_level():
    inputs = [torch.randn(1, c, s, s + 1) for c, s in zip((2, 3, 5), (43, 21, 11))]
    assert shapes(FPN([2, 3, 5], 7, 3)(inputs)) == [(43, 44), (21, 22), (11, 12)]


def test_every_parameter_and_input_gets_a_gradient(inputs):
    fpn = FPN(IN_CHANNELS, 5, 6, add_extra_convs="on_output")
    inputs = [x.requires_grad_() for x in inputs]
    sum(out.square().sum() for out in fpn(inputs)).backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in [*inputs, *fpn.parameters()])


def test_state_dict_names():
    names = list(FPN([4, 6], 5, 3, add_extra_convs=True).state_dict())
    convs = [f"lateral_convs.{i}" for i in range(2)] + [f"fpn_convs.{i}" for i in range(3)]
    assert names == [f"{conv}.conv.{p}" for conv in convs for p in ("weight", "bias")]


def test_init_weights_is_the_necks():
    """Xavier by ``init_cfg``: a list of modules does not run the ``init_weights`` of its own."""
    fpn = FPN(IN_CHANNELS, 64, 4)
    assert fpn.init_cfg == {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}
    fpn.init_weights()
    conv = fpn.fpn_convs[0].conv
    bound = (6 / (2 * 64 * 9)) ** 0.5
    assert 0.95 * bound < conv.weight.abs().max() <= bound
    assert conv.bias.abs().max() == 0


@pytest.mark.parametrize(("args", "error", "message"), [
    ({"num_outs": 3}, ValueError, "num_outs must be at least 4.*got 3"),
    ({"num_outs": 4, "end_level": 2}, ValueError, "num_outs must be exactly 3.*got 4"),
    ({"num_outs": 4, "end_level": 4}, ValueError, "end_level=4 do not name levels of 4"),
    ({"num_outs": 4, "start_level": 4}, ValueError, "start_level=4.*levels of 4"),
    ({"num_outs": 4, "add_extra_convs": "on_top"}, ValueError, "one of.*got 'on_top'"),
    ({"num_outs": 4, "add_extra_convs": 1}, TypeError, "bool or a string, got int"),
    ({"num_outs": 4, "in_channels": 256}, TypeError, "in_channels must be a list.*256"),
])
def test_bad_arguments(args, error, message):
    with pytest.raises(error, match=message):
        FPN(**{"in_channels": IN_CHANNELS, "out_channels": 5} | args)


def test_wrong_number_of_inputs_names_both(inputs):
    with pytest.raises(ValueError, match="built for 4 input maps, got 3"):
        FPN(IN_CHANNELS, 5, 4)(inputs[:3])
