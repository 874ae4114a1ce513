"""Versions as numbers, as in ``mmcv.utils.version_utils``."""

from __future__ import annotations

import os
import subprocess

from packaging.version import parse

__all__ = ["digit_version", "get_git_hash"]

_BEFORE_RELEASE = {"a": -3, "b": -2, "rc": -1}


def digit_version(version_str: str, length: int = 4) -> tuple[int, ...]:
    """A version as a tuple that compares: ``length`` numbers, then what comes before or after.

    ``'1.7.2'`` is ``(1, 7, 2, 0, 0, 0)``, ``'1.7.2rc1'`` ``(1, 7, 2, 0, -1, 1)``.
    """
    version = parse(version_str)
    release = [*version.release[:length], *[0] * (length - len(version.release))]
    if version.pre is not None:
        kind, number = version.pre
        return (*release, _BEFORE_RELEASE[kind], number)
    if version.is_prerelease:  # a dev version
        return (*release, -4, 0)
    if version.is_postrelease:
        return (*release, 1, version.post or 0)
    return (*release, 0, 0)


def get_git_hash(fallback: str = "unknown", digits: int | None = None) -> str:
    """The commit of the git checkout that the process runs in.

    Args:
        fallback: what to give outside of a checkout.
        digits: how many of its digits; all by default.
    """
    if digits is not None and not isinstance(digits, int):
        raise TypeError(f"digits must be None or an integer, got {type(digits).__name__}")
    try:
        sha = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True,
                             text=True, env={**os.environ, "LC_ALL": "C"}).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return fallback
    return sha[:digits]
