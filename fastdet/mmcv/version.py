"""The version of mmcv whose names these are."""

from __future__ import annotations

from packaging.version import parse

__version__ = "1.7.2"


def parse_version_info(version_str: str, length: int = 4) -> tuple[int | str, ...]:
    """``'1.3.0rc1'`` as ``(1, 3, 0, 0, 'rc', 1)``: ``length`` numbers, then what follows."""
    version = parse(version_str)
    release = [*version.release[:length], *[0] * (length - len(version.release))]
    if version.pre is not None:
        return (*release, *version.pre)
    if version.is_postrelease:
        return (*release, version.post or 0)
    return (*release, 0, 0)


version_info = tuple(int(x) for x in __version__.split("."))
