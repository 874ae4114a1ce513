"""Masks by kernels that the cells of a grid predict (SOLOv2, arXiv 2003.10152)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule

from ..builder import HEADS
from .base_dense_head import Meta
from .solo_head import Instances, SOLOHead, local_peaks, resized, with_coordinates

__all__ = ["MaskFeatModule", "SOLOV2Head"]


class MaskFeatModule(BaseModule):
    """Levels of a pyramid added up at the size of the first, for all masks of an image.

    Args:
        in_channels: of the feature maps.
        feat_channels: within.
        start_level: the first level.
        end_level: the last level, which knows its places.
        out_channels: of the result.
        mask_stride: pixels between the places of the result.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        init_cfg: how weights are initialised.
    """

    def __init__(self, in_channels: int, feat_channels: int, start_level: int, end_level: int,
                 out_channels: int, mask_stride: int = 4, conv_cfg: Any = None,
                 norm_cfg: Any = None,
                 init_cfg: Any = [dict(type="Normal", layer="Conv2d", std=0.01)]) -> None:
        super().__init__(init_cfg)
        self.start_level = start_level
        self.end_level = end_level
        self.mask_stride = mask_stride
        self.convs_all_levels = nn.ModuleList()
        for i in range(start_level, end_level + 1):
            level = nn.Sequential()
            for j in range(max(i, 1)):
                width = feat_channels if j else in_channels + 2 * (i == end_level and i > 0)
                level.add_module(f"conv{j}", ConvModule(
                    width, feat_channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg,
                    inplace=False))
                if i > 0:
                    level.add_module(f"upsample{j}", nn.Upsample(
                        scale_factor=2, mode="bilinear", align_corners=False))
            self.convs_all_levels.append(level)
        self.conv_pred = ConvModule(feat_channels, out_channels, 1, conv_cfg=conv_cfg,
                                    norm_cfg=norm_cfg)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """[B, out_channels, h, w] of feature maps."""
        levels = list(feats[self.start_level:self.end_level + 1])
        if len(levels) > 1:
            levels[-1] = with_coordinates(levels[-1])
        total = self.convs_all_levels[0](levels[0])
        for convs, x in list(zip(self.convs_all_levels, levels))[1:]:
            total = total + convs(x)
        return self.conv_pred(total)


@HEADS.register_module()
class SOLOV2Head(SOLOHead):
    """A grid over the image on each level: each cell has a class and a convolution.

    Args:
        args: of :class:`SOLOHead`.
        mask_feature_head: arguments of :class:`MaskFeatModule`.
        dynamic_conv_size: side of the cells' kernels.
        dcn_cfg: config of the towers' convolutions, if they are deformable.
        dcn_apply_to_all_conv: all of them, else the last alone.
        init_cfg: how weights are initialised.
        kwargs: of :class:`SOLOHead`.

    Raises:
        ValueError: ``dcn_cfg`` is neither ``None`` nor a dict.
    """

    def __init__(self, *args: Any, mask_feature_head: Any, dynamic_conv_size: int = 1,
                 dcn_cfg: Any = None, dcn_apply_to_all_conv: bool = True,
                 init_cfg: Any = [dict(type="Normal", layer="Conv2d", std=0.01),
                                  dict(type="Normal", std=0.01, bias_prob=0.01,
                                       override=dict(name="conv_cls"))],
                 **kwargs: Any) -> None:
        if dcn_cfg is not None and not isinstance(dcn_cfg, dict):
            raise ValueError(f"SOLOV2Head: dcn_cfg must be a dict or None, got {dcn_cfg!r}")
        self.dcn_cfg = dcn_cfg
        self.with_dcn = dcn_cfg is not None
        self.dcn_apply_to_all_conv = dcn_apply_to_all_conv
        self.dynamic_conv_size = dynamic_conv_size
        self.kernel_out_channels = mask_feature_head["out_channels"] * dynamic_conv_size ** 2
        super().__init__(*args, **{**kwargs, "init_cfg": init_cfg})
        self.mask_feature_head = MaskFeatModule(**{"in_channels": self.in_channels,
                                                   **mask_feature_head})
        self.mask_stride = self.mask_feature_head.mask_stride

    def tower(self, in_channels: int, **kwargs: Any) -> nn.ModuleList:
        """Convolutions, some of which may be deformable."""
        width: int = self.feat_channels  # type: ignore[assignment]
        last = self.stacked_convs - 1  # type: ignore[operator]
        return nn.ModuleList([
            ConvModule(in_channels if i == 0 else width, width, 3, padding=1,
                       conv_cfg=self.dcn_cfg if self.dcn_apply_to_all_conv or i == last else None,
                       norm_cfg=self.norm_cfg, bias=self.norm_cfg is None)
            for i in range(last + 1)])

    def _init_layers(self) -> None:
        self.cls_convs = self.tower(self.in_channels)
        self.kernel_convs = self.tower(self.in_channels + 2)
        self.conv_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 3, padding=1)
        self.conv_kernel = nn.Conv2d(self.feat_channels, self.kernel_out_channels, 3, padding=1)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Any, ...]:
        """Kernels [B, K, S, S] and classes [B, C, S, S] of each level, and the map [B, c, h, w]
        that the kernels are for."""
        pixels = self.mask_feature_head(feats)
        kernels, scores = [], []
        for x, grid in zip(self.resize_feats(feats), self.num_grids):
            kernel = resized(with_coordinates(x), grid)
            score = kernel[:, :-2]
            for conv in self.kernel_convs:
                kernel = conv(kernel)
            for conv in self.cls_convs:
                score = conv(score)
            score = self.conv_cls(score)
            kernels.append(self.conv_kernel(kernel))
            scores.append(score)
        return kernels, scores, pixels

    def masks(self, kernels: Tensor, pixels: Tensor) -> Tensor:
        """Logits [n, h, w] of kernels [n, K] on the map [c, h, w] of their image."""
        side = self.dynamic_conv_size
        if len(kernels) == 0:
            return pixels[:0]
        return F.conv2d(pixels[None], kernels.view(-1, len(pixels), side, side))[0]

    def loss(self, mlvl_kernel_preds: list[Tensor],  # type: ignore[override]
             mlvl_cls_preds: list[Tensor], mask_feats: Tensor, gt_labels: list[Tensor],
             gt_masks: list[Any], img_metas: list[Meta],
             gt_bboxes: list[Tensor] | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Losses of all levels together.

        Args:
            mlvl_kernel_preds: [B, K, S, S] of each level.
            mlvl_cls_preds: [B, C, S, S] of each level.
            mask_feats: [B, c, h, w].
            gt_labels: [G] of each image.
            gt_masks: of each image.
            img_metas: not used.
            gt_bboxes: [G, 4] of each image.
            kwargs: not used.
        """
        size = tuple(mask_feats.shape[-2:])
        stride = self.mask_stride
        labels, cells, num_pos = self.targets(
            gt_bboxes, gt_labels, gt_masks, [size] * self.num_levels,
            [1.0 / stride] * self.num_levels, (size[0] * stride, size[1] * stride), once=False)
        pred = []
        for kernels, mine in zip(mlvl_kernel_preds, cells):
            own = kernels.flatten(2).transpose(1, 2)[mine.image, mine.cell]
            pred.append(torch.cat([self.masks(part, pixels) for part, pixels in zip(
                own.split(mine.counts), mask_feats)]))
        return self.losses(pred, cells, mlvl_cls_preds, labels, num_pos)

    def get_results(self, mlvl_kernel_preds: list[Tensor],  # type: ignore[override]
                    mlvl_cls_scores: list[Tensor], mask_feats: Tensor, img_metas: list[Meta],
                    **kwargs: Any) -> list[Instances]:
        """Instances of each image, of what :meth:`forward` returned."""
        kernels = torch.cat([k.flatten(2) for k in mlvl_kernel_preds], dim=2).transpose(1, 2)
        scores = [local_peaks(s.sigmoid()) for s in mlvl_cls_scores]

        def masks_of(image: int) -> Callable[[Tensor], Tensor]:
            return lambda rows: self.masks(kernels[image][rows], mask_feats[image]).sigmoid()

        return [self.instances(i, scores, masks_of(i), meta) for i, meta in enumerate(img_metas)]
