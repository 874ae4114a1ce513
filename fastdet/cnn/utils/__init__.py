"""Weight initialisation and conversions of whole models, as in ``mmcv.cnn.utils``."""

from .flops_counter import get_model_complexity_info
from .fuse_conv_bn import fuse_conv_bn
from .sync_bn import revert_sync_batchnorm
from .weight_init import *  # noqa: F403
from .weight_init import __all__ as _weight_init

__all__ = ["fuse_conv_bn", "get_model_complexity_info", "revert_sync_batchnorm"]
__all__ += _weight_init
