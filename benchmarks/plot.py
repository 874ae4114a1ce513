"""Draw results: ``python -m benchmarks.plot FOLDER`` writes PNGs and one ``index.html``.

Per operator and data type, one bar chart of how many times faster than eager each provider is,
and, where the roofline is known, one of the share of the floor it reaches. Cells without a
measurement are not drawn.
"""

from __future__ import annotations

import argparse
import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import records
from .records import Row

__all__ = ["main", "plot"]


def _bars(title: str, unit: str, groups: dict[str, dict[str, float]], line: float, path: Path,
          ) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    providers = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    fig, ax = plt.subplots(figsize=(max(5.0, 1.1 * len(groups) + 2), 3.6), layout="constrained")
    width = 0.8 / len(providers)
    for i, provider in enumerate(providers):
        at = [j + (i - (len(providers) - 1) / 2) * width
              for j, bars in enumerate(groups.values()) if provider in bars]
        heights = [bars[provider] for bars in groups.values() if provider in bars]
        drawn = ax.bar(at, heights, width, label=provider)
        ax.bar_label(drawn, fmt="%.2g", fontsize=7)
    ax.axhline(line, color="black", linewidth=0.8)
    ax.set_xticks(range(len(groups)), groups, rotation=20, ha="right", fontsize=8)
    ax.set_ylabel(unit)
    ax.set_title(title, fontsize=10)
    ax.legend(fontsize=8)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def _groups(rows: Sequence[Row], value: Any) -> dict[str, dict[str, float]]:
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if (v := value(row)) is not None:
            groups.setdefault(f"{row.shape}\n{row.passes}, {row.mode}", {})[row.provider] = v
    return groups


def plot(rows: Sequence[Row], folder: Path) -> Path:
    """Draw every operator and data type of ``rows`` into ``folder``.

    Returns:
        The HTML page that holds the charts and the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = []
    for op, dtype in dict.fromkeys((row.op, row.dtype) for row in rows):
        mine = [row for row in rows if (row.op, row.dtype) == (op, dtype)]
        where = f"{mine[0].device}, torch {mine[0].torch}, triton {mine[0].triton}"
        page.append(f"<h2>{html.escape(op)} {html.escape(dtype)}</h2><p>{html.escape(where)}</p>")
        for what, unit, value in (
                ("ratio", "times eager's speed", lambda row: row.speedup),
                ("roofline", "share of the roofline floor", lambda row: row.share_of_floor)):
            groups = _groups(mine, value)
            if groups:
                name = f"{op}-{dtype}-{what}.png"
                _bars(f"{op}, {dtype}\n{where}", unit, groups, 1.0, folder / name)
                page.append(f'<img src="{html.escape(name)}" alt="{html.escape(name)}">')
        page.append(f"<pre>{html.escape(records.table(mine))}</pre>")
    out = folder / "index.html"
    out.write_text("<!doctype html><meta charset=utf-8><title>fastdet benchmarks</title>"
                   "<style>body{font-family:sans-serif;margin:2em}img{max-width:100%}"
                   "pre{font-size:11px;overflow-x:auto}</style>\n" + "\n".join(page) + "\n")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("results", type=Path, help="a CSV file or a folder of them")
    parser.add_argument("--out", type=Path, help="default: <results>/plots")
    options = parser.parse_args(argv)
    folder = options.results if options.results.is_dir() else options.results.parent
    print(plot(records.load(options.results), options.out or folder / "plots"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
