"""The necks beyond the golden records: options, initialisation, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastdet.models import (
    BFP,
    FPG,
    FPN_CARAFE,
    HRFPN,
    NASFCOS_FPN,
    NASFPN,
    PAFPN,
    RFP,
    YOLOXPAFPN,
    ChannelMapper,
    CTResNetNeck,
    DilatedEncoder,
    YOLOV3Neck,
    build_neck,
)
from fastdet.models.necks.fpg import LastConv, Transition, UpInterpolationConv
from fastdet.models.necks.rfp import ASPP

IN = [4, 6, 8, 10]
SIZES = [(16, 24), (8, 12), (4, 6), (2, 3)]
PLAIN = {
    BFP: dict(in_channels=4, num_levels=4),
    ChannelMapper: dict(in_channels=IN, out_channels=4),
    FPN_CARAFE: dict(in_channels=IN, out_channels=4, num_outs=4,
                     upsample_cfg=dict(type="carafe", up_kernel=3, compressed_channels=3)),
    HRFPN: dict(in_channels=IN, out_channels=4, num_outs=4),
    NASFCOS_FPN: dict(in_channels=IN, out_channels=4, num_outs=5),
    NASFPN: dict(in_channels=IN, out_channels=4, num_outs=5, stack_times=2),
    PAFPN: dict(in_channels=IN, out_channels=4, num_outs=5),
    FPG: dict(in_channels=IN, out_channels=4, num_outs=5, stack_times=2, paths=["bu", "td"],
              across_down_trans=dict(type="interpolation_conv")),
    YOLOV3Neck: dict(num_scales=4, in_channels=IN[::-1], out_channels=[4, 3, 2, 2]),
    YOLOXPAFPN: dict(in_channels=IN, out_channels=4, num_csp_blocks=1),
}
RFP_ARGS = dict(
    rfp_steps=2, aspp_out_channels=2, in_channels=[256, 512, 1024, 2048], out_channels=8,
    num_outs=5, rfp_backbone=dict(type="DetectoRS_ResNet", depth=50, rfp_inplanes=8,
                                  norm_cfg=dict(type="BN"), conv_cfg=dict(type="ConvAWS")))


@pytest.fixture
def inputs():
    return maps(IN, SIZES)


def maps(channels, sizes, **kwargs):
    return [torch.randn(2, c, *size, **kwargs) for c, size in zip(channels, sizes)]


def shapes(outs):
    return [tuple(out.shape[2:]) for out in outs]


def odd(*channels):
    """Maps whose sizes come from a stride of 2 and are odd: 13 is not twice 7."""
    return maps(channels, [(13, 13), (7, 7), (4, 4), (2, 2)])


@pytest.mark.parametrize("neck", PLAIN, ids=lambda c: c.__name__)
def test_every_parameter_and_input_gets_a_gradient(neck):
    channels = [4] * 4 if neck is BFP else IN
    xs = maps(channels, [(64, 64), (32, 32), (16, 16), (8, 8)], requires_grad=True)
    built = build_neck(dict(type=neck.__name__, **PLAIN[neck]))
    outs = built(xs)
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    used = xs[1:] if neck is NASFCOS_FPN else xs
    assert all(x.grad.abs().sum() > 0 for x in used)
    lost = [k for k, p in built.named_parameters() if p.grad is None or not p.grad.any()]
    # FPG builds what leads to the coarser levels of its top-down stage, and does not run it.
    unused = [k for k in lost if k.startswith("fpn_transitions.1.") and ".same_up." in k]
    assert lost == unused


@pytest.mark.parametrize("neck", PLAIN, ids=lambda c: c.__name__)
def test_wrong_number_of_inputs(neck, inputs):
    with pytest.raises(ValueError, match=f"{neck.__name__} was built for 4 input maps, got 3"):
        neck(**PLAIN[neck])(inputs[1:])


@pytest.mark.parametrize("neck", [ChannelMapper, FPN_CARAFE, HRFPN, NASFCOS_FPN, NASFPN, FPG],
                         ids=lambda c: c.__name__)
def test_in_channels_must_be_a_list(neck):
    with pytest.raises(TypeError, match=r"in_channels must be a list.*got 256"):
        neck(**PLAIN[neck] | dict(in_channels=256))


@pytest.mark.parametrize("neck", [FPN_CARAFE, NASFCOS_FPN, PAFPN, FPG], ids=lambda c: c.__name__)
def test_levels_must_exist_and_fit(neck):
    for change, message in ((dict(num_outs=2, start_level=1), "at least 3.*got 2"),
                            (dict(num_outs=4, start_level=0, end_level=2), "exactly 3.*got 4"),
                            (dict(start_level=4), "start_level=4.*4 input maps"),
                            (dict(end_level=4), "end_level=4.*4 input maps")):
        with pytest.raises(ValueError, match=message):
            neck(**PLAIN[neck] | change)


@pytest.mark.parametrize(("neck", "args", "wanted"), [
    (HRFPN, {}, "level 1 upsampled by 2 is 14x14, which does not fit level 0 of 13x13"),
    (YOLOV3Neck, {}, "level 2 upsampled by 2 is 8x8, which does not fit level 1 of 7x7"),
    (YOLOXPAFPN, {}, "level 2 upsampled is 8x8, which does not fit level 1 of 7x7"),
    (FPG, dict(num_outs=4),
     "across_down brings in stage 0 is 14x14, which does not fit level 0 of 13x13"),
])
def test_odd_sizes_name_the_level_and_both_sizes(neck, args, wanted):
    with pytest.raises(ValueError, match=wanted):
        neck(**PLAIN[neck] | args)(odd(*IN))


@pytest.mark.parametrize("neck", [PAFPN, FPN_CARAFE, NASFPN, NASFCOS_FPN], ids=lambda c: c.__name__)
def test_odd_sizes_that_fit(neck):
    sizes = shapes(neck(**PLAIN[neck] | dict(num_outs=5))(odd(*IN)))
    if neck is NASFCOS_FPN:
        assert sizes == [(7, 7), (4, 4), (2, 2), (1, 1), (1, 1)]
    else:
        assert sizes == [(13, 13), (7, 7), (4, 4), (2, 2), (1, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("neck", [FPN_CARAFE, NASFPN, HRFPN, FPG], ids=lambda c: c.__name__)
def test_traces_as_one_graph_for_changing_sizes(neck):
    torch._dynamo.reset()
    built = neck(**PLAIN[neck]).eval()
    compiled = torch.compile(built, backend="eager", fullgraph=True, dynamic=True)
    for h, w in ((32, 48), (48, 64), (64, 32)):
        xs = maps(IN, [(h >> i, w >> i) for i in range(4)])
        with torch.no_grad():
            for out, want in zip(compiled(xs), built(xs), strict=True):
                torch.testing.assert_close(out, want)


# ------------------------------------------------------------------ BFP
@pytest.mark.parametrize("level", range(4))
def test_bfp_without_refinement(level):
    xs = [torch.randn(1, 4, *size) for size in SIZES]
    outs = BFP(4, 4, refine_level=level)(xs)
    gathered = [F.max_pool2d(x, 2**(level - i)) if i < level else
                F.interpolate(x, scale_factor=2**(i - level)) for i, x in enumerate(xs)]
    mean = torch.stack(gathered).mean(0)
    for i, (out, x) in enumerate(zip(outs, xs, strict=True)):
        back = (F.interpolate(mean, scale_factor=2**(level - i)) if i < level
                else F.max_pool2d(mean, 2**(i - level)))
        torch.testing.assert_close(out, x + back)


@pytest.mark.parametrize(("args", "message"), [
    (dict(refine_level=4), "refine_level must be one of 0 to 3, got 4"),
    (dict(refine_level=-1), "refine_level must be one of 0 to 3, got -1"),
    (dict(refine_type="attention"), "None, 'conv' or 'non_local', got 'attention'"),
])
def test_bfp_bad_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        BFP(4, 4, **args)


# ------------------------------------------------------------------ ChannelMapper
def test_channel_mapper_extra_levels(inputs):
    mapper = ChannelMapper(IN, 5, kernel_size=1, num_outs=6)
    outs = mapper(inputs)
    assert shapes(outs) == [*SIZES, (1, 2), (1, 1)]
    torch.testing.assert_close(outs[4], mapper.extra_convs[0](inputs[-1]))
    torch.testing.assert_close(outs[5], mapper.extra_convs[1](outs[4]))


@pytest.mark.parametrize("num_outs", [None, 2, 4])
def test_channel_mapper_never_has_fewer_outputs(inputs, num_outs):
    mapper = ChannelMapper(IN, 5, num_outs=num_outs)
    assert mapper.extra_convs is None
    assert shapes(mapper(inputs)) == SIZES


# ------------------------------------------------------------------ CTResNetNeck
def ct_neck(**kwargs):
    return CTResNetNeck(6, (5, 4), (4, 4), **kwargs)


@pytest.mark.parametrize(("kernel", "ramp"), [  # by CenterNet's formula, for 4 alone symmetric
    (4, [0.25, 0.75, 0.75, 0.25]), (3, [0.25, 0.75, 0.75]), (2, [1.0, 0.0])])
def test_ct_neck_starts_as_bilinear_upsampling(kernel, ramp):
    ramp = torch.tensor(ramp)
    neck = CTResNetNeck(6, (5,), (kernel,), use_dcn=False)
    neck.init_weights()
    weight = neck.deconv_layers[1].conv.weight
    torch.testing.assert_close(weight[:, 0], (ramp[:, None] * ramp).expand(5, kernel, kernel))
    assert weight[:, 1:].abs().max() <= (5 * kernel**2) ** -0.5  # what torch draws


@pytest.mark.parametrize("use_dcn", [False, True])
def test_ct_neck_init(use_dcn):
    neck = ct_neck(use_dcn=use_dcn)
    for p in neck.parameters():
        nn.init.constant_(p, 7)
    neck.init_weights()
    first, up = neck.deconv_layers[:2]
    assert (first.conv.weight == 7).all() == use_dcn
    if not use_dcn:
        assert first.conv.weight.abs().max() <= (6 * 9) ** -0.5
    for norm in (first.norm, up.norm):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_ct_neck_reads_the_last_map(inputs):
    neck = CTResNetNeck(10, (5, 4), (4, 4), use_dcn=False)
    outs = neck(inputs)
    assert isinstance(outs, tuple)
    assert shapes(outs) == [(8, 12)]
    with pytest.raises(TypeError, match="list or tuple of maps, got a tensor"):
        neck(inputs[-1])
    with pytest.raises(ValueError, match=r"one length, got \(5, 4\) and \(4,\)"):
        CTResNetNeck(6, (5, 4), (4,))


@pytest.mark.parametrize(("neck", "xs"), [
    (ct_neck(use_dcn=False), [torch.randn(1, 6, 4, 4)]),
    (PAFPN(**PLAIN[PAFPN]), maps(IN, SIZES)),
], ids=["CTResNetNeck", "PAFPN"])
def test_half_precision_by_fp16_enabled(neck, xs):
    assert neck.fp16_enabled is False
    neck.fp16_enabled = True
    assert all(out.dtype == torch.float16 for out in neck.eval()(xs))


# ------------------------------------------------------------------ DilatedEncoder
def test_dilated_encoder_init():
    neck = DilatedEncoder(64, 128, 64, 2, [2, 4])
    for p in neck.parameters():
        nn.init.constant_(p, 7)
    neck.init_weights()
    assert 0.95 < neck.lateral_conv.weight.abs().max() / (3 / 64) ** 0.5 <= 1
    assert 0.95 < neck.fpn_conv.weight.abs().max() / (3 / (128 * 9)) ** 0.5 <= 1
    for name, p in neck.named_parameters():
        if "conv.weight" in name and "blocks" in name:
            assert p.std().item() == pytest.approx(0.01, rel=0.05)
        elif p.dim() == 1:
            assert (p == ("weight" in name)).all()
    assert [b.conv2.dilation for b in neck.dilated_encoder_blocks] == [(2, 2), (4, 4)]
    with pytest.raises(ValueError, match=r"num_residual_blocks=3 entries, got \[2, 4\]"):
        DilatedEncoder(8, 8, 4, 3, [2, 4])


# ------------------------------------------------------------------ HRFPN
@pytest.mark.parametrize(("kind", "pool"), [("AVG", F.avg_pool2d), ("MAX", F.max_pool2d)])
def test_hrfpn_pooling(inputs, kind, pool):
    neck = HRFPN(IN, 5, num_outs=3, pooling_type=kind)
    fused = neck.reduction_conv(torch.cat([inputs[0], *(
        F.interpolate(x, SIZES[0], mode="bilinear") for x in inputs[1:])], 1))
    outs = neck(inputs)
    torch.testing.assert_close(outs[2], neck.fpn_convs[2](pool(fused, 4)))
    with pytest.raises(ValueError, match="'AVG' or 'MAX', got 'SUM'"):
        HRFPN(IN, 5, pooling_type="SUM")


def test_hrfpn_with_cp_gives_the_same_gradients():
    xs = maps(IN, SIZES, requires_grad=True)
    neck = HRFPN(IN, 5, num_outs=3)
    calls, grads = [], []
    for conv in (neck.reduction_conv, *neck.fpn_convs):
        conv.register_forward_pre_hook(lambda *_: calls.append(1))
    for neck.with_cp in (False, True):
        loss = sum(out.square().sum() for out in neck(xs))
        grads.append(torch.autograd.grad(loss, [*xs, *neck.parameters()]))
    assert len(calls) == 4 + 2 * 4  # once, and twice where backward runs them again
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


# ------------------------------------------------------------------ FPN_CARAFE
ORDERS = [("conv", "norm", "act"), ("act", "conv", "norm")]
UPSAMPLES = [
    dict(type="nearest"), dict(type="bilinear"), dict(type="deconv", upsample_kernel=3),
    dict(type="deconv", upsample_kernel=4), dict(type="pixel_shuffle", upsample_kernel=3),
    dict(type="carafe", up_kernel=3, up_group=2, encoder_kernel=3, compressed_channels=3)]


@pytest.mark.parametrize("order", ORDERS, ids=lambda o: o[0])
@pytest.mark.parametrize("cfg", UPSAMPLES, ids=lambda c: "-".join(map(str, c.values())))
def test_fpn_carafe_every_upsampling_and_order(inputs, cfg, order):
    given = dict(cfg)
    neck = FPN_CARAFE(IN, 4, 5, order=order, upsample_cfg=cfg, norm_cfg=dict(type="BN"),
                      act_cfg=dict(type="ReLU")).eval()
    assert cfg == given
    assert neck.lateral_convs[0].norm.num_features == 4
    laterals = [conv(x) for conv, x in zip(neck.lateral_convs, [*inputs, inputs[-1]])]
    for i in range(4, 0, -1):
        up = neck.upsample_modules[i - 1](laterals[i])
        h, w = laterals[i - 1].shape[2:]
        laterals[i - 1] = laterals[i - 1] + up[:, :, :h, :w]
    outs = neck(inputs)
    assert shapes(outs) == [*SIZES, (1, 2)]
    for out, conv, x in zip(outs, neck.fpn_convs, laterals, strict=True):
        torch.testing.assert_close(out, conv(x))
    sum(out.sum() for out in neck.train()(inputs)).backward()


def test_fpn_carafe_default_upsampling_is_carafe():
    pack = FPN_CARAFE([4, 6], 5, 2).upsample_modules[0]
    assert (pack.up_kernel, pack.encoder_kernel, pack.compressed_channels) == (5, 3, 64)


def test_fpn_carafe_without_upsampling_adds_maps_of_one_size():
    neck = FPN_CARAFE([4, 6], 5, 2, upsample_cfg=dict(type=None))
    assert len(neck.upsample_modules) == 0
    xs = maps([4, 6], [(4, 5), (4, 5)])
    merged = neck.lateral_convs[0](xs[0]) + neck.lateral_convs[1](xs[1])
    torch.testing.assert_close(neck(xs)[0], neck.fpn_convs[0](merged))
    with pytest.raises(ValueError, match="level 1 is 2x5 after upsampling, smaller than level 0 of "
                                         "4x5"):
        neck(maps([4, 6], [(4, 5), (2, 5)]))


def test_fpn_carafe_slice_as_and_tensor_add():
    neck = FPN_CARAFE([4, 6], 5, 2, upsample_cfg=dict(type="nearest"))
    src, dst = torch.randn(1, 2, 6, 8), torch.zeros(1, 2, 5, 8)
    assert torch.equal(neck.slice_as(src, dst), src[:, :, :5])
    assert torch.equal(neck.slice_as(src, src), src)
    assert torch.equal(neck.tensor_add(dst + 1, src), src[:, :, :5] + 1)
    with pytest.raises(ValueError, match="not smaller than dst, got 5x8 and 6x8"):
        neck.slice_as(dst, src)


def test_fpn_carafe_init():
    neck = FPN_CARAFE([64, 64], 64, 2, upsample_cfg=dict(type="carafe"))
    for p in neck.parameters():
        nn.init.constant_(p, 7)
    neck.init_weights()
    bound = (6 / 128) ** 0.5
    assert 0.95 * bound < neck.lateral_convs[0].conv.weight.abs().max() <= bound
    encoder = neck.upsample_modules[0].content_encoder
    assert encoder.weight.std().item() == pytest.approx(0.001, rel=0.05)
    neck = FPN_CARAFE([64, 64], 64, 2, upsample_cfg=dict(type="deconv", upsample_kernel=3))
    neck.init_weights()
    bound = (6 / (2 * 64 * 9)) ** 0.5
    assert 0.95 * bound < neck.upsample_modules[0].weight.abs().max() <= bound


@pytest.mark.parametrize(("args", "message"), [
    (dict(init_cfg=dict(type="Xavier")), "takes no init_cfg, got {'type': 'Xavier'}"),
    (dict(order=("norm", "conv", "act")), r"order must be .* got \('norm', 'conv', 'act'\)"),
    (dict(upsample_cfg=dict(type="bicubic")), "type in upsample_cfg must be one of .*'bicubic'"),
    (dict(upsample_cfg=dict(type="deconv")), "'deconv' needs a positive upsample_kernel"),
    (dict(upsample_cfg=dict(type="pixel_shuffle", upsample_kernel=0)), "needs a positive"),
])
def test_fpn_carafe_bad_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        FPN_CARAFE(IN, 4, 4, **args)


# ------------------------------------------------------------------ FPG
def test_transitions():
    up = UpInterpolationConv(4, 6, scale_factor=3, mode="bilinear", align_corners=True,
                             kernel_size=1)
    x = torch.randn(1, 4, 2, 3)
    want = up.conv(F.interpolate(x, scale_factor=3, mode="bilinear", align_corners=True))
    assert torch.equal(up(x), want)
    last = LastConv(4, 6, 2)
    assert torch.equal(last([None, x]), last.conv_out(x))
    with pytest.raises(ValueError, match="LastConv was built for 2 input maps, got 1"):
        last([x])
    assert issubclass(LastConv, Transition)
    assert FPG.transition_types["last_conv"] is LastConv


def test_fpg_paths_lead_the_right_way():
    """With convolutions of one weight each, what reaches a node can be summed by hand."""
    one = dict(type="conv", kernel_size=1, act_cfg=None)
    neck = FPG([1, 1], 1, 2, 2, ["bu", "td"], same_up_trans=one | dict(stride=2),
               same_down_trans=dict(type="interpolation_conv", kernel_size=1, act_cfg=None),
               across_lateral_trans=one, across_up_trans=one | dict(stride=2),
               across_down_trans=dict(type="interpolation_conv", kernel_size=1, act_cfg=None),
               output_trans=dict(type="last_conv", kernel_size=1, act_cfg=None))
    for p in neck.parameters():
        nn.init.constant_(p, p.dim() > 1)
    a, b = 3.0, 5.0
    for stage in ("bu", "td"):
        before = a, b
        fine, coarse = a + b + 3, b + a + 5  # lateral, across and skip; then the same stage's
        if stage == "bu":
            coarse += fine
        else:
            fine += coarse
        assert before != (fine, coarse)
        a, b = fine, coarse
    outs = neck([torch.full((1, 1, 4, 4), 3.0), torch.full((1, 1, 2, 2), 5.0)])
    assert torch.equal(outs[0], torch.full((1, 1, 4, 4), a))
    assert torch.equal(outs[1], torch.full((1, 1, 2, 2), b))


def test_fpg_skips_stages(inputs):
    """A level that skips every stage is its lateral convolution and its output."""
    for path in ("bu", "td"):
        neck = FPG(**PLAIN[FPG] | dict(num_outs=4, paths=[path] * 2, same_down_trans=None,
                                       skip_inds=[(), (), (), (0, 1)]))
        assert [len(stage[3]) for stage in neck.fpn_transitions] == [0, 0]
        want = neck.output_transition[3].conv_out(neck.lateral_convs[3](inputs[3]))
        torch.testing.assert_close(neck(inputs)[3], want)


def test_fpg_extra_levels_and_channels(inputs):
    neck = FPG(**PLAIN[FPG] | dict(inter_channels=[4, 5, 6, 7, 8], start_level=1,
                                   add_extra_convs=True))
    assert [m.out_channels for m in neck.lateral_convs] == [4, 5, 6]
    assert [(m.in_channels, m.out_channels) for m in neck.extra_downsamples] == [(6, 7), (7, 8)]
    sizes = [(32, 32), (16, 16), (8, 8), (4, 4)]
    outs = neck(maps(IN, sizes))
    assert shapes(outs) == [*sizes[1:], (2, 2), (1, 1)]
    assert {out.shape[1] for out in outs} == {4}


def test_fpg_init():
    neck = FPG(**PLAIN[FPG] | dict(in_channels=[64] * 4, norm_cfg=dict(type="BN"), out_channels=64,
                                   same_up_trans=dict(type="conv", kernel_size=3, stride=2,
                                                      padding=1, norm_cfg=dict(type="BN"))))
    for p in neck.parameters():
        nn.init.constant_(p, 7)
    neck.init_weights()
    same_up = neck.fpn_transitions[0][1]["same_up"]
    for weight in (neck.lateral_convs[0].weight, same_up.conv.weight):
        bound = (3 / weight[0].numel()) ** 0.5  # the neck's rule, not that of ConvModule
        assert 0.95 * bound < weight.abs().max() <= bound
    assert (same_up.norm.weight == 1).all()


@pytest.mark.parametrize(("args", "error", "message"), [
    (dict(paths="bu"), TypeError, "paths must be a list.*got 'bu'"),
    (dict(paths=["bu"]), ValueError, r"stack_times=2 entries of 'bu' or 'td', got \['bu'\]"),
    (dict(paths=["bu", "up"]), ValueError, r"got \['bu', 'up'\]"),
    (dict(inter_channels=[4, 4]), ValueError, r"inter_channels must have num_outs=5.*\[4, 4\]"),
    (dict(skip_inds=[()]), ValueError, r"skip_inds must have num_outs=5 entries, got \[\(\)\]"),
    (dict(across_lateral_trans=dict(type="pool")), KeyError, "must be one of.*got 'pool'"),
    (dict(inter_channels=8, across_up_trans=dict(type="identity"),
          across_lateral_trans=None, across_down_trans=None, across_skip_trans=None,
          same_up_trans=None), ValueError, "no transition leads to level 0 of stage 0"),
])
def test_fpg_bad_arguments(args, error, message):
    with pytest.raises(error, match=message):
        FPG(**PLAIN[FPG] | args)


def test_identity_transition_keeps_the_channels():
    with pytest.raises(ValueError, match="in_channels=4 and out_channels=5"):
        FPG(**PLAIN[FPG] | dict(inter_channels=[4, 5, 4, 4, 4],
                                across_up_trans=dict(type="identity")))


# ------------------------------------------------------------------ NASFPN and NASFCOS_FPN
def test_nasfpn_makes_five_levels():
    with pytest.raises(ValueError, match="num_outs must be 5, got 4"):
        NASFPN(IN, 4, 4, 2)


def test_nasfpn_init():
    neck = NASFPN([64] * 4, 64, 5, 1)
    neck.init_weights()
    for conv in (neck.lateral_convs[0].conv, neck.fpn_stages[0]["sum_44_4"].out_conv.conv):
        bound = (3 / conv.weight[0].numel()) ** 0.5
        assert 0.95 * bound < conv.weight.abs().max() <= bound


def test_nasfcos_init():
    neck = NASFCOS_FPN([64] * 4, 64, 5)
    cell = neck.fpn["c32"].out_conv.conv.weight.clone()
    neck.init_weights()
    for conv in (neck.adapt_convs[0].conv, neck.extra_downsamples[1].conv):
        bound = (3 / conv.weight[0].numel()) ** 0.5
        assert 0.95 * bound < conv.weight.abs().max() <= bound
    assert torch.equal(neck.fpn["c32"].out_conv.conv.weight, cell)


@pytest.mark.parametrize(("args", "message"), [
    (dict(in_channels=IN[:3], start_level=0), "at least 4 input maps.*got 3 and uses 3"),
    (dict(start_level=2), "at least 3 of them, got 4 and uses 2"),
    (dict(init_cfg=dict(type="Xavier")), "takes no init_cfg"),
])
def test_nasfcos_bad_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        NASFCOS_FPN(**PLAIN[NASFCOS_FPN] | args)


# ------------------------------------------------------------------ PAFPN
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("source", [True, "on_input", "on_lateral", "on_output"])
def test_pafpn_extra_levels_read_their_source(inputs, source, relu):
    neck = PAFPN(IN, 5, 6, add_extra_convs=source, relu_before_extra_convs=relu)
    outs = neck(inputs)
    lateral = neck.lateral_convs[3](inputs[3])
    first = {True: inputs[3], "on_input": inputs[3], "on_lateral": lateral,
             "on_output": outs[3]}[source]
    torch.testing.assert_close(outs[4], neck.fpn_convs[4](first))
    second = F.relu(outs[4]) if relu else outs[4]
    torch.testing.assert_close(outs[5], neck.fpn_convs[5](second))


def test_pafpn_bottom_up_size_that_does_not_fit():
    with pytest.raises(ValueError, match="level 1 downsampled by 2 is 4x4, which does not fit "
                                         "level 2 of 3x3"):
        PAFPN(IN, 4, 4)(maps(IN, [(13, 13), (7, 7), (3, 3), (2, 2)]))


# ------------------------------------------------------------------ RFP
def test_aspp():
    aspp = ASPP(4, 3, (1, 2, 1))
    x = torch.randn(2, 4, 5, 6)
    out = aspp(x)
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(out[:, :3], aspp.aspp[0](x).relu())
    torch.testing.assert_close(out[:, 3:6], F.conv2d(
        x, aspp.aspp[1].weight, aspp.aspp[1].bias, padding=2, dilation=2).relu())
    torch.testing.assert_close(out[:, 6:], aspp.aspp[2](mean).relu().expand(2, 3, 5, 6))
    with pytest.raises(ValueError, match=r"the last is 1, got \(1, 3\)"):
        ASPP(4, 3, (1, 3))


def test_rfp_starts_as_the_mean_of_both_pyramids():
    neck = RFP(**RFP_ARGS).eval()
    neck.init_weights()
    assert (neck.rfp_weight.weight == 0).all()
    bound = (6 / (256 + 8)) ** 0.5
    assert 0.9 * bound < neck.lateral_convs[0].conv.weight.abs().max() <= bound
    img = torch.randn(1, 3, 64, 64)
    xs = [torch.randn(1, 256 << i, 16 >> i, 16 >> i) for i in range(4)]
    fpn = super(RFP, neck)
    first = fpn.forward(xs)
    back = [first[0], *(neck.rfp_aspp(x) for x in first[1:])]
    second = fpn.forward(neck.rfp_modules[0].rfp_forward(img, back))
    for out, a, b in zip(neck((img, *xs)), first, second, strict=True):
        torch.testing.assert_close(out, (a + b) / 2)
    with pytest.raises(ValueError, match="RFP was built for 5 input maps, got 4"):
        neck(xs)


@pytest.mark.parametrize(("args", "message"), [
    (dict(init_cfg=dict(type="Xavier")), "takes no init_cfg"),
    (dict(rfp_steps=0), "rfp_steps must be 1 or more, got 0"),
])
def test_rfp_bad_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        RFP(**RFP_ARGS | args)


def test_rfp_of_one_step_is_fpn():
    neck = RFP(**RFP_ARGS | dict(rfp_steps=1)).eval()
    assert len(neck.rfp_modules) == 0
    xs = [torch.randn(1, 256 << i, 8 >> i, 8 >> i) for i in range(4)]
    for out, want in zip(neck([torch.randn(1, 3, 32, 32), *xs]), super(RFP, neck).forward(xs)):
        assert torch.equal(out, want)


# ------------------------------------------------------------------ YOLO
def test_yolov3_lengths():
    with pytest.raises(ValueError, match=r"num_scales=3 entries, got \[8, 4\] and \[4, 2, 2\]"):
        YOLOV3Neck(3, [8, 4], [4, 2, 2])


def test_yolox_depthwise_upsampling_and_init():
    neck = YOLOXPAFPN([8, 16], 8, num_csp_blocks=1, use_depthwise=True,
                      upsample_cfg=dict(scale_factor=2, mode="bilinear"))
    assert type(neck.downsamples[0]).__name__ == "DepthwiseSeparableConvModule"
    assert neck.upsample.mode == "bilinear"
    assert shapes(neck(maps([8, 16], [(8, 8), (4, 4)]))) == [(8, 8), (4, 4)]
    neck = YOLOXPAFPN([64, 128], 64, num_csp_blocks=1)
    neck.init_weights()
    for conv in (neck.reduce_layers[0].conv, neck.top_down_blocks[0].main_conv.conv):
        weight = conv.weight
        bound = weight[0].numel() ** -0.5  # as torch itself draws; not the rule of ConvModule
        assert 0.95 * bound < weight.abs().max() <= bound
