"""Every region from all levels (GRoIE, arXiv 2004.13665)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.cnn import build_plugin_layer
from fastdet.runner import force_fp32

from ...builder import ROI_EXTRACTORS
from .base_roi_extractor import BaseRoIExtractor

__all__ = ["GenericRoIExtractor"]


@ROI_EXTRACTORS.register_module()
class GenericRoIExtractor(BaseRoIExtractor):
    """Pool each region from all maps, and sum or concatenate.

    Args:
        aggregation: ``'sum'`` or ``'concat'``.
        pre_cfg: a plugin that each level's result goes through first.
        post_cfg: a plugin that the whole goes through.
        kwargs: those of :class:`BaseRoIExtractor`.

    Raises:
        ValueError: ``aggregation`` is another.
    """

    def __init__(self, aggregation: str = "sum", pre_cfg: dict[str, Any] | None = None,
                 post_cfg: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if aggregation not in ("sum", "concat"):
            raise ValueError("GenericRoIExtractor: aggregation must be 'sum' or 'concat', got "
                             f"{aggregation!r}")
        self.aggregation = aggregation
        self.with_post = post_cfg is not None
        self.with_pre = pre_cfg is not None
        if post_cfg is not None:
            self.post_module = build_plugin_layer(post_cfg, "_post_module")[1]
        if pre_cfg is not None:
            self.pre_module = build_plugin_layer(pre_cfg, "_pre_module")[1]

    @force_fp32(apply_to=("feats",), out_fp16=True)
    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
                ) -> Tensor:
        """Pool regions.

        Args:
            feats: maps ``(B, C, H_l, W_l)``.
            rois: ``(N, 5)``: image, x1, y1, x2, y2.
            roi_scale_factor: enlarge the regions by it first. Has no effect on a single map.

        Returns:
            ``(N, out_channels, *output_size)``.

        Raises:
            ValueError: the maps' channels, concatenated, are not ``out_channels``.
        """
        if len(feats) == 1:
            return self.roi_layers[0](feats[0], rois)
        if len(rois) == 0:
            layer: Any = self.roi_layers[0]
            return feats[0].new_zeros(0, self.out_channels, *layer.output_size)
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        parts = [layer(feat, rois) for layer, feat in zip(self.roi_layers, feats)]
        if self.with_pre:
            parts = [self.pre_module(part) for part in parts]
        out = torch.cat(parts, 1) if self.aggregation == "concat" else sum(parts[1:], parts[0])
        if out.shape[1] != self.out_channels:
            raise ValueError(f"GenericRoIExtractor: out_channels is {self.out_channels}, but the "
                             f"maps give {out.shape[1]} by {self.aggregation}")
        return self.post_module(out) if self.with_post else out
