"""Values of maps at points, as PointRend takes them (arXiv 1912.08193)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

__all__ = ["SimpleRoIAlign", "abs_img_point_to_rel_img_point", "denormalize", "generate_grid",
           "get_shape_from_feature_map", "normalize", "point_sample",
           "rel_roi_point_to_abs_img_point", "rel_roi_point_to_rel_img_point"]


def normalize(grid: Tensor) -> Tensor:
    """From ``[-1, 1]``, in which ``grid_sample`` counts, to ``(0, 1)``."""
    return (grid + 1.0) / 2.0


def denormalize(grid: Tensor) -> Tensor:
    """From ``(0, 1)`` to ``[-1, 1]``, in which ``grid_sample`` counts."""
    return grid * 2.0 - 1.0


def generate_grid(num_grid: int, size: tuple[int, int], device: torch.device | str) -> Tensor:
    """The centres of ``size`` (height, width) cells in the unit square, once for each region.

    Returns:
        ``(num_grid, height * width, 2)`` as (x, y), row by row.
    """
    # By affine_grid, as mmcv: other formulas differ in the last bit, which the size of a region
    # then multiplies.
    same = torch.eye(2, 3, device=device)[None]
    grid = normalize(F.affine_grid(same, [1, 1, *size], align_corners=False))
    return grid.view(1, -1, 2).expand(num_grid, -1, -1)


def rel_roi_point_to_abs_img_point(rois: Tensor, rel_roi_points: Tensor) -> Tensor:
    """From units of a region to pixels of the image.

    Args:
        rois: ``(N, 4)`` x1, y1, x2, y2, or ``(N, 5)`` with the image before them.
        rel_roi_points: ``(N, P, 2)`` as (x, y).

    Returns:
        ``(N, P, 2)``.

    Raises:
        ValueError: ``rois`` has neither 4 nor 5 columns.
    """
    if rois.dim() != 2 or rois.shape[1] not in (4, 5):
        raise ValueError(f"rois must be (N, 4) or (N, 5), got {tuple(rois.shape)}")
    boxes = rois[:, -4:]
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    with torch.no_grad():
        return rel_roi_points * (high - low) + low


def get_shape_from_feature_map(x: Tensor) -> Tensor:
    """Width and height of a map ``(B, C, H, W)`` as floats ``(1, 1, 2)``."""
    h, w = x.shape[-2:]
    return torch.stack([torch.full((1, 1), float(n), device=x.device) for n in (w, h)], 2)


def abs_img_point_to_rel_img_point(abs_img_points: Tensor, img: tuple[int, int] | Tensor,
                                   spatial_scale: float = 1.0) -> Tensor:
    """From pixels of the image to units of the image.

    Args:
        abs_img_points: ``(N, P, 2)`` as (x, y).
        img: height and width of the image, or its map ``(B, C, H, W)``.
        spatial_scale: pixels of the map in a pixel of the image.

    Returns:
        ``(N, P, 2)``, ``(0, 1)`` where inside.

    Raises:
        ValueError: ``img`` is neither a size nor a map.
    """
    if isinstance(img, Tensor):
        size = get_shape_from_feature_map(img).to(abs_img_points)
    elif isinstance(img, tuple) and len(img) >= 2:
        size = abs_img_points.new_tensor([img[1], img[0]])
    else:
        raise ValueError(f"img must be (height, width) or a map, got {img!r}")
    return abs_img_points / size * spatial_scale


def rel_roi_point_to_rel_img_point(rois: Tensor, rel_roi_points: Tensor,
                                   img: tuple[int, int] | Tensor, spatial_scale: float = 1.0
                                   ) -> Tensor:
    """From units of a region to units of the image.

    Args:
        rois: ``(N, 4)`` or ``(N, 5)``.
        rel_roi_points: ``(N, P, 2)`` as (x, y).
        img: height and width of the image, or its map ``(B, C, H, W)``.
        spatial_scale: pixels of the map in a pixel of the image.

    Returns:
        ``(N, P, 2)``.
    """
    points = rel_roi_point_to_abs_img_point(rois, rel_roi_points)
    return abs_img_point_to_rel_img_point(points, img, spatial_scale)


def point_sample(input: Tensor, points: Tensor, align_corners: bool = False, **kwargs: Any
                 ) -> Tensor:
    """``grid_sample`` at points in units of the map.

    Args:
        input: ``(N, C, H, W)``.
        points: ``(N, P, 2)`` or ``(N, Hg, Wg, 2)`` as (x, y) in ``(0, 1)``.
        align_corners: whether 0 and 1 are the centres of the outermost pixels or their edges.
        kwargs: ``mode`` and ``padding_mode`` of ``grid_sample``.

    Returns:
        ``(N, C, P)`` or ``(N, C, Hg, Wg)``.
    """
    flat = points.dim() == 3
    grid = points.unsqueeze(2) if flat else points
    out = F.grid_sample(input, denormalize(grid), align_corners=align_corners, **kwargs)
    return out.squeeze(3) if flat else out


class SimpleRoIAlign(nn.Module):
    """One bilinear sample at the centre of each bin of each region, by ``grid_sample``.

    Args:
        output_size: bins along y and x, or one number for both.
        spatial_scale: pixels of the map in a pixel of the boxes.
        aligned: whether the edges of the map, not the centres of its outermost pixels, are 0 and
            1.
    """

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float,
                 aligned: bool = True) -> None:
        super().__init__()
        self.output_size = _pair(output_size)
        self.spatial_scale = float(spatial_scale)
        self.use_torchvision = False
        self.aligned = aligned

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """Pool regions.

        Args:
            features: ``(B, C, H, W)``.
            rois: ``(N, 5)``: image, x1, y1, x2, y2.

        Returns:
            ``(N, C, *output_size)``, region after region of one image after the other.
        """
        n, channels = rois.shape[0], features.shape[1]
        points = generate_grid(n, self.output_size, rois.device)
        points = rel_roi_point_to_rel_img_point(rois, points, features, self.spatial_scale)
        # All regions of an image at once: the map is not copied for each of them.
        parts = []
        for image in range(features.shape[0]):
            mine = (rois[:, 0] == image).nonzero()[:, 0]
            if len(mine):
                at = points[mine][None].to(features.dtype)
                parts.append(point_sample(features[image:image + 1], at,
                                          align_corners=not self.aligned)[0].transpose(0, 1))
        out = torch.cat(parts) if parts else features.new_zeros(0, channels, points.shape[1])
        return out.view(n, channels, *self.output_size)

    def __repr__(self) -> str:
        return (f"{type(self).__name__}(output_size={self.output_size}, "
                f"spatial_scale={self.spatial_scale})")
