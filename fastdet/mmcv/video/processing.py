"""Videos by the program ffmpeg, as in ``mmcv.video.processing``."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from typing import Any

from ..utils.misc import requires_executable

__all__ = ["concat_video", "convert_video", "cut_video", "resize_video"]

_LOG_LEVELS = ("quiet", "panic", "fatal", "error", "warning", "info", "verbose", "debug", "trace")


@requires_executable("ffmpeg")
def convert_video(in_file: str, out_file: str, print_cmd: bool = False, pre_options: str = "",
                  **kwargs: Any) -> None:
    """Run ``ffmpeg -y PRE_OPTIONS -i IN OPTIONS OUT``.

    Args:
        in_file, out_file: the videos.
        print_cmd: print the command.
        pre_options: options before ``-i``.
        kwargs: options after it, by name; ``True`` stands for an option without a value, and
            ``log_level`` for ``-loglevel``.

    Raises:
        RuntimeError: there is no ffmpeg.
        subprocess.CalledProcessError: it failed.
    """
    options: list[str] = []
    for name, value in kwargs.items():
        if isinstance(value, bool):
            options += [f"-{name}"] if value else []
        elif name == "log_level":
            if value not in _LOG_LEVELS:
                raise ValueError(f"log_level must be one of {', '.join(_LOG_LEVELS)}, "
                                 f"got {value!r}")
            options += ["-loglevel", value]
        else:
            options += [f"-{name}", *shlex.split(str(value))]
    command = ["ffmpeg", "-y", *shlex.split(pre_options), "-i", in_file, *options, out_file]
    if print_cmd:
        print(shlex.join(command))
    subprocess.run(command, check=True)


@requires_executable("ffmpeg")
def resize_video(in_file: str, out_file: str, size: tuple[int, int] | None = None,
                 ratio: float | tuple[float, float] | None = None, keep_ar: bool = False,
                 log_level: str = "info", print_cmd: bool = False) -> None:
    """Resize a video to ``size = (w, h)`` or by ``ratio``.

    Args:
        in_file, out_file: the videos.
        size: the new size; -1 on a side keeps the proportions.
        ratio: instead of ``size``: a factor, or a pair of them.
        keep_ar: fit the video into ``size`` with its proportions kept.
        log_level, print_cmd: see :func:`convert_video`.
    """
    if (size is None) == (ratio is None):
        raise ValueError("resize_video needs one of size and ratio, got "
                         + ("neither" if size is None else "both"))
    if size is None:
        w, h = (ratio, ratio) if isinstance(ratio, float | int) else ratio  # type: ignore[misc]
        scale = f"scale=w={w}*iw:h={h}*ih"
    else:
        scale = f"scale=w={size[0]}:h={size[1]}"
        if keep_ar:
            scale += ":force_original_aspect_ratio=decrease"
    convert_video(in_file, out_file, print_cmd, vf=scale, log_level=log_level)


def _codecs(vcodec: str | None, acodec: str | None) -> dict[str, str]:
    return {"vcodec": vcodec or "copy", "acodec": acodec or "copy"}


@requires_executable("ffmpeg")
def cut_video(in_file: str, out_file: str, start: float | None = None, end: float | None = None,
              vcodec: str | None = None, acodec: str | None = None, log_level: str = "info",
              print_cmd: bool = False) -> None:
    """Cut a part out of a video.

    Args:
        in_file, out_file: the videos.
        start, end: in seconds; the video's by default.
        vcodec, acodec: codecs; the streams are copied by default.
        log_level, print_cmd: see :func:`convert_video`.
    """
    options: dict[str, Any] = {"log_level": log_level, **_codecs(vcodec, acodec)}
    if start:
        options["ss"] = start
    if end:
        options["t"] = end - (start or 0)
    convert_video(in_file, out_file, print_cmd, **options)


@requires_executable("ffmpeg")
def concat_video(video_list: list[str], out_file: str, vcodec: str | None = None,
                 acodec: str | None = None, log_level: str = "info",
                 print_cmd: bool = False) -> None:
    """Put videos one after another.

    Args:
        video_list: the videos, in order.
        out_file: the result.
        vcodec, acodec: codecs; the streams are copied by default.
        log_level, print_cmd: see :func:`convert_video`.
    """
    handle, listing = tempfile.mkstemp(suffix=".txt", text=True)
    try:
        with os.fdopen(handle, "w") as f:
            f.writelines(f"file '{os.path.abspath(video)}'\n" for video in video_list)
        convert_video(listing, out_file, print_cmd, pre_options="-f concat -safe 0",
                      log_level=log_level, **_codecs(vcodec, acodec))
    finally:
        os.remove(listing)
