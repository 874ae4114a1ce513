"""Loggers of one process among several, as in ``mmcv.utils.logging``."""

from __future__ import annotations

import logging
from typing import Any

from torch import distributed

__all__ = ["get_logger", "logger_initialized", "print_log"]

#: Names of the loggers that :func:`get_logger` has set up.
logger_initialized: dict[str, bool] = {}


def get_logger(name: str, log_file: str | None = None, log_level: int = logging.INFO,
               file_mode: str = "w") -> logging.Logger:
    """A logger that writes to the console and, on rank 0, to a file.

    A logger, or a child of one, that was set up before comes back as it is. Other ranks log errors
    alone.

    Args:
        name: the logger's name.
        log_file: a file for rank 0 to write to.
        log_level: the level on rank 0.
        file_mode: how the file is opened.
    """
    logger = logging.getLogger(name)
    # 'a.b' inherits the handlers of 'a'.
    if name in logger_initialized or any(name.startswith(known) for known in logger_initialized):
        return logger
    # DDP adds a handler to the root logger; each message would be shown twice.
    for handler in logger.root.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(logging.ERROR)
    started = distributed.is_available() and distributed.is_initialized()
    rank = distributed.get_rank() if started else 0
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if rank == 0 and log_file is not None:
        handlers.append(logging.FileHandler(log_file, file_mode))
    formatter = logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.setLevel(log_level)
        logger.addHandler(handler)
    logger.setLevel(log_level if rank == 0 else logging.ERROR)
    logger_initialized[name] = True
    return logger


def print_log(msg: Any, logger: logging.Logger | str | None = None,
              level: int = logging.INFO) -> None:
    """Print or log a message.

    Args:
        msg: the message.
        logger: a logger, a logger's name, ``'silent'``, or ``None`` to print.
        level: the level to log at.
    """
    if logger is None:
        print(msg)
    elif isinstance(logger, logging.Logger):
        logger.log(level, msg)
    elif isinstance(logger, str):
        if logger != "silent":
            get_logger(logger).log(level, msg)
    else:
        raise TypeError("logger should be either a logging.Logger object, str, \"silent\" or "
                        f"None, but got {type(logger)}")
