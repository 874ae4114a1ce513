"""The second layer of a feed-forward network: GELU, product, bias and residual in one pass."""

from .op import can_run_gelu_linear, gelu_linear

__all__ = ["can_run_gelu_linear", "gelu_linear"]
