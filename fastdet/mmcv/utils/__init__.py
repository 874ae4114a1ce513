"""What is in ``mmcv.utils``: configs and registries are :mod:`fastdet.utils`'s."""

from typing import Any

from fastdet.utils import config, registry
from fastdet.utils.config import Config, ConfigDict, DictAction
from fastdet.utils.registry import Registry, build_from_cfg

from . import ext_loader, parrots_wrapper
from .device_type import (
    IS_IPU_AVAILABLE,
    IS_MLU_AVAILABLE,
    IS_MPS_AVAILABLE,
    IS_NPU_AVAILABLE,
)
from .env import collect_env
from .hub import load_url
from .logging import get_logger, print_log
from .misc import (
    check_prerequisites,
    concat_list,
    deprecated_api_warning,
    has_method,
    import_modules_from_strings,
    is_list_of,
    is_method_overridden,
    is_seq_of,
    is_str,
    is_tuple_of,
    iter_cast,
    list_cast,
    requires_executable,
    requires_package,
    slice_list,
    to_1tuple,
    to_2tuple,
    to_3tuple,
    to_4tuple,
    to_ntuple,
    tuple_cast,
)
from .parrots_jit import jit, skip_no_elena
from .parrots_wrapper import (
    TORCH_VERSION,
    DataLoader,
    PoolDataLoader,
    SyncBatchNorm,
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _BatchNorm,
    _ConvNd,
    _ConvTransposeMixin,
    _get_cuda_home,
    _InstanceNorm,
    _MaxPoolNd,
    get_build_config,
    is_cuda_available,
    is_rocm_pytorch,
)
from .path import (
    check_file_exist,
    find_vcs_root,
    fopen,
    is_filepath,
    mkdir_or_exist,
    scandir,
    symlink,
)
from .progressbar import (
    ProgressBar,
    track_iter_progress,
    track_parallel_progress,
    track_progress,
)
from .seed import worker_init_fn
from .testing import (
    assert_attrs_equal,
    assert_dict_contains_subset,
    assert_dict_has_keys,
    assert_is_norm_layer,
    assert_keys_equal,
    assert_params_all_zeros,
    check_python_script,
)
from .timer import Timer, TimerError, check_time
from .torch_ops import torch_meshgrid
from .trace import is_jit_tracing
from .version_utils import digit_version, get_git_hash

__all__ = [
    "Config", "ConfigDict", "DictAction", "Registry", "build_from_cfg", "config", "registry",
    "IS_IPU_AVAILABLE", "IS_MLU_AVAILABLE", "IS_MPS_AVAILABLE", "IS_NPU_AVAILABLE",
    "collect_env", "ext_loader", "load_url", "get_logger", "print_log",
    "check_prerequisites", "concat_list", "deprecated_api_warning", "has_method",
    "import_modules_from_strings", "is_list_of", "is_method_overridden", "is_seq_of", "is_str",
    "is_tuple_of", "iter_cast", "list_cast", "requires_executable", "requires_package",
    "slice_list", "to_1tuple", "to_2tuple", "to_3tuple", "to_4tuple", "to_ntuple", "tuple_cast",
    "jit", "skip_no_elena",
    "TORCH_VERSION", "DataLoader", "PoolDataLoader", "SyncBatchNorm", "_AdaptiveAvgPoolNd",
    "_AdaptiveMaxPoolNd", "_AvgPoolNd", "_BatchNorm", "_ConvNd", "_ConvTransposeMixin",
    "_InstanceNorm", "_MaxPoolNd", "_get_cuda_home", "get_build_config", "is_cuda_available",
    "is_rocm_pytorch",
    "check_file_exist", "find_vcs_root", "fopen", "is_filepath", "mkdir_or_exist", "scandir",
    "symlink", "ProgressBar", "track_iter_progress", "track_parallel_progress", "track_progress",
    "worker_init_fn", "assert_attrs_equal", "assert_dict_contains_subset", "assert_dict_has_keys",
    "assert_is_norm_layer", "assert_keys_equal", "assert_params_all_zeros", "check_python_script",
    "Timer", "TimerError", "check_time", "torch_meshgrid", "is_jit_tracing", "digit_version",
    "get_git_hash",
]


def __getattr__(name: str) -> Any:
    if name in ("IS_CUDA_AVAILABLE", "CUDA_HOME", "BuildExtension", "CUDAExtension",
                "CppExtension"):
        return getattr(parrots_wrapper, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
