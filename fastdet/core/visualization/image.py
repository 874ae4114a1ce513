"""Boxes, masks and labels drawn on images, with matplotlib."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from torch import Tensor

from fastdet.core.evaluation.panoptic_utils import INSTANCE_OFFSET
from fastdet.core.mask.geometry import cv2_
from fastdet.core.utils import mask2ndarray

from .palette import get_palette, named_colour, palette_val

__all__ = ["color_val_matplotlib", "draw_bboxes", "draw_labels", "draw_masks",
           "imshow_det_bboxes", "imshow_gt_det_bboxes"]

_EPS = 1e-2


def color_val_matplotlib(color: Any) -> Any:
    """A colour by mmcv's name or in BGR as matplotlib takes it, RGB of 0 to 1."""
    if isinstance(color, str):
        color = named_colour(color)[::-1]
    if isinstance(color, int):
        color = (color,) * 3
    return tuple(c / 255 for c in color[::-1])


def _sizes(areas: np.ndarray, least: float = 800, greatest: float = 30000) -> np.ndarray:
    """Factors of 0.5 to 1 for the text on objects of these areas."""
    return np.clip(0.5 + (areas - least) / (greatest - least), 0.5, 1.0)


def draw_bboxes(ax: Any, bboxes: np.ndarray, color: Any = "g", alpha: float = 0.8,
                thickness: float = 2) -> Any:
    """Draw the outlines of boxes [n, 4] on axes, which are returned."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    patches = [Rectangle((x1, y1), x2 - x1, y2 - y1)
               for x1, y1, x2, y2 in bboxes[:, :4].astype(np.int32).tolist()]
    ax.add_collection(PatchCollection(patches, facecolor="none", edgecolors=color,
                                      linewidths=thickness, alpha=alpha))
    return ax


def draw_labels(ax: Any, labels: np.ndarray, positions: np.ndarray, scores: Any = None,
                class_names: Any = None, color: Any = "w", font_size: float = 8,
                scales: Any = None, horizontal_alignment: str = "left") -> Any:
    """Write classes, and scores, at positions [n, 2] on axes, which are returned."""
    for i, (label, (x, y)) in enumerate(zip(labels, positions)):
        text = f"class {label}" if class_names is None else str(class_names[label])
        if scores is not None:
            text += f"|{scores[i]:.02f}"
        ax.text(x, y, text, color=color[i] if isinstance(color, list) else color,
                fontsize=font_size if scales is None else font_size * scales[i],
                verticalalignment="top", horizontalalignment=horizontal_alignment,
                bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"})
    return ax


def draw_masks(ax: Any, img: np.ndarray, masks: np.ndarray, color: Any = None,
               with_edge: bool = True, alpha: float = 0.8) -> tuple[Any, np.ndarray]:
    """Blend masks [n, H, W] into an image, and draw their outlines on axes.

    Returns:
        The axes and the image.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Polygon

    colours = get_palette("random" if color is None else color, len(masks))
    img = img.copy()
    edges, edge_colours = [], []
    for mask, colour in zip(masks, colours):
        on = mask.astype(bool)
        if with_edge:
            lines, _ = cv2_().findContours(on.astype(np.uint8), cv2_().RETR_CCOMP,
                                           cv2_().CHAIN_APPROX_NONE)
            edges += [Polygon(line.reshape(-1, 2)) for line in lines]
            edge_colours += [np.array(colour) / 255] * len(lines)
        img[on] = img[on] * (1 - alpha) + np.array(colour) * alpha
    ax.add_collection(PatchCollection(edges, facecolor="none", edgecolors=edge_colours or "none",
                                      linewidths=1, alpha=0.8))
    return ax, img


def _read(img: Any) -> np.ndarray:
    """An image in BGR."""
    if isinstance(img, np.ndarray):
        return img
    pixels = cv2_().imread(str(img))
    if pixels is None:
        raise ValueError(f"cannot read the image {img}")
    return pixels


def _canvas(img: np.ndarray) -> tuple[Any, Any]:
    """A figure of an image's size in pixels, and axes that fill it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    h, w = img.shape[:2]
    figure = Figure(frameon=False)
    dpi = figure.get_dpi()
    figure.set_size_inches((w + _EPS) / dpi, (h + _EPS) / dpi)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    return figure, ax


def imshow_det_bboxes(img: Any, bboxes: np.ndarray | None = None,
                      labels: np.ndarray | None = None, segms: Any = None,
                      class_names: Any = None, score_thr: float = 0, bbox_color: Any = "green",
                      text_color: Any = "green", mask_color: Any = None, thickness: float = 2,
                      font_size: float = 8, win_name: str = "", show: bool = True,
                      wait_time: float = 0, out_file: str | None = None) -> np.ndarray:
    """Draw detections.

    Args:
        img: [H, W, 3] in BGR, or a path.
        bboxes: [n, 4], or [n, 5] with scores.
        labels: [n].
        segms: [n, H, W] masks.
        class_names: by label.
        score_thr: what scores less is left out.
        bbox_color, text_color, mask_color: colours, one for all or one a class, by
            :func:`get_palette`; masks have their boxes' by default.
        thickness: of the lines, in points.
        font_size: in points, smaller on small objects.
        win_name: the window's title.
        show: open a window.
        wait_time: seconds to show it; 0 until it is closed.
        out_file: write the picture there; folders are made.

    Returns:
        The picture in BGR.

    Raises:
        ValueError: shapes do not fit, or there are neither boxes nor masks.
    """
    if bboxes is None and segms is None:
        raise ValueError("imshow_det_bboxes needs bboxes or segms")
    if labels is None or labels.ndim != 1:
        raise ValueError("imshow_det_bboxes needs labels [n]")
    if bboxes is not None and (bboxes.ndim != 2 or bboxes.shape[1] not in (4, 5)
                               or len(bboxes) < len(labels)):
        raise ValueError(f"bboxes must be [n, 4] or [n, 5] and labels [n], got {bboxes.shape} and "
                         f"{labels.shape}")
    if segms is not None:
        segms = mask2ndarray(segms)
        if len(segms) != len(labels):
            raise ValueError(f"there are {len(segms)} masks and {len(labels)} labels")
    pixels = np.ascontiguousarray(_read(img)[..., ::-1]).astype(np.uint8)
    if score_thr > 0:
        if bboxes is None or bboxes.shape[1] != 5:
            raise ValueError("score_thr needs boxes with scores, [n, 5]")
        keep = bboxes[:, -1] > score_thr
        bboxes, labels = bboxes[keep], labels[keep]
        segms = None if segms is None else segms[keep]
    count = int(labels.max()) + 1 if len(labels) else 0
    text = [palette_val(get_palette(text_color, count))[i] for i in labels]
    boxes_of = get_palette(bbox_color, count)
    figure, ax = _canvas(pixels)
    if bboxes is not None:
        draw_bboxes(ax, bboxes, [palette_val(boxes_of)[i] for i in labels], thickness=thickness)
        areas = (bboxes[:, 3] - bboxes[:, 1]) * (bboxes[:, 2] - bboxes[:, 0])
        draw_labels(ax, labels, bboxes[:, :2].astype(np.int32) + thickness,
                    bboxes[:, 4] if bboxes.shape[1] == 5 else None, class_names, text, font_size,
                    _sizes(areas))
    if segms is not None:
        masks_of = boxes_of if mask_color is None and bboxes is not None \
            else get_palette(mask_color, count)
        _, pixels = draw_masks(ax, pixels, segms, [masks_of[i] for i in labels])
        if bboxes is None:
            _label_masks(ax, segms, labels, class_names, text, font_size)
    return _finish(figure, ax, pixels, show, win_name, wait_time, out_file)


def _label_masks(ax: Any, segms: np.ndarray, labels: np.ndarray, class_names: Any, text: Any,
                 font_size: float) -> None:
    """Write the classes in the middle of each mask's largest part."""
    positions, areas = [], []
    for mask in segms:
        _, _, stats, centres = cv2_().connectedComponentsWithStats(mask.astype(np.uint8),
                                                                   connectivity=8)
        part = int(np.argmax(stats[1:, -1])) + 1 if len(stats) > 1 else 0
        positions.append(centres[part])
        areas.append(stats[part, -1])
    draw_labels(ax, labels, np.array(positions).reshape(-1, 2), None, class_names, text,
                font_size, _sizes(np.array(areas)), "center")


def _finish(figure: Any, ax: Any, pixels: np.ndarray, show: bool, win_name: str, wait_time: float,
            out_file: str | None) -> np.ndarray:
    h, w = pixels.shape[:2]
    ax.imshow(pixels, extent=(0, w, h, 0), interpolation="nearest")
    ax.set(xlim=(0, w), ylim=(h, 0))
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[:h, :w, 2::-1].copy()
    if show:
        import matplotlib.pyplot as plt

        window = plt.figure(win_name)
        window.add_axes((0, 0, 1, 1)).imshow(drawn[..., ::-1])
        plt.axis("off")
        if wait_time == 0:
            plt.show()
        else:
            plt.show(block=False)
            plt.pause(wait_time)
        plt.close(window)
    if out_file is not None:
        os.makedirs(os.path.dirname(os.path.abspath(out_file)), exist_ok=True)
        if not cv2_().imwrite(str(out_file), drawn):
            raise ValueError(f"cannot write the picture {out_file}")
    return drawn


def imshow_gt_det_bboxes(img: Any, annotation: dict[str, Any], result: Any,
                         class_names: Any = None, score_thr: float = 0,
                         gt_bbox_color: Any = (61, 102, 255),
                         gt_text_color: Any = (200, 200, 200), gt_mask_color: Any = (61, 102, 255),
                         det_bbox_color: Any = (241, 101, 72),
                         det_text_color: Any = (200, 200, 200),
                         det_mask_color: Any = (241, 101, 72), thickness: float = 2,
                         font_size: float = 13, win_name: str = "", show: bool = True,
                         wait_time: float = 0, out_file: str | None = None,
                         overlay_gt_pred: bool = True) -> np.ndarray:
    """Draw annotations and detections, on one picture or on two side by side.

    Args:
        annotation: ``gt_bboxes`` [n, 4], ``gt_labels`` [n] and maybe ``gt_masks``.
        result: what a detector gives for the image: boxes of each class, or a pair with masks.
        overlay_gt_pred: on one picture.
        img, class_names, score_thr, thickness, font_size, win_name, show, wait_time, out_file,
            and the colours: see :func:`imshow_det_bboxes`.
    """
    pixels = _read(img)
    common = dict(class_names=class_names, thickness=thickness, font_size=font_size, show=False)
    truth = imshow_det_bboxes(
        pixels, annotation["gt_bboxes"], annotation["gt_labels"], annotation.get("gt_masks"),
        bbox_color=gt_bbox_color, text_color=gt_text_color, mask_color=gt_mask_color, **common)
    boxes, labels, segms = unpack(result)
    found = imshow_det_bboxes(
        truth if overlay_gt_pred else pixels, boxes, labels, segms, score_thr=score_thr,
        bbox_color=det_bbox_color, text_color=det_text_color, mask_color=det_mask_color, **common)
    if not overlay_gt_pred:
        found = np.concatenate([truth, found], axis=1)
    figure, ax = _canvas(found)
    return _finish(figure, ax, np.ascontiguousarray(found[..., ::-1]), show, win_name, wait_time,
                   out_file)


def unpack(result: Any, num_classes: int | None = None) -> tuple[Any, np.ndarray, Any]:
    """A detector's result as boxes [n, 5], labels [n] and masks [n, H, W] (or ``None``).

    Args:
        result: of each class boxes; a pair of that and masks; or a dict of ``pan_results`` [H, W],
            whose segments are masks without boxes, things first, or else of ``ins_results``.
        num_classes: the class of a panoptic result that is none.
    """
    if isinstance(result, dict):
        if "pan_results" in result:
            ids = np.unique(result["pan_results"])[::-1]
            ids = ids[ids % INSTANCE_OFFSET != num_classes]
            return None, ids % INSTANCE_OFFSET, result["pan_results"][None] == ids[:, None, None]
        result = result["ins_results"]
    by_class, masks_by_class = result if isinstance(result, tuple) else (result, None)
    if isinstance(masks_by_class, tuple):  # with scores of their own
        masks_by_class = masks_by_class[0]
    boxes = np.vstack(by_class)
    labels = np.concatenate([np.full(len(b), i, dtype=np.int32) for i, b in enumerate(by_class)])
    masks = [m for of_class in masks_by_class or () for m in of_class]
    if not masks or not len(labels):
        return boxes, labels, None
    rows = [m.detach().cpu().numpy() if isinstance(m, Tensor) else m for m in masks]
    return boxes, labels, np.stack(rows)
