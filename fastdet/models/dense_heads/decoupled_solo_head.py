"""Masks as products of a row's and a column's (SOLO, arXiv 1912.04488, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule

from ..builder import HEADS
from .base_dense_head import Meta
from .solo_head import Instances, SOLOHead, with_coordinates

__all__ = ["DecoupledSOLOHead", "DecoupledSOLOLightHead"]

INIT = [dict(type="Normal", layer="Conv2d", std=0.01),
        dict(type="Normal", std=0.01, bias_prob=0.01, override=dict(name="conv_mask_list_x")),
        dict(type="Normal", std=0.01, bias_prob=0.01, override=dict(name="conv_mask_list_y")),
        dict(type="Normal", std=0.01, bias_prob=0.01, override=dict(name="conv_cls"))]


@HEADS.register_module()
class DecoupledSOLOHead(SOLOHead):
    """One mask for each row and each column of the grid; a cell's is their product.

    Args:
        args: of :class:`SOLOHead`.
        init_cfg: how weights are initialised.
        kwargs: of :class:`SOLOHead`.
    """

    conv_mask_list_x: Any
    conv_mask_list_y: Any

    def __init__(self, *args: Any, init_cfg: Any = INIT, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "init_cfg": init_cfg})

    def _init_layers(self) -> None:
        self.mask_convs_x = self.tower(self.in_channels + 1)
        self.mask_convs_y = self.tower(self.in_channels + 1)
        self.cls_convs = self.tower(self.in_channels)
        self._predictors()

    def _predictors(self) -> None:
        width: int = self.feat_channels  # type: ignore[assignment]
        self.conv_mask_list_x, self.conv_mask_list_y = (
            nn.ModuleList([nn.Conv2d(width, grid, 3, padding=1) for grid in self.num_grids])
            for _ in range(2))
        self.conv_cls = nn.Conv2d(width, self.cls_out_channels, 3, padding=1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the columns' and the rows' masks are made of."""
        placed = with_coordinates(x)
        return (self.through(self.mask_convs_x, placed[:, :-1]),
                self.through(self.mask_convs_y, torch.cat([x, placed[:, -1:]], dim=1)))

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Columns' and rows' masks [B, S, h, w] and classes [B, C, S, S] of each level."""
        feats = self.resize_feats(feats)
        columns, rows = [], []
        for of_x, of_y, x in zip(self.conv_mask_list_x, self.conv_mask_list_y, feats):
            along, down = self.features(x)
            columns.append(self.finished(of_x(along), feats))
            rows.append(self.finished(of_y(down), feats))
        return columns, rows, [self.classes(x, grid) for x, grid in zip(feats, self.num_grids)]

    def loss(self, mlvl_mask_preds_x: list[Tensor],  # type: ignore[override]
             mlvl_mask_preds_y: list[Tensor], mlvl_cls_preds: list[Tensor],
             gt_labels: list[Tensor], gt_masks: list[Any], img_metas: list[Meta],
             gt_bboxes: list[Tensor] | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Losses of all levels together; ``loss_mask`` takes probabilities.

        Args:
            mlvl_mask_preds_x: [B, S, h, w] of each level, of columns.
            mlvl_mask_preds_y: [B, S, h, w] of each level, of rows.
            mlvl_cls_preds: [B, C, S, S] of each level.
            gt_labels: [G] of each image.
            gt_masks: of each image.
            img_metas: not used.
            gt_bboxes: [G, 4] of each image.
            kwargs: not used.
        """
        labels, cells, num_pos = self._targets(gt_bboxes, gt_labels, gt_masks,
                                               [tuple(m.shape[-2:]) for m in mlvl_mask_preds_x])
        pred = [x[c.image, c.cell % grid].sigmoid() * y[c.image, c.cell // grid].sigmoid()
                for x, y, c, grid in zip(mlvl_mask_preds_x, mlvl_mask_preds_y, cells,
                                         self.num_grids)]
        return self.losses(pred, cells, mlvl_cls_preds, labels, num_pos)

    def get_results(self, mlvl_mask_preds_x: list[Tensor],  # type: ignore[override]
                    mlvl_mask_preds_y: list[Tensor], mlvl_cls_scores: list[Tensor],
                    img_metas: list[Meta], rescale: bool | None = None,
                    **kwargs: Any) -> list[Instances]:
        """Instances of each image, of what :meth:`forward` returned in evaluation."""
        columns, rows = torch.cat(mlvl_mask_preds_x, dim=1), torch.cat(mlvl_mask_preds_y, dim=1)
        # Of each cell of all levels, its row and its column among those of all levels.
        starts = [sum(self.num_grids[:i]) for i in range(self.num_levels)]
        down, along = (torch.cat([start + torch.arange(grid, device=rows.device).view(
            shape).expand(grid, grid).flatten() for start, grid in zip(starts, self.num_grids)])
            for shape in ((-1, 1), (1, -1)))

        def masks_of(image: int) -> Callable[[Tensor], Tensor]:
            return lambda at: columns[image][along[at]] * rows[image][down[at]]

        return [self.instances(i, mlvl_cls_scores, masks_of(i), meta)
                for i, meta in enumerate(img_metas)]


@HEADS.register_module()
class DecoupledSOLOLightHead(DecoupledSOLOHead):
    """Rows and columns share a tower.

    Args:
        args: of :class:`SOLOHead`.
        dcn_cfg: config of the towers' last convolution, if it is deformable.
        init_cfg: how weights are initialised.
        kwargs: of :class:`SOLOHead`.
    """

    def __init__(self, *args: Any, dcn_cfg: Any = None, init_cfg: Any = INIT,
                 **kwargs: Any) -> None:
        self.dcn_cfg = dcn_cfg
        super().__init__(*args, **{**kwargs, "init_cfg": init_cfg})

    def tower(self, in_channels: int, **kwargs: Any) -> nn.ModuleList:
        """Convolutions, of which the last may be deformable."""
        convs = super().tower(in_channels, **kwargs)
        if self.dcn_cfg is not None:
            width: int = self.feat_channels  # type: ignore[assignment]
            convs[-1] = ConvModule(in_channels if len(convs) == 1 else width, width, 3, padding=1,
                                   conv_cfg=self.dcn_cfg, norm_cfg=self.norm_cfg)
        return convs

    def _init_layers(self) -> None:
        self.mask_convs = self.tower(self.in_channels + 2)
        self.cls_convs = self.tower(self.in_channels)
        self._predictors()

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the columns' and the rows' masks are made of: the same."""
        shared = self.through(self.mask_convs, with_coordinates(x))
        return shared, shared
