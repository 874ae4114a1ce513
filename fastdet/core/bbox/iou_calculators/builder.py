"""The registry of IoU calculators."""

from __future__ import annotations

from typing import Any

from fastdet.utils import Registry, build_from_cfg

__all__ = ["IOU_CALCULATORS", "build_iou_calculator"]

IOU_CALCULATORS = Registry("IoU calculator")


def build_iou_calculator(cfg: dict[str, Any], default_args: dict[str, Any] | None = None) -> Any:
    """Build an IoU calculator from its config."""
    return build_from_cfg(cfg, IOU_CALCULATORS, default_args)
