"""The examples in fastdet's docstrings and in MMDetection's API document do what they say."""

import doctest
import importlib
import itertools
import pkgutil

import pytest
import torch

import fastdet
import fastdet.core
import fastdet.models


def with_examples():
    """Every docstring of the package that holds an example."""
    for info in pkgutil.walk_packages(fastdet.__path__, "fastdet."):
        if not info.name.endswith((".__main__", ".kernel")):  # run as a script; needs triton
            module = importlib.import_module(info.name)
            for found in doctest.DocTestFinder().find(module, extraglobs={"torch": torch}):
                if found.examples:
                    yield found


@pytest.mark.parametrize("found", list(with_examples()), ids=lambda found: found.name)
def test_docstring(found):
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    runner.run(found, out=said.append)
    assert runner.failures == 0, "".join(said)


STAGES = {"block": "BASIC"}
HRNET = {
    "stage1": {"num_modules": 1, "num_branches": 1, "block": "BOTTLENECK", "num_blocks": (4,),
               "num_channels": (64,)},
    "stage2": {"num_modules": 1, "num_branches": 2, "num_blocks": (4, 4),
               "num_channels": (32, 64), **STAGES},
    "stage3": {"num_modules": 4, "num_branches": 3, "num_blocks": (4, 4, 4),
               "num_channels": (32, 64, 128), **STAGES},
    "stage4": {"num_modules": 3, "num_branches": 4, "num_blocks": (4, 4, 4, 4),
               "num_channels": (32, 64, 128, 256), **STAGES},
}
REGNET = {"w0": 88, "wa": 26.31, "wm": 2.25, "group_w": 48, "depth": 25, "bot_mul": 1.0}
CHANNELS, SCALES = [2, 3, 5, 7], [340, 170, 84, 43]
PYRAMID = [(1, c, s, s) for c, s in zip(CHANNELS, SCALES)]
PYRAMID_OUT = [(1, 11, s, s) for s in SCALES]


def levels(*channels, side):
    """Shapes of maps that halve from one level to the next."""
    return [(1, c, max(1, side >> i), max(1, side >> i)) for i, c in enumerate(channels)]


#: The document's examples: constructor, arguments, input shapes, shapes of the outputs.
EXAMPLES = [
    ("Darknet", {"depth": 53}, (1, 3, 416, 416), levels(256, 512, 1024, side=52)),
    ("HRNet", {"extra": HRNET, "in_channels": 1}, (1, 1, 32, 32),
     levels(32, 64, 128, 256, side=8)),
    ("HourglassNet", {}, (1, 3, 511, 511), [(1, 256, 128, 128)] * 2),
    ("RegNet", {"arch": REGNET}, (1, 3, 32, 32), levels(96, 192, 432, 1008, side=8)),
    ("Res2Net", {"depth": 50, "scales": 4, "base_width": 26}, (1, 3, 32, 32),
     levels(256, 512, 1024, 2048, side=8)),
    ("ResNet", {"depth": 18}, (1, 3, 32, 32), levels(64, 128, 256, 512, side=8)),
    ("ChannelMapper", {"in_channels": CHANNELS, "out_channels": 11, "kernel_size": 3}, PYRAMID,
     PYRAMID_OUT),
    ("FPN", {"in_channels": CHANNELS, "out_channels": 11, "num_outs": 4}, PYRAMID, PYRAMID_OUT),
    # Two examples of the document do not run in MMDetection 2.26 either. Here is what they mean.
    # CSPDarknet(depth=53): there is no such argument; the shapes are those of the default P5.
    ("CSPDarknet", {}, (1, 3, 416, 416), levels(256, 512, 1024, side=52)),
    # SSDVGG(depth=11): the extra levels that it prints are SSDNeck's since 2.14; out_indices and
    # out_feature_indices point into a VGG-16.
    ("SSDVGG", {"input_size": 300, "depth": 16}, (1, 3, 300, 300),
     [(1, 512, 38, 38), (1, 1024, 19, 19)]),
]


@pytest.mark.parametrize(("name", "arguments", "given", "expected"), EXAMPLES,
                         ids=[name for name, *_ in EXAMPLES])
def test_example_of_the_document(name, arguments, given, expected):
    component = getattr(fastdet.models, name)(**arguments).eval()
    given = torch.rand(given) if isinstance(given, tuple) else [torch.rand(s) for s in given]
    with torch.no_grad():
        assert [tuple(level.shape) for level in component(given)] == expected


def test_depth_of_csp_darknet_is_refused():
    with pytest.raises(TypeError, match="depth"):
        fastdet.models.CSPDarknet(depth=53)


def test_plugins_example_of_the_document():
    """Three of the four plugins stand in the first stage."""
    kinds = [("xxx", None, 2, False), ("yyy", None, 3, True), ("zzz", "1", 3, True),
             ("zzz", "2", 3, True)]
    plugins = [{"cfg": {"type": kind, **({"postfix": postfix} if postfix else {})},
                "stages": (first, True, True, True), "position": f"after_conv{conv}"}
               for kind, postfix, conv, first in kinds]
    resnet = fastdet.models.ResNet(depth=18)
    assert len(resnet.make_stage_plugins(plugins, 0)) == 3
    assert len(resnet.make_stage_plugins(plugins, 1)) == 4


def test_anchor_examples_of_the_document():
    cells = list(itertools.product((0.0, 16.0), repeat=2))  # (y, x): rows first
    shift = torch.tensor([[x, y, x, y] for y, x in cells])
    generator = fastdet.core.AnchorGenerator([16, 32], [1.0], [1.0], [9, 18])
    first, second = generator.grid_priors([(2, 2), (1, 1)], device="cpu")
    assert torch.equal(first, shift + torch.tensor([-4.5, -4.5, 4.5, 4.5]))
    assert torch.equal(second, torch.tensor([[-9.0, -9.0, 9.0, 9.0]]))
    generator = fastdet.core.AnchorGenerator([16], [1.0], [1.0], [9])
    assert torch.equal(generator.grid_priors([(2, 2)], device="cpu")[0], first)
    legacy = fastdet.core.LegacyAnchorGenerator([16], [1.0], [1.0], [9], center_offset=0.5)
    with pytest.warns(UserWarning, match="grid_anchors"):
        anchors = legacy.grid_anchors(((2, 2),), device="cpu")[0]
    assert torch.equal(anchors, shift + torch.tensor([0.0, 0.0, 8.0, 8.0]))
