"""Which device there is, as in ``mmcv.device.utils``."""

from __future__ import annotations

import torch

from ..utils.device_type import is_mlu_available, is_mps_available, is_npu_available

__all__ = ["get_device"]


def get_device() -> str:
    """The accelerator's name, or ``'cpu'``: the first that there is of npu, cuda, mlu and mps."""
    for name, there in (("npu", is_npu_available), ("cuda", torch.cuda.is_available),
                        ("mlu", is_mlu_available), ("mps", is_mps_available)):
        if there():
            return name
    return "cpu"
