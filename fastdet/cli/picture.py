"""The picture of ``fastdet features``: the photograph, and two panels for each pyramid level.

All sizes are inches. Levels stand side by side for an upright photograph and one below the other
for a wide one, so that the page keeps a readable shape. A photograph that is a mere strip is drawn
as one, in a frame of bearable proportions: anchors reach beyond it and are seen whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from fastdet.cli.result import Level, Result

__all__ = ["draw"]

DPI = 150
MARGIN = 0.35
GAP = 0.16
HEAD = 0.42  # the two lines above a panel
TOP = 0.86  # the title of the page
FOOT = 1.1  # scale and legend below the photograph
WIDE = 0.62  # a wide character's width, as a part of the font size

BY = "\N{MULTIPLICATION SIGN}"
INK, SOFT, EDGE, AROUND = "#1a1a1a", "#666666", "#d0d0d0", "#f4f4f4"
#: Three cells, told apart by colour-blind readers too (Okabe and Ito).
CELL_COLOURS = ("#d55e00", "#0072b2", "#cc79a7")
CELL_PLACES = ((0.28, 0.30), (0.70, 0.46), (0.40, 0.74))  # x, y as parts of the map
MAX_BOXES = 12
CROWDED = 0.4  # anchors wider than this part of the photograph are drawn for one cell
MAX_DOTS = 24
SPECK = 0.16  # anchors narrower than this part of a panel are shown enlarged too
MAX_RATIO = 4.0  # of a panel's sides
RIBBON = 0.02  # the least ratio of a photograph's sides that is drawn as it is
COLOURS = colormaps["viridis"]


def draw(result: Result, path: Path) -> None:
    """Draw ``result`` and save it as ``path`` (PNG)."""
    width, height = _view(result)[2:]
    upright, count = height >= width, len(result.levels)
    # Panels of one area, whatever the shape of the photograph.
    panel_w = max(1.5, 2.15 * (width / height) ** 0.5)
    panel_h = panel_w * height / width
    facts_of_photo = (f"{result.photo.shape[1]} {BY} {result.photo.shape[0]}, padded to "
                      f"{result.padded[1]} {BY} {result.padded[0]} pixels"
                      + (", drawn thicker" if _is_ribbon(result.photo) else ""))
    columns, rows = (count, 2) if upright else (2, count)
    grid_w = columns * (panel_w + GAP) - GAP
    grid_h = rows * (panel_h + HEAD + GAP) - GAP
    photo_w = min((2.2 if upright else 1.6) * panel_w, (grid_h - HEAD - FOOT) * width / height)
    photo_w = max(photo_w, panel_w, 2.6)
    photo_h = photo_w * height / width
    body_h = max(grid_h, photo_h + HEAD + FOOT)
    page = (2 * MARGIN + photo_w + 2 * GAP + grid_w, MARGIN + TOP + body_h + MARGIN)
    figure = Figure(figsize=page, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def panel(x: float, y: float, w: float, h: float) -> Axes:
        """Axes whose upper left corner is ``x``, ``y`` inches from that of the page."""
        axes = figure.add_axes((x / page[0], 1 - (y + h) / page[1], w / page[0], h / page[1]))
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(color=EDGE, linewidth=0.6)
        return axes

    def write(x: float, y: float, text: str, fontsize: float, width: float = page[0],
              **style: Any) -> None:
        room = min(width, page[0] - x - MARGIN)
        size = min(fontsize, 72 * room / (WIDE * len(text)))  # long text gets small, not clipped
        figure.text(x / page[0], 1 - y / page[1], text, va="top", fontsize=size,
                    **{"color": INK, **style})

    def head(x: float, y: float, bold: str, soft: str, width: float = panel_w) -> None:
        write(x, y, bold, fontsize=9, width=width, fontweight="bold")
        write(x, y + 0.19, soft, fontsize=7.5, width=width, color=SOFT)

    write(MARGIN, MARGIN, result.model, fontsize=16, fontweight="bold")
    facts = "   ·   ".join(filter(None, (result.weights, result.device, result.timing)))
    if result.weights == "random weights":
        facts += "   ·   the maps are those of an initialised network, not of a trained one"
    write(MARGIN, MARGIN + 0.36, facts, fontsize=8.5, color=SOFT)

    top = MARGIN + TOP
    head(MARGIN, top, "photograph", facts_of_photo, width=photo_w)
    axes = panel(MARGIN, top + HEAD, photo_w, photo_h)
    _picture(axes, result.photo)
    _frame(axes, _view(result))
    _legend(panel, write, MARGIN, top + HEAD + photo_h + 0.16, photo_w)

    left = MARGIN + photo_w + 2 * GAP
    for i, level in enumerate(result.levels):
        for kind in range(2):
            column, row = (i, kind) if upright else (kind, i)
            x = left + column * (panel_w + GAP)
            y = top + row * (panel_h + HEAD + GAP)
            axes = panel(x, y + HEAD, panel_w, panel_h)
            if kind == 0:
                stride = BY.join(map(str, dict.fromkeys(level.stride)))
                channels, h, w = level.shape
                head(x, y, f"{level.name}, stride {stride}", f"{channels} channels, {w} {BY} {h}")
                _map(axes, level, result)
            else:
                head(x, y, f"{len(level.anchors):,} anchors", f"{level.per_cell} per cell")
                side = 0.44 * min(panel_w, panel_h)
                corner = (x + panel_w - side - 0.04, y + HEAD + panel_h - side - 0.04)
                _anchors(axes, level, result, partial(panel, *corner, side, side))
    figure.savefig(path)


def _view(result: Result) -> tuple[float, float, float, float]:
    """What a panel shows: ``x``, ``y``, width and height in pixels of the photograph.

    It is the photograph, or where that is a strip, as much around it as makes it none.
    """
    height, width = result.photo.shape[:2]
    w, h = max(width, height / MAX_RATIO), max(height, width / MAX_RATIO)
    return (width - w) / 2 - 0.5, (height - h) / 2 - 0.5, w, h


def _frame(axes: Axes, view: tuple[float, float, float, float]) -> None:
    x, y, w, h = view
    axes.set(xlim=(x, x + w), ylim=(y + h, y), facecolor=AROUND)


def _is_ribbon(pixels: np.ndarray) -> bool:
    return min(pixels.shape[:2]) < RIBBON * max(pixels.shape[:2])


def _picture(axes: Axes, pixels: np.ndarray) -> None:
    """Draw pixels at their places; a line of them, that nobody would see, as a ribbon."""
    h, w = pixels.shape[:2]
    half_w, half_h = max(w, RIBBON * h) / 2, max(h, RIBBON * w) / 2
    x, y = w / 2 - 0.5, h / 2 - 0.5
    axes.imshow(pixels, vmin=0, vmax=1, aspect="auto",
                extent=(x - half_w, x + half_w, y + half_h, y - half_h))


def _legend(panel: Any, write: Any, x: float, y: float, width: float) -> None:
    bar = panel(x, y + 0.02, 0.9, 0.1)
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=COLOURS, aspect="auto")
    small = dict(fontsize=7.5, color=SOFT)
    write(x + 1.0, y, "mean magnitude of the channels, low to high,", **small)
    write(x + 1.0, y + 0.14, "each level on its own scale", **small)
    for i, colour in enumerate(CELL_COLOURS):
        box = panel(x + 0.31 * i, y + 0.42, 0.24, 0.16)
        box.set_facecolor("white")
        for spine in box.spines.values():
            spine.set(color=colour, linewidth=1.4)
    write(x + 1.0, y + 0.36, "the anchors of three cells, of one where large;", **small)
    write(x + 1.0, y + 0.50, "dots are centres of cells, thinned out;", **small)
    write(x + 1.0, y + 0.64, "a corner shows small anchors enlarged", **small)


def _grey(photo: np.ndarray) -> np.ndarray:
    return np.repeat((photo @ np.array([0.299, 0.587, 0.114]) / 255)[..., None], 3, axis=2)


def _map(axes: Axes, level: Level, result: Result) -> None:
    """The level's map, unless it has one cell, whose value says nothing beside others."""
    if level.feature[0].numel() == 1:
        _picture(axes, 0.25 * _grey(result.photo) + 0.75)
        axes.text(0.5, 0.5, "one cell:\nno map to draw", transform=axes.transAxes, ha="center",
                  va="center", fontsize=8, color=SOFT)
    else:
        _picture(axes, _heat(level, result))
    _frame(axes, _view(result))


def _heat(level: Level, result: Result) -> np.ndarray:
    """The channels' mean magnitude over the photograph, ``[H, W, 3]``."""
    magnitude = level.feature.float().abs().mean(0).cpu()
    full = F.interpolate(magnitude[None, None], result.padded, mode="bilinear")[0, 0]
    height, width = result.photo.shape[:2]
    values = np.nan_to_num(full[:height, :width].numpy())
    low, high = np.percentile(values, (1, 99))  # a border's outliers would wash out the rest
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return 0.28 * _grey(result.photo) + 0.72 * COLOURS(scaled)[..., :3]


def _anchors(axes: Axes, level: Level, result: Result, corner: Callable[[], Axes]) -> None:
    """The anchors of some cells; ``corner`` makes the axes to show small ones enlarged.

    Where they reach beyond the photograph, it is drawn smaller, so that they are seen whole.
    """
    height, width = result.photo.shape[:2]
    grey = 0.45 * _grey(result.photo) + 0.55
    _picture(axes, grey)
    _, h, w = level.shape
    boxes = level.anchors.float().cpu().numpy().reshape(h, w, level.per_cell, 4)
    centres = (boxes[..., :2] + boxes[..., 2:]).mean(axis=2) / 2
    step = max(1, -(-max(h, w) // MAX_DOTS))
    _dots(axes, centres[step // 2::step, step // 2::step])
    side = float((boxes[0, 0, :, 2:] - boxes[0, 0, :, :2]).mean())
    room = min(_view(result)[2:])
    crowded = side > CROWDED * room
    cells = [((0.5, 0.5), CELL_COLOURS[1])] if crowded else list(zip(CELL_PLACES, CELL_COLOURS))
    view_x, view_y, view_w, view_h = _view(result)
    out = 1.0  # how many times the view is widened about its middle
    for (px, py), colour in cells:
        row = min(int(py * height / level.stride[1]), h - 1)
        column = min(int(px * width / level.stride[0]), w - 1)
        _cell(axes, boxes[row, column], centres[row, column], colour)
        corners = boxes[row, column].reshape(-1, 2) - (view_x + view_w / 2, view_y + view_h / 2)
        out = max(out, 1.04 * float((np.abs(corners) / (view_w / 2, view_h / 2)).max()))
        if side < SPECK * room and colour == CELL_COLOURS[1]:
            near = corner()
            _picture(near, grey)
            _dots(near, centres)
            _cell(near, boxes[row, column], centres[row, column], colour)
            x, y = centres[row, column]
            half = 0.6 * float(np.ptp(boxes[row, column].reshape(-1, 2), axis=0).max())
            near.set(xlim=(x - half, x + half), ylim=(y + half, y - half), facecolor=AROUND)
            for spine in near.spines.values():
                spine.set(color=colour, linewidth=1)
    _frame(axes, (view_x - (out - 1) * view_w / 2, view_y - (out - 1) * view_h / 2,
                  out * view_w, out * view_h))


def _dots(axes: Axes, centres: np.ndarray) -> None:
    points = centres.reshape(-1, 2)
    axes.scatter(points[:, 0], points[:, 1], s=1.6, color=SOFT, linewidths=0, alpha=0.8)


def _cell(axes: Axes, cell: np.ndarray, centre: np.ndarray, colour: str) -> None:
    """The anchors of a cell, a sample of them where they are many."""
    cell = cell[np.unique(np.linspace(0, len(cell) - 1, MAX_BOXES).astype(int))]
    lines = [[(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)] for x1, y1, x2, y2 in cell]
    axes.add_collection(LineCollection(lines, colors=colour, joinstyle="miter",
                                       linewidths=1.1 if len(cell) < 6 else 0.8), autolim=False)
    axes.plot(*centre, "o", markersize=3, markeredgewidth=0, color=colour, scalex=False,
              scaley=False)
