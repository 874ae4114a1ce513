"""One process and its GPUs, as in ``mmcv.parallel.data_parallel``."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch.nn.parallel import DataParallel

from .scatter_gather import scatter_kwargs

__all__ = ["MMDataParallel"]


class MMDataParallel(DataParallel):
    """``DataParallel`` that knows :class:`DataContainer`, and runs on the CPU too.

    Args:
        args, kwargs: as for ``torch.nn.DataParallel``; ``device_ids=[-1]``, or no GPU at all,
            means the CPU.
        dim: the batch dimension.
    """

    def __init__(self, *args: Any, dim: int = 0, **kwargs: Any) -> None:
        on_cpu = list(kwargs.get("device_ids") or ()) == [-1]
        if on_cpu:
            kwargs = {**kwargs, "device_ids": None}
        super().__init__(*args, **{**kwargs, "dim": dim})
        self.dim = dim
        if on_cpu:
            self.device_ids = []

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Call the module with the arguments dealt out."""
        if not self.device_ids:
            args, named = self.scatter(inputs, kwargs, [-1])
            return self.module(*args[0], **named[0])
        return super().forward(*inputs, **kwargs)

    def scatter(self, inputs: tuple[Any, ...], kwargs: dict[str, Any] | None,
                device_ids: Any) -> Any:
        """See :func:`scatter_kwargs`."""
        return scatter_kwargs(inputs, kwargs or {}, list(device_ids), dim=self.dim)

    def train_step(self, *inputs: Any, **kwargs: Any) -> Any:
        """The module's ``train_step``, on one GPU or the CPU.

        Raises:
            AssertionError: there are several GPUs.
            RuntimeError: the module is not on the GPU.
        """
        return self._step("train_step", inputs, kwargs)

    def val_step(self, *inputs: Any, **kwargs: Any) -> Any:
        """The module's ``val_step``; as :meth:`train_step`."""
        return self._step("val_step", inputs, kwargs)

    def _step(self, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        step = getattr(self.module, method)
        if not self.device_ids:
            args, named = self.scatter(inputs, kwargs, [-1])
            return step(*args[0], **named[0])
        if len(self.device_ids) != 1:
            raise AssertionError("MMDataParallel only supports single GPU training, got "
                                 f"{len(self.device_ids)}; use MMDistributedDataParallel")
        home = torch.device(self.src_device_obj)
        for t in chain(self.module.parameters(), self.module.buffers()):
            if t.device != home:
                raise RuntimeError("module must have its parameters and buffers on device "
                                   f"{home} but found one of them on device: {t.device}")
        args, named = self.scatter(inputs, kwargs, self.device_ids)
        return step(*args[0], **named[0])
