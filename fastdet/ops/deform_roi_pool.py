"""RoIAlign whose bins are moved by learned offsets (Deformable ConvNets, arXiv 1703.06211)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from fastdet.cnn import constant_init

from .roi_align import roi_align

__all__ = ["DeformRoIPool", "DeformRoIPoolPack", "ModulatedDeformRoIPoolPack", "deform_roi_pool"]

_Size = int | tuple[int, int]


def deform_roi_pool(input: Tensor, rois: Tensor, offset: Tensor | None, output_size: _Size,
                    spatial_scale: float = 1.0, sampling_ratio: int = 0, gamma: float = 0.1
                    ) -> Tensor:
    """Mean of the bilinear samples of each bin, the bin moved by its offset.

    Args:
        input: ``(B, C, H, W)``.
        rois: ``(N, 5)``: image, x1, y1, x2, y2.
        offset: ``(N, 2, *output_size)`` along x and y, in units of ``gamma`` times the region's
            width and height; ``None`` or empty for none, which is RoIAlign.
        output_size: bins along y and x.
        spatial_scale: pixels of the map in a pixel of the boxes.
        sampling_ratio: samples along each axis of a bin; 0 takes one for each begun pixel.
        gamma: see ``offset``.

    Returns:
        ``(N, C, *output_size)``.

    Raises:
        ValueError: a shape does not fit.
    """
    size = _pair(output_size)
    if offset is None or offset.numel() == 0:
        return roi_align(input, rois, size, spatial_scale, sampling_ratio, "avg", True)
    if tuple(offset.shape) != (len(rois), 2, *size):
        raise ValueError(f"deform_roi_pool: offset must be {(len(rois), 2, *size)}, got "
                         f"{tuple(offset.shape)}")
    (_, c, h, w), n = input.shape, len(rois)
    low = rois[:, 1:3] * spatial_scale - 0.5
    extent = rois[:, 3:5] * spatial_scale - 0.5 - low
    axes = []
    for axis, bins, view in ((1, size[0], (1, -1, 1)), (0, size[1], (1, 1, -1))):
        step = extent[:, axis, None, None] / bins
        index = torch.arange(bins, device=rois.device).view(view)
        origin = low[:, axis, None, None] + index * step
        origin = origin + gamma * extent[:, axis, None, None] * offset[:, axis]
        grid = step.new_full(step.shape, sampling_ratio) if sampling_ratio > 0 else \
            step.ceil().clamp(min=0)
        axes.append((origin, step, grid))
    (oy, step_y, grid_y), (ox, step_x, grid_x) = axes
    table = input.permute(0, 2, 3, 1).reshape(-1, c)
    row = rois[:, 0].long()[:, None, None] * h
    out = table.new_zeros(n, *size, c)
    for i in range(int(grid_y.max())):
        y = oy + (i + 0.5) * step_y / grid_y.clamp(min=1)
        for j in range(int(grid_x.max())):
            x = ox + (j + 0.5) * step_x / grid_x.clamp(min=1)
            inside = (y >= -1) & (y <= h) & (x >= -1) & (x <= w) & (i < grid_y) & (j < grid_x)
            sy, sx = (torch.where(inside, t, 0).clamp(min=0) for t in (y, x))
            top, left = sy.detach().long().clamp(max=h - 1), sx.detach().long().clamp(max=w - 1)
            bottom, right = (top + 1).clamp(max=h - 1), (left + 1).clamp(max=w - 1)
            fy = torch.where(bottom > top, sy - top, 0)
            fx = torch.where(right > left, sx - left, 0)
            value = sum((table[(row + py) * w + px] * (wy * wx).to(table.dtype)[..., None]
                         for py, wy in ((top, 1 - fy), (bottom, fy))
                         for px, wx in ((left, 1 - fx), (right, fx))), torch.zeros_like(out))
            out = out + torch.where(inside[..., None], value, 0)
    out = out / (grid_y * grid_x).clamp(min=1)[..., None].to(out.dtype)
    return out.permute(0, 3, 1, 2).contiguous()


class DeformRoIPool(nn.Module):
    """Pooling with offsets that the caller gives, :func:`deform_roi_pool`.

    Args:
        output_size: bins along y and x, or one number for both.
        spatial_scale: pixels of the map in a pixel of the boxes.
        sampling_ratio: samples along each axis of a bin; 0 takes one for each begun pixel.
        gamma: what an offset of 1 is, in units of the region's size.
    """

    def __init__(self, output_size: _Size, spatial_scale: float = 1.0, sampling_ratio: int = 0,
                 gamma: float = 0.1) -> None:
        super().__init__()
        self.output_size = _pair(output_size)
        self.spatial_scale = float(spatial_scale)
        self.sampling_ratio = int(sampling_ratio)
        self.gamma = float(gamma)

    def forward(self, input: Tensor, rois: Tensor, offset: Tensor | None = None) -> Tensor:
        """Pool ``rois`` ``(N, 5)`` of ``input`` ``(B, C, H, W)``."""
        return deform_roi_pool(input, rois, offset, self.output_size, self.spatial_scale,
                               self.sampling_ratio, self.gamma)


class DeformRoIPoolPack(DeformRoIPool):
    """Pooling that predicts its offsets from what the regions hold; zero at first.

    Args:
        output_size: bins along y and x, or one number for both.
        output_channels: channels of the map.
        deform_fc_channels: width of the layers that predict.
        spatial_scale: pixels of the map in a pixel of the boxes.
        sampling_ratio: samples along each axis of a bin; 0 takes one for each begun pixel.
        gamma: what an offset of 1 is, in units of the region's size.
    """

    def __init__(self, output_size: _Size, output_channels: int, deform_fc_channels: int = 1024,
                 spatial_scale: float = 1.0, sampling_ratio: int = 0, gamma: float = 0.1) -> None:
        super().__init__(output_size, spatial_scale, sampling_ratio, gamma)
        self.output_channels = output_channels
        self.deform_fc_channels = deform_fc_channels
        bins = math.prod(self.output_size)
        self.offset_fc = nn.Sequential(
            nn.Linear(bins * output_channels, deform_fc_channels), nn.ReLU(inplace=True),
            nn.Linear(deform_fc_channels, deform_fc_channels), nn.ReLU(inplace=True),
            nn.Linear(deform_fc_channels, bins * 2))
        constant_init(self.offset_fc[-1], 0)

    def _plain(self, input: Tensor, rois: Tensor) -> Tensor:
        """What the regions hold without offsets, one row each."""
        if input.shape[1] != self.output_channels:
            raise ValueError(f"{type(self).__name__}: the map must have {self.output_channels} "
                             f"channels, got {input.shape[1]}")
        return super().forward(input, rois).flatten(1)

    def _moved(self, input: Tensor, rois: Tensor, plain: Tensor) -> Tensor:
        offset = self.offset_fc(plain).view(len(rois), 2, *self.output_size)
        return super().forward(input, rois, offset)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        """Pool ``rois`` ``(N, 5)`` of ``input`` ``(B, C, H, W)``."""
        return self._moved(input, rois, self._plain(input, rois))


class ModulatedDeformRoIPoolPack(DeformRoIPoolPack):
    """:class:`DeformRoIPoolPack` that also predicts a factor in (0, 1) for every bin
    (Deformable ConvNets v2, arXiv 1811.11168); one half at first."""

    def __init__(self, output_size: _Size, output_channels: int, deform_fc_channels: int = 1024,
                 spatial_scale: float = 1.0, sampling_ratio: int = 0, gamma: float = 0.1) -> None:
        super().__init__(output_size, output_channels, deform_fc_channels, spatial_scale,
                         sampling_ratio, gamma)
        bins = math.prod(self.output_size)
        self.mask_fc = nn.Sequential(
            nn.Linear(bins * output_channels, deform_fc_channels), nn.ReLU(inplace=True),
            nn.Linear(deform_fc_channels, bins), nn.Sigmoid())
        constant_init(self.mask_fc[2], 0)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        """Pool ``rois`` ``(N, 5)`` of ``input`` ``(B, C, H, W)``."""
        plain = self._plain(input, rois)
        mask = self.mask_fc(plain).view(len(rois), 1, *self.output_size)
        return self._moved(input, rois, plain) * mask
