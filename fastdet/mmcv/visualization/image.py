"""Boxes on images, as in ``mmcv.visualization.image``."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ..image import imread, imwrite
from .color import color_val

__all__ = ["imshow", "imshow_bboxes", "imshow_det_bboxes"]


def imshow(img: str | np.ndarray, win_name: str = "", wait_time: int = 0) -> None:
    """Show an image in OpenCV's window.

    Args:
        img: the image or its path.
        win_name: the window's title.
        wait_time: milliseconds to show it; 0 until it is closed or a key is pressed.
    """
    cv2.imshow(win_name, imread(img))
    if wait_time != 0:
        cv2.waitKey(wait_time)
        return
    while cv2.waitKey(1) == -1 and cv2.getWindowProperty(win_name, cv2.WND_PROP_VISIBLE) >= 1:
        pass


def _finish(img: np.ndarray, show: bool, win_name: str, wait_time: int,
            out_file: str | None) -> np.ndarray:
    if show:
        imshow(img, win_name, wait_time)
    if out_file is not None:
        imwrite(img, out_file)
    return img


def imshow_bboxes(img: str | np.ndarray, bboxes: np.ndarray | list[np.ndarray],
                  colors: Any = "green", top_k: int = -1, thickness: int = 1, show: bool = True,
                  win_name: str = "", wait_time: int = 0,
                  out_file: str | None = None) -> np.ndarray:
    """Draw boxes.

    Args:
        img: the image or its path; an array is not changed.
        bboxes: ``[n, 4 or more]``, x1, y1, x2, y2; or a list of such.
        colors: one for each array of ``bboxes``, or one for all; see :func:`color_val`.
        top_k: draw the first ``k`` boxes of each array; all if not positive.
        thickness: of the lines, in pixels.
        show, win_name, wait_time: see :func:`imshow`.
        out_file: write the picture to this file.

    Returns:
        The picture.
    """
    canvas = np.ascontiguousarray(imread(img).copy())
    groups = [bboxes] if isinstance(bboxes, np.ndarray) else bboxes
    each = colors if isinstance(colors, list) else [colors] * len(groups)
    if len(each) != len(groups):
        raise ValueError(f"there are {len(groups)} groups of boxes and {len(each)} colours")
    for group, color in zip(groups, [color_val(c) for c in each]):
        for x1, y1, x2, y2 in group.astype(np.int32)[:top_k if top_k > 0 else None, :4].tolist():
            cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thickness=thickness)
    return _finish(canvas, show, win_name, wait_time, out_file)


def imshow_det_bboxes(img: str | np.ndarray, bboxes: np.ndarray, labels: np.ndarray,
                      class_names: list[str] | None = None, score_thr: float = 0,
                      bbox_color: Any = "green", text_color: Any = "green", thickness: int = 1,
                      font_scale: float = 0.5, show: bool = True, win_name: str = "",
                      wait_time: int = 0, out_file: str | None = None) -> np.ndarray:
    """Draw boxes with their classes and scores.

    Args:
        img: the image or its path; an array is not changed.
        bboxes: ``[n, 4]`` or, with scores, ``[n, 5]``.
        labels: ``[n]``.
        class_names: by label; ``cls 3`` where not given.
        score_thr: boxes whose score is not above it are left out, if it is positive.
        bbox_color, text_color: see :func:`color_val`.
        thickness: of the lines, in pixels.
        font_scale: of the text.
        show, win_name, wait_time: see :func:`imshow`.
        out_file: write the picture to this file.

    Returns:
        The picture.
    """
    if bboxes.ndim != 2 or bboxes.shape[1] not in (4, 5) or labels.shape != bboxes.shape[:1]:
        raise ValueError("boxes must be [n, 4] or [n, 5] and labels [n], "
                         f"got {bboxes.shape} and {labels.shape}")
    canvas = np.ascontiguousarray(imread(img).copy())
    if score_thr > 0:
        if bboxes.shape[1] != 5:
            raise ValueError(f"score_thr needs boxes with scores, [n, 5], got {bboxes.shape}")
        keep = bboxes[:, -1] > score_thr
        bboxes, labels = bboxes[keep], labels[keep]
    box_color, ink = color_val(bbox_color), color_val(text_color)
    for box, label in zip(bboxes, labels):
        x1, y1, x2, y2 = box[:4].astype(np.int32).tolist()
        cv2.rectangle(canvas, (x1, y1), (x2, y2), box_color, thickness=thickness)
        text = f"cls {label}" if class_names is None else class_names[label]
        if len(box) > 4:
            text += f"|{box[-1]:.02f}"
        cv2.putText(canvas, text, (x1, y1 - 2), cv2.FONT_HERSHEY_COMPLEX, font_scale, ink)
    return _finish(canvas, show, win_name, wait_time, out_file)
