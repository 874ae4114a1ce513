"""Draw results: ``python -m benchmarks.plot FOLDER`` writes one ``index.html`` that holds all.

First how many times faster than eager fastdet is at every entry, the rooflines, and how components
scale with the size and the number of images; then, per entry and data type, bars of all providers
beside each other, peak memory, and the table. Cells without a measurement are not drawn. Every
figure says on what it was measured.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import records
from .entry import DTYPES
from .records import Row
from .registry import ENTRIES

__all__ = ["main", "plot"]

#: One colour for each provider, on every figure.
_COLOURS = {"eager": "#8c8c8c", "fastdet": "#c8102e", "compile": "#4c78a8", "sdpa": "#59a14f",
            "torchvision": "#b07aa1", "mmcv": "#9c755f"}
_OTHERS = ("#f28e2b", "#76b7b2", "#edc948", "#ff9da7")

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;
color:#222}img{max-width:100%;display:block;margin:.6em 0}h2{margin-top:2.2em;border-top:1px solid
#ddd;padding-top:.8em}pre{font-size:11px;overflow-x:auto;background:#f6f6f6;padding:.8em}
summary{cursor:pointer;color:#555}.where{color:#555}"""


def _colour(provider: str) -> str:
    return _COLOURS.get(provider, _OTHERS[sum(map(ord, provider)) % len(_OTHERS)])


def _image(fig: Any, name: str) -> str:
    """A figure as an ``img`` that holds its own data."""
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    fig.savefig(buffer, dpi=110, format="png")
    plt.close(fig)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'


def _figure(title: str, where: str, width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(width, height), layout="constrained")
    fig.suptitle(title, fontsize=11, fontweight="bold")
    ax.set_title(where, fontsize=8, color="#555555")
    ax.spines[["top", "right"]].set_visible(False)
    return fig, ax


def _where(rows: Sequence[Row]) -> str:
    return "; ".join(dict.fromkeys(
        f"{row.device}, torch {row.torch}, triton {row.triton}" for row in rows))


def _bars(title: str, where: str, unit: str, groups: Mapping[str, Mapping[str, float]],
          line: float | None) -> str:
    """Upright bars, one group per shape, one colour per provider."""
    providers = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    fig, ax = _figure(title, where, max(5.5, 1.3 * len(groups) + 2), 3.6)
    width = 0.8 / len(providers)
    for i, provider in enumerate(providers):
        at = [j + (i - (len(providers) - 1) / 2) * width
              for j, bars in enumerate(groups.values()) if provider in bars]
        heights = [bars[provider] for bars in groups.values() if provider in bars]
        drawn = ax.bar(at, heights, width, label=provider, color=_colour(provider))
        ax.bar_label(drawn, fmt="%.2g", fontsize=7)
    if line is not None:
        ax.axhline(line, color="black", linewidth=0.8)
    ax.set_xticks(range(len(groups)), groups, fontsize=8)
    ax.set_ylabel(unit)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _image(fig, title)


def _groups(rows: Sequence[Row], value: Callable[[Row], float | None]
            ) -> dict[str, dict[str, float]]:
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if (v := value(row)) is not None:
            groups.setdefault(f"{row.shape}\n{row.passes}, {row.mode}", {})[row.provider] = v
    return groups


def _overview(rows: Sequence[Row], passes: str, mode: str) -> str:
    """How many times faster than eager fastdet is, with the interval; grey where it is noise."""
    mine = [r for r in rows if r.provider == "fastdet" and r.passes == passes and r.mode == mode
            and r.speedup and r.speedup_low and r.speedup_high]
    if not mine:
        return ""
    from matplotlib.ticker import LogLocator

    title = f"fastdet's speed over eager's, {passes}, {mode}"
    fig, ax = _figure(title, _where(mine), 8.5, 0.24 * len(mine) + 1.2)
    places = range(len(mine), 0, -1)
    noise = [r.speedup_low <= 1 <= r.speedup_high for r in mine]  # type: ignore[operator]
    ax.barh(places, [(r.speedup or 0) - 1 for r in mine], left=1, height=0.7,
            color=["#bbbbbb" if n else _COLOURS["fastdet"] if (r.speedup or 0) > 1 else "#4c78a8"
                   for r, n in zip(mine, noise)])
    for y, r, n in zip(places, mine, noise):
        ax.plot([r.speedup_low, r.speedup_high], [y, y], color="black", linewidth=1)
        ax.text(r.speedup_high or 0, y, f"  {r.speedup:.2f}" + ("  no difference" if n else ""),
                va="center", fontsize=7)
    ax.set_yticks(places, [f"{r.op}  {r.shape}  {r.dtype}" for r in mine], fontsize=7)
    ax.set_ylim(0.3, len(mine) + 0.7)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set_xlabel("times eager's speed (log); black: 95 % interval of the median; grey: noise")
    return _image(fig, title)


def _roofline(rows: Sequence[Row], dtype: str, ceiling: Mapping[str, float]) -> str:
    """Operations per byte against operations per second, below what the device reached."""
    points: dict[str, list[tuple[float, float, str]]] = {}
    mode = "kernel" if any(r.mode == "kernel" and r.p50_us for r in rows) else "call"
    for r in rows:
        entry = ENTRIES.get(r.op)
        if r.dtype != dtype or r.mode != mode or not r.p50_us or entry is None or not entry.work \
                or r.provider not in ("eager", "fastdet") or r.shape not in {*entry.cpu,
                                                                            *entry.shapes}:
            continue
        work = entry.work(dtype=DTYPES[dtype], backward=r.passes == "fwd+bwd",
                          **entry.sizes(r.shape))
        if work.flops:
            points.setdefault(r.provider, []).append(
                (work.flops / work.bytes, work.flops / r.p50_us / 1e3, f"{r.op} {r.passes}"))
    if not points:
        return ""
    title = f"Roofline, {dtype}, {mode}"
    fig, ax = _figure(title, _where(rows), 8.5, 5)
    every = [x for some in points.values() for x, *_ in some]
    low, high = min(every) / 2, max(*every, 2 * ceiling[dtype] / ceiling["bytes"]) * 2
    knee = ceiling[dtype] / ceiling["bytes"]
    ax.plot([low, knee, high], [low * ceiling["bytes"] / 1e9, *[ceiling[dtype] / 1e9] * 2],
            color="black", linewidth=1, label="what a copy and a product reach here")
    for provider, some in points.items():
        ax.scatter([x for x, *_ in some], [y for _, y, _ in some], s=22, label=provider,
                   color=_colour(provider), zorder=3)
    for x, y, name in points.get("fastdet", []):
        ax.annotate(name, (x, y), fontsize=6, xytext=(4, 3), textcoords="offset points")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("operations per byte that must move")
    ax.set_ylabel("10^9 operations per second")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _image(fig, title)


def _scaling(rows: Sequence[Row]) -> list[str]:
    """Time over the size of an image and over their number, where shapes are named so."""
    series: dict[tuple[str, str, str], dict[str, dict[tuple[int, int], float]]] = {}
    for r in rows:
        if (m := re.fullmatch(r"(\d+)x(\d+)_b(\d+)", r.shape)) and r.p50_us and r.mode == "call":
            h, w, b = map(int, m.groups())
            series.setdefault((r.op, r.dtype, r.passes), {}).setdefault(
                r.provider, {})[h * w, b] = r.p50_us / 1e3
    images = []
    for (op, dtype, passes), by in series.items():
        for axis, what in ((0, "pixels of an image"), (1, "images")):
            lines = {}
            for provider, times in by.items():
                other = min(key[1 - axis] for key in times)
                line = sorted((key[axis], t) for key, t in times.items() if key[1 - axis] == other)
                if len(line) > 1:
                    lines[provider] = line
            if not lines:
                continue
            title = f"{op}, {dtype}, {passes}: time over {what}"
            fig, ax = _figure(title, _where(rows), 6.5, 3.4)
            for provider, line in lines.items():
                ax.plot(*zip(*line), marker="o", label=provider, color=_colour(provider))
            ax.set_xlabel(what)
            ax.set_ylabel("ms")
            ax.set_xlim(left=0)
            ax.set_ylim(bottom=0)
            ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
            images.append(_image(fig, title))
    return images


def plot(rows: Sequence[Row], folder: Path, ceiling: Mapping[str, float] | None = None) -> Path:
    """Draw every entry and data type of ``rows``.

    Args:
        folder: where ``index.html`` goes.
        ceiling: what the device reached, for the rooflines; none are drawn without it.

    Returns:
        The HTML page, which needs no other file.
    """
    page = ["<h1>fastdet benchmarks</h1>", f'<p class="where">{html.escape(_where(rows))}</p>',
            "<p>Providers take turns; a ratio is the median over the rounds of eager's time over "
            "the provider's. Eager is MMDetection's algorithm in plain torch. A wrong result has "
            "no figure, and what was not measured is not drawn.</p>"]
    if ceiling:
        page.append("<p>This device reached " + ", ".join(
            f"{v / 1e9:.3g} GB/s in a copy" if k == "bytes" else f"{v / 1e9:.3g} GFLOP/s in a "
            f"product in {k}" for k, v in ceiling.items()) + ".</p>")
    page += [_overview(rows, passes, mode) for mode in dict.fromkeys(r.mode for r in rows)
             for passes in dict.fromkeys(r.passes for r in rows)]
    if ceiling:
        page += [_roofline(rows, dtype, ceiling) for dtype in dict.fromkeys(r.dtype for r in rows)
                 if dtype in ceiling]
    page += _scaling(rows)
    for op, dtype in dict.fromkeys((row.op, row.dtype) for row in rows):
        mine = [row for row in rows if (row.op, row.dtype) == (op, dtype)]
        page.append(f"<h2>{html.escape(op)}, {html.escape(dtype)}</h2>")
        for what, unit, line, value in (
                ("speed", "times eager's speed", 1.0, lambda row: row.speedup),
                ("share of the roofline floor", "of the floor", 1.0,
                 lambda row: row.share_of_floor),
                ("peak memory", "MiB above what was held", None,
                 lambda row: row.peak_bytes and row.peak_bytes / 2**20)):
            if groups := _groups(mine, value):
                page.append(_bars(f"{op}, {dtype}: {what}", _where(mine), unit, groups, line))
        page.append("<details><summary>all figures</summary><pre>"
                    f"{html.escape(records.table(mine))}</pre></details>")
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "index.html"
    out.write_text("<!doctype html><html lang=en><meta charset=utf-8><title>fastdet benchmarks"
                   f"</title><style>{_STYLE}</style>\n" + "\n".join(filter(None, page))
                   + "\n</html>\n")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("results", type=Path, help="a CSV file or a folder of them")
    parser.add_argument("--out", type=Path, help="folder of the page (default: that of the "
                        "results)")
    options = parser.parse_args(argv)
    folder = options.results if options.results.is_dir() else options.results.parent
    print(plot(records.load(options.results), options.out or folder,
               records.ceilings(options.results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
