"""What MMDetection code takes from ``mmcv.runner``: self-initialising modules and checkpoints."""

from .base_module import BaseModule, ModuleDict, ModuleList, Sequential
from .checkpoint import (
    CheckpointLoader,
    _load_checkpoint,
    _load_checkpoint_with_prefix,
    find_state_dict,
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    make_checkpoint,
    read_checkpoint,
    save_checkpoint,
    weights_to_cpu,
)
from .fp16 import LossScaler, auto_fp16, force_fp32, wrap_fp16_model
from .model_zoo import known_models

__all__ = [
    "BaseModule", "ModuleDict", "ModuleList", "Sequential",
    "CheckpointLoader", "_load_checkpoint", "_load_checkpoint_with_prefix", "find_state_dict",
    "get_state_dict", "load_checkpoint", "load_state_dict", "make_checkpoint", "read_checkpoint",
    "save_checkpoint", "weights_to_cpu",
    "LossScaler", "known_models", "auto_fp16", "force_fp32", "wrap_fp16_model",
]
