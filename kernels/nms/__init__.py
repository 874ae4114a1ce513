"""Greedy non-maximum suppression, in groups, without a word from the host."""

from .op import batched_nms_indices, batched_nms_padded, can_run_nms

__all__ = ["batched_nms_indices", "batched_nms_padded", "can_run_nms"]
