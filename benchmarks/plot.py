"""Draw results: ``python -m benchmarks.plot FOLDER`` writes one ``index.html`` that holds all.

First what was measured and on what, how many times faster than eager fastdet is at every entry, the
rooflines, how components scale with the size and the number of images, and peak memory; then every
figure as a table, and what has no figure and why. Every chart says on what it was measured.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from . import charts, records
from .charts import TIMES, Bar, Line, Point
from .entry import DTYPES, KINDS
from .records import Row
from .registry import ENTRIES

__all__ = ["main", "picture", "plot"]

TO = "\N{EN DASH}"

#: Headings of the kinds of entries.
_HEADINGS = {**KINDS, "model": "models of other packages, accelerated"}

_STYLE = charts.STYLE + """
body{font:15px/1.55 ui-sans-serif,system-ui,'Segoe UI',Helvetica,Arial,sans-serif;margin:0 auto;
padding:2rem 1.2rem 5rem;max-width:62rem;color:var(--ink);background:var(--paper)}
h1{font-size:1.7rem;margin:0}h2{font-size:1.2rem;margin:3rem 0 .3rem;border-top:1px solid
var(--line);padding-top:1.2rem}h3{font-size:1rem;margin:1.4rem 0 .3rem}p{margin:.4rem 0;
max-width:48rem}.soft{color:var(--soft)}figure{margin:1rem 0;overflow-x:auto}svg{max-width:none;
display:block}.facts{display:flex;flex-wrap:wrap;gap:.6rem;margin:1.2rem 0}.facts div{background:
var(--panel);border:1px solid var(--line);border-radius:8px;padding:.5rem .9rem}.facts b{display:
block;font-size:1.15rem}.facts span{color:var(--soft);font-size:.8rem}.row{display:flex;flex-wrap:
wrap;gap:1rem 0}.row figure{margin:0}.key{margin-right:1.1em;font-size:.85rem}.key i{display:
inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.35em;vertical-align:-.05em}
table{border-collapse:collapse;font-size:12.5px;font-variant-numeric:tabular-nums;width:100%}
th{text-align:left;font-weight:600;color:var(--soft);border-bottom:1px solid var(--line)}
td,th{padding:.14rem .7rem .14rem 0;white-space:nowrap}td.n,th.n{text-align:right}
tr.first td{border-top:1px solid var(--line)}td.note{white-space:normal;color:var(--soft)}
details{border-bottom:1px solid var(--line);padding:.35rem 0}details>div{overflow-x:auto}
summary{cursor:pointer}summary b{display:inline-block;min-width:17rem}
.ours td{font-weight:600}nav a{margin-right:1.1em}a{color:inherit}"""


def _where(rows: Iterable[Row]) -> str:
    return "; ".join(dict.fromkeys(
        f"{row.device}, torch {row.torch}, triton {row.triton}" for row in rows))


def _ms(us: float) -> str:
    """A time in the unit that leaves it three digits or fewer before the point."""
    return f"{us:.0f} µs" if us < 999.5 else f"{us / 1e3:.3g} ms" if us < 999500 \
        else f"{us / 1e6:.2f} s"


def _pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """fastdet's rows with eager's beside them, where both were measured."""
    eager = {(r.op, r.shape, r.dtype, r.passes, r.mode): r for r in rows if r.provider == "eager"}
    found = []
    for row in rows:
        other = eager.get((row.op, row.shape, row.dtype, row.passes, row.mode))
        if row.provider == "fastdet" and row.p50_us and other and other.p50_us:
            found.append((row, other))
    return found


def _speed(mine: Row, eager: Row) -> Bar | None:
    if not (mine.speedup and mine.speedup_low and mine.speedup_high
            and mine.p50_us and eager.p50_us):
        return None
    return Bar(mine.speedup, mine.speedup_low, mine.speedup_high,
               f"{_ms(eager.p50_us)} → {_ms(mine.p50_us)}",
               f"{mine.op}, {mine.shape}, {mine.dtype}, {mine.passes}: median of {mine.reps} pairs "
               f"{mine.speedup:.3f}, 95 % interval {mine.speedup_low:.3f} to "
               f"{mine.speedup_high:.3f}")


def _memory(mine: Row, eager: Row) -> Bar | None:
    if not mine.peak_bytes or not eager.peak_bytes:
        return None
    ratio = eager.peak_bytes / mine.peak_bytes
    old, new = (f"{b / 2**20:.3g}" for b in (eager.peak_bytes, mine.peak_bytes))
    exact = abs(ratio - 1) < 0.005
    return Bar(1.0 if exact else ratio, 1.0 if exact else ratio, 1.0 if exact else ratio,
               f"{old} → {new} MiB", f"{mine.op}, {mine.shape}, {mine.dtype}, {mine.passes}")


def _compared(title: str, rows: Sequence[Row], mode: str,
              bar_of: Callable[[Row, Row], Bar | None]) -> str:
    """A bar for every entry, shape and data type; entries that gain most come first."""
    groups: dict[str, dict[str, dict[str, dict[str, Bar]]]] = {kind: {} for kind in KINDS}
    for mine, eager in _pairs(rows):
        if mine.mode == mode and (bar := bar_of(mine, eager)):
            groups.setdefault(mine.kind, {}).setdefault(mine.op, {}).setdefault(
                f"{mine.shape}  {mine.dtype}", {})[mine.passes] = bar

    def gain(by: Mapping[str, Mapping[str, Bar]]) -> float:
        logs = [math.log(bar.ratio) for bars in by.values() for bar in bars.values()]
        return sum(logs) / len(logs)

    drawn = {_HEADINGS.get(kind, kind): [
        (op, which, bars) for op, by in sorted(ops.items(), key=lambda item: -gain(item[1]))
        for which, bars in by.items()] for kind, ops in groups.items()}
    passes = [p for p in ("fwd", "fwd+bwd") if any(
        p in bars for group in drawn.values() for *_, bars in group)]
    return charts.ratios(title, passes, drawn, _where(rows))


def picture(rows: Sequence[Row]) -> str:
    """The speeds as a figure of its own, for a README: of every entry the first shape, in fp32
    where that was measured."""
    mode = "call" if any(r.mode == "call" for r in rows) else "kernel"
    shape: dict[str, str] = {}
    dtype: dict[str, str] = {}
    for r in rows:
        if r.p50_us:
            shape.setdefault(r.op, r.shape)
            dtype[r.op] = "fp32" if "fp32" in (r.dtype, dtype.get(r.op)) else \
                dtype.get(r.op, r.dtype)
    mine = [r for r in rows if (shape.get(r.op), dtype.get(r.op)) == (r.shape, r.dtype)]
    return charts.standalone(
        _compared("fastdet's speed over eager's", mine, mode, _speed),
        "How many times the speed of MMDetection's algorithm in eager torch fastdet has")


def _rooflines(rows: Sequence[Row], ceiling: Mapping[str, float]) -> list[str]:
    mode = "kernel" if any(r.mode == "kernel" and r.p50_us for r in rows) else "call"
    figures = []
    for dtype in dict.fromkeys(r.dtype for r in rows):
        for passes in ("fwd", "fwd+bwd") if dtype in ceiling else ():
            points = []
            for mine, eager in _pairs(rows):
                entry = ENTRIES.get(mine.op)
                if entry is None or entry.work is None or (mine.dtype, mine.passes, mine.mode) \
                        != (dtype, passes, mode) or mine.shape not in {*entry.cpu, *entry.shapes}:
                    continue
                work = entry.work(dtype=DTYPES[dtype], backward=passes == "fwd+bwd",
                                  **entry.sizes(mine.shape))
                rates = [work.flops / (r.p50_us * 1e-6) if r.p50_us else None
                         for r in (eager, mine)]
                if work.flops:
                    points.append(Point(mine.op, work.flops / work.bytes, *rates))
            figures.append(charts.roofline(
                f"Roofline, {dtype}, {passes}, {mode}", points, ceiling["bytes"], ceiling[dtype],
                _where(rows)))
    return [f"<figure>{figure}</figure>" for figure in figures if figure]


def _scaling(rows: Sequence[Row]) -> list[str]:
    """Time over the size of an image and over their number, where shapes are named so."""
    series: dict[tuple[str, str, str], dict[str, dict[tuple[int, int], float]]] = {}
    for r in rows:
        if (m := re.fullmatch(r"(\d+)x(\d+)_b(\d+)", r.shape)) and r.p50_us and r.mode == "call":
            h, w, b = map(int, m.groups())
            series.setdefault((r.op, r.dtype, r.passes), {}).setdefault(
                r.provider, {})[h * w, b] = r.p50_us / 1e3
    figures = []
    for (op, dtype, passes), by in series.items():
        for axis, what in ((0, "kilopixels of an image"), (1, "images")):
            found = []
            for provider, times in by.items():
                other = min(key[1 - axis] for key in times)
                points = sorted((key[axis] / (1e3 if axis == 0 else 1), t)
                                for key, t in times.items() if key[1 - axis] == other)
                if len(points) > 1:
                    found.append(Line(provider, points))
            if found:
                figures.append("<figure>" + charts.lines(
                    f"{op}, {dtype}, {passes}", what, "ms", found,
                    next(r.device for r in rows if r.op == op)) + "</figure>")
    return figures


def _cells(row: Row) -> list[tuple[str, str]]:
    """A row of the table: text and class."""
    measured = row.p50_us is not None
    spread = f"{_ms(row.p20_us or 0)} {TO} {_ms(row.p80_us or 0)}" if measured else ""
    note = row.note if row.status == "ok" else f"{row.status}: {row.note}"
    return [
        (row.provider, ""), (_ms(row.p50_us) if row.p50_us else "", "n"), (spread, "n"),
        (records.speedup(row).replace(" no difference", " ≈") if measured else "", "n"),
        (f"{row.share_of_floor:.1%}" if row.share_of_floor else "", "n"),
        (f"{row.peak_bytes / 2**20:.3g}" if row.peak_bytes else "", "n"),
        ("" if row.launches is None else str(row.launches), "n"),
        (_ms(row.first_call_ms * 1e3) if row.first_call_ms else "", "n"), (note, "note")]


def _tables(rows: Sequence[Row]) -> list[str]:
    """Every figure, an entry and data type at a time."""
    head = ("shape", "passes, mode", "provider", "p50", f"p20 {TO} p80", f"{TIMES} eager",
            "of floor", "peak MiB", "launches", "first call", "")
    found = []
    for op, dtype in dict.fromkeys((row.op, row.dtype) for row in rows):
        lines, before = [], ("", "", "")
        mine = [row for row in rows if (row.op, row.dtype) == (op, dtype)]
        for row in sorted(mine, key=lambda r: (r.shape, r.mode, r.passes)):
            place = (row.shape, row.passes, row.mode)
            new = place != before
            start = [(row.shape, ""), (f"{row.passes}, {row.mode}", "")] if new else [("", "")] * 2
            kind = " ".join(filter(None, ["first" if new else "",
                                          "ours" if row.provider == "fastdet" else ""]))
            lines.append(f'<tr class="{kind}">' + "".join(
                f'<td class="{c}">{escape(t)}</td>' for t, c in [*start, *_cells(row)]) + "</tr>")
            before = place
        bars = {r.passes: bar for r, eager in reversed(_pairs(mine)) if (bar := _speed(r, eager))}
        speeds = ", ".join(f"{passes} {charts.times(bar)}" for passes, bar in bars.items())
        heads = "".join(f'<th class="{"n" if 2 < i < 10 else ""}">{h}</th>'
                        for i, h in enumerate(head))
        found.append(
            f"<details><summary><b>{escape(op)}, {escape(dtype)}</b> <span class=soft>"
            f"{escape(speeds)}</span></summary><div><table><tr>{heads}</tr>{''.join(lines)}"
            f"</table></div><p class=soft>{escape(_where(mine))}</p></details>")
    return found


def _empty(rows: Sequence[Row]) -> str:
    """What has no figure, by reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.p50_us is None:
            cell = f"{row.op} {row.shape} {row.dtype} {row.passes}"
            reasons.setdefault((f"{row.provider}: {row.status}", row.note), []).append(cell)
    lines = "".join(
        f"<tr class=first><td>{escape(who)}</td><td class=note>{escape(why)}</td><td class=note>"
        f"{escape(', '.join(dict.fromkeys(cells)))}</td></tr>"
        for (who, why), cells in reasons.items())
    return lines and ("<h2 id=empty>Without a figure</h2><p class=soft>A wrong result gets no "
                      "time, and a crash is a cell.</p><table><tr><th>provider<th>why"
                      f"<th>where</tr>{lines}</table>")


def _facts(rows: Sequence[Row], ceiling: Mapping[str, float] | None) -> str:
    words: Counter[str] = Counter()
    for mine, _ in _pairs(rows):
        if mine.speedup_low and mine.speedup_high:
            words["faster" if mine.speedup_low > 1 else "slower" if mine.speedup_high < 1
                  else "no difference"] += 1
    facts = [(", ".join(dict.fromkeys(r.device for r in rows)), "measured on"),
             (" / ".join(f"{next(iter(found))}" for found in (
                 dict.fromkeys(r.torch for r in rows), dict.fromkeys(r.triton for r in rows))),
              "torch / triton"),
             (f"{words['faster']} / {words['no difference']} / {words['slower']}",
              "cells of fastdet faster / no difference / slower than eager")]
    for name, value in (ceiling or {}).items():
        facts.append((f"{value / 1e9:.3g} {'GB/s' if name == 'bytes' else 'GFLOP/s'}",
                      "a copy reaches here" if name == "bytes" else f"a product in {name}"))
    return '<div class="facts">' + "".join(
        f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in facts) \
        + "</div>"


def plot(rows: Sequence[Row], folder: Path, ceiling: Mapping[str, float] | None = None) -> Path:
    """Draw every entry and data type of ``rows``.

    Args:
        folder: where ``index.html`` goes.
        ceiling: what the device reached, for the rooflines; none are drawn without it.

    Returns:
        The HTML page, which needs no other file.
    """
    modes = list(dict.fromkeys(r.mode for r in rows if r.p50_us))
    said = {"call": "as called from Python", "kernel": "device time alone, by graph replay"}
    speeds = [f"<h3>{said.get(mode, mode)}</h3><figure>{figure}</figure>" for mode in modes
              if (figure := _compared(f"fastdet's speed over eager's, {mode}", rows, mode,
                                      _speed))]
    memory = [f"<figure>{figure}</figure>" for mode in modes[:1]
              if (figure := _compared("eager's peak memory over fastdet's", rows, mode, _memory))]
    roofs, scaling = _rooflines(rows, ceiling) if ceiling else [], _scaling(rows)
    shown = list(dict.fromkeys(r.provider for r in rows if r.p50_us))
    sections = [
        ("speed", "Speed", "How many times eager's speed fastdet has: the median over rounds in "
         "which both ran one after the other, a black line for its 95 % interval. Grey and ≈: the "
         "interval holds 1, so that there is no difference. Eager is MMDetection's algorithm in "
         "plain torch; the two times are eager's and fastdet's medians.", speeds),
        ("roofline", "Rooflines", "Filled: fastdet, hollow: eager. Bytes are the fewest an "
         "algorithm must move, so that a point on the roof cannot be beaten here.", roofs),
        ("scaling", "Scaling", "Time of one call over the size of the image and over the batch.",
         [f"<p>{charts.legend(shown)}</p><div class=row>", *scaling, "</div>"] if scaling else []),
        ("memory", "Peak memory", "How many times less fastdet holds at its peak than eager, above "
         "what was held before the call.", memory),
        ("figures", "All figures", f"p50 is the median, p20 {TO} p80 the spread; of floor: the "
         "share of the roofline that was reached.", _tables(rows)),
    ]
    page = ["<h1>fastdet benchmarks</h1>", _facts(rows, ceiling), "<nav class=soft>", *(
        f'<a href="#{name}">{title}</a>' for name, title, _, body in sections if body), "</nav>"]
    for name, title, text, body in sections:
        if body:
            page += [f"<h2 id={name}>{title}</h2><p class=soft>{text}</p>", *body]
    page.append(_empty(rows))
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "index.html"
    out.write_text("<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
                   'content="width=device-width"><title>fastdet benchmarks</title>'
                   f"<style>{_STYLE}</style>\n" + "\n".join(filter(None, page)) + "\n</html>\n",
                   encoding="utf-8")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("results", type=Path, help="a CSV file or a folder of them")
    parser.add_argument("--out", type=Path, help="folder of the page (default: that of the "
                        "results)")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg",
                        help="also write the speeds as a figure of its own")
    options = parser.parse_args(argv)
    folder = options.results if options.results.is_dir() else options.results.parent
    rows = records.load(options.results)
    print(plot(rows, options.out or folder, records.ceilings(options.results)))
    if options.picture:
        options.picture.write_text(picture(rows), encoding="utf-8")
        print(options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
