"""Batch norm over all processes, with mmcv's arguments."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastdet.cnn.bricks.registry import NORM_LAYERS

__all__ = ["SyncBatchNorm"]


@NORM_LAYERS.register_module(name="MMSyncBN")
class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's ``SyncBatchNorm``, as configs of mmcv name it (``MMSyncBN``).

    Args:
        num_features: channels.
        eps: added to the variance.
        momentum: of the running statistics.
        affine: learn a weight and a bias.
        track_running_stats: keep running statistics.
        group: the processes; all by default.
        stats_mode: ``'default'`` or ``'N'``. mmcv's default takes the batches of all processes to
            be equally large; here each counts by its size in both.

    Raises:
        ValueError: ``stats_mode`` is another.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1,
                 affine: bool = True, track_running_stats: bool = True, group: Any = None,
                 stats_mode: str = "default") -> None:
        if stats_mode not in ("default", "N"):
            raise ValueError(f"SyncBatchNorm: stats_mode must be 'default' or 'N', got "
                             f"{stats_mode!r}")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, group)
        self.stats_mode = stats_mode
