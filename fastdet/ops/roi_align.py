"""RoIAlign (`arXiv 1703.06870 <https://arxiv.org/abs/1703.06870>`_)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from fastdet.kernels.roi_align import multi_level_roi_align, roi_align

__all__ = ["RoIAlign", "multi_level_roi_align", "roi_align"]


class RoIAlign(nn.Module):
    """Bilinear samples of each bin of each region, their mean or their maximum.

    Args:
        output_size: bins along y and x, or one number for both.
        spatial_scale: pixels of the map in a pixel of the boxes.
        sampling_ratio: samples along each axis of a bin; 0 takes one for each begun pixel.
        pool_mode: ``'avg'`` or ``'max'``.
        aligned: shift by half a pixel, and let regions be smaller than a pixel; without it they
            are made at least a pixel wide and high, as Detectron did.
        use_torchvision: mmcv runs torchvision's operator instead, which has means alone; here it
            has no other effect than that.
    """

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float = 1.0,
                 sampling_ratio: int = 0, pool_mode: str = "avg", aligned: bool = True,
                 use_torchvision: bool = False) -> None:
        super().__init__()
        if use_torchvision and pool_mode != "avg":
            raise ValueError("RoIAlign: use_torchvision has pool_mode 'avg' alone, "
                             f"got {pool_mode!r}")
        self.output_size = _pair(output_size)
        self.spatial_scale = float(spatial_scale)
        self.sampling_ratio = int(sampling_ratio)
        self.pool_mode = pool_mode
        self.aligned = aligned
        self.use_torchvision = use_torchvision

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool regions.

        Args:
            input: ``(B, C, H, W)``.
            rois: ``(N, 5)``: image, x1, y1, x2, y2.

        Returns:
            ``(N, C, *output_size)``.
        """
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio,
                         self.pool_mode, self.aligned)

    def __repr__(self) -> str:
        return (f"{type(self).__name__}(output_size={self.output_size}, "
                f"spatial_scale={self.spatial_scale}, sampling_ratio={self.sampling_ratio}, "
                f"pool_mode={self.pool_mode}, aligned={self.aligned}, "
                f"use_torchvision={self.use_torchvision})")
