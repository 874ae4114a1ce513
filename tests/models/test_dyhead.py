"""DyHead: every level against explicit loops, whose offsets which branch reads, initialisation."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from fastdet.models import NECKS
from fastdet.models.necks.dyhead import DyDCNv2, DyHead, DyHeadBlock
from fastdet.models.utils import DyReLU

CHANNELS = 16


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HSigmoid defaults")
        yield


def level_inputs(*sizes, batch=1, channels=CHANNELS):
    return [torch.randn(batch, channels, *s, dtype=torch.float64).requires_grad_() for s in sizes]


def block(zero_init_offset=False, **kwargs):
    """A block in float64 with parameters that leave nothing at zero or one."""
    out = DyHeadBlock(CHANNELS, CHANNELS, zero_init_offset, **kwargs).double()
    with torch.no_grad():
        for name, p in out.named_parameters():
            p.copy_(torch.randn_like(p) * (0.05 if name.endswith("conv.weight") else 0.3))
    return out


def naive_dcn(conv, x, numbers, masks):
    """A deformable convolution that finds offsets by their address in an image's flat numbers."""
    stride = conv.stride[0]
    B, _, H, W = x.shape
    oh, ow = (H - 1) // stride + 1, (W - 1) // stride + 1
    out = x.new_zeros(B, conv.out_channels, oh, ow)
    for b in range(B):
        for i in range(oh):
            for j in range(ow):
                for k in range(9):
                    dy, dx = (numbers[b, ((2 * k + d) * oh + i) * ow + j].item() for d in (0, 1))
                    y, z = i * stride - 1 + k // 3 + dy, j * stride - 1 + k % 3 + dx
                    sample = x.new_zeros(x.shape[1])
                    for m in (math.floor(y), math.floor(y) + 1):
                        for n in (math.floor(z), math.floor(z) + 1):
                            if 0 <= m < H and 0 <= n < W:
                                sample += (1 - abs(y - m)) * (1 - abs(z - n)) * x[b, :, m, n]
                    sample *= masks[b, (k * oh + i) * ow + j]
                    out[b, :, i, j] += conv.weight[:, :, k // 3, k % 3] @ sample
    return out


def naive_block(module, xs):
    outs = []
    for i, x in enumerate(xs):
        numbers = F.conv2d(x, module.spatial_conv_offset.weight, module.spatial_conv_offset.bias,
                           padding=1)
        offset, mask = numbers[:, :18].flatten(1), numbers[:, 18:].sigmoid().flatten(1)
        maps = []
        for layer, other in ((module.spatial_conv_mid, i), (module.spatial_conv_low, i - 1),
                             (module.spatial_conv_high, i + 1)):
            if 0 <= other < len(xs):
                y = layer.norm(naive_dcn(layer.conv, xs[other], offset, mask))
                maps.append(F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=True))
        out = sum(y * module.scale_attn_module(y) for y in maps) / len(maps)
        relu = module.task_attn_module
        c = relu.conv2(relu.conv1(out.mean((2, 3), keepdim=True))) - 0.5
        a1, b1, a2, b2 = c.split(CHANNELS, 1)
        outs.append(torch.maximum(out * (a1 * 2 + 1) + b1, out * a2 * 2 + b2))
    return outs


@pytest.mark.parametrize("sizes", [
    [(4, 6), (2, 3)],
    [(3, 4)],
    [(5, 7), (3, 4), (2, 2), (1, 1)],
    [(1, 3), (1, 2)],
])
@torch.no_grad()
def test_block_is_what_loops_say(sizes):
    module, xs = block(), level_inputs(*sizes, batch=1 if len(sizes) == 2 else 2)
    for got, want in zip(module(xs), naive_block(module, xs), strict=True):
        torch.testing.assert_close(got, want)


def test_the_coarser_level_reads_the_flat_beginning_of_the_finer_levels_offsets():
    module = block()
    fine, coarse = level_inputs((4, 6), (2, 3))
    kept = []

    def keep(_module, _inputs, out):
        out.retain_grad()
        kept.append(out)

    module.spatial_conv_offset.register_forward_hook(keep)
    for m in (module.spatial_conv_mid, module.spatial_conv_low):
        torch.nn.init.zeros_(m.conv.weight)  # leaves high alone to read offsets
    module([fine, coarse])[0].square().sum().backward()
    grad = kept[0].grad
    for part, numbers in ((grad[:, :18], 18), (grad[:, 18:], 9)):
        flat = part.flatten()
        assert (flat[:numbers * 6] != 0).any()
        assert not flat[numbers * 6:].any()


def test_another_activation_of_the_scales():
    """The way of the modules, taken for other activations, is the way of the operator."""
    module, plain = block(), block(act_cfg={"type": "Clamp", "min": 0.0, "max": 1.0})
    plain.load_state_dict(module.state_dict())
    act = module.scale_attn_module[3]
    act.bias, act.divisor = 0.0, 1.0
    xs = level_inputs((5, 6), (3, 3), batch=2)
    wanted, got = module(xs), plain(xs)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)
    grads = [torch.autograd.grad(sum(t.square().sum() for t in outs), [*xs, *m.parameters()])
             for outs, m in ((got, plain), (wanted, module))]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_zero_init_offset():
    for zero in (True, False):
        neck = DyHead(CHANNELS, CHANNELS, num_blocks=2, zero_init_offset=zero)
        for m in neck.dyhead_blocks:
            assert m.zero_init_offset is zero
            assert bool(m.spatial_conv_offset.weight.any()) is not zero
            assert not m.spatial_conv_offset.bias.any()


def test_init():
    """Plain convolutions are narrow, also after ``init_weights``, the deformable ones mmcv's."""
    neck = DyHead(256, 256, num_blocks=1, zero_init_offset=False)
    neck.init_weights()
    m = neck.dyhead_blocks[0]
    for conv in (m.spatial_conv_offset, m.scale_attn_module[1], m.task_attn_module.conv1.conv,
                 m.task_attn_module.conv2.conv):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.2)  # 256 numbers are few
        assert not conv.bias.any()
    for layer in (m.spatial_conv_high, m.spatial_conv_mid, m.spatial_conv_low):
        assert layer.conv.bias is None
        assert layer.conv.weight.abs().max().item() == pytest.approx(1 / 48, rel=1e-3)
        assert layer.norm.num_groups == 16
    assert m.spatial_conv_low.conv.stride == (2, 2)


def test_every_parameter_and_input_gets_a_gradient():
    neck = DyHead(CHANNELS, 32, num_blocks=2, zero_init_offset=False)
    for m in neck.dyhead_blocks:
        torch.nn.init.normal_(m.task_attn_module.conv2.conv.bias)
    xs = [x.detach().float().requires_grad_() for x in level_inputs((9, 7), (5, 4), (3, 2))]
    outs = neck(xs)
    assert isinstance(outs, tuple)
    assert [tuple(out.shape) for out in outs] == [(1, 32, 9, 7), (1, 32, 5, 4), (1, 32, 3, 2)]
    sum(out.square().sum() for out in outs).backward()
    for name, t in [*neck.named_parameters(), *enumerate(xs)]:
        assert t.grad is not None, name
        assert t.grad.isfinite().all(), name
        assert t.grad.any(), name


def test_the_norm_of_dydcnv2_takes_the_place_of_the_bias():
    assert list(DyDCNv2(4, 32).state_dict()) == ["conv.weight", "norm.weight", "norm.bias"]
    layer = DyDCNv2(4, 6, stride=2, norm_cfg=None)
    assert list(layer.state_dict()) == ["conv.weight", "conv.bias"]
    x = torch.randn(1, 4, 5, 6)
    out = layer(x, torch.zeros(1, 18, 3, 3), torch.ones(1, 9, 3, 3))
    torch.testing.assert_close(out, F.conv2d(x, layer.conv.weight, layer.conv.bias, 2, 1))


def test_it_is_registered():
    neck = NECKS.build({"type": "DyHead", "in_channels": 16, "out_channels": 16, "num_blocks": 1})
    assert (neck.in_channels, neck.out_channels, neck.num_blocks) == (16, 16, 1)


@pytest.mark.parametrize(("inputs", "error", "message"), [
    (torch.zeros(1, 16, 4, 4), TypeError, "list with one map per level, got Tensor"),
    ([], ValueError, "at least one level, got none"),
    ([torch.zeros(1, 16, 4, 4), torch.zeros(1, 8, 2, 2)], ValueError,
     r"level 1 must be \(N, 16, H, W\), got \(1, 8, 2, 2\)"),
    ([torch.zeros(1, 16, 5, 4), torch.zeros(1, 16, 2, 2)], ValueError,
     r"level 1 must be 3x2, half of level 0 \(5x4\) rounded up, got 2x2"),
])
def test_bad_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        DyHead(16, 16, num_blocks=1)(inputs)


def test_dyrelu_pools_with_an_expanded_gradient():
    """The gradient of a pooled map comes as a view, not as a map of its own."""
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    mean = DyReLU.pool(x)
    torch.testing.assert_close(mean, x.mean((2, 3)))
    (grad,) = torch.autograd.grad(mean.sum(), x)
    assert grad.stride()[2:] == (0, 0)
    torch.testing.assert_close(grad, torch.full_like(x, 1 / 20))


@pytest.mark.kernel
def test_kernels_float32(kernel_device):
    """A whole block on its kernels, forward and backward, against float64."""
    import fastdet

    module = block().to(kernel_device)
    xs = [x.detach().to(kernel_device).requires_grad_() for x in level_inputs((2, 3), (1, 2))]
    with fastdet.backend("torch"):
        want = module(xs)
        wanted = torch.autograd.grad(sum(t.square().sum() for t in want),
                                     [*xs, *module.parameters()])
    module = module.float()
    xs = [x.detach().float().requires_grad_() for x in xs]
    got = module(xs)
    grads = torch.autograd.grad(sum(t.square().sum() for t in got), [*xs, *module.parameters()])
    for a, b in zip((*got, *grads), (*want, *wanted), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-4 * b.abs().max().item() + 1e-6)
