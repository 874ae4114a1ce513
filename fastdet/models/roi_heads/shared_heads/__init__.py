"""What boxes and masks of a region have in common."""

from .res_layer import ResLayer

__all__ = ["ResLayer"]
