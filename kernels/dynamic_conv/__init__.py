"""Dynamic convolution of Sparse R-CNN: every proposal has the weights of its own two layers."""

from .op import can_run_dynamic_conv, dynamic_conv
from .reference import two_products

__all__ = ["can_run_dynamic_conv", "dynamic_conv", "two_products"]
