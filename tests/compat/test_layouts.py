"""Checkpoints of other packages: the same features from the converted weights, and nothing else."""

import os
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from compat.others import needs
from compat.test_accelerate import hf_pvt, hf_swin, timm_swin, torchvision_swin
from torch import nn

from fastdet.cli import main
from fastdet.compat.layouts import LAYOUTS, convert, layout_of
from fastdet.models import build_backbone
from fastdet.runner import load_checkpoint
from fastdet.testing import errors, golden

GOLDEN = Path(__file__).parents[1] / "golden" / "detectors"

SWIN = {"type": "SwinTransformer", "embed_dims": 32, "depths": (2, 2), "num_heads": (2, 4),
        "strides": (2, 2), "out_indices": (1,), "patch_size": 2, "window_size": 4,
        "drop_path_rate": 0.0}
PVT = {"num_stages": 2, "num_layers": [1, 1], "num_heads": [1, 2], "strides": [4, 2],
       "sr_ratios": [2, 1], "out_indices": (1,), "mlp_ratios": [2, 2], "embed_dims": 16}
PVT_V2 = {"type": "PyramidVisionTransformerV2", "embed_dims": 16, "num_layers": [1] * 4,
          "num_heads": [1, 2, 2, 2], "sr_ratios": [2, 2, 1, 1], "out_indices": (3,),
          "mlp_ratios": [2] * 4}


def drawn(model):
    """A model in float64 whose parameters are no zeros and ones."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    return model.double().eval()


def map_of(tokens, size):
    return tokens.transpose(1, 2).unflatten(2, (size, size))


def timm_pvt_v2():
    pvt = needs("timm").models.pvt_v2.PyramidVisionTransformerV2
    return pvt(depths=(1,) * 4, embed_dims=(16, 32, 32, 32), num_heads=(1, 2, 2, 2),
               sr_ratios=(2, 2, 1, 1), mlp_ratios=(2,) * 4, num_classes=3)


def hf_pvt_v2():
    hf = needs("transformers")
    return hf.PvtV2Backbone(hf.PvtV2Config(
        image_size=32, depths=[1] * 4, sr_ratios=[2, 2, 1, 1], hidden_sizes=[16, 32, 32, 32],
        num_attention_heads=[1, 2, 2, 2], mlp_ratios=[2] * 4, hidden_dropout_prob=0.0,
        layer_norm_eps=1e-6, out_indices=[3]))


#: Layout, its model, ours, and what theirs gives for ours' last map of a 32 x 32 image.
CASES = {
    "timm-swin": (timm_swin, SWIN,
                  lambda m, x: m.norm(m.layers(m.patch_embed(x))).permute(0, 3, 1, 2)),
    "torchvision-swin": (torchvision_swin, SWIN,
                         lambda m, x: m.norm(m.features(x)).permute(0, 3, 1, 2)),
    "transformers-swin": (hf_swin, SWIN, lambda m, x: map_of(m(x).last_hidden_state, 8)),
    "timm-pvt_v2": (timm_pvt_v2, PVT_V2,
                    lambda m, x: m.forward_features(x)),
    "transformers-pvt_v2": (hf_pvt_v2, PVT_V2,
                            lambda m, x: m(x).feature_maps[-1]),
    "resnet": (lambda: needs("torchvision").models.resnet18(), {
        "type": "ResNet", "depth": 18, "out_indices": (3,)},
        lambda m, x: nn.Sequential(*list(m.children())[:-2])(x)),
}


@pytest.mark.parametrize("name", CASES)
def test_converted_weights_give_the_same_features(name):
    build, config, features = CASES[name]
    theirs = drawn(build())
    done = convert(theirs.state_dict())
    assert done.layout.name == name
    ours = build_backbone(config).double().eval()
    missing, unexpected = ours.load_state_dict(done.state_dict, strict=False)
    assert not unexpected
    assert all("relative_position_index" in key for key in missing)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    want, got = features(theirs, x), ours(x)
    got = got[-1] if isinstance(got, (tuple, list)) else got
    assert want.abs().mean() > 1e-3
    assert errors(got, want)[0] < 1e-4 * want.square().mean().sqrt()  # eps of norms differ


def test_pvt_of_transformers_loads_whole():
    theirs = hf_pvt()
    done = convert(theirs.state_dict())
    ours = build_backbone({**PVT, "type": "PyramidVisionTransformer", "patch_sizes": [4, 2],
                           "paddings": [0, 0], "pretrain_img_size": 32})
    mine = ours.state_dict()
    assert done.layout.name == "transformers-pvt"
    assert done.state_dict.keys() == mine.keys()
    assert all(v.shape == mine[k].shape for k, v in done.state_dict.items())
    assert done.applied["query, key and value in one"] == 12


def official_swin(state):
    """The names of microsoft/Swin-Transformer: timm's, patch merging a stage earlier."""
    return {re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)
            : value for key, value in state.items()}


def test_official_swin_is_what_its_own_converter_makes():
    from fastdet.models.utils.ckpt_convert import swin_converter

    state = official_swin(drawn(timm_swin()).state_dict())
    done = convert(state, prefix="backbone.")
    assert done.layout.name == "swin"
    want = swin_converter(state)
    last = {k: v for k, v in done.state_dict.items() if ".norm1." in k and "blocks" not in k}
    assert len(last) == 2
    rest = {k: v for k, v in done.state_dict.items() if k not in last}
    assert rest.keys() == {k for k in want if k not in ("backbone.norm.weight",
                                                        "backbone.norm.bias")}
    assert all(torch.equal(v, want[k]) for k, v in rest.items())


@pytest.mark.parametrize("version", [1, 2])
def test_official_pvt_is_what_its_own_converter_makes(version):
    from fastdet.models.utils.ckpt_convert import pvt_convert

    block = {"norm1.weight": (8,), "attn.q.weight": (8, 8), "attn.kv.weight": (16, 8),
             "attn.q.bias": (8,), "attn.kv.bias": (16,), "attn.sr.weight": (8, 8, 2, 2),
             "attn.norm.bias": (8,), "attn.proj.weight": (8, 8), "norm2.bias": (8,),
             "mlp.fc1.weight": (16, 8), "mlp.fc2.weight": (8, 16), "mlp.fc2.bias": (8,)}
    state = {"head.bias": (3,)}
    for stage in (1, 4):
        state |= {f"block{stage}.{n}.{k}": v for n in (0, 1) for k, v in block.items()}
        state |= {f"patch_embed{stage}.proj.weight": (8, 3, 4, 4),
                  f"patch_embed{stage}.norm.bias": (8,)}
        if version == 1:
            state |= {f"pos_embed{stage}": (1, 50 if stage == 4 else 49, 8), "cls_token": (1, 1, 8)}
        else:
            state |= {f"block{stage}.0.mlp.dwconv.dwconv.weight": (16, 1, 3, 3),
                      f"norm{stage}.weight": (8,)}
    state = {key: torch.randn(shape) for key, shape in state.items()}
    done, want = convert(state), pvt_convert(state)
    assert done.layout.name == "pvt"
    assert done.state_dict.keys() == want.keys()
    assert all(torch.equal(v, want[k]) for k, v in done.state_dict.items())


def test_detectors():
    models = needs("torchvision").models
    theirs = models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    done = convert(theirs.state_dict())
    assert done.layout.name == "torchvision-detector"
    ours = {f"backbone.{k}" for k in build_backbone({"type": "ResNet", "depth": 50}).state_dict()}
    got = {k for k in done.state_dict if k.startswith("backbone.")}
    assert {k for k in got ^ ours if "tracked" not in k} == set()  # frozen norms count nothing
    assert len([k for k in done.state_dict if k.startswith("neck.")]) == 16
    state = {"backbone.conv1.weight": torch.ones(1), "bbox_head.fc.weight": torch.ones(1)}
    assert convert(state).layout.name == "mmdet2"
    three = convert({**state, "data_preprocessor.mean": torch.ones(3)})
    assert three.layout.name == "mmdet3"
    assert list(three.state_dict) == list(state)


#: What MMDetection 3.3.0 calls the parts of its DETRs, by their names in 2.x.
THREE = ((r"\.attentions\.0\.", ".self_attn."), (r"\.attentions\.1\.", ".cross_attn."),
         (r"\.ffns\.0\.", ".ffn."), (r"^bbox_head\.transformer\.((en|de)coder\.)", r"\1"),
         (r"^bbox_head\.query_", "query_"), (r"^.*\.level_embeds$", "level_embed"),
         (r"^.*\.reference_points\.", "reference_points_fc."),
         (r"^.*\.enc_output\.", "memory_trans_fc."), (r"^.*\.enc_output_", "memory_trans_"),
         (r"^.*\.pos_trans\.", "pos_trans_fc."), (r"^.*\.pos_trans_norm", "pos_trans_norm"),
         (r"^.*\.input_proj\.", "neck.convs.0.conv."))


@pytest.mark.parametrize(("layout", "name"), [
    ("mmdet3-detr", "detr"), ("mmdet3-deformable_detr", "deformable-detr"),
    ("mmdet3-deformable_detr", "deformable-detr-two-stage")])
def test_detrs_of_mmdetection_3(layout, name):
    record = golden.load(GOLDEN / f"detector__{name}.json.gz")
    state = {key: torch.randn(2) for key, _ in record["want"]["state"]}
    three = {"data_preprocessor.mean": torch.ones(3)}
    for key, value in state.items():
        for pattern, new in THREE:
            key = re.sub(pattern, new, key)
        three[key] = value
    assert len(three) == len(state) + 1
    done = convert(three)
    assert done.layout.name == layout
    assert done.state_dict.keys() == state.keys()
    assert all(done.state_dict[key] is value for key, value in state.items())
    with pytest.raises(ValueError, match=r"decoder\.ref_point_head"):  # conditional, DAB, DINO
        convert({**three, "decoder.ref_point_head.layers.0.weight": torch.ones(1)})
    mask = "panoptic_head.transformer_decoder.layers.0.self_attn.attn.in_proj_weight"
    with pytest.raises(ValueError, match=r"nearest is mmdet3 .*self_attn"):
        convert({"data_preprocessor.mean": torch.ones(3), mask: torch.ones(1),
                 "panoptic_head.cls_embed.weight": torch.ones(1)})


def test_unknown_layouts():
    state = drawn(timm_swin()).state_dict()
    with pytest.raises(ValueError, match=r"no known layout; the nearest is timm-swin .* 2 of its "
                                         r".* keys do not fit, the first are extra\.a, extra\.b"):
        layout_of([*state, "extra.a", "extra.b"])
    with pytest.raises(ValueError, match="unknown layout 'keras', known are mmdet3, mmdet2, swin"):
        convert(state, "keras")
    with pytest.raises(ValueError, match="keys are not of the layout pvt; the first are "
                                         r"patch_embed\.proj\.weight"):
        convert(state, "pvt")
    assert all(layout.title and layout.rules for layout in LAYOUTS.values())
    assert all(rule.name for layout in LAYOUTS.values() for rule in layout.rules)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_command(suffix, tmp_path, capsys):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    state, first, second = timm_swin().state_dict(), tmp_path / "in.pth", tmp_path / f"out{suffix}"
    torch.save({"model": state}, first)
    assert main(["convert", str(first), str(second), "--prefix", "backbone."]) == 0
    said = capsys.readouterr().out
    assert "timm-swin (timm's swin_*)" in said
    assert "patch merging in the order of torch.nn.Unfold" in said
    if suffix == ".safetensors":
        from safetensors.torch import load_file
        assert "backbone.norm1.weight" in load_file(second)
    else:
        model = nn.ModuleDict({"backbone": build_backbone(SWIN)})
        assert load_checkpoint(model, second)["meta"]["converted_from"] == "timm-swin"
        assert torch.equal(model.backbone.norm1.weight, state["norm.weight"])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in.pth", f"out{suffix}"])


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_pickle_does_not_run(tmp_path, capsys):
    for protocol in ("torch", "pickle"):
        path, mark = tmp_path / f"{protocol}.pth", tmp_path / "mark"
        evil = {"state_dict": {"backbone.w": torch.ones(1)}, "meta": Malicious(f"touch {mark}")}
        if protocol == "torch":
            torch.save(evil, path)
        else:
            path.write_bytes(pickle.dumps(evil))
        assert main(["convert", str(path), str(tmp_path / "out.pth")]) == 2
        assert not mark.exists()
        assert not (tmp_path / "out.pth").exists()
        assert "fastdet: error: " in capsys.readouterr().err


def test_what_mmengine_pickles_beside_weights_is_passed_over(tmp_path, monkeypatch):
    module = ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self):
            self._log_history, self._max = np.arange(3.0), np.float64(2)

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    weights = {"backbone.w": torch.ones(1), "data_preprocessor.mean": torch.ones(1)}
    torch.save({"state_dict": weights, "message_hub": {"loss": HistoryBuffer()}},
               tmp_path / "in.pth")
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    assert main(["convert", str(tmp_path / "in.pth"), str(tmp_path / "out.pth")]) == 0
    assert list(torch.load(tmp_path / "out.pth")["state_dict"]) == ["backbone.w"]


def test_bad_input(tmp_path, capsys):
    for source, target, said in [
            ("no.pth", "out.pth", "no such file"), ("no.pth", "out.bin", "OUT must end in .pth")]:
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    assert main(["convert", str(tmp_path / "bad.pth"), str(tmp_path / "out.pth")]) == 2
    assert "is not a checkpoint" in capsys.readouterr().err
