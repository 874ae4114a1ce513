"""Deformable convolution, v1 and modulated (v2), without columns in memory."""

from .op import can_run_deform_conv2d, deform_conv2d

__all__ = ["can_run_deform_conv2d", "deform_conv2d"]
