"""Merge cells: resizing both ways, merging, and every option."""

import pytest
import torch
import torch.nn.functional as F

from fastdet.ops import BaseMergeCell, ConcatCell, GlobalPoolingCell, SumCell

BARE = dict(with_out_conv=False)


def test_maps_of_one_size_are_summed_and_convolved():
    cell = SumCell(4, 6)
    x1, x2 = torch.randn(2, 4, 5, 7), torch.randn(2, 4, 5, 7)
    assert (cell.out_conv.in_channels, cell.out_conv.out_channels) == (4, 6)
    want = F.conv2d((x1 + x2).relu(), cell.out_conv.conv.weight, cell.out_conv.conv.bias, padding=1)
    torch.testing.assert_close(cell(x1, x2), want)


def test_concat_and_global_pooling():
    x1, x2 = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    assert torch.equal(ConcatCell(3, 3, **BARE)(x1, x2), torch.cat((x1, x2), 1))
    assert ConcatCell(3, 5).out_conv.in_channels == 6
    weight = x2.mean((2, 3), keepdim=True).sigmoid()
    torch.testing.assert_close(GlobalPoolingCell(**BARE)(x1, x2), x2 + weight * x1)
    assert GlobalPoolingCell(3, 5).out_conv.out_channels == 5


def test_the_inputs_stay_as_they_are():
    x1, x2 = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    kept = x1.clone(), x2.clone()
    for cell in (SumCell(4, 4), ConcatCell(4, 4), GlobalPoolingCell(4, 4)):
        cell(x1, x2)
    assert torch.equal(x1, kept[0])
    assert torch.equal(x2, kept[1])


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_a_smaller_map_is_interpolated(mode):
    x1, x2 = torch.randn(1, 3, 4, 6), torch.randn(1, 3, 9, 11)
    out = SumCell(3, 3, upsample_mode=mode, **BARE)(x1, x2)
    torch.testing.assert_close(out, F.interpolate(x1, size=(9, 11), mode=mode) + x2)


def test_a_larger_map_is_pooled():
    x1, x2 = torch.randn(1, 3, 8, 12), torch.randn(1, 3, 4, 4)
    out = SumCell(3, 3, **BARE)(x1, x2, out_size=(4, 4))
    assert torch.equal(out, F.max_pool2d(x1, (2, 3)) + x2)


@pytest.mark.parametrize(("size", "pad"), [  # left, right, top, bottom
    ((9, 12), (0, 0, 1, 2)), ((8, 11), (0, 1, 0, 0)), ((7, 9), (1, 2, 0, 1)),
    ((5, 4), (0, 0, 1, 2)),
])
def test_a_larger_map_that_does_not_divide_is_padded_with_zeros(size, pad):
    x = torch.full((1, 2, *size), -1.0)
    out = SumCell(2, 2, **BARE)(x, torch.zeros(1, 2, 4, 4), out_size=(4, 4))
    padded = F.pad(x, pad)
    kernel = padded.shape[2] // 4, padded.shape[3] // 4
    assert torch.equal(out, F.max_pool2d(padded, kernel))
    assert out.max() == 0  # a padded zero wins over -1
    assert out.min() == -1


def test_heights_decide_and_widths_where_they_agree():
    cell = SumCell(1, 1, **BARE)
    x = torch.arange(24.0).view(1, 1, 4, 6)
    zeros = torch.zeros(1, 1, 8, 3)
    assert torch.equal(cell(x, zeros), F.interpolate(x, size=(8, 3)))
    assert torch.equal(cell(x, torch.zeros(1, 1, 4, 3), out_size=(4, 3)), F.max_pool2d(x, (1, 2)))
    taller = cell(x, torch.zeros(1, 1, 2, 7), out_size=(2, 7))  # narrower: padded, then pooled
    assert torch.equal(taller, F.max_pool2d(F.pad(x, (0, 1)), (2, 1)))


def test_default_size_is_that_of_the_larger_map():
    cell = SumCell(2, 2, **BARE)
    small, large = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 6, 6)
    assert cell(small, large).shape == cell(large, small).shape == (1, 2, 6, 6)


def test_input_convolutions_run_before_the_resize():
    cell = SumCell(3, 3, with_input1_conv=True, input_norm_cfg=dict(type="GN", num_groups=3),
                   **BARE)
    x1, x2 = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 4, 4)
    assert torch.equal(cell(x1, x2), F.interpolate(cell.input1_conv(x1), size=(4, 4)) + x2)
    assert cell.input1_conv.conv.bias is not None
    assert len(cell.input2_conv) == 0
    both = SumCell(3, 3, with_input1_conv=True, with_input2_conv=True)
    names = list(both.state_dict())
    assert names == [f"{part}_conv.conv.{p}" for part in ("out", "input1", "input2")
                     for p in ("weight", "bias")]


def test_options_of_the_output_convolution():
    cell = ConcatCell(4, 4, out_conv_cfg=dict(kernel_size=1, padding=0, bias=False, groups=4),
                      out_norm_cfg=dict(type="BN"), out_conv_order=("norm", "act", "conv"),
                      input_conv_cfg=dict(type="ConvWS"), with_input2_conv=True)
    assert cell.out_conv.norm.num_features == 8
    assert cell.out_conv.conv.weight.shape == (4, 2, 1, 1)
    assert cell.out_conv.conv.bias is None
    assert type(cell.input2_conv.conv).__name__ == "ConvWS2d"


def test_a_subclass_says_how_to_merge():
    class Product(BaseMergeCell):
        def _binary_op(self, x1, x2):
            return x1 * x2

    x1, x2 = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    assert torch.equal(Product(2, 2, with_out_conv=False)(x1, x2), x1 * x2)


def test_gradients_reach_both_maps():
    cell = GlobalPoolingCell(4, 4).double()
    x1 = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    x2 = torch.randn(1, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cell, (x1, x2))


@pytest.mark.parametrize(("shape", "out_size", "message"), [
    ((2, 3, 4, 4), None, r"SumCell merges maps of one batch size.*\(1, 3, 4, 4\) and \(2, 3, 4"),
    ((1, 4, 4, 4), None, r"number of channels, got \(1, 3, 4, 4\) and \(1, 4, 4, 4\)"),
    ((1, 3, 4, 4), (4,), r"a height and a width, got \(4,\)"),
])
def test_bad_maps(shape, out_size, message):
    with pytest.raises(ValueError, match=message):
        SumCell(3, 3)(torch.zeros(1, 3, 4, 4), torch.zeros(shape), out_size)


def test_unknown_mode():
    with pytest.raises(ValueError, match="'nearest' or 'bilinear', got 'bicubic'"):
        SumCell(3, 3, upsample_mode="bicubic")
