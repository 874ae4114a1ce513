"""RoI layers, point_sample, CornerPool and MaskedConv2d: switches that no record reaches."""

import pytest
import torch
from torch import nn

from fastdet.ops import (
    CornerPool,
    DeformRoIPool,
    DeformRoIPoolPack,
    MaskedConv2d,
    ModulatedDeformRoIPoolPack,
    RoIAlign,
    RoIPool,
    SimpleRoIAlign,
    deform_roi_pool,
    masked_conv2d,
    point_sample,
    rel_roi_point_to_rel_img_point,
    roi_align,
    roi_pool,
)
from fastdet.ops.point_sample import (
    abs_img_point_to_rel_img_point,
    generate_grid,
    rel_roi_point_to_abs_img_point,
)

ROIS = torch.tensor([[0, 2.0, 3, 13, 11], [1, -4, 5, 9, 30], [0, 8, 8, 8, 8]], dtype=torch.float64)


@pytest.fixture
def x():
    return torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)


def test_roi_align_layer(x):
    layer = RoIAlign(2, 0.5, 3, "max", False)
    assert torch.equal(layer(x, ROIS), roi_align(x, ROIS, 2, 0.5, 3, "max", False))
    assert repr(layer) == ("RoIAlign(output_size=(2, 2), spatial_scale=0.5, sampling_ratio=3, "
                           "pool_mode=max, aligned=False, use_torchvision=False)")
    assert not layer.state_dict()
    with pytest.raises(ValueError, match="use_torchvision has pool_mode 'avg' alone, got 'max'"):
        RoIAlign(2, pool_mode="max", use_torchvision=True)


def test_roi_pool_is_the_maximum_of_its_pixels(x):
    out = RoIPool((2, 3), 0.5)(x, ROIS)
    assert repr(RoIPool(7)) == "RoIPool(output_size=(7, 7), spatial_scale=1.0)"
    # The first region covers rows 1.5 to 6, columns 1 to 7: bins of 2.25 and 2, rounded outwards.
    assert torch.equal(out[0, :, 0, 0], x[0, :, 1:4, 1:3].amax((1, 2)))
    assert torch.equal(out[0, :, 1, 2], x[0, :, 3:6, 5:7].amax((1, 2)))
    small = torch.randn(2, 1, 5, 6, dtype=x.dtype, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: roi_pool(t, ROIS, 2, 0.5), small)


def test_roi_pool_of_odd_regions(x):
    odd = torch.tensor([[0, 50.0, 50, 60, 60], [0, 9, 9, 2, 2], [0, float("nan"), 1, 4, 4]],
                       dtype=x.dtype)
    assert roi_pool(x, odd, 2).eq(0).all()
    assert roi_pool(x, odd[:0], 2).shape == (0, 3, 2, 2)
    with pytest.raises(ValueError, match="image is not one of the 2"):
        roi_pool(x, torch.tensor([[2, 0.0, 0, 4, 4]]), 2)
    with pytest.raises(ValueError, match=r"rois \(N, 5\)"):
        roi_pool(x, odd[:, 1:], 2)


def test_deform_roi_pool_moves_bins(x):
    plain = roi_align(x, ROIS, (2, 3), 0.5, 2)
    offset = torch.zeros(3, 2, 2, 3, dtype=x.dtype)
    torch.testing.assert_close(deform_roi_pool(x, ROIS, offset, (2, 3), 0.5, 2), plain)
    assert torch.equal(DeformRoIPool((2, 3), 0.5, 2)(x, ROIS), plain)
    # A whole width to the right and half a height down is a region elsewhere.
    offset[:, 0], offset[:, 1] = 10, 5
    moved = ROIS.clone()
    size = ROIS[:, 3:] - ROIS[:, 1:3]
    moved[:, 1:3] += size * torch.tensor([1, 0.5])
    moved[:, 3:] += size * torch.tensor([1, 0.5])
    torch.testing.assert_close(deform_roi_pool(x, ROIS, offset, (2, 3), 0.5, 2),
                               roi_align(x, moved, (2, 3), 0.5, 2))
    inside = torch.tensor([[1, 4.0, 3, 13, 11]], dtype=x.dtype)
    small = torch.randn(2, 1, 8, 9, dtype=x.dtype, requires_grad=True)
    offset = torch.randn(1, 2, 2, 2, dtype=x.dtype, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t, o: deform_roi_pool(t, inside, o, 2, 0.5, 2), (small, offset))
    with pytest.raises(ValueError, match=r"offset must be \(3, 2, 2, 2\), got \(1, 2, 2, 2\)"):
        deform_roi_pool(x, ROIS, offset, 2)


@pytest.mark.parametrize(("kind", "factor", "names"), [
    (DeformRoIPoolPack, 1.0, {"offset_fc.0", "offset_fc.2", "offset_fc.4"}),
    (ModulatedDeformRoIPoolPack, 0.5, {"offset_fc.0", "offset_fc.2", "offset_fc.4", "mask_fc.0",
                                       "mask_fc.2"})])
def test_packs_start_without_offsets(x, kind, factor, names):
    layer = kind((2, 3), 3, 8, 0.5, 2).double()
    assert {name.rpartition(".")[0] for name in layer.state_dict()} == names
    torch.testing.assert_close(layer(x, ROIS), factor * roi_align(x, ROIS, (2, 3), 0.5, 2))
    nn.init.normal_(layer.offset_fc[-1].bias)
    assert not torch.allclose(layer(x, ROIS), factor * roi_align(x, ROIS, (2, 3), 0.5, 2))
    assert layer(x, ROIS[:0]).shape == (0, 3, 2, 3)
    with pytest.raises(ValueError, match="the map must have 3 channels, got 2"):
        layer(x[:, :2], ROIS)


def test_points():
    grid = generate_grid(2, (1, 2), "cpu")
    assert grid.tolist() == [[[0.25, 0.5], [0.75, 0.5]]] * 2
    rois = torch.tensor([[1.0, 10, 20, 30, 60]])
    point = torch.tensor([[[0.5, 0.25]]])
    assert rel_roi_point_to_abs_img_point(rois, point).tolist() == [[[20, 30]]]
    assert rel_roi_point_to_abs_img_point(rois[:, 1:], point).tolist() == [[[20, 30]]]
    assert rel_roi_point_to_rel_img_point(rois, point, (60, 40)).tolist() == [[[0.5, 0.5]]]
    assert abs_img_point_to_rel_img_point(
        torch.tensor([[[20.0, 30]]]), torch.zeros(1, 1, 30, 20), 0.5).tolist() == [[[0.5, 0.5]]]
    with pytest.raises(ValueError, match=r"rois must be \(N, 4\) or \(N, 5\)"):
        rel_roi_point_to_abs_img_point(rois[:, 2:], point)
    with pytest.raises(ValueError, match="img must be"):
        abs_img_point_to_rel_img_point(point, 5)


def test_point_sample_of_a_grid(x):
    points = torch.rand(2, 4, 5, 2, dtype=x.dtype)
    flat = point_sample(x, points.flatten(1, 2))
    assert torch.equal(point_sample(x, points).flatten(2), flat)


def test_simple_roi_align_is_one_sample_a_bin(x):
    inner = torch.tensor([[1, 4.0, 3, 13, 11], [0, 5, 4, 16, 12]], dtype=x.dtype)
    got = SimpleRoIAlign((2, 3), 0.5)(x, inner)
    # Regions come out image after image.
    torch.testing.assert_close(got, roi_align(x, inner, (2, 3), 0.5, 1).flip(0), atol=1e-5,
                               rtol=1e-5)
    assert repr(SimpleRoIAlign(2, 0.5)) == "SimpleRoIAlign(output_size=(2, 2), spatial_scale=0.5)"
    assert SimpleRoIAlign(2, 0.5)(x, inner[:0]).shape == (0, 3, 2, 2)


@pytest.mark.parametrize(("mode", "window"), [
    ("top", (slice(4, None), 5)), ("bottom", (slice(None, 5), 5)),
    ("left", (4, slice(5, None))), ("right", (4, slice(None, 6)))])
def test_corner_pool(x, mode, window):
    layer = CornerPool(mode)
    assert torch.equal(layer(x)[:, :, 4, 5], x[:, :, window[0], window[1]].amax(2))
    assert torch.autograd.gradcheck(layer, x[:1, :1, :5, :6].detach().requires_grad_())
    with pytest.raises(ValueError, match="mode must be one of bottom, left, right, top"):
        CornerPool("down")


def test_masked_conv_is_a_convolution_where_the_mask_is(x):
    conv = MaskedConv2d(3, 4, (3, 5), padding=(1, 2)).double()
    assert isinstance(conv, nn.Conv2d)
    full = nn.Conv2d.forward(conv, x[:1])
    assert torch.equal(conv(x[:1]), full)
    mask = torch.rand(1, 9, 11) > 0.6
    torch.testing.assert_close(conv(x[:1], mask), full * mask)
    torch.testing.assert_close(masked_conv2d(x[:1], mask.float(), conv.weight, None, (1, 2)),
                               (full - conv.bias[:, None, None]) * mask)
    assert conv(x[:1], mask & False).eq(0).all()
    with pytest.raises(ValueError, match=r"one image \(1, C, H, W\) and its mask"):
        conv(x, mask)
    with pytest.raises(ValueError, match=r"mask must be of the size of the result, \(9, 11\)"):
        conv(x[:1], mask[:, 1:])
    with pytest.raises(ValueError, match="takes a stride of 1"):
        MaskedConv2d(3, 4, 3, stride=2).double()(x[:1], mask)
    with pytest.raises(ValueError, match="dilation and groups must be 1"):
        MaskedConv2d(3, 3, 3, groups=3).double()(x[:1], mask)
