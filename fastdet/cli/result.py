"""What a run of ``fastdet features`` gave, and the tables of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdet.cli.backends import Choices

__all__ = ["CHOICE_HEADER", "LEVEL_HEADER", "Level", "Result"]

LEVEL_HEADER = ("level", "channels", "height", "width", "stride", "anchors", "anchors (ms)")
CHOICE_HEADER = ("operator", "backend", "calls", "why")


@dataclass
class Level:
    """One pyramid level."""

    name: str
    feature: Tensor  # [C, h, w]
    stride: tuple[int, int]  # (w, h) in pixels
    anchors: Tensor  # [h * w * per_cell, 4], x1 y1 x2 y2 in pixels
    per_cell: int
    anchor_ms: float

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, h, w)``."""
        return tuple(self.feature.shape)


@dataclass
class Result:
    """What a run gave, for the picture and the tables."""

    model: str
    weights: str
    device: str
    photo: np.ndarray  # [H, W, 3], resized
    padded: tuple[int, int]  # (H, W) of the input
    levels: list[Level]
    times: dict[str, float]  # milliseconds by part, of a call that was not the first
    choices: Choices = field(default_factory=dict)

    @property
    def timing(self) -> str:
        """The times in words."""
        return ", ".join(f"{part} {ms:,.0f} ms" for part, ms in self.times.items())

    def level_rows(self) -> list[tuple[str, ...]]:
        """The rows below :data:`LEVEL_HEADER`."""
        return [(level.name, *map(str, level.shape), "x".join(map(str, level.stride)),
                 str(len(level.anchors)), f"{level.anchor_ms:.2f}") for level in self.levels]

    def choice_rows(self) -> list[tuple[str, ...]]:
        """The rows below :data:`CHOICE_HEADER`."""
        return [(operator, backend, str(calls), reason or "the device runs Triton kernels")
                for operator, backends in sorted(self.choices.items())
                for backend, (calls, reason) in backends.items()]

    def report(self) -> dict[str, Any]:
        """The content of levels.json."""
        return dict(
            model=self.model, weights=self.weights, device=self.device, torch=torch.__version__,
            photo=list(self.photo.shape[:2]), padded=list(self.padded), milliseconds=self.times,
            levels=[dict(name=v.name, shape=list(v.shape), stride=list(v.stride),
                         anchors=len(v.anchors), anchors_per_cell=v.per_cell,
                         anchor_milliseconds=v.anchor_ms) for v in self.levels],
            operators={operator: {b: dict(calls=calls, reason=why)
                                  for b, (calls, why) in took.items()}
                       for operator, took in self.choices.items()})
