"""What is in ``mmdet.utils``: logs, devices, and configs made ready to run."""

from fastdet.utils.distribution import get_device

from .compat_config import compat_cfg
from .logger import get_caller_name, get_root_logger, log_img_scale
from .memory import AvoidCUDAOOM, AvoidOOM
from .misc import collect_env, find_latest_checkpoint, update_data_root
from .replace_cfg_vals import replace_cfg_vals
from .setup_env import setup_multi_processes
from .split_batch import split_batch
from .util_distribution import build_ddp, build_dp

__all__ = ["AvoidCUDAOOM", "AvoidOOM", "build_ddp", "build_dp", "collect_env", "compat_cfg",
           "find_latest_checkpoint", "get_caller_name", "get_device", "get_root_logger",
           "log_img_scale", "replace_cfg_vals", "setup_multi_processes", "split_batch",
           "update_data_root"]
