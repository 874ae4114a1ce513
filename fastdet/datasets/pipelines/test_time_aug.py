"""Several views of an image at test time."""

from __future__ import annotations

import warnings
from typing import Any

from ..builder import PIPELINES
from .base import Results, Transform
from .compose import Compose

__all__ = ["MultiScaleFlipAug"]


@PIPELINES.register_module()
class MultiScaleFlipAug(Transform):
    """An image at several scales, each plain and mirrored.

    Args:
        transforms: what is done to every view.
        img_scale: (width, height), or a list of such.
        scale_factor: a factor, or a list of such, instead.
        flip: mirror as well.
        flip_direction: one direction or a list of them.

    Raises:
        ValueError: both ``img_scale`` and ``scale_factor`` are given, or neither.
    """

    def __init__(self, transforms: list[Any], img_scale: Any = None, scale_factor: Any = None,
                 flip: bool = False, flip_direction: Any = "horizontal") -> None:
        if (img_scale is None) == (scale_factor is None):
            raise ValueError("MultiScaleFlipAug needs one of img_scale and scale_factor, got "
                             + ("neither" if img_scale is None else "both"))
        self.transforms = Compose(transforms)
        self.scale_key = "scale" if scale_factor is None else "scale_factor"
        scales = img_scale if scale_factor is None else scale_factor
        self.img_scale = scales if isinstance(scales, list) else [scales]
        self.flip = flip
        self.flip_direction = flip_direction if isinstance(flip_direction, list) \
            else [flip_direction]
        mirrors = any(isinstance(t, dict) and t["type"] == "RandomFlip" for t in transforms)
        if flip and not mirrors:
            warnings.warn("flip has no effect when RandomFlip is not in transforms", stacklevel=2)
        if not flip and self.flip_direction != ["horizontal"]:
            warnings.warn("flip_direction has no effect when flip is set to False", stacklevel=2)

    def __call__(self, results: Results) -> Results:
        flips: list[tuple[bool, str | None]] = [(False, None)]
        if self.flip:
            flips += [(True, direction) for direction in self.flip_direction]
        views = [self.transforms({**results, self.scale_key: scale, "flip": flip,
                                  "flip_direction": direction})
                 for scale in self.img_scale for flip, direction in flips]
        return {key: [view[key] for view in views] for key in views[0]}
