"""What RoI extractors share."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fastdet.ops
from fastdet.runner import BaseModule

__all__ = ["BaseRoIExtractor"]


class BaseRoIExtractor(BaseModule, metaclass=ABCMeta):
    """A RoI layer for each level of a pyramid.

    Args:
        roi_layer: ``type``, the name of a layer of :mod:`fastdet.ops` or a class, and its
            arguments but ``spatial_scale``.
        out_channels: channels of the result.
        featmap_strides: pixels of the image in a pixel of each map.
        init_cfg: how to initialise.
    """

    def __init__(self, roi_layer: dict[str, Any], out_channels: int,
                 featmap_strides: Sequence[int], init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.roi_layers = self.build_roi_layers(roi_layer, featmap_strides)
        self.out_channels = out_channels
        self.featmap_strides = featmap_strides
        self.fp16_enabled = False

    @property
    def num_inputs(self) -> int:
        """How many maps there are."""
        return len(self.featmap_strides)

    def build_roi_layers(self, layer_cfg: dict[str, Any], featmap_strides: Sequence[int]
                         ) -> nn.ModuleList:
        """A layer for each stride.

        Raises:
            ValueError: ``type`` is not the name of a layer of :mod:`fastdet.ops`.
        """
        args = dict(layer_cfg)
        kind = args.pop("type")
        layer = getattr(fastdet.ops, kind, None) if isinstance(kind, str) else kind
        if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
            raise ValueError(f"{type(self).__name__}: roi_layer's type must be a layer of "
                             f"fastdet.ops, such as 'RoIAlign', got {kind!r}")
        return nn.ModuleList([layer(spatial_scale=1 / s, **args) for s in featmap_strides])

    def roi_rescale(self, rois: Tensor, scale_factor: float) -> Tensor:
        """Regions ``(N, 5)`` of the same centres, larger by ``scale_factor``."""
        center = (rois[:, 1:3] + rois[:, 3:5]) * 0.5
        half = (rois[:, 3:5] - rois[:, 1:3]) * scale_factor * 0.5
        return torch.cat([rois[:, :1], center - half, center + half], 1)

    @abstractmethod
    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
                ) -> Tensor:
        """Pool regions.

        Args:
            feats: maps ``(B, C, H_l, W_l)``.
            rois: ``(N, 5)``: image, x1, y1, x2, y2.
            roi_scale_factor: enlarge the regions by it first.

        Returns:
            ``(N, out_channels, *output_size)``.
        """
