"""The registry of match costs."""

from __future__ import annotations

from typing import Any

from fastdet.utils import Registry, build_from_cfg

__all__ = ["MATCH_COST", "build_match_cost"]

MATCH_COST = Registry("Match Cost")


def build_match_cost(cfg: dict[str, Any], default_args: dict[str, Any] | None = None) -> Any:
    """Build a match cost from its config."""
    return build_from_cfg(cfg, MATCH_COST, default_args)
