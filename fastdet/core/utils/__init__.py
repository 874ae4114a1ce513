"""Helpers that heads, detectors and training share."""

from .dist_utils import all_reduce_dict, allreduce_grads, reduce_mean, sync_random_seed
from .misc import (
    center_of_mass,
    filter_scores_and_topk,
    flip_tensor,
    generate_coordinate,
    mask2ndarray,
    multi_apply,
    select_single_mlvl,
    unmap,
)

__all__ = ["all_reduce_dict", "allreduce_grads", "center_of_mass", "filter_scores_and_topk",
           "flip_tensor", "generate_coordinate", "mask2ndarray", "multi_apply", "reduce_mean",
           "select_single_mlvl", "sync_random_seed", "unmap"]
