"""Every region from the level that fits its size (FPN, arXiv 1612.03144)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastdet.kernels.roi_align.reference import roi_levels
from fastdet.ops import RoIAlign, multi_level_roi_align
from fastdet.runner import force_fp32

from ...builder import ROI_EXTRACTORS
from .base_roi_extractor import BaseRoIExtractor

__all__ = ["SingleRoIExtractor"]


@ROI_EXTRACTORS.register_module()
class SingleRoIExtractor(BaseRoIExtractor):
    """A region of area A reads level ``floor(log2(sqrt(A) / finest_scale + 1e-6))``, clamped.

    RoIAlign runs on all levels at once; other layers on one after the other.

    Args:
        roi_layer: ``type``, the name of a layer of :mod:`fastdet.ops` or a class, and its
            arguments but ``spatial_scale``.
        out_channels: channels of the result.
        featmap_strides: pixels of the image in a pixel of each map.
        finest_scale: regions of up to twice this size read level 0.
        init_cfg: how to initialise.
    """

    def __init__(self, roi_layer: dict[str, Any], out_channels: int,
                 featmap_strides: Sequence[int], finest_scale: float = 56, init_cfg: Any = None
                 ) -> None:
        super().__init__(roi_layer, out_channels, featmap_strides, init_cfg)
        self.finest_scale = finest_scale

    def map_roi_levels(self, rois: Tensor, num_levels: int) -> Tensor:
        """The level of each region ``(N, 5)``, int64; -1 where its area has no square root."""
        return roi_levels(rois, num_levels, self.finest_scale).long()

    @force_fp32(apply_to=("feats",), out_fp16=True)
    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
                ) -> Tensor:
        """Pool regions.

        Args:
            feats: maps ``(B, C, H_l, W_l)``, the finest first.
            rois: ``(N, 5)``: image, x1, y1, x2, y2.
            roi_scale_factor: enlarge the regions by it; levels are chosen before. Has no effect
                on a single map.

        Returns:
            ``(N, out_channels, *output_size)``.
        """
        num_levels = len(feats)
        layers: list[Any] = list(self.roi_layers)[:num_levels]
        if num_levels == 1:
            return layers[0](feats[0], rois)
        own = type(self).map_roi_levels is not SingleRoIExtractor.map_roi_levels
        levels = self.map_roi_levels(rois, num_levels) if own or roi_scale_factor is not None \
            else None
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        first = layers[0]
        if all(type(layer) is RoIAlign for layer in layers):
            return multi_level_roi_align(
                feats, rois, first.output_size, [layer.spatial_scale for layer in layers],
                first.sampling_ratio, first.pool_mode, first.aligned, self.finest_scale, levels)
        if levels is None:
            levels = self.map_roi_levels(rois, num_levels)
        out = feats[0].new_zeros(len(rois), self.out_channels, *first.output_size)
        for level, (feat, layer) in enumerate(zip(feats, layers)):
            mine = (levels == level).nonzero()[:, 0]
            if len(mine):
                out = out.index_put((mine,), layer(feat, rois[mine]))
            else:  # each map takes part in the graph, for distributed training
                out = out + feat.sum() * 0
        return out
