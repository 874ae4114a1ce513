"""Merging of 2 x 2 tokens of a map, and their layer normalisation, in one pass over memory."""

from .op import can_run_merge_layer_norm, merge_layer_norm

__all__ = ["can_run_merge_layer_norm", "merge_layer_norm"]
