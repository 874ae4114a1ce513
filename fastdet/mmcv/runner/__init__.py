"""What is in ``mmcv.runner``: modules and checkpoints are :mod:`fastdet.runner`'s."""

from fastdet.runner import (
    BaseModule,
    CheckpointLoader,
    ModuleDict,
    ModuleList,
    Sequential,
    _load_checkpoint,
    _load_checkpoint_with_prefix,
    auto_fp16,
    find_state_dict,
    force_fp32,
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    weights_to_cpu,
)

from .dist_utils import allreduce_grads, allreduce_params, get_dist_info, init_dist, master_only

__all__ = [
    "BaseModule", "CheckpointLoader", "ModuleDict", "ModuleList", "Sequential",
    "_load_checkpoint", "_load_checkpoint_with_prefix", "auto_fp16", "find_state_dict",
    "force_fp32", "get_state_dict", "load_checkpoint", "load_state_dict", "save_checkpoint",
    "weights_to_cpu", "allreduce_grads", "allreduce_params", "get_dist_info", "init_dist",
    "master_only",
]
