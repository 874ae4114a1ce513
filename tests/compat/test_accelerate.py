"""``fastdet.accelerate``: the real packages' modules on our operators, before and after."""

import copy
import importlib.util
import io
import logging
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from compat.others import needs
from torch import nn

import fastdet
from fastdet.testing import errors


def timm_swin(**more):
    timm = needs("timm")
    return timm.models.SwinTransformer(
        img_size=32, patch_size=2, num_classes=3, embed_dim=32, depths=(2, 2), num_heads=(2, 4),
        window_size=4, drop_path_rate=0.0, **more)


def torchvision_swin():
    models = needs("torchvision").models
    return models.SwinTransformer([2, 2], 32, [2, 2], [2, 4], [4, 4], num_classes=3,
                                  stochastic_depth_prob=0.0)


def hf_swin(**more):
    hf = needs("transformers")
    return hf.SwinModel(hf.SwinConfig(
        image_size=30, patch_size=2, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4,
        drop_path_rate=0.0, **more))


def hf_pvt():
    hf = needs("transformers")
    return hf.PvtModel(hf.PvtConfig(
        image_size=32, num_encoder_blocks=2, depths=[1, 1], sequence_reduction_ratios=[2, 1],
        hidden_sizes=[16, 32], patch_sizes=[4, 2], strides=[4, 2], num_attention_heads=[1, 2],
        mlp_ratios=[2, 2], hidden_dropout_prob=0.0, drop_path_rate=0.0))


def hf_pvt_v2(linear=False):
    hf = needs("transformers")
    return hf.PvtV2Model(hf.PvtV2Config(
        image_size=32, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
        hidden_sizes=[16, 32], patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2],
        mlp_ratios=[2, 2], hidden_dropout_prob=0.0, linear_attention=linear))


def mmdet_swin():
    """MMDetection's own file: ``install()`` would put ours in its place."""
    pytest.importorskip("fastdet.mmcv", reason="needs the extra mmcv")
    if (found := importlib.util.find_spec("mmdet")) is None:
        pytest.skip("needs mmdet 2.26.0")
    root = Path(found.origin).parent
    with fastdet.installed():
        from fastdet.models.builder import BACKBONES

        for name in ("mmdet", "mmdet.models", "mmdet.models.backbones", "mmdet.utils"):
            package = sys.modules[name] = ModuleType(name)  # without what else they import
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules["mmdet.utils"].get_root_logger = logging.getLogger
        spec = importlib.util.spec_from_file_location(
            "mmdet.models.backbones.swin", root / "models/backbones/swin.py")
        module = importlib.util.module_from_spec(spec)
        ours = BACKBONES.module_dict.pop("SwinTransformer")
        try:
            spec.loader.exec_module(module)
        finally:
            BACKBONES.module_dict["SwinTransformer"] = ours
    assert module.SwinTransformer is not ours
    return module.SwinTransformer(embed_dims=32, depths=(2, 2), num_heads=(2, 4), strides=(2, 2),
                                  out_indices=(0, 1), patch_size=2, window_size=4,
                                  drop_path_rate=0.0)


MODELS = {"mmdet": (mmdet_swin, 30), "timm": (timm_swin, 32), "torchvision": (torchvision_swin, 30),
          "swin": (hf_swin, 30), "pvt": (hf_pvt, 32), "pvt_v2": (hf_pvt_v2, 32),
          "pvt_v2_linear": (lambda: hf_pvt_v2(True), 32)}


def run(model, x):
    """What a model gives, and the gradients of the input and of all parameters."""
    model.zero_grad()
    x = x.detach().requires_grad_()
    out = model(x)
    out = out.last_hidden_state if hasattr(out, "last_hidden_state") else out
    outs = list(out) if isinstance(out, (tuple, list)) else [out]
    sum((o * torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view(o.shape)).sum()
        for o in outs).backward()
    return [o.detach() for o in outs], [x.grad, *(p.grad for p in model.parameters())]


def same(before, after, tolerance=1e-9):
    for old, new in zip([t for part in before for t in part], [t for part in after for t in part]):
        if old is None or new is None:
            assert old is new
            continue
        size = old.square().mean().sqrt().clamp(min=1e-6)
        assert errors(new, old)[0] <= tolerance * size


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_stay(name):
    build, size = MODELS[name]
    model = build().double()
    model.train()
    for p in model.parameters():  # biases and tables that are zeros would hide a mistake
        nn.init.normal_(p, std=0.2)
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    keys, params = list(model.state_dict()), [id(p) for p in model.parameters()]
    classes = [type(m) for m in model.modules()]
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    before = run(model, x)
    done = fastdet.accelerate(model, force=True)
    assert len(done.swapped) >= 2, str(done)
    assert not done.left, str(done)
    with pytest.MonkeyPatch.context() as patch:
        counted = count_calls(patch)
        after = run(model, x)
    assert len(counted) == len(done.swapped), "the module's own path ran"
    same(before, after)
    assert seen == [1, 1]
    assert model.training
    assert list(model.state_dict()) == keys
    assert [id(p) for p in model.parameters()] == params
    for child, kind in zip(model.modules(), classes):
        assert isinstance(child, kind)
    clone = copy.deepcopy(model)
    assert type(clone.get_submodule(next(iter(done.swapped)))) is not \
        classes[[n for n, _ in model.named_modules()].index(next(iter(done.swapped)))]
    same(before, run(clone, x))
    assert done.undo() is model
    assert [type(m) for m in model.modules()] == classes
    same(before, run(model, x), 0)


def count_calls(patch):
    """Notes every call of our two attentions."""
    from fastdet.compat import swaps

    calls = []
    for name in ("window_attention", "spatial_reduction_attention"):
        operator = getattr(swaps, name)
        patch.setattr(swaps, name, lambda *a, _run=operator, **k: calls.append(1) or _run(*a, **k))
    return calls


def test_a_pickle_holds_what_was_swapped():
    model = torchvision_swin().eval()
    fastdet.accelerate(model, force=True)
    again = pickle.loads(pickle.dumps(model))
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(model(x), again(x))
    assert [type(m) for m in model.modules()] == [type(m) for m in again.modules()]
    torch.save(model.state_dict(), io.BytesIO())


def test_inputs_that_a_module_has_its_own_form_for_take_it():
    model = timm_swin(strict_img_size=False).double().eval()
    x = torch.randn(1, 3, 28, 36, dtype=torch.float64)  # 14 x 18 tokens, windows of 4
    before = model(x)
    fastdet.accelerate(model, force=True)
    same([[before]], [[model(x)]])


def test_attention_maps_that_are_asked_for_are_there():
    model = hf_swin(attn_implementation="eager").double().eval()
    x = torch.randn(1, 3, 30, 30, dtype=torch.float64)
    before = model(x, output_attentions=True).attentions
    fastdet.accelerate(model, force=True)
    after = model(x, output_attentions=True).attentions
    assert len(after) == 2
    same([before], [after], 0)
    model = hf_pvt().double().eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    before = model(x, output_attentions=True).attentions
    fastdet.accelerate(model, force=True)
    same([before], [model(x, output_attentions=True).attentions], 0)


def test_what_is_left_and_why():
    models = needs("torchvision").models
    model = models.SwinTransformer([2, 2], 16, [2], [2], [4, 4], num_classes=3,
                                   block=models.swin_transformer.SwinTransformerBlockV2)
    assert set(fastdet.accelerate(model).left.values()) == {
        "cosine attention (Swin V2) has no kernel here"}
    model = torchvision_swin()
    kind = models.swin_transformer.ShiftedWindowAttention
    second = [m for m in model.modules() if type(m) is kind][1]
    second.qkv = nn.Sequential(second.qkv)
    done = fastdet.accelerate(model, force=True)
    assert set(done.left.values()) == {"its qkv is a Sequential, not a Linear"}
    assert len(done.swapped) == 3
    assert str(done).startswith("3 modules swapped, 0 batch norms folded, 0 convolutions")
    model = timm_swin()
    model.layers[0].blocks[0].attn.register_forward_hook(lambda *_: None)
    assert fastdet.accelerate(model, force=True).left == {
        "layers.0.blocks.0": "its attn has hooks, which would not run"}

    class Changed(kind):
        pass

    model = torchvision_swin()
    next(m for m in model.modules() if type(m) is kind).__class__ = Changed
    assert len(fastdet.accelerate(model, force=True).swapped) == 3


@pytest.mark.parametrize("name", ["timm", "torchvision", "swin", "pvt", "pvt_v2"])
def test_where_nothing_is_gained_a_module_is_left_alone_and_the_report_says_so(name):
    model = MODELS[name][0]()
    classes = [type(m) for m in model.modules()]
    done = fastdet.accelerate(model)
    assert not done.swapped
    assert len(done.left) >= 2
    said = r"_attention brings nothing on a CPU \(measured: .* [01]\.\d\d forward"
    assert all(re.search(said, why) for why in done.left.values()), str(done)
    assert [type(m) for m in model.modules()] == classes
    assert len(fastdet.accelerate(model, device="cuda").swapped) == len(done.left)
    with pytest.raises(RuntimeError, match="device"):
        fastdet.accelerate(model, device="tpu9000")


def test_torchvisions_operators_as_modules():
    ops = needs("torchvision").ops
    torch.manual_seed(0)
    conv = ops.DeformConv2d(4, 4, 3, padding=1, groups=2).double()
    args = (torch.randn(1, 4, 8, 8), torch.randn(1, 18, 8, 8), torch.rand(1, 9, 8, 8))
    args = tuple(t.double() for t in args)
    pool = ops.MultiScaleRoIAlign(["a", "b"], 2, 2)
    maps = {"a": torch.randn(2, 3, 64, 64).double(), "x": torch.zeros(1),
            "b": torch.randn(2, 3, 8, 8).double()}
    boxes = [torch.tensor([[1.0, 2, 30, 40], [0, 0, 250, 250]]).double(),
             torch.tensor([[9.0, 9, 99, 240]]).double()]
    pooled = pool(maps, boxes, [(256, 256)] * 2)
    model = nn.ModuleDict({"conv": conv, "pool": pool, "one": ops.RoIAlign(2, 0.5, 2)})
    plain = conv(*args)
    done = fastdet.accelerate(model)
    assert set(done.swapped) >= {"conv", "pool"}
    if not fastdet.serve_torchvision().binary:
        assert done.left == {"one": "torchvision's operator is fastdet's already "
                                    "(serve_torchvision)"}
    same([[plain, pooled]], [[conv(*args), pool(maps, boxes, [(256, 256)] * 2)]])


def test_batch_norms_fold_into_what_they_follow():
    model = needs("torchvision").models.resnet18(num_classes=5)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t in (m.weight, m.bias, m.running_mean):
                nn.init.normal_(t, 0.5)
            nn.init.uniform_(m.running_var, 0.5, 2)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        fastdet.accelerate(model, fold=True)
    model = model.eval().double()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    state, before = {k: v.clone() for k, v in model.state_dict().items()}, model(x)
    done = fastdet.accelerate(model, fold=True)
    assert len(done.folded) == 20
    assert len(done.channels_last) >= 15
    assert not done.left
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    same([[before]], [[model(x)]])
    done.undo()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x), before)


def timm_efficientnet():
    return needs("timm").create_model("efficientnet_b0", num_classes=3)


def frozen_resnet():
    vision = needs("torchvision")
    return vision.models.resnet18(num_classes=3, norm_layer=vision.ops.FrozenBatchNorm2d)


@pytest.mark.parametrize(("build", "folded"), [(timm_efficientnet, 49), (frozen_resnet, 20)])
def test_batch_norms_of_other_packages_fold_too(build, folded):
    model = build().double().eval()
    for m in model.modules():
        if hasattr(m, "running_var"):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    before = model(x)
    done = fastdet.accelerate(model, fold=True)
    assert len(done.folded) == folded
    assert not done.left
    assert not any(hasattr(m, "running_var") for m in model.modules())
    same([[before]], [[model(x)]])
    done.undo()
    assert torch.equal(model(x), before)


def test_a_norm_that_does_not_follow_its_neighbour_stays():
    class Before(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.conv(self.norm(x))

    class Twice(Before):
        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    class Lost(Before):
        def forward(self, x):
            return self.norm(self.conv(x)) if x.sum() > 0 else x

    class Act(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    model = nn.ModuleList([Before(), Twice(), Lost(), nn.Sequential(nn.Conv2d(4, 4, 1), Act(4))])
    done = fastdet.accelerate(model.eval(), fold=True)
    assert not done.folded
    assert done.left == {
        "0.norm": "no convolution stands before it", "1.norm": "no convolution stands before it",
        "2.norm": "what it follows is not known: the forward around it does not trace"}
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got str"):
        fastdet.accelerate("resnet50")
