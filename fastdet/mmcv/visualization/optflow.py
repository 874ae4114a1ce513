"""Optical flow in colours (Baker et al., vision.middlebury.edu/flow), as in mmcv."""

from __future__ import annotations

import numpy as np

from ..image import rgb2bgr
from .image import imshow

__all__ = ["flow2rgb", "flowshow", "make_color_wheel"]


def flowshow(flow: np.ndarray | str, win_name: str = "", wait_time: int = 0) -> None:
    """Show a flow map ``[H, W, 2]``, or the file of one; see :func:`imshow`."""
    from ..video.optflow import flowread

    imshow(rgb2bgr(flow2rgb(flowread(flow)).astype(np.float32)), win_name, wait_time)


def flow2rgb(flow: np.ndarray, color_wheel: np.ndarray | None = None,
             unknown_thr: float = 1e6) -> np.ndarray:
    """Direction as hue and length as saturation.

    Args:
        flow: ``[H, W, 2]``.
        color_wheel: ``[n, 3]`` colours in ``[0, 1]``; :func:`make_color_wheel` by default.
        unknown_thr: longer motions, and those not finite, are unknown and black.

    Returns:
        ``[H, W, 3]`` RGB in ``[0, 1]``.
    """
    if flow.ndim != 3 or flow.shape[-1] != 2:
        raise ValueError(f"a flow map has the shape [H, W, 2], got {flow.shape}")
    wheel = make_color_wheel() if color_wheel is None else color_wheel
    if wheel.ndim != 2 or wheel.shape[1] != 3:
        raise ValueError(f"a colour wheel has the shape [n, 3], got {wheel.shape}")
    n = wheel.shape[0]
    dx, dy = flow[..., 0].copy(), flow[..., 1].copy()
    unknown = (np.isnan(dx) | np.isnan(dy) | (np.abs(dx) > unknown_thr)
               | (np.abs(dy) > unknown_thr))
    dx[unknown] = dy[unknown] = 0
    length = np.sqrt(dx ** 2 + dy ** 2)
    if np.any(length > np.finfo(float).eps):
        longest = np.max(length)
        dx, dy = dx / longest, dy / longest
    length = np.sqrt(dx ** 2 + dy ** 2)
    place = (np.arctan2(-dy, -dx) / np.pi + 1) / 2 * (n - 1)
    low = np.floor(place).astype(int)
    high = (low + 1) % n
    w = (place - low)[..., None].astype(flow.dtype)
    rgb = (1 - w) * wheel[low] + w * wheel[high]
    short = length <= 1
    rgb[short] = 1 - length[short][:, None] * (1 - rgb[short])
    rgb[~short] *= 0.75
    rgb[unknown] = 0
    return rgb


def make_color_wheel(bins: list[int] | tuple[int, ...] | None = None) -> np.ndarray:
    """A colour wheel ``[sum(bins), 3]``, RGB in ``[0, 1]``, float32.

    Args:
        bins: how many colours lie between red, yellow, green, cyan, blue, magenta and red.
    """
    if bins is None:
        bins = [15, 6, 4, 11, 13, 6]
    if len(bins) != 6:
        raise ValueError(f"bins must hold 6 numbers, got {len(bins)}")
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1],
                        [1, 0, 0]], dtype=float)
    wheel = np.concatenate([
        corners[i] + (corners[i + 1] - corners[i]) * (np.arange(n) / n)[:, None]
        for i, n in enumerate(bins)])
    return wheel.astype(np.float32)
