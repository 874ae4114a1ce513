"""torch.compile, torch.export, FakeTensor, autocast and partial gradients of whole components.

Everything must trace in one graph, and new image sizes must not start a chain of recompilations:
the limit is two compilations however many sizes come, one for the first and one with symbols. A
size that needs padding is another graph than one that does not, because ``F.pad`` itself asks; so
the sizes below come in two groups, padded nowhere and padded at every level.
"""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fastdet.core import AnchorGenerator, MlvlPointGenerator
from fastdet.models import (
    FPN,
    PyramidVisionTransformer,
    PyramidVisionTransformerV2,
    ResNet,
    SwinTransformer,
)
from fastdet.testing import MARGIN

#: Different in both directions: images that a data pipeline has padded, and images as they come.
SIZES = {"aligned": [(64, 96), (96, 128), (128, 64)], "odd": [(51, 65), (65, 83), (73, 51)]}
SIZE = (72, 100)


def swin():
    return SwinTransformer(embed_dims=16, depths=(2, 2), num_heads=(1, 2), strides=(4, 2),
                           window_size=4, out_indices=(0, 1), drop_path_rate=0.0).eval()


def pvt():
    return PyramidVisionTransformer(embed_dims=16, num_stages=2, num_layers=[1, 2],
                                    num_heads=[1, 2], patch_sizes=[4, 2], strides=[4, 2],
                                    paddings=[0, 0], sr_ratios=[4, 2], out_indices=(0, 1),
                                    mlp_ratios=[2, 2], drop_path_rate=0.0).eval()


def pvt_v2():
    return PyramidVisionTransformerV2(embed_dims=16, num_layers=[1, 1, 1, 1],
                                      mlp_ratios=[2, 2, 2, 2], drop_path_rate=0.0).eval()


def resnet():
    return ResNet(18, base_channels=8, stem_channels=8).eval()


def pyramid():
    """A backbone and its neck, as one module that takes images."""
    return torch.nn.Sequential(resnet(), FPN([8, 16, 32, 64], 8, 4).eval())


COMPONENTS = {"swin": swin, "pvt": pvt, "pvt-v2": pvt_v2, "resnet18": resnet, "fpn": pyramid}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def image(size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def loss(outputs):
    """A number that depends on every element; the mean square of a layer norm would not."""
    return sum((t * torch.linspace(-1, 2, t.numel()).view_as(t)).mean() for t in outputs)


def gradients(module, run, x):
    """Outputs, and the gradients of the input and of every parameter."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    outputs = run(x)
    loss(outputs).backward()
    return [*outputs, x.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "group"), [
    ("swin", "aligned"), ("pvt", "aligned"), ("pvt-v2", "aligned"), ("fpn", "aligned"),
    ("swin", "odd")])
def test_compile_takes_every_size_in_one_graph(name, group):
    module = COMPONENTS[name]()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for size in SIZES[group]:
        torch.testing.assert_close(gradients(module, compiled, image(size)),
                                   gradients(module, module, image(size)), atol=1e-5, rtol=1e-4)
    assert counter.frame_count <= 2, f"{counter.frame_count} graphs for {len(SIZES[group])} sizes"


def test_compile_without_gradients():
    """A graph of inference: what is registered for autograd must not be needed to trace it."""
    module = swin()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        torch.testing.assert_close(compiled(image(SIZE)), module(image(SIZE)))


@pytest.mark.slow
def test_compile_with_inductor():
    module = swin()
    compiled = torch.compile(module, fullgraph=True)
    torch.testing.assert_close(gradients(module, compiled, image((36, 52))),
                               gradients(module, module, image((36, 52))), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [
    lambda: AnchorGenerator([8, 16, 32], [0.5, 1.0, 2.0], octave_base_scale=4, scales_per_octave=3),
    lambda: MlvlPointGenerator([8, 16, 32]),
], ids=["anchors", "points"])
def test_compile_priors_with_changing_sizes(make):
    """A head asks for priors in the middle of its graph, with the sizes of its feature maps."""
    generator = make()
    counter = CompileCounterWithBackend("aot_eager")

    def head(*maps):
        sizes = [m.shape[-2:] for m in maps]
        pad_shape = (sizes[0][0] * 8 - 5, sizes[0][1] * 8 - 9)
        return (generator.grid_priors(sizes, device=maps[0].device),
                generator.valid_flags(sizes, pad_shape, device=maps[0].device))

    compiled = torch.compile(head, fullgraph=True, backend=counter)
    for h, w in [(12, 16), (20, 12), (24, 28), (16, 36)]:
        maps = [torch.zeros(1, 1, h >> i, w >> i) for i in range(3)]
        got, want = compiled(*maps), head(*maps)
        assert all(torch.equal(a, b) for x, y in zip(got, want) for a, b in zip(x, y))
    assert counter.frame_count <= 2, f"{counter.frame_count} graphs for 4 sizes"


@pytest.mark.parametrize("name", ["swin", "pvt", "fpn"])
def test_export(name):
    module = COMPONENTS[name]()
    program = torch.export.export(module, (image((64, 96)),))
    torch.testing.assert_close(program.module()(image((64, 96))), module(image((64, 96))))


def test_export_with_a_dynamic_batch():
    module = swin()
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(module, (image((64, 96)),), dynamic_shapes=({0: batch},))
    x = image((64, 96), batch=5)
    torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.parametrize("name", COMPONENTS)
def test_fake_tensors(name):
    """Shapes, data types and strides without any data, as torch.compile sees them."""
    module = COMPONENTS[name]()
    want = module(image(SIZE))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = torch.func.functional_call(
            module, {k: mode.from_tensor(v) for k, v in module.state_dict().items()},
            (mode.from_tensor(image(SIZE)),))
    for got, real in zip(fake, want, strict=True):
        assert isinstance(got, FakeTensor)
        assert (got.shape, got.dtype, got.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("name", COMPONENTS)
def test_autocast(name):
    """Autocast loses at most what the whole module in bfloat16 loses, by the rule of the kernels.

    All gradients are compared as one vector: some are zero but for rounding, like those of the
    biases of attention's keys.
    """
    module = COMPONENTS[name]()
    count = len(module(image(SIZE)))

    def autocast(x):
        with torch.autocast("cpu", torch.bfloat16):
            return module(x)

    def vectors(tensors):
        return (torch.cat([t.flatten().double() for t in part])
                for part in (tensors[:count], tensors[count:]))

    low = copy.deepcopy(module).bfloat16()
    got = gradients(module, autocast, image(SIZE))
    assert {t.dtype for t in got[count:]} == {torch.float32}
    for what, mine, torchs, truth in zip(
            ("outputs", "gradients"), vectors(got),
            vectors(gradients(low, low, image(SIZE).bfloat16())),
            vectors(gradients(module, module, image(SIZE))), strict=True):
        assert mine.isfinite().all()
        lost, granted = (mine - truth).norm(), MARGIN * (torchs - truth).norm()
        assert lost <= granted, f"{what}: error {lost:.3e}, granted {granted:.3e}"


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize("kind", ["input", "weight", "bias"])
def test_gradients_of_a_part(name, kind):
    """With few leaves that require gradients, those get the same ones as with all of them."""
    module = COMPONENTS[name]()
    x = image(SIZE).requires_grad_()
    loss(module(x)).backward()
    want = {k: p.grad for k, p in [("input", x), *module.named_parameters()]
            if k.rpartition(".")[2] == kind and p.grad is not None}
    assert want
    module.zero_grad()
    y = x.detach().clone()
    leaves = {"input": y, **dict(module.named_parameters())}
    for key, leaf in leaves.items():
        leaf.requires_grad_(key in want)
    loss(module(y)).backward()
    for key, leaf in leaves.items():
        if key in want:
            torch.testing.assert_close(leaf.grad, want[key], msg=lambda m, key=key: f"{key}: {m}")
        else:
            assert leaf.grad is None
