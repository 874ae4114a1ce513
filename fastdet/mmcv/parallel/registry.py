"""The classes that wrap a model, as in ``mmcv.parallel.registry``."""

from torch.nn.parallel import DataParallel, DistributedDataParallel

from fastdet.utils import Registry

__all__ = ["MODULE_WRAPPERS"]

MODULE_WRAPPERS = Registry("module wrapper", scope="mmcv")
MODULE_WRAPPERS.register_module(module=DataParallel)
MODULE_WRAPPERS.register_module(module=DistributedDataParallel)
