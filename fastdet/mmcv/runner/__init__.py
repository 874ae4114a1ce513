"""What is in ``mmcv.runner``: modules and checkpoints are :mod:`fastdet.runner`'s."""

from fastdet.runner import (
    BaseModule,
    LossScaler,
    ModuleDict,
    ModuleList,
    Sequential,
    auto_fp16,
    force_fp32,
    wrap_fp16_model,
)

from .base_runner import BaseRunner
from .builder import RUNNERS, build_runner
from .checkpoint import (
    CheckpointLoader,
    _load_checkpoint,
    _load_checkpoint_with_prefix,
    find_state_dict,
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    weights_to_cpu,
)
from .default_constructor import DefaultRunnerConstructor
from .dist_utils import allreduce_grads, allreduce_params, get_dist_info, init_dist, master_only
from .epoch_based_runner import EpochBasedRunner, Runner
from .hooks import *  # noqa: F403
from .hooks import __all__ as _hooks
from .iter_based_runner import IterBasedRunner, IterLoader
from .log_buffer import LogBuffer
from .optimizer import (
    OPTIMIZER_BUILDERS,
    OPTIMIZERS,
    DefaultOptimizerConstructor,
    build_optimizer,
    build_optimizer_constructor,
)
from .priority import Priority, get_priority
from .utils import get_host_info, get_time_str, obj_from_dict, set_random_seed

__all__ = [
    "BaseModule", "LossScaler", "ModuleDict", "ModuleList", "Sequential", "auto_fp16",
    "force_fp32", "wrap_fp16_model", "BaseRunner", "RUNNERS", "build_runner", "CheckpointLoader",
    "_load_checkpoint", "_load_checkpoint_with_prefix", "find_state_dict", "get_state_dict",
    "load_checkpoint", "load_state_dict", "save_checkpoint", "weights_to_cpu",
    "DefaultRunnerConstructor", "allreduce_grads", "allreduce_params", "get_dist_info",
    "init_dist", "master_only", "EpochBasedRunner", "Runner", "IterBasedRunner", "IterLoader",
    "LogBuffer", "OPTIMIZER_BUILDERS", "OPTIMIZERS", "DefaultOptimizerConstructor",
    "build_optimizer", "build_optimizer_constructor", "Priority", "get_priority",
    "get_host_info", "get_time_str", "obj_from_dict", "set_random_seed", *_hooks,
]
