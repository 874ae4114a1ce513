"""One small call of every operator, for the tests that hold all of them to one rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.add_layer_norm import add_layer_norm
from fastdet.kernels.carafe import carafe
from fastdet.kernels.deform_conv2d import deform_conv2d
from fastdet.kernels.depthwise_conv_tokens import depthwise_conv_tokens
from fastdet.kernels.dyhead_attention import Attention, dyhead_attention
from fastdet.kernels.dyhead_convs import Convolved, Pyramid, dyhead_convs
from fastdet.kernels.dyhead_convs.reference import moments_of_tiles
from fastdet.kernels.dynamic_conv import dynamic_conv
from fastdet.kernels.dyrelu import dyrelu
from fastdet.kernels.focal_losses import sigmoid_focal_loss, softmax_focal_loss, varifocal_loss
from fastdet.kernels.gaussian_targets import centernet_targets, draw_gaussian
from fastdet.kernels.gelu_linear import gelu_linear
from fastdet.kernels.grid_priors import grid_anchors, grid_points
from fastdet.kernels.max_iou_assign import max_iou_assign
from fastdet.kernels.merge_layer_norm import merge_layer_norm
from fastdet.kernels.multi_scale_deformable_attention import multi_scale_deformable_attention
from fastdet.kernels.nms import batched_nms_padded
from fastdet.kernels.roi_align import roi_align
from fastdet.kernels.spatial_reduction_attention import spatial_reduction_attention
from fastdet.kernels.valid_flags import valid_flags
from fastdet.kernels.window_attention import window_attention


@dataclass(frozen=True)
class Case:
    """A call of an operator.

    Attributes:
        call: takes the tensors of ``inputs`` by name and returns tensors, in any nest.
        inputs: [shape] of each input that is filled with normal numbers, or a function that makes
            it.
        differentiable: whether the operator has a backward pass.
    """

    call: Callable[..., Any]
    inputs: dict[str, tuple[int, ...] | Callable[[], Tensor]]
    differentiable: bool = True

    @property
    def floating(self) -> list[str]:
        """Names of the inputs that are numbers, and not indices."""
        return [name for name, what in self.inputs.items()
                if isinstance(what, tuple) or what().is_floating_point()]

    def make(self, device: torch.device) -> dict[str, Tensor]:
        """The inputs, the same each time, contiguous."""
        torch.manual_seed(0)
        return {name: (torch.randn(what) if isinstance(what, tuple) else what()).to(device)
                for name, what in self.inputs.items()}


def flat(result: Any) -> list[Tensor]:
    """The tensors of a nest of dictionaries and sequences."""
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, dict) else result
    return [tensor for part in parts for tensor in flat(part)]


def _dyhead_attention(maps: Tensor, **given: Tensor) -> Any:
    pyramid = Pyramid(1, ((3, 5), (2, 3)))
    parameters = {name: tuple(t for key, t in given.items() if key.startswith(name))
                  for name in ("norms", "attention", "squeeze", "excite")}
    return dyhead_attention(
        Convolved(maps, moments_of_tiles(maps, *pyramid, 16), pyramid, 16),
        Attention(groups=2, **parameters))


def _dynamic(n: int, channels: int, feat: int, out: int, size: int) -> Case:
    return Case(
        dynamic_conv,
        {"x": (n, channels, size), "norm_in_weight": (feat,), "norm_in_bias": (feat,),
         "norm_out_weight": (out,), "norm_out_bias": (out,),
         "params": lambda: torch.randn(n, (channels + out) * feat) / channels ** 0.5})


def _boxes(n: int, width: float, height: float) -> Callable[[], Tensor]:
    def make() -> Tensor:
        corners = torch.rand(n, 2, 2).sort(1).values * torch.tensor([width, height])
        return corners.view(n, 4)
    return make


def _centernet(boxes: Tensor) -> Any:
    labels = torch.arange(len(boxes), device=boxes.device) % 2
    return centernet_targets([boxes[:2], boxes[2:]], [labels[:2], labels[2:]], (2, 2, 9, 13),
                             (36, 52))


LEVELS = [(3, 5), (2, 2)]
ROIS = [[0.0, 1.2, 0.5, 5.0, 3.5], [1, 0.0, 0.0, 2.0, 2.0], [1, -3.0, 2.0, 9.0, 4.0]]

#: Odd sizes, so that no block is full, and no dimension a power of two where it may be another.
CASES: dict[str, Case] = {
    "add_layer_norm": Case(
        lambda x, branch, weight, bias: add_layer_norm(x, branch, weight, bias),
        {"x": (2, 7, 24), "branch": (2, 7, 24), "weight": (24,), "bias": (24,)}),
    "carafe": Case(lambda x, masks: carafe(x, masks, 3, 2, 2),
                   {"x": (1, 6, 3, 5), "masks": (1, 18, 6, 10)}),
    "carafe-normalize": Case(lambda x, masks: carafe(x, masks, 5, 1, 2, normalize=True),
                             {"x": (1, 5, 3, 9), "masks": (1, 100, 3, 9)}),
    "deform_conv2d": Case(
        lambda x, offset, weight, mask, bias: deform_conv2d(
            x, offset, weight, mask=mask, bias=bias, padding=(1, 1)),
        {"x": (2, 5, 3, 4), "offset": (2, 18, 3, 4), "weight": (7, 5, 3, 3),
         "mask": lambda: torch.rand(2, 9, 3, 4), "bias": (7,)}),
    "deform_conv2d-groups": Case(
        lambda x, offset, weight: deform_conv2d(
            x, offset, weight, stride=(2, 2), padding=(1, 1), groups=2, deform_groups=2),
        {"x": (1, 6, 5, 5), "offset": (1, 36, 3, 3), "weight": (4, 3, 3, 3)}),
    "depthwise_conv_tokens": Case(
        lambda x, weight, bias: depthwise_conv_tokens(x, weight, bias, (3, 5), gelu=True),
        {"x": (1, 15, 5), "weight": (5, 1, 3, 3), "bias": (5,)}),
    "dyhead_attention": Case(
        _dyhead_attention,
        {"maps": (33, 4), **{f"norms{i}": (4,) for i in range(6)}, "attention0": (4,),
         "attention1": (1,), "squeeze0": (3, 4), "squeeze1": (3,), "excite0": (16, 3),
         "excite1": (16,)}),
    "dyhead_convs": Case(
        lambda x0, x1, numbers0, numbers1, mid, low, high: dyhead_convs(
            [x0, x1], [numbers0, numbers1], [mid, low, high]).maps,
        {"x0": (1, 5, 3, 5), "x1": (1, 5, 2, 3), "numbers0": (1, 27, 3, 5),
         "numbers1": (1, 27, 2, 3), "mid": (7, 5, 3, 3), "low": (7, 5, 3, 3),
         "high": (7, 5, 3, 3)}),
    "dynamic_conv": _dynamic(2, 5, 3, 9, 4),
    "dynamic_conv-chunks": _dynamic(1, 7, 20, 70, 17),
    "dyrelu": Case(dyrelu, {"x": (2, 3, 5, 7), "coeffs": lambda: torch.rand(2, 12)}),
    "focal_losses": Case(
        lambda pred, target, weight: sigmoid_focal_loss(
            pred, target, weight.detach(), reduction="none"),
        {"pred": (7, 3), "target": lambda: torch.arange(7) % 4, "weight": (7,)}),
    "focal_losses-sum": Case(
        lambda pred, target, weight: varifocal_loss(pred, target.detach(), weight.detach()),
        {"pred": (7, 3), "target": lambda: torch.rand(7, 3), "weight": (7, 3)}),
    "focal_losses-softmax": Case(
        lambda pred, target: softmax_focal_loss(pred, target, reduction="none"),
        {"pred": (7, 5), "target": lambda: torch.arange(7) % 5}),
    "gaussian_targets": Case(
        lambda heatmap: draw_gaussian(heatmap, (4, 3), 2, 1.5),
        {"heatmap": lambda: torch.rand(7, 11)}, differentiable=False),
    "gaussian_targets-centernet": Case(
        _centernet, {"boxes": _boxes(5, 51, 35)}, differentiable=False),
    "gelu_linear": Case(
        lambda hidden, weight, bias, residual: gelu_linear(hidden, weight, bias, residual),
        {"hidden": lambda: torch.randn(2, 7, 40).half(),  # what is rounded to half is small
         "weight": lambda: torch.randn(24, 40) / 64, "bias": lambda: torch.randn(24) / 64,
         "residual": (2, 7, 24)}),
    "grid_priors": Case(
        lambda base: grid_anchors(base, [2, 1], [(3, 5), (2, 3)], [(8, 8), (16.5, 7)]),
        {"base": (3, 4)}, differentiable=False),
    "grid_priors-points": Case(
        lambda like: grid_points(LEVELS, [(8, 8), (16.5, 7)], stride_columns=1, device=like.device),
        {"like": (1,)}, differentiable=False),
    "max_iou_assign": Case(
        lambda boxes, gts, ignore, labels, counts: max_iou_assign(
            boxes, gts, counts, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.1, ignore=ignore,
            ignore_counts=counts, ignore_iof_thr=0.5, gt_labels=labels),
        {"boxes": _boxes(9, 51, 35), "gts": lambda: _boxes(6, 51, 35)().view(2, 3, 4),
         "ignore": lambda: _boxes(6, 51, 35)().view(2, 3, 4),
         "labels": lambda: torch.arange(6).view(2, 3),
         "counts": lambda: torch.tensor([3, 1], dtype=torch.int32)}, differentiable=False),
    "merge_layer_norm": Case(
        lambda x, weight, bias: merge_layer_norm(x, (3, 5), weight, bias),
        {"x": (2, 15, 6), "weight": (24,), "bias": (24,)}),
    "multi_scale_deformable_attention": Case(
        lambda value, places, weights: multi_scale_deformable_attention(
            value, LEVELS, None, places, weights),
        {"value": (2, 19, 2, 5), "places": lambda: torch.rand(2, 7, 2, 2, 3, 2) * 1.4 - 0.2,
         "weights": (2, 7, 2, 2, 3)}),
    "nms": Case(
        lambda boxes, scores, groups: batched_nms_padded(boxes, scores, groups, 0.3),
        {"boxes": _boxes(37, 51, 35), "scores": lambda: torch.rand(37),
         "groups": lambda: torch.arange(37) % 3}, differentiable=False),
    "roi_align": Case(
        lambda x, rois: roi_align(x, rois, (2, 3)),
        {"x": (2, 5, 5, 7), "rois": lambda: torch.tensor(ROIS)}),
    "roi_align-max": Case(
        lambda x, rois: roi_align(x, rois, (2, 3), pool_mode="max"),
        {"x": (2, 5, 5, 7), "rois": lambda: torch.tensor(ROIS)}),
    "spatial_reduction_attention": Case(
        lambda q, kv: spatial_reduction_attention(q, kv, 2),
        {"q": (2, 19, 32), "kv": (2, 7, 64)}),
    "valid_flags": Case(
        lambda like: valid_flags([[(2, 4), (1, 2)], [(3, 0), (2, 2)]], [2, 1], LEVELS,
                                 device=like.device),
        {"like": (1,)}, differentiable=False),
    "window_attention": Case(
        lambda qkv, table, pad: window_attention(
            qkv, table, (3, 4), num_heads=2, window_size=3, shift=1, pad_value=pad),
        {"qkv": (1, 12, 96), "table": (25, 2), "pad": (96,)}),
}
