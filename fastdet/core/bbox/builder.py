"""Registries of box assigners, samplers and coders."""

from __future__ import annotations

from typing import Any

from fastdet.utils import Registry, build_from_cfg

__all__ = ["BBOX_ASSIGNERS", "BBOX_CODERS", "BBOX_SAMPLERS", "build_assigner", "build_bbox_coder",
           "build_sampler"]

BBOX_ASSIGNERS = Registry("bbox_assigner")
BBOX_SAMPLERS = Registry("bbox_sampler")
BBOX_CODERS = Registry("bbox_coder")


def build_assigner(cfg: dict[str, Any], **default_args: Any) -> Any:
    """Build an assigner from its config."""
    return build_from_cfg(cfg, BBOX_ASSIGNERS, default_args)


def build_sampler(cfg: dict[str, Any], **default_args: Any) -> Any:
    """Build a sampler from its config."""
    return build_from_cfg(cfg, BBOX_SAMPLERS, default_args)


def build_bbox_coder(cfg: dict[str, Any], **default_args: Any) -> Any:
    """Build a box coder from its config."""
    return build_from_cfg(cfg, BBOX_CODERS, default_args)
