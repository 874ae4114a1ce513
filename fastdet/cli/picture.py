"""The picture of ``fastdet features``: the photograph, and two panels for each pyramid level.

All sizes are inches. Levels stand side by side for an upright photograph and one below the other
for a wide one, so that the page keeps a readable shape.
"""

from __future__ import annotations

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
FOOT = 1.0  # scale and legend below the photograph
WIDE = 0.62  # a wide character's width, as a part of the font size

BY = "\N{MULTIPLICATION SIGN}"
INK, SOFT, EDGE = "#1a1a1a", "#666666", "#d0d0d0"
#: Three cells, told apart by colour-blind readers too (Okabe and Ito).
CELL_COLOURS = ("#d55e00", "#0072b2", "#cc79a7")
CELL_PLACES = ((0.28, 0.30), (0.70, 0.46), (0.40, 0.74))  # x, y as parts of the map
MAX_BOXES = 12
CROWDED = 0.4  # anchors wider than this part of the photograph are drawn for one cell
MAX_DOTS = 24
COLOURS = colormaps["viridis"]


def draw(result: Result, path: Path) -> None:
    """Draw ``result`` and save it as ``path`` (PNG)."""
    height, width = result.photo.shape[:2]
    upright, count = height >= width, len(result.levels)
    # Panels of one area, whatever the shape of the photograph.
    panel_w = max(1.5, 2.15 * (width / height) ** 0.5)
    panel_h = panel_w * height / width
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
    times = ", ".join(f"{part} {ms:,.0f} ms" for part, ms in result.times.items())
    facts = f"{result.weights}   ·   {result.device}   ·   {times}"
    if result.weights == "random weights":
        facts += "   ·   the maps are those of an initialised network, not of a trained one"
    write(MARGIN, MARGIN + 0.36, facts, fontsize=8.5, color=SOFT)

    top = MARGIN + TOP
    head(MARGIN, top, "photograph", f"{width} {BY} {height}, padded to "
         f"{result.padded[1]} {BY} {result.padded[0]} pixels", width=photo_w)
    panel(MARGIN, top + HEAD, photo_w, photo_h).imshow(result.photo)
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
                axes.imshow(_heat(level, result))
            else:
                head(x, y, f"{len(level.anchors):,} anchors", f"{level.per_cell} per cell")
                _anchors(axes, level, result)
    figure.savefig(path)


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
    write(x + 1.0, y + 0.50, "dots are centres of cells, thinned out", **small)


def _grey(photo: np.ndarray) -> np.ndarray:
    return np.repeat((photo @ np.array([0.299, 0.587, 0.114]) / 255)[..., None], 3, axis=2)


def _heat(level: Level, result: Result) -> np.ndarray:
    """The channels' mean magnitude over the photograph, ``[H, W, 3]``."""
    magnitude = level.feature.float().abs().mean(0).cpu()
    full = F.interpolate(magnitude[None, None], result.padded, mode="bilinear")[0, 0]
    height, width = result.photo.shape[:2]
    values = np.nan_to_num(full[:height, :width].numpy())
    low, high = np.percentile(values, (1, 99))  # a border's outliers would wash out the rest
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return 0.28 * _grey(result.photo) + 0.72 * COLOURS(scaled)[..., :3]


def _anchors(axes: Axes, level: Level, result: Result) -> None:
    height, width = result.photo.shape[:2]
    axes.imshow(0.45 * _grey(result.photo) + 0.55, vmin=0, vmax=1)
    _, h, w = level.shape
    boxes = level.anchors.float().cpu().numpy().reshape(h, w, level.per_cell, 4)
    centres = (boxes[..., :2] + boxes[..., 2:]).mean(axis=2) / 2
    step = max(1, -(-max(h, w) // MAX_DOTS))
    dots = centres[step // 2::step, step // 2::step].reshape(-1, 2)
    axes.scatter(dots[:, 0], dots[:, 1], s=1.6, color=SOFT, linewidths=0, alpha=0.8)
    side = float((boxes[0, 0, :, 2:] - boxes[0, 0, :, :2]).mean())
    crowded = side > CROWDED * min(width, height)
    cells = [((0.5, 0.5), CELL_COLOURS[1])] if crowded else list(zip(CELL_PLACES, CELL_COLOURS))
    for (px, py), colour in cells:
        row = min(int(py * height / level.stride[1]), h - 1)
        column = min(int(px * width / level.stride[0]), w - 1)
        cell = boxes[row, column]
        cell = cell[np.unique(np.linspace(0, len(cell) - 1, MAX_BOXES).astype(int))]
        lines = [[(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)] for x1, y1, x2, y2 in cell]
        axes.add_collection(LineCollection(lines, colors=colour, joinstyle="miter",
                                           linewidths=1.1 if len(cell) < 6 else 0.8))
        axes.plot(*centres[row, column], "o", markersize=3, markeredgewidth=0, color=colour)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
