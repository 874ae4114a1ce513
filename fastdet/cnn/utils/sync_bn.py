"""Batch norms of one process."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["revert_sync_batchnorm"]


class _BatchNormXd(_BatchNorm):
    """A batch norm of any number of dimensions, as ``SyncBatchNorm`` is."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def revert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every ``SyncBatchNorm`` by a plain batch norm, so that a model runs on one device.

    Args:
        module: the model; its other layers are modified in place.

    Returns:
        ``module``, or its replacement if it is itself a ``SyncBatchNorm``.
    """
    if isinstance(module, nn.SyncBatchNorm):
        plain = _BatchNormXd(module.num_features, module.eps, module.momentum, module.affine,
                             module.track_running_stats)
        plain.weight, plain.bias = module.weight, module.bias
        plain.running_mean, plain.running_var = module.running_mean, module.running_var
        plain.num_batches_tracked = module.num_batches_tracked
        plain.train(module.training)
        return plain
    for name, child in module.named_children():
        setattr(module, name, revert_sync_batchnorm(child))
    return module
