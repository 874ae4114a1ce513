"""A pipeline of transforms."""

from __future__ import annotations

import collections.abc
from typing import Any

from fastdet.utils import build_from_cfg

from ..builder import PIPELINES

__all__ = ["Compose"]


@PIPELINES.register_module()
class Compose:
    """Transforms one after another.

    Args:
        transforms: configs or callables; each takes and returns the dict of an image, or returns
            ``None`` to drop it.

    Raises:
        TypeError: a transform is neither.
    """

    def __init__(self, transforms: Any) -> None:
        if not isinstance(transforms, collections.abc.Sequence):
            raise TypeError(f"transforms must be a list, got {type(transforms).__name__}")
        self.transforms = []
        for transform in transforms:
            if isinstance(transform, dict):
                transform = build_from_cfg(transform, PIPELINES)
            elif not callable(transform):
                raise TypeError("a transform must be a config or callable, got "
                                f"{type(transform).__name__}")
            self.transforms.append(transform)

    def __call__(self, data: Any) -> Any:
        for transform in self.transforms:
            data = transform(data)
            if data is None:
                return None
        return data

    def __repr__(self) -> str:
        lines = "".join(f"\n    {t}" for t in self.transforms)
        return f"{type(self).__name__}({lines}\n)"
