"""Anchors and points of every cell of a feature pyramid."""

from ..pyramid import level_rows, split_levels
from .op import can_run_grid_priors, check_rows, grid_anchors, grid_points
from .tables import BaseTables, constant_to_dynamo

__all__ = ["BaseTables", "can_run_grid_priors", "check_rows", "constant_to_dynamo", "grid_anchors",
           "grid_points", "level_rows", "split_levels"]
