"""The log of a training."""

from __future__ import annotations

import inspect
import logging
from typing import Any

from fastdet.mmcv.utils import get_logger

__all__ = ["get_caller_name", "get_root_logger", "log_img_scale"]


def get_root_logger(log_file: str | None = None,
                    log_level: int | str = logging.INFO) -> logging.Logger:
    """The logger ``mmdet``, which the libraries' users and ours log to.

    Args:
        log_file: a file for rank 0 to write to.
        log_level: the level on rank 0.
    """
    return get_logger(name="mmdet", log_file=log_file, log_level=log_level)  # type: ignore[arg-type]


def get_caller_name() -> str:
    """Name of the function, and its class, that called the caller."""
    frame: Any = inspect.currentframe()
    frame = frame.f_back.f_back
    name = frame.f_code.co_name
    owner = frame.f_locals.get("self")
    return name if owner is None else f"{type(owner).__name__}.{name}"


def log_img_scale(img_scale: tuple[int, int], shape_order: str = "hw",
                  skip_square: bool = False) -> bool:
    """Log a size, so that height and width are not mistaken for each other.

    Args:
        img_scale: the size.
        shape_order: ``'hw'`` or ``'wh'``.
        skip_square: say nothing where both are equal.

    Returns:
        Whether it was logged.

    Raises:
        ValueError: the order is unknown.
    """
    if shape_order not in ("hw", "wh"):
        raise ValueError(f"shape_order must be hw or wh, got {shape_order!r}")
    height, width = img_scale if shape_order == "hw" else img_scale[::-1]
    if skip_square and height == width:
        return False
    get_root_logger().info(f"image shape: height={height}, width={width} in {get_caller_name()}")
    return True
