"""Residual sum and layer normalisation of tokens, in one pass over memory."""

from .op import add_layer_norm, can_run_add_layer_norm

__all__ = ["add_layer_norm", "can_run_add_layer_norm"]
