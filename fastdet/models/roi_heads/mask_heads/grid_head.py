"""Points of a grid over a box, by heat maps (Grid R-CNN, arXiv 1811.12030 and 1906.05688)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule

from ...builder import HEADS, build_loss

__all__ = ["GridHead"]


@HEADS.register_module()
class GridHead(BaseModule):
    """A heat map for each of K points; the points vote for the sides of the box.

    Maps are of the region enlarged to twice its size, and each of only the half of that, along x
    and along y, in which its point can be.

    Args:
        grid_points: K, a square number; points are numbered down the columns, left to right.
        num_convs: convolutions, the first of stride 2.
        roi_feat_size: of the pooled regions.
        in_channels: of the pooled regions.
        conv_kernel_size: of the convolutions.
        point_feat_channels: channels of each point.
        deconv_kernel_size: of the two transposed convolutions.
        class_agnostic: not used.
        loss_grid: config of the loss.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: the number of points is no square, or the channels are not in such groups.
    """

    def __init__(self, grid_points: int = 9, num_convs: int = 8, roi_feat_size: int = 14,
                 in_channels: int = 256, conv_kernel_size: int = 3, point_feat_channels: int = 64,
                 deconv_kernel_size: int = 4, class_agnostic: bool = False,
                 loss_grid: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                  loss_weight=15),
                 conv_cfg: Any = None, norm_cfg: Any = dict(type="GN", num_groups=36),
                 init_cfg: Any = [
                     dict(type="Kaiming", layer=["Conv2d", "Linear"]),
                     dict(type="Normal", layer="ConvTranspose2d", std=0.001,
                          override=dict(type="Normal", name="deconv2", std=0.001,
                                        bias=-4.59511985013459))]) -> None:
        super().__init__(init_cfg)
        self.grid_points = grid_points
        self.grid_size = round(grid_points ** 0.5)
        if self.grid_size ** 2 != grid_points:
            raise ValueError(f"GridHead: grid_points must be a square number, got {grid_points}")
        width = self.conv_out_channels = point_feat_channels * grid_points
        if isinstance(norm_cfg, dict) and norm_cfg["type"] == "GN" and (
                width % norm_cfg["num_groups"]):
            raise ValueError(f"GridHead: {width} channels are no {norm_cfg['num_groups']} groups")
        self.num_convs = num_convs
        self.roi_feat_size = roi_feat_size
        self.in_channels = in_channels
        self.conv_kernel_size = conv_kernel_size
        self.point_feat_channels = point_feat_channels
        self.class_agnostic = class_agnostic
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.fp16_enabled = False
        self.whole_map_size = roi_feat_size * 4
        self.sub_regions = self.calc_sub_regions()
        self.convs = nn.Sequential(*(
            ConvModule(in_channels if i == 0 else width, width, conv_kernel_size,
                       2 if i == 0 else 1, padding=(conv_kernel_size - 1) // 2, conv_cfg=conv_cfg,
                       norm_cfg=norm_cfg, bias=True) for i in range(num_convs)))
        up: dict[str, Any] = dict(kernel_size=deconv_kernel_size, stride=2,
                                  padding=(deconv_kernel_size - 2) // 2, groups=grid_points)
        self.deconv1 = nn.ConvTranspose2d(width, width, **up)
        self.norm1 = nn.GroupNorm(grid_points, width)
        self.deconv2 = nn.ConvTranspose2d(width, grid_points, **up)
        self.neighbor_points = [self._neighbours(k) for k in range(grid_points)]
        self.num_edges = sum(len(points) for points in self.neighbor_points)
        self.forder_trans = self._transitions()
        self.sorder_trans = self._transitions()
        self.loss_grid: Any = build_loss(loss_grid)

    def _neighbours(self, point: int) -> tuple[int, ...]:
        """Points to the left, above, below and to the right."""
        size = self.grid_size
        column, row = divmod(point, size)
        return tuple(n for n, there in (
            (point - size, column > 0), (point - 1, row > 0), (point + 1, row < size - 1),
            (point + size, column < size - 1)) if there)

    def _transitions(self) -> nn.ModuleList:
        """From each neighbour to its point: a 5x5 depthwise and a 1x1 convolution."""
        c = self.point_feat_channels
        return nn.ModuleList([
            nn.ModuleList([nn.Sequential(nn.Conv2d(c, c, 5, padding=2, groups=c),
                                         nn.Conv2d(c, c, 1)) for _ in points])
            for points in self.neighbor_points])

    def calc_sub_regions(self) -> list[tuple[int, int, int, int]]:
        """Of each point the part x1, y1, x2, y2 of the whole map that it is looked for in."""
        half = self.whole_map_size // 4 * 2

        def start(place: int) -> int:
            if place in (0, self.grid_size - 1):
                return half if place else 0
            return max(int((place / (self.grid_size - 1) - 0.25) * self.whole_map_size), 0)

        starts = [(start(k // self.grid_size), start(k % self.grid_size))
                  for k in range(self.grid_points)]
        return [(x, y, x + half, y + half) for x, y in starts]

    def _heatmaps(self, x: Tensor) -> Tensor:
        return self.deconv2(F.relu(self.norm1(self.deconv1(x))))

    def _passed(self, own: Sequence[Tensor], others: Sequence[Tensor],
                transitions: Any) -> list[Tensor]:
        """Each point's map plus what its neighbours say."""
        return [mine + sum(step(others[k]) for step, k in zip(steps, points))
                for mine, steps, points in zip(own, transitions, self.neighbor_points)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``fused`` and ``unfused`` logits [N, K, 2 h, 2 w] of regions [N, in_channels, h, w].

        In evaluation both are the same.

        Raises:
            ValueError: the regions are of another size.
        """
        if x.shape[-2:] != (self.roi_feat_size, self.roi_feat_size):
            raise ValueError(f"GridHead: regions must be {self.roi_feat_size} x "
                             f"{self.roi_feat_size}, got {list(x.shape)}")
        x = self.convs(x)
        own = x.split(self.point_feat_channels, dim=1)
        first = self._passed(own, own, self.forder_trans)
        fused = self._heatmaps(torch.cat(self._passed(own, first, self.sorder_trans), dim=1))
        return {"fused": fused, "unfused": self._heatmaps(x) if self.training else fused}

    @staticmethod
    def _enlarged(boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Low corners [N, 2] and sizes [N, 2] of boxes [N, 4] that are made twice as large."""
        size = boxes[:, 2:4] - boxes[:, :2]
        return boxes[:, :2] - size / 2, (boxes[:, 2:4] + size / 2) - (boxes[:, :2] - size / 2)

    def get_targets(self, sampling_results: Sequence[Any], rcnn_train_cfg: Any) -> Tensor:
        """Discs around the points, [P, K, h, w], of the positives of a batch.

        Args:
            sampling_results: of each image ``pos_bboxes`` and ``pos_gt_bboxes``, [p, 4].
            rcnn_train_cfg: ``pos_radius``, of the discs.
        """
        boxes = torch.cat([r.pos_bboxes for r in sampling_results])
        gts = torch.cat([r.pos_gt_bboxes for r in sampling_results]).to(boxes.dtype)
        low, size = self._enlarged(boxes)
        # How much of the near side is in each point's place, along x and along y; as doubles
        # first, as in MMDetection, whose points are rounded down to pixels.
        steps = 1 - torch.arange(self.grid_size, device=boxes.device).double() / (
            self.grid_size - 1)
        near = torch.stack([steps.repeat_interleave(self.grid_size), steps.repeat(self.grid_size)],
                           dim=1)
        points = (near.to(boxes.dtype) * gts[:, None, :2]
                  + (1 - near).to(boxes.dtype) * gts[:, None, 2:])
        centre = ((points - low[:, None]) / size[:, None] * self.whole_map_size).trunc()
        half = self.whole_map_size // 4 * 2
        start = torch.tensor(self.sub_regions, device=boxes.device)[:, :2].to(boxes.dtype)
        place = torch.arange(half, device=boxes.device).to(boxes.dtype)
        off = (start[..., None] + place - centre[..., None]) ** 2  # [P, K, 2, half]
        inside = off[:, :, 1, :, None] + off[:, :, 0, None, :] <= rcnn_train_cfg["pos_radius"] ** 2
        large = (size > self.grid_size).all(1)[:, None, None, None]  # small boxes learn nothing
        return (inside & large).float()

    def loss(self, grid_pred: dict[str, Tensor], grid_targets: Tensor) -> dict[str, Tensor]:
        """``loss_grid`` of both predictions and their targets [P, K, h, w]."""
        return {"loss_grid": self.loss_grid(grid_pred["fused"], grid_targets)
                + self.loss_grid(grid_pred["unfused"], grid_targets)}

    def get_bboxes(self, det_bboxes: Tensor, grid_pred: Tensor,
                   img_metas: list[dict[str, Any]]) -> Tensor:
        """Boxes of an image whose sides are where their points are, weighed by certainty.

        Args:
            det_bboxes: [N, 5], detections.
            grid_pred: [N, K, h, w], logits.
            img_metas: not used; boxes are not clipped, as in MMDetection.

        Returns:
            [N, 5], with the same scores.
        """
        n, w = len(grid_pred), grid_pred.shape[-1]
        score, place = grid_pred.sigmoid().flatten(2).max(dim=2)
        start = torch.tensor(self.sub_regions, device=place.device)
        at = torch.stack([place % w + start[:, 0], place // w + start[:, 1]], dim=-1)
        boxes = det_bboxes[:, :4]
        size = boxes[:, 2:] - boxes[:, :2]
        at = (at.float() + 0.5) / w * size[:, None] + (boxes[:, :2] - size / 2)[:, None]
        grid = (n, self.grid_size, self.grid_size)  # columns, rows

        def side(axis: int, line: int) -> Tensor:
            values, weights = at[..., axis].view(grid), score.view(grid)
            values, weights = (t.select(axis + 1, line) for t in (values, weights))
            return (values * weights).sum(1) / weights.sum(1)

        sides = [side(0, 0), side(1, 0), side(0, -1), side(1, -1), det_bboxes[:, 4]]
        return torch.stack(sides, dim=1)
