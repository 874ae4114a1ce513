"""The masks of one image, as bitmaps or as polygons."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdet.ops import roi_align

from .geometry import bilinear_or, clipped_box, cv2_, polygon_area, rasterize, scaled_size

__all__ = ["BaseInstanceMasks", "BitmapMasks", "PolygonMasks"]

Shape = tuple[int, int]


class BaseInstanceMasks(metaclass=ABCMeta):
    """What both kinds of masks can do. Every change returns new masks.

    Shapes are (height, width), boxes are corners in pixels.
    """

    masks: Any
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.masks)

    def __repr__(self) -> str:
        return (f"{type(self).__name__}(num_masks={len(self)}, height={self.height}, "
                f"width={self.width})")

    @abstractmethod
    def rescale(self, scale: Any, interpolation: Any = "nearest") -> BaseInstanceMasks:
        """Keep the aspect ratio: by a factor, or to fit into (long, short) edges."""

    @abstractmethod
    def resize(self, out_shape: Shape, interpolation: Any = "nearest") -> BaseInstanceMasks:
        """Resize to ``out_shape``."""

    @abstractmethod
    def flip(self, flip_direction: str = "horizontal") -> BaseInstanceMasks:
        """Mirror: ``'horizontal'``, ``'vertical'`` or ``'diagonal'``."""

    @abstractmethod
    def pad(self, out_shape: Shape, pad_val: int = 0) -> BaseInstanceMasks:
        """Grow to ``out_shape`` on the right and at the bottom."""

    @abstractmethod
    def crop(self, bbox: np.ndarray) -> BaseInstanceMasks:
        """What lies in the box (x1, y1, x2, y2), which is clipped and at least a pixel wide."""

    @abstractmethod
    def crop_and_resize(self, bboxes: Any, out_shape: Shape, inds: Any, device: Any = "cpu",
                        interpolation: str = "bilinear",
                        binarize: bool = True) -> BaseInstanceMasks:
        """Crop a box of a mask, resize the crop: the targets of a mask head.

        Args:
            bboxes: [n, 4].
            out_shape: of each target.
            inds: [n], which mask each box is of.
            device: where to compute.
            interpolation: not used; it is always bilinear.
            binarize: threshold at one half.
        """

    @abstractmethod
    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> BaseInstanceMasks:
        """Put the masks at (top, left) of a larger canvas."""

    @property
    @abstractmethod
    def areas(self) -> np.ndarray:
        """[N], in pixels."""

    @abstractmethod
    def to_ndarray(self) -> np.ndarray:
        """[N, H, W]."""

    def to_tensor(self, dtype: torch.dtype, device: Any) -> Tensor:
        """[N, H, W]."""
        return torch.tensor(self.to_ndarray(), dtype=dtype, device=device)

    @abstractmethod
    def translate(self, out_shape: Shape, offset: float, direction: str = "horizontal",
                  fill_val: Any = 0, interpolation: Any = "bilinear") -> BaseInstanceMasks:
        """Shift by ``offset`` pixels."""

    @abstractmethod
    def shear(self, out_shape: Shape, magnitude: float, direction: str = "horizontal",
              border_value: int = 0, interpolation: str = "bilinear") -> BaseInstanceMasks:
        """Shear by ``magnitude``."""

    @abstractmethod
    def rotate(self, out_shape: Shape, angle: float, center: Any = None, scale: float = 1.0,
               fill_val: int = 0) -> BaseInstanceMasks:
        """Rotate clockwise by ``angle`` degrees about ``center``."""


def _direction(direction: str, known: Sequence[str] = ("horizontal", "vertical")) -> str:
    if direction not in known:
        raise ValueError(f"direction must be {' or '.join(known)}, got {direction!r}")
    return direction


class BitmapMasks(BaseInstanceMasks):
    """Masks as bitmaps.

    Args:
        masks: [N, H, W], or a list of N arrays [H, W].
        height: H.
        width: W.

    Raises:
        ValueError: a mask has another shape.
    """

    def __init__(self, masks: np.ndarray | Sequence[np.ndarray], height: int, width: int) -> None:
        self.height = height
        self.width = width
        if len(masks) == 0:
            self.masks = np.empty((0, height, width), dtype=np.uint8)
            return
        stacked = np.stack(list(masks))
        if stacked.shape[1:] != (height, width):
            raise ValueError(f"BitmapMasks: masks must be [N, {height}, {width}], got "
                             f"{list(stacked.shape)}")
        self.masks = stacked

    def __getitem__(self, index: Any) -> BitmapMasks:
        return self._of(self.masks[index].reshape(-1, self.height, self.width))

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.masks)

    def _of(self, masks: np.ndarray) -> BitmapMasks:
        return BitmapMasks(masks, *masks.shape[1:])

    def rescale(self, scale: Any, interpolation: Any = "nearest") -> BitmapMasks:
        width, height = scaled_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def resize(self, out_shape: Shape, interpolation: Any = "nearest") -> BitmapMasks:
        if len(self) == 0:
            return BitmapMasks(np.empty((0, *out_shape), dtype=np.uint8), *out_shape)
        flag = bilinear_or(interpolation)
        return self._of(np.stack([cv2_().resize(m, tuple(out_shape[::-1]), interpolation=flag)
                                  for m in self.masks]))

    def flip(self, flip_direction: str = "horizontal") -> BitmapMasks:
        _direction(flip_direction, ("horizontal", "vertical", "diagonal"))
        axes = {"horizontal": (2,), "vertical": (1,), "diagonal": (1, 2)}[flip_direction]
        return BitmapMasks(np.flip(self.masks, axes), self.height, self.width)

    def pad(self, out_shape: Shape, pad_val: int = 0) -> BitmapMasks:
        down, right = out_shape[0] - self.height, out_shape[1] - self.width
        if down < 0 or right < 0:
            raise ValueError(f"BitmapMasks: cannot pad {self.height} x {self.width} to "
                             f"{out_shape[0]} x {out_shape[1]}")
        return self._of(np.pad(self.masks, ((0, 0), (0, down), (0, right)),
                               constant_values=pad_val))

    def crop(self, bbox: np.ndarray) -> BitmapMasks:
        x, y, w, h = clipped_box(bbox, self.height, self.width)
        return BitmapMasks(self.masks[:, y:y + h, x:x + w], h, w)

    def crop_and_resize(self, bboxes: Any, out_shape: Shape, inds: Any, device: Any = "cpu",
                        interpolation: str = "bilinear", binarize: bool = True) -> BitmapMasks:
        if len(self) == 0:
            return BitmapMasks(np.empty((0, *out_shape), dtype=np.uint8), *out_shape)
        bboxes, inds = (torch.as_tensor(x).to(device) for x in (bboxes, inds))
        rois = torch.cat([torch.arange(len(bboxes), device=device).to(bboxes.dtype)[:, None],
                          bboxes], dim=1)
        chosen = torch.from_numpy(self.masks).to(device).index_select(0, inds).to(rois.dtype)
        targets = roi_align(chosen[:, None], rois, out_shape, 1.0, 0, "avg", True)[:, 0]
        targets = targets >= 0.5 if binarize else targets
        return BitmapMasks(targets.cpu().numpy(), *out_shape)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> BitmapMasks:
        canvas = np.zeros((len(self), expanded_h, expanded_w), dtype=self.masks.dtype)
        canvas[:, top:top + self.height, left:left + self.width] = self.masks
        return BitmapMasks(canvas, expanded_h, expanded_w)

    def _warp(self, out_shape: Shape, matrix: np.ndarray, fill: int, flag: int) -> BitmapMasks:
        """Apply an affine map of the image plane to every mask."""
        if len(self) == 0:
            return BitmapMasks(np.zeros((0, *out_shape), dtype=np.uint8), *out_shape)
        size = (self.width, self.height)
        warped = np.stack([cv2_().warpAffine(m, matrix, size, flags=flag, borderValue=fill)
                           for m in self.masks])
        return BitmapMasks(warped.astype(self.masks.dtype), *out_shape)

    def translate(self, out_shape: Shape, offset: float, direction: str = "horizontal",
                  fill_val: Any = 0, interpolation: Any = "bilinear") -> BitmapMasks:
        matrix = np.eye(2, 3, dtype=np.float32)
        matrix[0 if _direction(direction) == "horizontal" else 1, 2] = offset
        return self._warp(out_shape, matrix, fill_val, bilinear_or(interpolation))

    def shear(self, out_shape: Shape, magnitude: float, direction: str = "horizontal",
              border_value: int = 0, interpolation: str = "bilinear") -> BitmapMasks:
        matrix = np.eye(2, 3, dtype=np.float32)
        matrix[(0, 1) if _direction(direction) == "horizontal" else (1, 0)] = magnitude
        return self._warp(out_shape, matrix, border_value, bilinear_or(interpolation))

    def rotate(self, out_shape: Shape, angle: float, center: Any = None, scale: float = 1.0,
               fill_val: int = 0) -> BitmapMasks:
        if center is None:
            center = ((self.width - 1) * 0.5, (self.height - 1) * 0.5)
        matrix = cv2_().getRotationMatrix2D(center, -angle, scale)
        return self._warp(out_shape, matrix, fill_val, bilinear_or("bilinear"))

    @property
    def areas(self) -> np.ndarray:
        return self.masks.sum((1, 2))

    def to_ndarray(self) -> np.ndarray:
        return self.masks

    def get_bboxes(self) -> np.ndarray:
        """[N, 4] float32, the smallest boxes; zeros for an empty mask."""
        boxes = np.zeros((len(self), 4), dtype=np.float32)
        for box, mask in zip(boxes, self.masks):
            xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            if len(xs):
                box[:] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
        return boxes

    @classmethod
    def random(cls, num_masks: int = 3, height: int = 32, width: int = 32, dtype: Any = np.uint8,
               rng: Any = None) -> BitmapMasks:
        """Random masks, for trials; ``rng`` is a seed or a ``numpy.random.RandomState``."""
        rng = rng if isinstance(rng, np.random.RandomState) else np.random.RandomState(rng)
        return cls((rng.rand(num_masks, height, width) > 0.1).astype(dtype), height, width)


class PolygonMasks(BaseInstanceMasks):
    """Masks as polygons.

    Args:
        masks: of each of N objects, a list of polygons [x0, y0, x1, y1, ...].
        height: of the image.
        width: of the image.

    Raises:
        TypeError: ``masks`` is no list of lists of arrays.
    """

    def __init__(self, masks: Sequence[Sequence[np.ndarray]], height: int, width: int) -> None:
        ok = isinstance(masks, list) and all(
            isinstance(m, list) and all(isinstance(p, np.ndarray) for p in m) for m in masks)
        if not ok:
            raise TypeError("PolygonMasks: masks must be a list of lists of arrays")
        self.height = height
        self.width = width
        self.masks = masks

    def __getitem__(self, index: Any) -> PolygonMasks:
        if isinstance(index, slice):
            masks = self.masks[index]
        elif np.ndim(index) == 0:
            masks = [self.masks[int(index)]]
        else:
            index = np.asarray(index)
            rows = np.flatnonzero(index) if index.dtype == bool else index
            masks = [self.masks[int(i)] for i in rows]
        return PolygonMasks(masks, self.height, self.width)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.masks)

    def _map(self, change: Any, height: int, width: int) -> PolygonMasks:
        """``change(x, y)`` of every polygon's coordinates, on an image of another size."""
        def polygon(p: np.ndarray) -> np.ndarray:
            out = p.copy()
            out[0::2], out[1::2] = change(p[0::2], p[1::2])
            return out

        return PolygonMasks([[polygon(p) for p in mask] for mask in self.masks], height, width)

    def rescale(self, scale: Any, interpolation: Any = None) -> PolygonMasks:
        width, height = scaled_size((self.width, self.height), scale)
        return self.resize((height, width))

    def resize(self, out_shape: Shape, interpolation: Any = None) -> PolygonMasks:
        fy, fx = out_shape[0] / self.height, out_shape[1] / self.width
        return self._map(lambda x, y: (x * fx, y * fy), *out_shape)

    def flip(self, flip_direction: str = "horizontal") -> PolygonMasks:
        _direction(flip_direction, ("horizontal", "vertical", "diagonal"))
        h, w = self.height, self.width
        return self._map(lambda x, y: (x if flip_direction == "vertical" else w - x,
                                       y if flip_direction == "horizontal" else h - y), h, w)

    def pad(self, out_shape: Shape, pad_val: int = 0) -> PolygonMasks:
        return PolygonMasks(self.masks, *out_shape)

    def crop(self, bbox: np.ndarray) -> PolygonMasks:
        left, top, w, h = clipped_box(bbox, self.height, self.width)
        return self._map(lambda x, y: (x - left, y - top), h, w)

    def crop_and_resize(self, bboxes: Any, out_shape: Shape, inds: Any, device: Any = "cpu",
                        interpolation: str = "bilinear", binarize: bool = True) -> PolygonMasks:
        if not binarize:
            raise ValueError("PolygonMasks: polygons are binary, binarize=False has no meaning")
        h, w = out_shape
        cropped = []
        if len(self):
            for (x1, y1, x2, y2), i in zip(np.asarray(bboxes), np.asarray(inds)):
                fy, fx = h / max(y2 - y1, 1, 0.1), w / max(x2 - x1, 1, 0.1)
                one = self[int(i)]._map(
                    lambda x, y, at=(x1, y1), f=(fx, fy): (
                        (x - at[0]) * f[0], (y - at[1]) * f[1]), h, w)
                cropped.append(one.masks[0])
        return PolygonMasks(cropped, h, w)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> PolygonMasks:
        return self._map(lambda x, y: (x + left, y + top), expanded_h, expanded_w)

    def translate(self, out_shape: Shape, offset: float, direction: str = "horizontal",
                  fill_val: Any = None, interpolation: Any = None) -> PolygonMasks:
        if fill_val not in (None, 0):
            raise ValueError(f"PolygonMasks: outside the image is 0, got fill_val={fill_val!r}")
        h, w = out_shape
        if _direction(direction) == "horizontal":
            return self._map(lambda x, y: (np.clip(x + offset, 0, w), y), h, w)
        return self._map(lambda x, y: (x, np.clip(y + offset, 0, h)), h, w)

    def _affine(self, matrix: np.ndarray, out_shape: Shape) -> PolygonMasks:
        h, w = out_shape
        (a, b, c), (d, e, f) = matrix
        return self._map(lambda x, y: (np.clip(a * x + b * y + c, 0, w),
                                       np.clip(d * x + e * y + f, 0, h)), h, w)

    def shear(self, out_shape: Shape, magnitude: float, direction: str = "horizontal",
              border_value: int = 0, interpolation: str = "bilinear") -> PolygonMasks:
        matrix = np.eye(2, 3, dtype=np.float32)
        matrix[(0, 1) if _direction(direction) == "horizontal" else (1, 0)] = magnitude
        return self._affine(matrix, out_shape)

    def rotate(self, out_shape: Shape, angle: float, center: Any = None, scale: float = 1.0,
               fill_val: int = 0) -> PolygonMasks:
        if center is None:
            center = ((self.width - 1) * 0.5, (self.height - 1) * 0.5)
        return self._affine(cv2_().getRotationMatrix2D(center, -angle, scale), out_shape)

    def to_bitmap(self) -> BitmapMasks:
        """The polygons drawn by COCO's rule."""
        return BitmapMasks(self.to_ndarray(), self.height, self.width)

    @property
    def areas(self) -> np.ndarray:
        return np.asarray([sum(polygon_area(p[0::2], p[1::2]) for p in mask)
                           for mask in self.masks])

    def to_ndarray(self) -> np.ndarray:
        if len(self) == 0:
            return np.empty((0, self.height, self.width), dtype=np.uint8)
        return np.stack([rasterize(mask, self.height, self.width) for mask in self.masks])

    def get_bboxes(self) -> np.ndarray:
        """[N, 4] float32, the smallest boxes."""
        boxes = np.zeros((len(self), 4), dtype=np.float32)
        for box, mask in zip(boxes, self.masks):
            xy = np.concatenate(mask).reshape(-1, 2)
            box[:2], box[2:] = xy.min(0), xy.max(0)
        return boxes

    @classmethod
    def random(cls, num_masks: int = 3, height: int = 32, width: int = 32, n_verts: int = 5,
               dtype: Any = np.float32, rng: Any = None) -> PolygonMasks:
        """Random convex polygons, for trials; ``rng`` as in :meth:`BitmapMasks.random`."""
        rng = rng if isinstance(rng, np.random.RandomState) else np.random.RandomState(rng)
        masks = []
        for _ in range(num_masks):
            angle = np.sort(rng.rand(n_verts)) * 2 * np.pi
            centre, radius = rng.rand(2) * (width, height), rng.rand() * min(width, height) / 2
            xy = centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            masks.append([np.clip(xy, 0, (width, height)).astype(dtype).reshape(-1)])
        return cls(masks, height, width)
