"""Anchors and points of every cell of a feature pyramid."""

from .levels import level_rows, split_levels
from .op import can_run_grid_priors, grid_anchors, grid_points

__all__ = ["can_run_grid_priors", "grid_anchors", "grid_points", "level_rows", "split_levels"]
