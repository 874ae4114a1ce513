"""Dynamic ReLU: a piecewise linear function whose slopes depend on the input."""

from .op import can_run_dyrelu, dyrelu

__all__ = ["can_run_dyrelu", "dyrelu"]
