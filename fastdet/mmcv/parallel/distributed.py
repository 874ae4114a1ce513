"""One process of several, as in ``mmcv.parallel.distributed``: torch's DDP."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.parallel.distributed import DistributedDataParallel

from .scatter_gather import scatter_kwargs

__all__ = ["MMDistributedDataParallel"]


class MMDistributedDataParallel(DistributedDataParallel):
    """``DistributedDataParallel`` that knows :class:`DataContainer` and ``train_step``.

    Args:
        module: the model.
        device_ids: the GPU of this process. It is ignored for a model on the CPU, which scripts
            wrap with the same line.
        args, kwargs: as for ``torch.nn.parallel.DistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids: Any = None, *args: Any,
                 **kwargs: Any) -> None:
        if all(p.device.type == "cpu" for p in module.parameters()):
            device_ids = None
        self._method = "forward"
        super().__init__(module, device_ids, *args, **kwargs)

    def to_kwargs(self, inputs: tuple[Any, ...], kwargs: dict[str, Any], device_id: int) -> Any:
        """The arguments on one device; see :func:`scatter_kwargs`."""
        return scatter_kwargs(inputs, kwargs, [device_id], dim=self.dim)

    def scatter(self, inputs: tuple[Any, ...], kwargs: dict[str, Any], device_ids: Any) -> Any:
        """See :func:`scatter_kwargs`."""
        return scatter_kwargs(inputs, kwargs, list(device_ids), dim=self.dim)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Call the module with the arguments on this process's device."""
        args, named = self.scatter(inputs, kwargs, self.device_ids or [-1])
        return super().forward(*(args[0] if args else ()), **(named[0] if named else {}))

    def train_step(self, *inputs: Any, **kwargs: Any) -> Any:
        """The module's ``train_step``; gradients are averaged as after a ``forward``."""
        with self._calling("train_step"):
            return self.forward(*inputs, **kwargs)

    def val_step(self, *inputs: Any, **kwargs: Any) -> Any:
        """The module's ``val_step``."""
        with self._calling("val_step"):
            return self.forward(*inputs, **kwargs)

    @contextmanager
    def _calling(self, method: str) -> Any:
        self._method = method
        try:
            yield
        finally:
            self._method = "forward"

    def _run_ddp_forward(self, *inputs: Any, **kwargs: Any) -> Any:
        # What DDP.forward does before and after this (buffers, buckets, unused parameters) is the
        # same for every method that computes a loss.
        if self._method == "forward":
            return super()._run_ddp_forward(*inputs, **kwargs)
        with self._inside_ddp_forward():
            return getattr(self.module, self._method)(*inputs, **kwargs)
