"""Every component config of MMDetection's model zoo builds, runs forward and runs backward.

``zoo.json.gz`` holds the 229 distinct backbone, neck, anchor and transformer configs of the zoo's
599 config files, and the files that use each. Depths and widths are the real ones, images are tiny.
The numbers are the business of ``tests/parity``; here it is that nothing is missing, that what a
backbone returns fits the neck of the same file, and that gradients reach every parameter.
"""

import gzip
import itertools
import json
from pathlib import Path

import pytest
import torch

from fastdet.cnn import build_conv_layer
from fastdet.cnn.bricks.transformer import (
    build_positional_encoding,
    build_transformer_layer_sequence,
)
from fastdet.core import build_prior_generator
from fastdet.models import build_backbone, build_neck
from fastdet.models.utils import build_linear_layer, build_transformer
from fastdet.testing import golden

ZOO = json.loads(gzip.decompress((Path(__file__).parent / "zoo.json.gz").read_bytes()))

#: Necks that a file puts after another neck: they take what an FPN returns.
AFTER_A_PYRAMID = {"BFP", "DyHead"}

#: Necks that leave the first of the backbone's outputs aside (RFP: the image comes first).
TAKE_THE_LAST = {"CTResNetNeck", "DilatedEncoder", "RFP"}

#: Parameters on which no output of some config depends, by type: the beginnings of their names.
#: MMDetection builds MobileNetV2's last convolution whether or not it is among the outputs.
UNUSED = {"MobileNetV2": ("conv2.",)}


def configs(kind):
    return [pytest.param(golden.decode(entry["cfg"], None, None), entry["files"],
                         id=f"{entry['cfg']['type']}-{i}")
            for i, entry in enumerate(ZOO) if entry["kind"] == kind]


def floats(*shape):
    return torch.rand(shape, requires_grad=True)


def flat(outputs):
    """The floating tensors in an output, in order."""
    return [t for _, t in golden.tensors(outputs) if t.is_floating_point()]


def check_gradients(module, cfg, inputs, outputs):
    """Outputs are finite; so are the gradients, which reach every parameter that trains."""
    outputs = [t for t in flat(outputs) if t.requires_grad]
    assert outputs
    assert all(t.isfinite().all() for t in outputs)
    sum((t * torch.linspace(-1, 2, t.numel()).view_as(t)).sum() for t in outputs).backward()
    unused = UNUSED.get(cfg["type"], ())
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen and has a gradient"
        elif parameter.grad is None:
            assert name.startswith(unused), f"{name} has no gradient"
        else:
            assert parameter.grad.isfinite().all(), f"{name}: gradient not finite"
    for leaf in inputs:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


def as_from_imagenet(module):
    """Load a module's own weights the way a checkpoint of ImageNet is loaded.

    ``ConvAWS`` standardises its weight, to a deviation of one until a checkpoint without its two
    buffers has set them; through fifty such layers every output overflows.
    """
    state = {k: v for k, v in module.state_dict().items()
             if not k.endswith(("weight_gamma", "weight_beta"))}
    module.load_state_dict(state, strict=False)


def necks_of(files):
    """The distinct necks that these files put on their backbone."""
    for entry in ZOO:
        cfg = entry["cfg"]
        if (entry["kind"] == "neck" and cfg["type"] not in AFTER_A_PYRAMID
                and not set(files).isdisjoint(entry["files"])):
            yield golden.decode(cfg, None, None)


def channels_of(neck):
    """Channels of the maps that a neck takes, from the highest resolution to the lowest."""
    channels = neck.get("in_channels", neck.get("in_channel"))
    channels = list(channels) if isinstance(channels, (list, tuple)) else [channels]
    return channels[::-1] if neck["type"] == "YOLOV3Neck" else channels


@pytest.mark.parametrize(("cfg", "files"), configs("backbone"))
def test_backbone(cfg, files):
    # Switchable atrous convolutions pool with a reflected border of 2, so the last map is 3 x 3.
    side = 96 if cfg.get("sac") else 64
    backbone = build_backbone(cfg)
    as_from_imagenet(backbone)
    backbone.train()
    backbone.eval()
    image = floats(1, 3, side, side)
    if cfg.get("rfp_inplanes"):  # the inner backbone of RFP is run with the features it had before
        features = [floats(1, cfg["rfp_inplanes"], side // s, side // s) for s in (4, 8, 16, 32)]
        outputs = backbone.rfp_forward(image, features)
        inputs = [image, *features[1:]]  # the first stage takes none
    else:
        outputs, inputs = backbone(image), [image]
    channels = [t.shape[1] for t in outputs]
    if cfg.get("output_img"):
        assert outputs[0] is image
        outputs = outputs[1:]
    if "out_indices" in cfg:
        assert len(outputs) == len(cfg["out_indices"])
    for neck in necks_of(files):
        wanted = channels_of(neck)
        if neck["type"] in TAKE_THE_LAST:
            assert channels[-len(wanted):] == wanted, neck
        else:
            assert channels == wanted, neck
    check_gradients(backbone, cfg, inputs, outputs)


def neck_inputs(cfg):
    kind, channels = cfg["type"], channels_of(cfg)
    if kind in AFTER_A_PYRAMID:
        channels, sides = channels * 5, [16, 8, 4, 2, 1]
    elif kind == "SSDNeck":  # its levels shrink to one cell from these sizes, and from no smaller
        sides = {4: {512: [38, 19], 96: [20, 10]}[channels[0]], 5: [64, 32]}[
            len(cfg["level_strides"])]
    elif kind == "RFP":
        sides = [24, 12, 6, 3]
    else:
        sides = [32, 16, 8, 4][-len(channels):]
    maps = [floats(1, c, s, s) for c, s in zip(channels, sides)]
    return [floats(1, 3, 4 * sides[0], 4 * sides[0]), *maps] if kind == "RFP" else maps


@pytest.mark.parametrize(("cfg", "files"), configs("neck"))
def test_neck(cfg, files):
    neck = build_neck(cfg)
    if cfg["type"] == "RFP":  # its inner backbone starts from a checkpoint
        as_from_imagenet(neck)
    else:
        neck.init_weights()
    neck.train()
    neck.eval()
    inputs = neck_inputs(cfg)
    outputs = neck(inputs)
    if "num_outs" in cfg:
        sides = [t.shape[-1] for t in outputs]
        assert len(outputs) == cfg["num_outs"]
        assert {t.shape[1] for t in outputs} == {cfg["out_channels"]}
        assert all(b == (a + 1) // 2 for a, b in itertools.pairwise(sides)), sides
    used = inputs[cfg.get("start_level", 0):]
    check_gradients(neck, cfg, inputs[-1:] if cfg["type"] in TAKE_THE_LAST else used, outputs)


@pytest.mark.parametrize(("cfg", "files"), configs("anchor"))
def test_anchor(cfg, files):
    generator = build_prior_generator(cfg)
    sizes = [(max(1, 96 // (2 << i)), max(1, 128 // (2 << i))) for i in range(generator.num_levels)]
    priors = generator.grid_priors(sizes, device="cpu")
    flags = generator.valid_flags(sizes, (300, 400), device="cpu")
    assert len(priors) == len(flags) == generator.num_levels
    for (h, w), per_cell, prior, flag in zip(sizes, generator.num_base_priors, priors, flags):
        assert prior.shape == (h * w * per_cell, 4)
        assert flag.shape == (h * w * per_cell,)
        assert prior.isfinite().all()
        assert (prior[:, 2:] > prior[:, :2]).all()


def run_util(cfg):
    """Build one of the ``utils`` configs the way MMDetection's heads do, and run it."""
    kind = cfg["type"]
    if kind == "SinePositionalEncoding":
        module = build_positional_encoding(cfg)
        return module, [], module(torch.zeros(1, 4, 5, dtype=torch.bool))
    if kind == "NormedLinear":
        module, inputs = build_linear_layer(cfg, in_features=8, out_features=5), [floats(3, 8)]
    elif kind == "NormedConv2d":
        module, inputs = build_conv_layer(cfg, 8, 5, 1), [floats(2, 8, 3, 4)]
    elif kind == "DynamicConv":
        side = cfg["input_feat_shape"]
        module = build_transformer(cfg)
        inputs = [floats(2, 256), floats(2, 256, side, side)]
    elif kind == "DetrTransformerDecoder":
        module = build_transformer_layer_sequence(cfg).eval()
        inputs = [floats(7, 1, 256), floats(20, 1, 256), floats(20, 1, 256)]
        return module, inputs, module(*inputs, query_pos=floats(7, 1, 256),
                                      key_pos=floats(20, 1, 256))
    elif kind == "Transformer":
        module = build_transformer(cfg).eval()
        inputs = [floats(1, 256, 4, 5), floats(7, 256), floats(1, 256, 4, 5)]
        mask = torch.zeros(1, 4, 5, dtype=torch.bool)
        return module, inputs, module(inputs[0], mask, *inputs[1:])
    else:
        assert kind == "DeformableDetrTransformer"
        module = build_transformer(cfg).eval()
        sizes = [(8, 10), (4, 5), (2, 3), (1, 2)]
        maps = [floats(1, 256, *size) for size in sizes]
        masks = [torch.zeros(1, *size, dtype=torch.bool) for size in sizes]
        places = [floats(1, 256, *size) for size in sizes]
        queries = floats(7, 512)
        return module, [*maps, *places, queries], module(maps, masks, queries, places)
    return module, inputs, module.eval()(*inputs)


@pytest.mark.parametrize(("cfg", "files"), configs("utils"))
def test_util(cfg, files):
    module, inputs, outputs = run_util(cfg)
    if inputs:
        check_gradients(module, cfg, inputs, outputs)
    else:
        assert outputs.shape == (1, 256, 4, 5)
        assert outputs.isfinite().all()


def test_every_config_is_taken():
    assert len(ZOO) == 229
    assert {entry["kind"] for entry in ZOO} == {"backbone", "neck", "anchor", "utils"}
    assert len({file for entry in ZOO for file in entry["files"]}) == 599
