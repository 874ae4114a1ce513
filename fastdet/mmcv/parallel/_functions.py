"""Copies of a container's data to the devices, as in ``mmcv.parallel._functions``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["Scatter", "get_input_device", "scatter"]


def scatter(input: Any, devices: list[int], streams: Any = None) -> Any:
    """Copy a tensor, or the parts of a list, to devices; ``-1`` is the host.

    Args:
        input: a tensor, which goes to the first device, or a (nested) list, whose parts are dealt
            out to the devices in order.
        devices: indices of GPUs, or ``[-1]``.
        streams: has no effect; copies are queued on the current stream.

    Raises:
        TypeError: there is something else in ``input``.
    """
    if isinstance(input, list):
        chunk = (len(input) - 1) // len(devices) + 1
        return [scatter(part, [devices[i // chunk]]) for i, part in enumerate(input)]
    if isinstance(input, Tensor):
        output = input.contiguous()
        return output if devices == [-1] else output.cuda(devices[0], non_blocking=True)
    raise TypeError(f"a DataContainer without cpu_only must hold tensors, got {type(input)}")


def get_input_device(input: Any) -> int:
    """The GPU that the tensors of a (nested) list are on; -1 for the host.

    Raises:
        TypeError: there is something else in ``input``.
    """
    if isinstance(input, list):
        return next((d for d in map(get_input_device, input) if d != -1), -1)
    if isinstance(input, Tensor):
        return input.get_device() if input.is_cuda else -1
    raise TypeError(f"expected tensors in lists, got {type(input)}")


class Scatter:
    """:func:`scatter` under the name that mmcv's users call."""

    @staticmethod
    def forward(target_gpus: list[int], input: Any) -> tuple[Any, ...]:
        """One part for each device."""
        outputs = scatter(input, target_gpus)
        return tuple(outputs) if isinstance(outputs, list) else (outputs,)
