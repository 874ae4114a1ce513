"""RoI max pooling (Fast R-CNN, arXiv 1504.08083)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

__all__ = ["RoIPool", "largest_pixels", "roi_pool"]


def _edges(start: Tensor, end: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """First pixel of every bin ``(N, bins)``, and the one after its last."""
    step = ((end - start) / bins)[:, None]
    index = torch.arange(bins, device=start.device)
    first = (index * step + start[:, None]).floor().clamp(0, length)
    last = ((index + 1) * step + start[:, None]).ceil().clamp(0, length)
    return first.long(), last.long()


def largest_pixels(input: Tensor, image: Tensor, y: tuple[Tensor, Tensor],
                   x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The largest pixel of each bin, without a gradient.

    Args:
        input: ``(B, C, H, W)``.
        image: ``(N,)``, int64.
        y: first row of every bin ``(N, bins)``, int64, and the one after its last.
        x: the same for columns.

    Returns:
        ``(N, bins_y, bins_x, C)``, the values, minus infinity where a bin holds no pixel, and
        their places in the ``B * H * W`` pixels, there -1.
    """
    (_, c, h, w), (top, y_end), (left, x_end) = input.shape, y, x
    table = input.detach().permute(0, 2, 3, 1).reshape(-1, c)
    shape = (*top.shape, left.shape[1], c)
    best = table.new_full(shape, -torch.inf)
    place = torch.full(shape, -1, dtype=torch.long, device=table.device)
    tall, wide = (int((e - s).max()) if s.numel() else 0 for s, e in ((top, y_end), (left, x_end)))
    for i in range(tall):
        for j in range(wide):
            inside = ((top + i < y_end)[:, :, None] & (left + j < x_end)[:, None, :])[..., None]
            at = ((image[:, None, None] * h + (top + i).clamp(max=h - 1)[:, :, None]) * w
                  + (left + j).clamp(max=w - 1)[:, None, :])
            value = table[at]
            better = inside & (value > best)
            best = torch.where(better, value, best)
            place = torch.where(better, at[..., None], place)
    return best, place


def roi_pool(input: Tensor, rois: Tensor, output_size: int | tuple[int, int],
             spatial_scale: float = 1.0) -> Tensor:
    """The largest pixel of each bin of each region, edges rounded outwards.

    Args:
        input: ``(B, C, H, W)``.
        rois: ``(N, 5)``: image, x1, y1, x2, y2; the last pixel belongs to the region.
        output_size: bins along y and x.
        spatial_scale: pixels of the map in a pixel of the boxes.

    Returns:
        ``(N, C, *output_size)``; zero where a bin holds no pixel, or a region is empty or NaN.

    Raises:
        ValueError: a shape does not fit, or a region's image is not there.
    """
    if input.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError("roi_pool: expected a map (B, C, H, W) and rois (N, 5), got "
                         f"{tuple(input.shape)} and {tuple(rois.shape)}")
    (b, c, h, w), (bins_y, bins_x) = input.shape, _pair(output_size)
    image = rois[:, 0].long()
    if len(rois) and not ((image >= 0) & (image < b)).all():
        raise ValueError(f"roi_pool: a region's image is not one of the {b} of the map")
    with torch.no_grad():
        boxes = rois[:, 1:].to(torch.promote_types(rois.dtype, torch.float32))
        low, high = boxes[:, :2] * spatial_scale, (boxes[:, 2:] + 1) * spatial_scale
        proper = ((high > low).all(1))[:, None]
        low, high = torch.where(proper, low, 0), torch.where(proper, high, 0)
        _, place = largest_pixels(input, image, _edges(low[:, 1], high[:, 1], bins_y, h),
                                  _edges(low[:, 0], high[:, 0], bins_x, w))
    # One differentiable gather of what was found.
    table = input.permute(0, 2, 3, 1).reshape(-1, c)
    out = table.gather(0, place.clamp(min=0).view(-1, c)).view(place.shape)
    return torch.where(place >= 0, out, 0).permute(0, 3, 1, 2).contiguous()


class RoIPool(nn.Module):
    """Max pooling of regions, :func:`roi_pool`.

    Args:
        output_size: bins along y and x, or one number for both.
        spatial_scale: pixels of the map in a pixel of the boxes.
    """

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float = 1.0) -> None:
        super().__init__()
        self.output_size = _pair(output_size)
        self.spatial_scale = float(spatial_scale)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool ``rois`` ``(N, 5)`` of ``input`` ``(B, C, H, W)``."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def __repr__(self) -> str:
        return (f"{type(self).__name__}(output_size={self.output_size}, "
                f"spatial_scale={self.spatial_scale})")
