"""Images from and to files by OpenCV, Pillow, TurboJPEG or tifffile, as in ``mmcv.image.io``."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cv2 import IMREAD_COLOR, IMREAD_GRAYSCALE, IMREAD_IGNORE_ORIENTATION, IMREAD_UNCHANGED

from ..fileio.file_client import FileClient
from ..utils.misc import optional_import

__all__ = ["imfrombytes", "imread", "imwrite", "supported_backends", "use_backend"]

supported_backends = ["cv2", "turbojpeg", "pillow", "tifffile"]
imread_flags = {
    "color": IMREAD_COLOR,
    "grayscale": IMREAD_GRAYSCALE,
    "unchanged": IMREAD_UNCHANGED,
    "color_ignore_orientation": IMREAD_IGNORE_ORIENTATION | IMREAD_COLOR,
    "grayscale_ignore_orientation": IMREAD_IGNORE_ORIENTATION | IMREAD_GRAYSCALE,
}
imread_backend = "cv2"

#: What shows through where a picture with an alpha channel becomes RGB: ImageNet's mean.
_BEHIND = (124, 117, 104)
_turbojpeg: Any = None


def use_backend(backend: str) -> None:
    """Choose the library that decodes images where a call names none.

    Raises:
        ValueError: ``backend`` is none of :data:`supported_backends`.
        ImportError: its package is not installed.
    """
    global imread_backend
    _check_backend(backend)
    if backend == "turbojpeg":
        _turbo()
    elif backend == "tifffile":
        optional_import("tifffile", "the image backend 'tifffile'")
    imread_backend = backend


def current_backend(backend: str | None = None) -> str:
    """``backend``, or the one chosen by :func:`use_backend`.

    Raises:
        ValueError: ``backend`` is none of :data:`supported_backends`.
    """
    return _check_backend(imread_backend if backend is None else backend)


def _check_backend(backend: str) -> str:
    if backend not in supported_backends:
        raise ValueError(f"the image backend must be one of {', '.join(supported_backends)}, "
                         f"got {backend!r}")
    return backend


def _turbo() -> Any:
    global _turbojpeg
    if _turbojpeg is None:
        _turbojpeg = optional_import(
            "turbojpeg", "the image backend 'turbojpeg'", "PyTurboJPEG").TurboJPEG()
    return _turbojpeg


def _with_turbojpeg(content: bytes, flag: str, channel_order: str) -> np.ndarray:
    from turbojpeg import TJPF_BGR, TJPF_GRAY, TJPF_RGB

    orders = {"bgr": TJPF_BGR, "rgb": TJPF_RGB}
    if channel_order.lower() not in orders:
        raise ValueError(f"channel_order must be 'rgb' or 'bgr', got {channel_order!r}")
    if flag not in ("color", "grayscale"):
        raise ValueError(f"turbojpeg reads the flags 'color' and 'grayscale', got {flag!r}")
    pixels = TJPF_GRAY if flag == "grayscale" else orders[channel_order.lower()]
    img = _turbo().decode(content, pixels)
    return img[..., 0] if img.shape[-1] == 1 else img


def _with_pillow(content: bytes, flag: str, channel_order: str) -> np.ndarray:
    from PIL import Image, ImageOps

    if flag not in imread_flags:
        raise ValueError(f"the flag must be one of {', '.join(imread_flags)}, got {flag!r}")
    if channel_order not in ("rgb", "bgr"):
        raise ValueError(f"channel_order must be 'rgb' or 'bgr', got {channel_order!r}")
    with Image.open(io.BytesIO(content)) as opened:
        img: Image.Image = opened
        if flag == "unchanged":
            array = np.array(img)
            if array.ndim >= 3 and array.shape[2] >= 3:
                array[:, :, :3] = array[:, :, (2, 1, 0)]
            return array
        if not flag.endswith("ignore_orientation"):
            img = ImageOps.exif_transpose(img)
        if img.mode == "LA":
            rgba = img.convert("RGBA")
            img = Image.new("RGB", img.size, _BEHIND)
            img.paste(rgba, mask=rgba.split()[3])
        elif img.mode != "RGB":
            img = img.convert("RGB")
        if flag.startswith("grayscale"):
            return np.array(img.convert("L"))
        array = np.array(img)
        return array if channel_order == "rgb" else array[:, :, ::-1]


def _with_cv2(content: bytes, flag: str | int, channel_order: str) -> np.ndarray:
    if isinstance(flag, str):
        if flag not in imread_flags:
            raise ValueError(f"the flag must be one of {', '.join(imread_flags)}, got {flag!r}")
        flag = imread_flags[flag]
    try:
        img = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error:  # an empty buffer
        img = None
    if img is None:
        raise ValueError(f"{len(content)} bytes that OpenCV cannot decode as an image")
    if flag == IMREAD_COLOR and channel_order == "rgb":
        cv2.cvtColor(img, cv2.COLOR_BGR2RGB, img)
    return img


def imfrombytes(content: bytes, flag: str = "color", channel_order: str = "bgr",
                backend: str | None = None) -> np.ndarray:
    """Decode an image file's bytes.

    Args:
        content: the bytes.
        flag: ``'color'``, ``'grayscale'``, ``'unchanged'``, or one of the first two with
            ``'_ignore_orientation'``, which leaves EXIF's rotation undone.
        channel_order: ``'bgr'`` or ``'rgb'``.
        backend: one of :data:`supported_backends`; :func:`use_backend`'s choice by default.

    Returns:
        ``[H, W, 3]`` or ``[H, W]``, uint8 unless the file holds something else and ``flag`` is
        ``'unchanged'``.

    Raises:
        ValueError: an unknown flag or backend, or bytes that are no image.
    """
    backend = current_backend(backend)
    if backend == "turbojpeg":
        return _with_turbojpeg(content, flag, channel_order)
    if backend == "pillow":
        return _with_pillow(content, flag, channel_order)
    if backend == "tifffile":
        return optional_import("tifffile", "the image backend 'tifffile'").imread(
            io.BytesIO(content))
    return _with_cv2(content, flag, channel_order)


def imread(img_or_path: np.ndarray | str | os.PathLike[str], flag: str = "color",
           channel_order: str = "bgr", backend: str | None = None,
           file_client_args: dict[str, Any] | None = None) -> np.ndarray:
    """Read an image file; an array comes back as it is.

    Args:
        img_or_path: the path or URI, or an array.
        flag, channel_order, backend: see :func:`imfrombytes`.
        file_client_args: arguments of :class:`FileClient`; found from the URI's prefix by default.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image that the backend decodes; it is named.
    """
    if isinstance(img_or_path, np.ndarray):
        return img_or_path
    if isinstance(img_or_path, Path):
        img_or_path = str(img_or_path)
    if not isinstance(img_or_path, str):
        raise TypeError("img must be a numpy array, a str or a Path, "
                        f"got {type(img_or_path).__name__}")
    content = FileClient.infer_client(file_client_args, img_or_path).get(img_or_path)
    try:
        return imfrombytes(content, flag, channel_order, backend)
    except (OSError, ValueError) as e:
        raise ValueError(f"cannot read the image {img_or_path}: {e}") from e


def imwrite(img: np.ndarray, file_path: str, params: list[int] | None = None,
            auto_mkdir: bool | None = None,
            file_client_args: dict[str, Any] | None = None) -> bool:
    """Encode an image by its file name's ending and write it; folders are made as needed.

    Args:
        img: ``[H, W]`` or ``[H, W, 3]`` in BGR.
        file_path: the path or URI to write to.
        params: as for ``cv2.imencode``.
        auto_mkdir: has no effect; it is still accepted, with a warning.
        file_client_args: see :func:`imread`.

    Returns:
        Whether the image could be encoded.
    """
    if not isinstance(file_path, str | os.PathLike):
        raise TypeError(f"file_path must be a str or a path, got {type(file_path).__name__}")
    file_path = str(file_path)
    if auto_mkdir is not None:
        warnings.warn("auto_mkdir has no effect: folders are always made", DeprecationWarning,
                      stacklevel=2)
    done, encoded = cv2.imencode(os.path.splitext(file_path)[-1], img, params or [])
    if done:
        FileClient.infer_client(file_client_args, file_path).put(encoded.tobytes(), file_path)
    return done
