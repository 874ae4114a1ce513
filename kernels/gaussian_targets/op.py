"""Gaussian targets: checks, dispatch, launches; the targets of CenterNet and CornerNet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ..autograd import operator
from ..common import DTYPES, next_power_of_2
from ..dispatch import Reason, interpreting, use_triton
from ..launch import launch
from .cpu import cells, draw, draw_one, zeros
from .reference import centernet_discs, gaussian_radius

TILE_H, TILE_W = 32, 64
#: Numbers that one launch of ``gaussian_targets_numbers_kernel`` writes.
NUMBERS = 16


def can_run_gaussian_targets(heatmap_dtype: torch.dtype,
                             box_dtype: torch.dtype = torch.float32) -> Reason | None:
    """Why Triton cannot draw on a heatmap of this data type, or ``None``."""
    if heatmap_dtype not in DTYPES:
        return f"there is no kernel for {heatmap_dtype} heatmaps"
    if box_dtype != torch.float32:
        return f"there is no kernel for {box_dtype} boxes"
    return None


# ------------------------------------------------------------------ Triton entry points
def _on_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Integers known on the host as an int32 tensor, written by a kernel that gets them as
    arguments: a copy from the host would wait, and a CUDA graph would replay it from memory that
    is long gone."""
    from .kernel import gaussian_targets_numbers_kernel

    out = torch.empty(len(numbers), dtype=torch.int32, device=device)
    for first in range(0, len(numbers), NUMBERS):
        part = list(numbers[first:first + NUMBERS])
        launch(gaussian_targets_numbers_kernel, (1,), out[first:], len(part),
               *part, *[0] * (NUMBERS - len(part)), device=device, num_warps=1)
    return out


def _launch_draw(heatmap: Tensor, discs: Tensor, starts: Tensor, k: float,
                 ones: Tensor | None) -> None:
    from .kernel import gaussian_targets_kernel

    b, c, h, w = heatmap.shape
    tiles = -(-h // TILE_H) * -(-w // TILE_W)
    launch(gaussian_targets_kernel, (tiles, c, b), heatmap, discs, starts, ones,
           float(k), float(torch.finfo(heatmap.dtype).eps), h, w, *heatmap.stride(),
           device=heatmap.device, IN_PLACE=ones is None, HAS_ONES=ones is not None,
           RECIPROCAL=not interpreting(), LIBDEVICE=not interpreting(),
           BLOCK_H=TILE_H, BLOCK_W=TILE_W, num_warps=4, enable_fp_fusion=False)


@torch.library.custom_op("fastdet::draw_gaussian_", mutates_args=("heatmap",))
def _draw_triton(heatmap: Tensor, x: int, y: int, radius: int, k: float) -> None:
    numbers = _on_device([0, x, y, radius, 0, 1], heatmap.device)
    _launch_draw(heatmap[None, None], numbers[:4], numbers[4:], k, None)


@_draw_triton.register_fake
def _(heatmap: Tensor, x: int, y: int, radius: int, k: float) -> None:
    return None


SCHEMA = ("(Tensor discs, SymInt[] lengths, Tensor values, int channels, SymInt height, "
          "SymInt width, ScalarType dtype) -> (Tensor, Tensor, Tensor)")


@operator("gaussian_targets", SCHEMA)
def _targets_triton(discs: Tensor, lengths: Sequence[int], values: Tensor, channels: int,
                    height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Heatmap [B, C, H, W], planes [G, B, 2, H, W] and the number of ones."""
    from .kernel import gaussian_targets_cells_kernel

    starts = _on_device([0, *accumulate(lengths)], discs.device)
    b, groups = len(lengths), values.shape[1] // 2
    tiles = -(-height // TILE_H) * -(-width // TILE_W)
    heatmap = torch.empty(b, channels, height, width, dtype=dtype, device=discs.device)
    planes = torch.empty(groups, b, 2, height, width, dtype=dtype, device=discs.device)
    ones = torch.empty(b, channels, tiles, dtype=torch.int32, device=discs.device)
    _launch_draw(heatmap, discs, starts, 1.0, ones)
    block = 512
    launch(gaussian_targets_cells_kernel, (-(-height * width // block), b), planes, discs, starts,
           values, height, width, planes.stride(0), device=discs.device, G=groups,
           BLOCK_V=next_power_of_2(2 * groups, 2), BLOCK_P=block, num_warps=4,
           enable_fp_fusion=False)
    return heatmap, planes, ones.sum()


@operator("gaussian_targets_plain", SCHEMA)
def _targets_plain(discs: Tensor, lengths: Sequence[int], values: Tensor, channels: int,
                   height: int, width: int,
                   dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain torch, whose shapes depend on the discs: one operator for a compiler."""
    b, c, h, w = len(lengths), channels, height, width
    if discs.device.type == "cpu" and len(discs):
        label, x, y, _ = discs.unbind(1)
        if bool(((label < 0) | (label >= c)).any()):
            raise ValueError(f"labels must lie in 0..{c - 1}, got {label.tolist()}")
        if bool(((x < 0) | (x >= w) | (y < 0) | (y >= h)).any()):
            raise ValueError(f"a box has its keypoint outside the {h} x {w} map: clip boxes to "
                             "their image first")
    image = torch.arange(b, device=discs.device).repeat_interleave(
        torch.tensor(lengths, device=discs.device))
    heatmap = zeros(b, c, h, w, dtype=dtype, device=discs.device)
    covered = draw(heatmap, discs, image)
    ones = covered[heatmap.view(-1)[covered] == 1].unique().numel()
    planes = cells(discs, image, values, (b, h, w), dtype)
    return heatmap, planes, torch.tensor(ones, device=discs.device)


@_targets_plain.register_fake
@_targets_triton.register_fake
def _(discs: Tensor, lengths: Sequence[int], values: Tensor, channels: int, height: int,
      width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    b, groups = len(lengths), values.shape[1] // 2
    return (discs.new_empty(b, channels, height, width, dtype=dtype),
            discs.new_empty(groups, b, 2, height, width, dtype=dtype),
            discs.new_empty((), dtype=torch.int64))


@operator("centernet_discs", "(Tensor boxes, Tensor labels, float width_ratio, "
          "float height_ratio, float min_overlap) -> (Tensor, Tensor)")
def _discs_triton(boxes: Tensor, labels: Tensor, width_ratio: float, height_ratio: float,
                  min_overlap: float) -> tuple[Tensor, Tensor]:
    from .kernel import centernet_discs_kernel

    n, block = boxes.shape[0], 128
    discs = torch.empty(n, 4, dtype=torch.int32, device=boxes.device)
    values = torch.empty(n, 6, dtype=torch.float32, device=boxes.device)
    labels = labels.long().contiguous()
    launch(centernet_discs_kernel, (-(-n // block),), boxes.contiguous(), labels, discs, values, n,
           width_ratio, height_ratio, min_overlap, 1 - min_overlap, 1 + min_overlap,
           device=boxes.device, RECIPROCAL=not interpreting(), BLOCK_N=block,
           num_warps=4, enable_fp_fusion=False)
    return discs, values


@_discs_triton.register_fake
def _(boxes: Tensor, labels: Tensor, width_ratio: float, height_ratio: float,
      min_overlap: float) -> tuple[Tensor, Tensor]:
    n = boxes.shape[0]
    return boxes.new_empty(n, 4, dtype=torch.int32), boxes.new_empty(n, 6)


# ------------------------------------------------------------------ public functions
def draw_gaussian(heatmap: Tensor, center: Sequence[int | Tensor], radius: int,
                  k: float = 1) -> Tensor:
    """Raise one map to one gaussian, in place.

    Args:
        heatmap: [H, W].
        center: x, y in cells; the disc may leave the map.
        radius: of the disc, in cells; sigma is ``(2 radius + 1) / 6``.
        k: height of the gaussian.

    Returns:
        ``heatmap`` itself.

    Raises:
        ValueError: the heatmap is not a floating [H, W] tensor, or the radius is negative.
    """
    if heatmap.dim() != 2 or not heatmap.is_floating_point():
        raise ValueError(f"heatmap must be a floating tensor [H, W], got {heatmap.dtype} "
                         f"{tuple(heatmap.shape)}")
    if radius < 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    x, y = (int(c) for c in center)
    device, (h, w) = heatmap.device, heatmap.shape
    triton = use_triton("gaussian_targets", device, can_run_gaussian_targets(heatmap.dtype))
    if not (-radius <= x < w + radius and -radius <= y < h + radius):
        return heatmap  # no cell of the disc is on the map
    if triton:
        _draw_triton(heatmap, x, y, int(radius), float(k))
    elif device.type == "cpu":
        draw_one(heatmap, x, y, int(radius), k)
    else:
        disc = torch.tensor([[0, x, y, int(radius)]], device=device)
        draw(heatmap[None, None], disc, torch.zeros(1, dtype=torch.int64, device=device), k)
    return heatmap


def _check(gt_bboxes: Sequence[Tensor], gt_labels: Sequence[Tensor], feat_shape: Sequence[int],
           img_shape: Sequence[int]) -> None:
    if len(feat_shape) != 4 or len(img_shape) < 2:
        raise ValueError("feat_shape must be (B, C, H, W) and img_shape (h, w, ...), got "
                         f"{tuple(feat_shape)} and {tuple(img_shape)}")
    if not (len(gt_bboxes) == len(gt_labels) == feat_shape[0]):
        raise ValueError(f"{len(gt_bboxes)} images of boxes, {len(gt_labels)} of labels, and a "
                         f"batch of {feat_shape[0]}: the three must be equal")
    for i, (boxes, labels) in enumerate(zip(gt_bboxes, gt_labels)):
        if boxes.dim() != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise ValueError(f"image {i}: expected boxes [n, 4] and labels [n], got "
                             f"{tuple(boxes.shape)} and {tuple(labels.shape)}")


def _targets(discs: Tensor, values: Tensor, lengths: list[int], feat_shape: Sequence[int],
             dtype: torch.dtype, triton: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Heatmap, planes and number of ones, from discs that are grouped by image."""
    _, c, h, w = feat_shape
    make = _targets_triton if triton else _targets_plain
    return make(discs, lengths, values, c, h, w, dtype)


def centernet_targets(
    gt_bboxes: Sequence[Tensor], gt_labels: Sequence[Tensor], feat_shape: Sequence[int],
    img_shape: Sequence[int], min_overlap: float = 0.3,
) -> tuple[dict[str, Tensor], Tensor]:
    """Training targets of CenterNet (arXiv 1904.07850) for a batch, made on the boxes' device.

    The numbers are those of ``CenterNetHead.get_targets``. On a GPU nothing waits for the device,
    so a label or a centre outside the map cannot be reported there: such a box is left out of the
    cells it does not have. On a CPU it is an error.

    Args:
        gt_bboxes: per image [n, 4] x1, y1, x2, y2 in pixels of the input image.
        gt_labels: per image [n] classes.
        feat_shape: (B, C, H, W) of the predicted heatmap, C the number of classes.
        img_shape: (h, w, ...) of the padded input image in pixels.
        min_overlap: IoU that a corner's shift by the radius must keep.

    Returns:
        ``center_heatmap_target`` [B, C, H, W]; ``wh_target``, ``offset_target`` and
        ``wh_offset_target_weight`` [B, 2, H, W]; and the number of ones in the heatmap, at least
        1, as an int64 tensor on the device.

    Raises:
        ValueError: lengths or shapes do not fit, or (on a CPU) a label or centre is off the map.
    """
    _check(gt_bboxes, gt_labels, feat_shape, img_shape)
    _, _, h, w = feat_shape
    boxes, labels = torch.cat(list(gt_bboxes)), torch.cat(list(gt_labels))
    triton = use_triton("gaussian_targets", boxes.device,
                        can_run_gaussian_targets(boxes.dtype, boxes.dtype))
    make = _discs_triton if triton else centernet_discs
    discs, values = make(boxes, labels, float(w / img_shape[1]), float(h / img_shape[0]),
                         float(min_overlap))
    heatmap, planes, ones = _targets(discs, values, [len(b) for b in gt_bboxes], feat_shape,
                                     boxes.dtype, triton)
    wh, offset, weight = planes.unbind(0)
    target = {"center_heatmap_target": heatmap, "wh_target": wh, "offset_target": offset,
              "wh_offset_target_weight": weight}
    return target, ones.clamp(min=1)


def cornernet_targets(
    gt_bboxes: Sequence[Tensor], gt_labels: Sequence[Tensor], feat_shape: Sequence[int],
    img_shape: Sequence[int], with_corner_emb: bool = False, with_guiding_shift: bool = False,
    with_centripetal_shift: bool = False, min_overlap: float = 0.3,
) -> dict[str, Tensor | list[Tensor]]:
    """Training targets of CornerNet (arXiv 1808.01244) and CentripetalNet (arXiv 2003.09119).

    The numbers are those of ``CornerHead.get_targets``; the same devices and limits as
    :func:`centernet_targets`.

    Args:
        gt_bboxes: per image [n, 4] x1, y1, x2, y2 in pixels of the input image.
        gt_labels: per image [n] classes.
        feat_shape: (B, C, H, W) of the predicted heatmap, C the number of classes.
        img_shape: (h, w, ...) of the padded input image in pixels.
        with_corner_emb: add ``corner_embedding``: per image [n, 2, 2] the (y, x) cells of the
            top-left and bottom-right corners (MMDetection has nested lists of the same numbers).
        with_guiding_shift: add ``topleft_guiding_shift`` and ``bottomright_guiding_shift``.
        with_centripetal_shift: add ``topleft_centripetal_shift`` and the bottom-right one.
        min_overlap: IoU that a corner's shift by the radius must keep.

    Returns:
        ``topleft_heatmap``, ``bottomright_heatmap`` [B, C, H, W], ``topleft_offset``,
        ``bottomright_offset`` [B, 2, H, W], and what was asked for besides.

    Raises:
        ValueError: lengths or shapes do not fit, or (on a CPU) a label or corner is off the map.
    """
    _check(gt_bboxes, gt_labels, feat_shape, img_shape)
    _, _, h, w = feat_shape
    boxes, labels = torch.cat(list(gt_bboxes)), torch.cat(list(gt_labels))
    lengths = [len(b) for b in gt_bboxes]
    triton = use_triton("gaussian_targets", boxes.device,
                        can_run_gaussian_targets(boxes.dtype, boxes.dtype))
    scale = [float(w / img_shape[1]), float(h / img_shape[0])]
    sides = [boxes[:, i] * scale[i % 2] for i in range(4)]
    mid = [(boxes[:, i] + boxes[:, i + 2]) / 2.0 * scale[i] for i in range(2)]
    # MMDetection rounds the sizes up to Python integers, so the radius is computed in double;
    # a tensor divides by a tensor, where a division by a number would be rounded differently.
    overlap = torch.full((), min_overlap, dtype=torch.float64, device=boxes.device)
    box_w, box_h = ((sides[i + 2] - sides[i]).ceil().double() for i in range(2))
    radius = gaussian_radius(box_h, box_w, overlap).int().clamp(min=0)

    target: dict[str, Tensor | list[Tensor]] = {}
    corners = []
    for name, x, y, sign in (("topleft", sides[0], sides[1], 1.0),
                             ("bottomright", sides[2], sides[3], -1.0)):
        cx, cy = x.clamp(max=w - 1).int(), y.clamp(max=h - 1).int()
        values = [x - cx, y - cy]
        names = ["offset"]
        if with_guiding_shift:
            names.append("guiding_shift")
            values += [sign * (mid[0] - cx), sign * (mid[1] - cy)]
        if with_centripetal_shift:
            names.append("centripetal_shift")
            values += [(sign * (mid[0] - x)).double().log().to(x.dtype),
                       (sign * (mid[1] - y)).double().log().to(x.dtype)]
        discs = torch.stack([labels.int(), cx, cy, radius], 1)
        heatmap, planes, _ = _targets(discs, torch.stack(values, 1), lengths, feat_shape,
                                      boxes.dtype, triton)
        target[f"{name}_heatmap"] = heatmap
        target.update({f"{name}_{key}": plane for key, plane in zip(names, planes.unbind(0))})
        corners.append(torch.stack([cy, cx], 1).long())
    if with_corner_emb:
        target["corner_embedding"] = list(torch.stack(corners, 1).split(lengths))
    return target
