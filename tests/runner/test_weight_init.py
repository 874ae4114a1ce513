import copy
import math

import pytest
import torch
from torch import nn

import fastdet.cnn.utils.weight_init as cnn_weight_init
from fastdet.runner import weight_init as W


def built(cfg):
    m = nn.Linear(400, 300)
    torch.manual_seed(1)  # after the layer, which draws its own default weights
    W.initialize(m, {"layer": "Linear", **cfg})
    return m.weight.detach()


def test_cnn_exports_the_same_names():
    assert cnn_weight_init.__all__ == W.__all__
    assert all(getattr(cnn_weight_init, n) is getattr(W, n) for n in W.__all__)


@pytest.mark.parametrize(("cfg", "function", "std", "bound"), [
    ({"type": "Normal"}, W.normal_init, 1.0, None),
    ({"type": "Normal", "mean": 0.0, "std": 0.01}, W.normal_init, 0.01, None),
    ({"type": "Uniform"}, W.uniform_init, 1 / math.sqrt(12), 1.0),
    ({"type": "Uniform", "a": -3.0, "b": 3.0}, W.uniform_init, 6 / math.sqrt(12), 3.0),
    # fan_in 400, fan_out 300
    ({"type": "Xavier"}, W.xavier_init, math.sqrt(2 / 700), None),
    ({"type": "Xavier", "gain": 2.0, "distribution": "uniform"}, W.xavier_init,
     2 * math.sqrt(2 / 700), 2 * math.sqrt(6 / 700)),
    ({"type": "Kaiming"}, W.kaiming_init, math.sqrt(2 / 300), None),
    ({"type": "Kaiming", "mode": "fan_in", "distribution": "uniform"}, W.kaiming_init,
     math.sqrt(2 / 400), math.sqrt(6 / 400)),
    ({"type": "Kaiming", "a": 2.0, "nonlinearity": "leaky_relu"}, W.kaiming_init,
     math.sqrt(2 / 5 / 300), None),
    ({"type": "Caffe2Xavier"}, W.caffe2_xavier_init, math.sqrt(1 / 400), math.sqrt(3 / 400)),
    # a normal distribution cut at two standard deviations has a deviation of 0.8796
    ({"type": "TruncNormal"}, W.trunc_normal_init, 0.8796, 2.0),
    ({"type": "TruncNormal", "std": 0.02, "a": -0.04, "b": 0.04}, W.trunc_normal_init,
     0.8796 * 0.02, 0.04),
])
def test_initialisers(cfg, function, std, bound):
    w = built(cfg)
    n = w.numel()
    assert w.std().item() == pytest.approx(std, rel=6 / math.sqrt(2 * n))
    mean = 0.5 if cfg == {"type": "Uniform"} else 0.0
    assert w.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(n))
    if bound is None:
        assert w.abs().max() > 3.5 * std
    else:
        assert w.abs().max() <= bound
        assert w.abs().max() > 0.98 * bound

    direct = nn.Linear(400, 300)
    torch.manual_seed(1)
    function(direct, **{k: v for k, v in cfg.items() if k != "type"})
    assert torch.equal(direct.weight, w)
    assert (direct.bias == 0).all()


def test_truncation_is_at_values_not_at_deviations():
    w = built({"type": "TruncNormal", "mean": 1.0, "std": 1.0, "a": 0.0, "b": 1.5})
    assert w.min() >= 0
    assert w.max() <= 1.5


@pytest.mark.parametrize(("mean", "std", "a", "b"), [
    (0, 1, -2, 2), (0, 0.02, -2, 2), (1, 1, 0, 1.5), (0, 0.05, -0.1, 0.1)])
def test_trunc_normal_draws_the_same_numbers_whatever_the_version_of_torch(mean, std, a, b):
    """Inverse transform sampling, in the order of operations that models were trained with."""
    def cdf(x):
        return (1 + math.erf((x - mean) / std / math.sqrt(2))) / 2

    torch.manual_seed(3)
    u = torch.empty(5000).uniform_(2 * cdf(a) - 1, 2 * cdf(b) - 1)
    expected = (u.erfinv() * (std * math.sqrt(2)) + mean).clamp(a, b)
    torch.manual_seed(3)
    got = torch.empty(5000)
    assert W.trunc_normal_(got, mean, std, a, b) is got
    assert torch.equal(got, expected)


def test_trunc_normal_far_from_its_mean_warns():
    with pytest.warns(UserWarning, match="mean 9 is more than two std"):
        W.trunc_normal_(torch.empty(4), mean=9)


def test_defaults_are_mmcvs():
    kaiming = W.KaimingInit()
    assert (kaiming.a, kaiming.mode, kaiming.nonlinearity, kaiming.distribution, kaiming.bias) == (
        0, "fan_out", "relu", "normal", 0)
    caffe2 = W.Caffe2XavierInit()
    assert (caffe2.a, caffe2.mode, caffe2.nonlinearity, caffe2.distribution) == (
        1, "fan_in", "leaky_relu", "uniform")
    xavier = W.XavierInit()
    assert (xavier.gain, xavier.distribution) == (1, "normal")
    trunc = W.TruncNormalInit()
    assert (trunc.mean, trunc.std, trunc.a, trunc.b) == (0, 1, -2, 2)


def test_bias_and_bias_prob():
    m = nn.Conv2d(2, 3, 1)
    W.initialize(m, {"type": "Constant", "val": 1.0, "bias": 2.0, "layer": "Conv2d"})
    assert (m.bias == 2).all()
    W.initialize(m, {"type": "Normal", "std": 0.1, "bias": 2.0, "bias_prob": 0.01,
                     "layer": "Conv2d"})
    torch.testing.assert_close(m.bias.sigmoid(), torch.full((3,), 0.01))
    assert W.bias_init_with_prob(0.01) == pytest.approx(-4.59511985)


def test_a_module_without_weight_or_bias_is_left_alone():
    for m in (nn.ReLU(), nn.BatchNorm2d(3, affine=False), nn.Conv2d(2, 2, 1, bias=False)):
        W.constant_init(m, 3.0, 4.0)
        for p in m.parameters():
            assert (p == 3).all()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.bn = nn.BatchNorm2d(2)
        self.inorm = nn.InstanceNorm2d(2, affine=True)
        self.gn = nn.GroupNorm(1, 2)
        self.head = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 1))


class MyConv(nn.Conv2d):
    pass


class MyConvsHeir(MyConv):
    pass


def filled(module, value):
    return {n for n, p in module.named_parameters() if (p == value).all()}


@pytest.mark.parametrize(("layer", "expected"), [
    ("Conv2d", {"conv.weight", "head.1.weight"}),
    (["Conv2d", "Linear"], {"conv.weight", "head.1.weight", "head.0.weight"}),
    ("_BatchNorm", {"bn.weight"}),
    (["_InstanceNorm", "GroupNorm"], {"inorm.weight", "gn.weight"}),
    ("_ConvNd", {"conv.weight", "head.1.weight"}),
    ("Conv3d", set()),
    (None, set()),
])
def test_layer_names_classes_and_their_bases(layer, expected):
    m = Net()
    W.initialize(m, {"type": "Constant", "val": 7.0, "bias": -7.0, "layer": layer})
    assert filled(m, 7.0) == expected
    assert filled(m, -7.0) == {n.replace("weight", "bias") for n in expected}


def test_only_direct_bases_count():
    m = nn.Sequential(MyConv(1, 1, 1), MyConvsHeir(1, 1, 1))
    W.initialize(m, {"type": "Constant", "val": 7.0, "layer": "Conv2d"})
    assert filled(m, 7.0) == {"0.weight"}


def test_override_initialises_the_whole_attribute():
    m = Net()
    W.initialize(m, {"type": "Constant", "val": 1.0, "bias": 2.0, "layer": "Conv2d",
                     "override": {"type": "Constant", "name": "head", "val": 3.0, "bias": 4.0}})
    assert filled(m, 3.0) == {"head.0.weight", "head.1.weight"}
    assert filled(m, 4.0) == {"head.0.bias", "head.1.bias"}
    assert (m.conv.weight == 1).all()
    assert (m.conv.bias == 2).all()


def test_override_by_name_alone_inherits_the_config():
    m = Net()
    W.initialize(m, {"type": "Constant", "val": 7.0, "bias": 2.0, "layer": "Conv2d",
                     "override": [{"name": "head"}, {"name": "gn"}]})
    assert filled(m, 7.0) == {"conv.weight", "head.0.weight", "head.1.weight", "gn.weight"}


def test_a_list_of_configs_applies_in_order_and_stays_unchanged():
    m = Net()
    cfg = [{"type": "Constant", "val": 7.0, "layer": "Conv2d", "override": {"name": "gn"}},
           {"type": "Constant", "val": 8.0, "layer": ["Linear", "GroupNorm"]}]
    before = copy.deepcopy(cfg)
    W.initialize(m, cfg)
    assert filled(m, 7.0) == {"conv.weight", "head.1.weight"}
    assert filled(m, 8.0) == {"head.0.weight", "gn.weight"}
    assert cfg == before


@pytest.mark.parametrize(("cfg", "error", "match"), [
    ("Constant", TypeError, "init_cfg must be a dict or a list of dicts, got 'Constant'"),
    ([1], TypeError, "init_cfg must be a dict or a list of dicts"),
    ({"type": "Constant", "val": 1, "override": "head"}, TypeError, "override must be a dict"),
    ({"type": "Constant", "val": 1, "override": {"val": 2}}, ValueError, "needs the key 'name'"),
    ({"type": "Constant", "val": 1, "override": {"name": "head", "val": 2}}, ValueError,
     "no 'type'"),
    ({"type": "Constant", "val": 1, "override": {"name": "tail"}}, RuntimeError,
     "'tail', which Net does not have"),
    ({"type": "Constnt", "val": 1}, KeyError, "did you mean Constant"),
    ({"val": 1}, KeyError, "needs the key 'type'"),
    ({"type": "Constant"}, TypeError, "ConstantInit.*val"),
    ({"type": "Constant", "val": 1, "bias": "0"}, TypeError, "bias must be a number, got '0'"),
    ({"type": "Constant", "val": 1, "bias_prob": 1}, TypeError, "bias_prob must be a float"),
    ({"type": "Constant", "val": 1, "layer": 1}, TypeError, "layer must be a class name"),
    ({"type": "Xavier", "layer": "Linear", "distribution": "gamma"}, ValueError,
     "distribution must be 'uniform' or 'normal', got 'gamma'"),
])
def test_bad_configs_are_named(cfg, error, match):
    with pytest.raises(error, match=match):
        W.initialize(Net(), cfg)


def test_pretrained(tmp_path):
    detector = nn.ModuleDict({"backbone": Net(), "neck": nn.Linear(1, 1)})
    whole, part = tmp_path / "detector.pth", tmp_path / "backbone.pth"
    torch.save({"meta": {}, "state_dict": detector.state_dict()}, whole)
    torch.save(detector["backbone"].state_dict(), part)
    for cfg in ({"checkpoint": str(part)},
                {"checkpoint": str(whole), "prefix": "backbone."},
                {"checkpoint": str(whole), "prefix": "backbone", "map_location": "cpu"}):
        m = Net()
        assert not torch.equal(m.conv.weight, detector["backbone"].conv.weight)
        W.initialize(m, {"type": "Pretrained", **cfg})
        torch.testing.assert_close(m.state_dict(), detector["backbone"].state_dict(),
                                   rtol=0, atol=0)
