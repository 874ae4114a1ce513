"""Masks by where their centre is (SOLO, arXiv 1912.04488)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.core.mask import BitmapMasks
from fastdet.core.post_processing import mask_matrix_nms
from fastdet.core.utils import generate_coordinate
from fastdet.runner import BaseModule

from ..builder import HEADS, build_loss
from ..losses.utils import at_least_float32
from .base_dense_head import Meta

__all__ = ["Instances", "SOLOHead", "resized"]


def resized(x: Tensor, size: Any) -> Tensor:
    """``x`` [B, C, h, w] interpolated to (height, width)."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def with_coordinates(x: Tensor) -> Tensor:
    """``x`` [B, C, H, W] and, as two more channels, the places of its pixels from -1 to 1."""
    return torch.cat([x, generate_coordinate(x.shape, x.device).to(x.dtype)], dim=1)


def local_peaks(scores: Tensor) -> Tensor:
    """Scores [B, C, S, S], zero where a neighbour above or on the left is better."""
    best = F.max_pool2d(scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (best == scores)


class Instances(NamedTuple):
    """Instances of one image: scores [n], labels [n] and masks [n, H, W], bool."""

    scores: Tensor
    labels: Tensor
    masks: Tensor


class Cells(NamedTuple):
    """Cells of one level that learn a mask: image [P], cell [P], mask [P, h, w], P of each image.
    """

    image: Tensor
    cell: Tensor
    masks: Tensor
    counts: list[int]


def _whole(x: np.ndarray, num_grid: int) -> np.ndarray:
    """Which of ``num_grid`` parts of [0, 1] the shares ``x`` lie in."""
    return np.trunc(x / (1.0 / num_grid)).astype(np.int64)


def _bitmaps(masks: Any) -> np.ndarray:
    """[G, H, W] uint8 on the host, of any kind of masks."""
    array = masks.cpu().numpy() if isinstance(masks, Tensor) else masks.to_ndarray()
    return np.ascontiguousarray(array, dtype=np.uint8)


@HEADS.register_module()
class SOLOHead(BaseModule):
    """A grid over the image on each level: each cell has a class and a mask.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        feat_channels: of the towers.
        stacked_convs: convolutions of a tower.
        strides: pixels between the places of each level's map.
        scale_ranges: which sizes of objects each level learns, in pixels.
        pos_scale: share of an object's box, around its centre, whose cells learn it.
        num_grids: cells along a side of each level's grid.
        cls_down_index: before which convolution of the classes' tower the map becomes the grid.
        loss_mask: config of the loss of masks.
        loss_cls: config of the classification loss.
        norm_cfg: config of the norms.
        train_cfg: not used.
        test_cfg: ``nms_pre``, ``score_thr``, ``mask_thr``, ``filter_thr``, ``kernel``, ``sigma``
            and ``max_per_img``.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: there are not as many grids and ranges as strides.
    """

    conv_mask_list: Any

    def __init__(self, num_classes: int, in_channels: int, feat_channels: int = 256,
                 stacked_convs: int = 4, strides: Sequence[int] = (4, 8, 16, 32, 64),
                 scale_ranges: Sequence[Sequence[float]] = (
                     (8, 32), (16, 64), (32, 128), (64, 256), (128, 512)),
                 pos_scale: float = 0.2, num_grids: Sequence[int] = [40, 36, 24, 16, 12],
                 cls_down_index: int = 0, loss_mask: Any = None, loss_cls: Any = None,
                 norm_cfg: Any = dict(type="GN", num_groups=32, requires_grad=True),
                 train_cfg: Any = None, test_cfg: Any = None,
                 init_cfg: Any = [
                     dict(type="Normal", layer="Conv2d", std=0.01),
                     dict(type="Normal", std=0.01, bias_prob=0.01,
                          override=dict(name="conv_mask_list")),
                     dict(type="Normal", std=0.01, bias_prob=0.01,
                          override=dict(name="conv_cls"))]) -> None:
        super().__init__(init_cfg)
        if not len(num_grids) == len(strides) == len(scale_ranges):
            raise ValueError(f"{type(self).__name__}: num_grids, strides and scale_ranges are of "
                             f"each level, got {len(num_grids)}, {len(strides)} and "
                             f"{len(scale_ranges)}")
        self.num_classes = num_classes
        self.cls_out_channels = num_classes
        self.in_channels = in_channels
        self.feat_channels = feat_channels
        self.stacked_convs = stacked_convs
        self.strides = strides
        self.num_grids = num_grids
        self.num_levels = len(strides)
        self.scale_ranges = scale_ranges
        self.pos_scale = pos_scale
        self.cls_down_index = cls_down_index
        self.norm_cfg = norm_cfg
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.loss_cls = build_loss(loss_cls)
        self.loss_mask = build_loss(loss_mask)
        self._init_layers()

    def tower(self, in_channels: int, **kwargs: Any) -> nn.ModuleList:
        """``stacked_convs`` convolutions of 3 x 3, each with norm and ReLU."""
        width: int = self.feat_channels  # type: ignore[assignment]
        return nn.ModuleList([
            ConvModule(in_channels if i == 0 else width, width, 3, padding=1,
                       norm_cfg=self.norm_cfg, **kwargs) for i in range(self.stacked_convs)])

    def _init_layers(self) -> None:
        self.mask_convs = self.tower(self.in_channels + 2)
        self.cls_convs = self.tower(self.in_channels)
        self.conv_mask_list = nn.ModuleList([
            nn.Conv2d(self.feat_channels, grid ** 2, 1) for grid in self.num_grids])
        self.conv_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 3, padding=1)

    # --- predictions ------------------------------------------------------------------------
    def resize_feats(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """The first map made as small as the second, the last as large as the one before it."""
        return [resized(feats[0], feats[1].shape[-2:]), *feats[1:-1],
                resized(feats[-1], feats[-2].shape[-2:])]

    def classes(self, x: Tensor, num_grid: int) -> Tensor:
        """Scores [B, C, S, S] of a level; logits in training, peaks alone otherwise."""
        for i, conv in enumerate(self.cls_convs):
            if i == self.cls_down_index:
                x = resized(x, num_grid)
            x = conv(x)
        x = self.conv_cls(x)
        return x if self.training else local_peaks(x.sigmoid())

    @staticmethod
    def through(convs: Any, x: Tensor) -> Tensor:
        """A tower's result, doubled in size."""
        for conv in convs:
            x = conv(x)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def finished(self, masks: Tensor, feats: Sequence[Tensor]) -> Tensor:
        """Logits of masks in training; otherwise scores, of one size for all levels."""
        if self.training:
            return masks
        h, w = feats[0].shape[-2:]
        return resized(masks.sigmoid(), (h * 2, w * 2))

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Masks [B, S S, h, w] and classes [B, C, S, S] of each level."""
        feats = self.resize_feats(feats)
        masks = [self.finished(conv(self.through(self.mask_convs, with_coordinates(x))), feats)
                 for conv, x in zip(self.conv_mask_list, feats)]
        return masks, [self.classes(x, grid) for x, grid in zip(feats, self.num_grids)]

    # --- losses -----------------------------------------------------------------------------
    def forward_train(self, x: Sequence[Tensor], gt_labels: list[Tensor], gt_masks: list[Any],
                      img_metas: list[Meta], gt_bboxes: list[Tensor] | None = None,
                      gt_bboxes_ignore: list[Tensor] | None = None,
                      **kwargs: Any) -> dict[str, Tensor]:
        """Losses of feature maps.

        Args:
            x: feature maps.
            gt_labels: [G] of each image.
            gt_masks: of each image, ``BitmapMasks``, ``PolygonMasks`` or tensors [G, H, W].
            img_metas: of each image.
            gt_bboxes: [G, 4] of each image.
            gt_bboxes_ignore: not used.
            kwargs: not used.
        """
        args: Any = (*self(x), gt_labels, gt_masks, img_metas)
        return self.loss(*args, gt_bboxes=gt_bboxes)  # type: ignore[misc]

    def targets(self, gt_bboxes: list[Tensor] | None, gt_labels: list[Tensor],
                gt_masks: list[Any], sizes: Sequence[Any], scales: Sequence[float],
                canvas: tuple[int, int], once: bool) -> tuple[Tensor, list[Cells], int]:
        """What each cell learns, made on the host, where masks are.

        Args:
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            gt_masks: of each image.
            sizes: (height, width) of each level's masks.
            scales: of each level's masks, in parts of the image.
            canvas: (height, width) in pixels of what the grids cover.
            once: a cell learns the last of its objects; else all of their masks.

        Returns:
            Labels ``[B, N]`` of the cells of all levels; each level's positives, of an image in
            the order of the cells with ``once``, else of the objects; and how many cells are
            positive.
        """
        if gt_bboxes is None:
            raise ValueError(f"{type(self).__name__}: which level learns an object is told by its "
                             "box; gt_bboxes must be given")
        device = gt_labels[0].device
        host = torch.cat([torch.cat([boxes, labels[:, None].to(boxes.dtype)], dim=1)
                          for boxes, labels in zip(gt_bboxes, gt_labels)]).cpu()
        labels = [np.full((len(gt_labels), grid, grid), self.num_classes)
                  for grid in self.num_grids]
        found: list[list[tuple[tuple[int, int], np.ndarray]]] = [[] for _ in sizes]
        ends = np.cumsum([len(boxes) for boxes in gt_bboxes])[:-1]
        for i, (of_image, boxes) in enumerate(zip(gt_masks, np.split(host.numpy(), ends))):
            bitmaps = _bitmaps(of_image)
            span = boxes[:, 2:4] - boxes[:, :2]
            area = np.sqrt(span.prod(1))
            rows, cols = (bitmaps.sum(axis, dtype=np.int64) for axis in (2, 1))
            size = rows.sum(1).astype(np.float32)
            y, x = ((along * np.arange(along.shape[1])).sum(1).astype(np.float32)
                    / np.maximum(size, np.float32(1e-6)) for along in (rows, cols))
            reach = 0.5 * span * self.pos_scale
            for level, (low, high) in enumerate(self.scale_ranges):
                hit = np.flatnonzero((area >= low) & (area <= high) & (size > 0))
                if len(hit) == 0:
                    continue
                grid = self.num_grids[level]
                edges = []
                for at, by, whole in ((y, reach[:, 1], canvas[0]), (x, reach[:, 0], canvas[1])):
                    middle = _whole(at / whole, grid)
                    edges += [np.maximum(_whole((at - by) / whole, grid).clip(min=0), middle - 1),
                              np.minimum(_whole((at + by) / whole, grid).clip(max=grid - 1),
                                         middle + 1)]
                small = BitmapMasks(bitmaps[hit], *bitmaps.shape[1:]).rescale(
                    scales[level], "bilinear").masks
                for mask, j in zip(small, hit):
                    top, down, left, right = (int(edge[j]) for edge in edges)
                    labels[level][i, top:down + 1, left:right + 1] = int(boxes[j, 4])
                    padded = np.zeros(sizes[level], dtype=np.uint8)
                    padded[:mask.shape[0], :mask.shape[1]] = mask
                    found[level] += [((i, row * grid + col), padded)
                                     for row in range(top, down + 1)
                                     for col in range(left, right + 1)]
        if once:
            found = [sorted(dict(each).items()) for each in found]
        cells = []
        for each, shape in zip(found, sizes):
            place = np.array([place for place, _ in each], dtype=np.int64).reshape(-1, 2)
            masks = np.stack([mask for _, mask in each]) if each else np.zeros(
                (0, *shape), dtype=np.uint8)
            image, cell, target = (torch.from_numpy(a).to(device, non_blocking=True)
                                   for a in (place[:, 0], place[:, 1], masks))
            cells.append(Cells(image, cell, target, np.bincount(
                place[:, 0], minlength=len(gt_labels)).tolist()))
        flat = np.concatenate([one.reshape(len(one), -1) for one in labels], axis=1)
        return (torch.from_numpy(flat).to(device, non_blocking=True), cells,
                sum(len(dict(each)) for each in found))

    def _targets(self, gt_bboxes: Any, gt_labels: Any, gt_masks: Any,
                 sizes: list[Any]) -> tuple[Tensor, list[Cells], int]:
        """Targets where masks are twice as fine as the levels and a cell has one mask."""
        return self.targets(gt_bboxes, gt_labels, gt_masks, sizes,
                            [2.0 / stride for stride in self.strides],
                            (sizes[0][0] * 4, sizes[0][1] * 4), once=True)

    def loss(self, mlvl_mask_preds: list[Tensor], mlvl_cls_preds: list[Tensor],
             gt_labels: list[Tensor], gt_masks: list[Any], img_metas: list[Meta],
             gt_bboxes: list[Tensor] | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Losses of all levels together.

        Args:
            mlvl_mask_preds: [B, S S, h, w] of each level.
            mlvl_cls_preds: [B, C, S, S] of each level.
            gt_labels: [G] of each image.
            gt_masks: of each image.
            img_metas: not used.
            gt_bboxes: [G, 4] of each image.
            kwargs: not used.

        Returns:
            ``loss_mask`` and ``loss_cls``.
        """
        labels, cells, num_pos = self._targets(gt_bboxes, gt_labels, gt_masks,
                                               [tuple(m.shape[-2:]) for m in mlvl_mask_preds])
        pred = [m[c.image, c.cell] for m, c in zip(mlvl_mask_preds, cells)]
        return self.losses(pred, cells, mlvl_cls_preds, labels, num_pos)

    def losses(self, pred: list[Tensor], cells: list[Cells], scores: list[Tensor],
               labels: Tensor, num_pos: int) -> dict[str, Tensor]:
        """Losses of each level's masks [P, h, w] and of the classes [B, C, S, S].

        Args:
            pred: of each level, the masks of its positives.
            cells: of each level, its positives.
            scores: of each level.
            labels: [B, N], of the cells of all levels.
            num_pos: how many cells are positive.
        """
        each = [self.loss_mask(at_least_float32(p), c.masks, reduction_override="none")
                if len(p) else p.sum()[None] for p, c in zip(pred, cells)]
        of_mask = torch.cat(each).sum() / max(num_pos, 1)
        flat = torch.cat([s.flatten(2).transpose(1, 2) for s in scores], dim=1).flatten(0, 1)
        of_class = self.loss_cls(at_least_float32(flat), labels.flatten(), avg_factor=num_pos + 1)
        return {"loss_mask": of_mask, "loss_cls": of_class}

    # --- results ----------------------------------------------------------------------------
    def simple_test(self, feats: Sequence[Tensor], img_metas: list[Meta], rescale: bool = False,
                    **kwargs: Any) -> list[Instances]:
        """Instances of each image, in the original image.

        Args:
            feats: feature maps.
            img_metas: of each image.
            rescale: not used; masks are always of the original image.
            kwargs: not used.
        """
        outs: Any = self(feats)
        return self.get_results(*outs, img_metas)  # type: ignore[call-arg]

    def get_results(self, mlvl_mask_preds: list[Tensor], mlvl_cls_scores: list[Tensor],
                    img_metas: list[Meta], **kwargs: Any) -> list[Instances]:
        """Instances of each image, of what :meth:`forward` returned in evaluation."""
        masks = torch.cat(mlvl_mask_preds, dim=1)
        return [self.instances(i, mlvl_cls_scores, mask.__getitem__, meta)
                for i, (mask, meta) in enumerate(zip(masks, img_metas))]

    #: Pixels between the places of the masks' maps in evaluation.
    mask_stride = 4

    def instances(self, image: int, mlvl_cls_scores: list[Tensor],
                  masks_of: Callable[[Tensor], Tensor], meta: Meta) -> Instances:
        """The instances of one image.

        Args:
            image: its row.
            mlvl_cls_scores: [B, C, S, S] of each level.
            masks_of: scores of masks [n, h, w] of cells [n], counted over all levels.
            meta: ``img_shape`` and ``ori_shape`` are read.
        """
        cfg = self.test_cfg
        scores = torch.cat([s[image].flatten(1).t() for s in mlvl_cls_scores])
        rows, labels = (scores > cfg["score_thr"]).nonzero(as_tuple=True)
        scores = at_least_float32(scores[rows, labels])
        strides = torch.cat([scores.new_full((grid ** 2,), stride)
                             for grid, stride in zip(self.num_grids, self.strides)])
        soft = at_least_float32(masks_of(rows))
        hard = soft > cfg["mask_thr"]
        area = hard.sum((1, 2)).to(soft.dtype)
        keep = area > strides[rows]
        soft, hard, area, scores, labels = (t[keep] for t in (soft, hard, area, scores, labels))
        shape = tuple(meta["ori_shape"][:2])
        if len(scores) == 0:
            return Instances(scores, labels, hard.new_zeros((0, *shape)))
        scores = scores * ((soft * hard).sum((1, 2)) / area)
        scores, labels, _, kept = mask_matrix_nms(
            hard, labels, scores, mask_area=area, nms_pre=cfg["nms_pre"],
            max_num=cfg["max_per_img"], kernel=cfg["kernel"], sigma=cfg["sigma"],
            filter_thr=cfg["filter_thr"])
        h, w = meta["img_shape"][:2]
        stride = self.mask_stride
        whole = resized(soft[kept][None], (soft.shape[1] * stride, soft.shape[2] * stride))
        masks = resized(whole[:, :, :h, :w], shape)[0] > cfg["mask_thr"]
        return Instances(scores, labels, masks)
