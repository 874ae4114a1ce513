"""Attention of many queries over few keys, as in the Pyramid Vision Transformer."""

from .op import can_run_spatial_reduction_attention, spatial_reduction_attention

__all__ = ["can_run_spatial_reduction_attention", "spatial_reduction_attention"]
