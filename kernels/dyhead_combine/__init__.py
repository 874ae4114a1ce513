"""What DyHead does between the convolutions of a level and its dynamic ReLU."""

from .op import Branch, can_run_dyhead_combine, dyhead_combine

__all__ = ["Branch", "can_run_dyhead_combine", "dyhead_combine"]
