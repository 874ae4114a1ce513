"""Attention over a few sampled places of every level of a pyramid, as in Deformable DETR."""

from ..pyramid import level_table
from .op import can_run_multi_scale_deformable_attention, multi_scale_deformable_attention

__all__ = ["can_run_multi_scale_deformable_attention", "level_table",
           "multi_scale_deformable_attention"]
