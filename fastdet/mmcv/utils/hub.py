"""Downloads of checkpoints, as in ``mmcv.utils.hub``."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["load_url"]


def load_url(url: str, *args: Any, **kwargs: Any) -> Any:
    """``torch.hub.load_state_dict_from_url``, which reads tensors and plain values alone."""
    return torch.hub.load_state_dict_from_url(url, *args, **{"weights_only": True, **kwargs})
