"""Gaussian heatmap targets of keypoint detectors (CenterNet, CornerNet)."""

from .op import (
    can_run_gaussian_targets,
    centernet_targets,
    cornernet_targets,
    draw_gaussian,
)
from .reference import gaussian_radius

__all__ = ["can_run_gaussian_targets", "centernet_targets", "cornernet_targets", "draw_gaussian",
           "gaussian_radius"]
