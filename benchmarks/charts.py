"""The charts of the page, as SVG that follows the reader's light or dark colours.

What is drawn is text and plain shapes, so that a page needs no other file, can be searched, and
says more under the pointer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

__all__ = ["STYLE", "TIMES", "Bar", "Line", "Point", "Scale", "legend", "lines", "ratios",
           "roofline", "standalone", "times"]

TIMES = "\N{MULTIPLICATION SIGN}"

#: One colour for each provider on every figure, in light and in dark.
_PROVIDERS = {"eager": ("#7d8590", "#8b949e"), "fastdet": ("#c2410c", "#fb923c"),
              "folded": ("#a21caf", "#e879f9"), "compile": ("#2563eb", "#60a5fa"),
              "sdpa": ("#15803d", "#4ade80"), "torchvision": ("#7c3aed", "#a78bfa"),
              "mmdet": ("#92400e", "#d6a06a")}
_OTHERS = (("#0891b2", "#22d3ee"), ("#a16207", "#facc15"), ("#be185d", "#f472b6"))
_LIGHT = {"ink": "#1f2328", "soft": "#59636e", "line": "#d1d9e0", "paper": "#ffffff",
          "panel": "#f6f8fa", "good": "#c2410c", "bad": "#2563eb", "noise": "#b6bec7"}
_DARK = {"ink": "#e6edf3", "soft": "#9198a1", "line": "#3d444d", "paper": "#0d1117",
         "panel": "#151b23", "good": "#fb923c", "bad": "#60a5fa", "noise": "#59636e"}


def _variables(names: Mapping[str, str], side: int) -> str:
    more = {**{f"p-{name}": pair[side] for name, pair in _PROVIDERS.items()},
            **{f"p-{i}": pair[side] for i, pair in enumerate(_OTHERS)}}
    return ";".join(f"--{name}:{colour}" for name, colour in {**names, **more}.items())


#: Colours and letters, for a page and for a figure that stands alone.
STYLE = (
    f":root{{color-scheme:light dark;{_variables(_LIGHT, 0)}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_variables(_DARK, 1)}}}}}"
    "svg{font:11px ui-sans-serif,system-ui,'Segoe UI',Helvetica,Arial,sans-serif}"
    "svg text{fill:var(--ink)}svg .soft{fill:var(--soft)}svg .name{font-weight:600;font-size:12px}"
    "svg .head{font-weight:600}svg .num{font-variant-numeric:tabular-nums}"
    "svg .grid{stroke:var(--line);stroke-width:1}svg .axis{stroke:var(--soft);stroke-width:1.2}"
    "svg .ci{stroke:var(--ink);stroke-width:1.2}svg .roof{stroke:var(--ink);stroke-width:1.6;"
    "fill:none}svg .tie{stroke:var(--noise);stroke-width:1}")


def _colour(provider: str) -> str:
    known = provider if provider in _PROVIDERS else sum(map(ord, provider)) % len(_OTHERS)
    return f"var(--p-{known})"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">'
            f"{escape(text)}</text>")


def _segment(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _svg(width: float, height: float, title: str, body: Iterable[str]) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" role="img" aria-label="{escape(title)}">' + "".join(body)
            + "</svg>")


def standalone(svg: str, title: str) -> str:
    """A chart as a file of its own, with its title on paper of its own colour."""
    wide, high = map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
    head, _, rest = svg.partition(">")
    head = re.sub(r'viewBox="[^"]*" width="\d+"', f'viewBox="-16 -36 {wide + 32} {high + 44}" '
                  f'width="{wide + 32}" height="{high + 44}"', head)
    return (f"{head}><style>{STYLE}</style>"
            f'<rect x="-16" y="-36" width="100%" height="100%" fill="var(--paper)"/>'
            f"{_text(0, -14, title, 'name')}{rest}\n")


# --- scales ------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Scale:
    """Values to pixels, logarithmic or linear."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, apart: float = 30) -> list[float]:
        """Round values in the range, at least so many pixels apart."""
        if not self.log:
            per_pixel = (self.high - self.low) / abs(self.end - self.start)
            step = 10.0 ** math.floor(math.log10(apart * per_pixel))
            step *= next(k for k in (1, 2, 5, 10) if step * k >= apart * per_pixel)
            return [i * step for i in range(math.ceil(self.low / step),
                                            math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        inside = [[v for d in decades[::every] for k in within
                   if self.low * (1 - 1e-9) <= (v := k * 10.0**d) <= self.high * (1 + 1e-9)]
                  for within, every in (((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 4))]
        return next((found for found in inside if all(
            abs(self(b) - self(a)) >= apart for a, b in pairwise(found))), inside[-1])


def number(value: float) -> str:
    """A value with three digits, in plain letters up to a million."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if value >= 1e4 else f"{float(f'{value:.3g}'):g}"


# --- ratios ------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Bar:
    """One ratio in a row of :func:`ratios`.

    Attributes:
        ratio: how many times better than eager.
        low, high: ends of its interval; equal to it where there is none.
        note: beside the bar, such as the two times.
        hover: more, under the pointer.
    """

    ratio: float
    low: float
    high: float
    note: str
    hover: str = ""


def times(bar: Bar) -> str:
    """A ratio in letters, with a sign before it where it is noise."""
    return f"{'≈' if bar.low <= 1 <= bar.high else ''}{bar.ratio:.2f}{TIMES}"


def _bar(x: Scale, y: float, bar: Bar) -> list[str]:
    noise = bar.low <= 1 <= bar.high
    colour = "noise" if noise else "good" if bar.ratio > 1 else "bad"
    left, right = sorted((x(1), x(bar.ratio)))
    return [f"<g><title>{escape(bar.hover or bar.note)}</title>"
            f'<rect x="{left:.1f}" y="{y - 5:.1f}" width="{max(right - left, 0.5):.1f}" '
            f'height="10" rx="1.5" fill="var(--{colour})"/>',
            _segment(x(bar.low), y, x(bar.high), y, "ci") if bar.high > bar.low else "", "</g>"]


def ratios(title: str, columns: Sequence[str],
           groups: Mapping[str, Sequence[tuple[str, str, Mapping[str, Bar]]]], caption: str) -> str:
    """Bars from one to the left and right on a logarithmic scale, a panel for each column.

    Args:
        groups: heading to rows of a name, what tells the row from others of that name, and the
            column's bars; a name that the row before it has is not said again.
        caption: below, what it was measured on.
    """
    rows = [row for group in groups.values() for row in group]
    bars = [bar for *_, by in rows for bar in by.values()]
    if not bars:
        return ""
    label, area, beside, step = 410, 124, 166, 18
    # What lies outside ends at the edge; its number is beside it.
    low = max(min(0.5, *(bar.ratio for bar in bars)) * 0.9, 0.24)
    high = min(max(2.0, *(bar.ratio for bar in bars)) * 1.1, 17.0)
    wide = 1 if math.log2(high / low) * 26 <= area else 2
    ticks = [2.0**k for k in range(-4, 6) if k % wide == 0 and low <= 2.0**k <= high]
    width = label + len(columns) * (area + beside) + 16  # fonts differ in width
    body, y, top = [], 44.0, 30.0
    places: list[tuple[float, str, str, Mapping[str, Bar]]] = []
    headings = []
    for heading, group in groups.items():
        if not group:
            continue
        headings.append((y, heading))
        y += step
        before = ""
        for name, which, by in group:
            y += 5 if name != before and before else 0
            places.append((y, "" if name == before else name, which, by))
            before, y = name, y + step
        y += 8
    for i, column in enumerate(columns):
        start = label + i * (area + beside)
        x = Scale(low, high, start, start + area, log=True)
        body.append(_text(start, 14, column, "head"))
        for tick in ticks:
            body += [_segment(x(tick), top, x(tick), y - 14, "axis" if tick == 1 else "grid"),
                     _text(x(tick), top - 3, f"{tick:g}{TIMES}", "soft", "middle")]
        for at, _, _, by in places:
            if bar := by.get(column):
                body += [*_bar(x, at, bar),
                         _text(start + area + 8, at + 4, times(bar), "num head"),
                         _text(start + area + 64, at + 4, bar.note, "num soft")]
    body += [_text(0, at + 4, heading, "soft head") for at, heading in headings]
    for at, name, which, _ in places:
        body += [_text(0, at + 4, name, "name"), _text(label - 12, at + 4, which, "soft", "end")]
    body.append(_text(0, y + 2, caption, "soft"))
    return _svg(width, y + 12, title, body)


# --- rooflines ---------------------------------------------------------------------------------

@dataclass(frozen=True)
class Point:
    """One call on a roofline: operations per byte, and per second of eager and of fastdet."""

    name: str
    intensity: float
    eager: float | None
    fastdet: float | None


@dataclass
class _Labels:
    """Labels beside points, none over another."""

    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def place(self, x: float, y: float, text: str, right: float) -> str:
        width = 6.2 * len(text)
        for dx, dy, anchor in ((8, 4, "start"), (-8, 4, "end"), (8, -7, "start"), (8, 15, "start"),
                               (-8, -7, "end"), (-8, 15, "end"), (8, -18, "start"),
                               (8, 26, "start"), (-8, -18, "end"), (-8, 26, "end")):
            left = x + dx - (width if anchor == "end" else 0)
            box = (left, y + dy - 9, left + width, y + dy + 2)
            free = all(box[2] < a or c < box[0] or box[3] < b or d < box[1]
                       for a, b, c, d in self.taken)
            if free and left > 46 and box[2] < right:
                self.taken.append(box)
                return _text(x + dx, y + dy, text, "soft", anchor)
        return ""  # its name is under the pointer


def roofline(title: str, points: Sequence[Point], bandwidth: float, peak: float, caption: str
             ) -> str:
    """Operations per second over operations per byte, below what the device reaches.

    Args:
        bandwidth: bytes per second.
        peak: operations per second.
    """
    width, height, knee = 960, 420, peak / bandwidth
    values = [v for p in points for v in (p.eager, p.fastdet) if v]
    if not values:
        return ""
    x = Scale(min(0.5 * min(p.intensity for p in points), knee / 4),
              max(2 * max(p.intensity for p in points), knee * 4), 56, width - 16, log=True)
    y = Scale(min(values) / 2, 1.8 * max(peak, *values), height - 58, 30, log=True)
    body = [_text(0, 14, title, "head")]
    for tick in x.ticks():
        body += [_segment(x(tick), y.end, x(tick), y.start, "grid"),
                 _text(x(tick), y.start + 14, number(tick), "soft", "middle")]
    for tick in y.ticks():
        body += [_segment(x.start, y(tick), x.end, y(tick), "grid"),
                 _text(x.start - 6, y(tick) + 4, number(tick / 1e9), "soft", "end")]
    left = max(x.low, y.low / bandwidth)
    body += [f'<polyline class="roof" points="{x(left):.1f},{y(left * bandwidth):.1f} '
             f'{x(knee):.1f},{y(peak):.1f} {x.end:.1f},{y(peak):.1f}"/>',
             _text(x.end, y(peak) - 6, f"{peak / 1e9:.3g} GFLOP/s, a large product", "soft", "end"),
             _text(x.start + 6, y.end + 10, f"slope: {bandwidth / 1e9:.3g} GB/s, a copy", "soft")]
    labels = _Labels([(x(knee) - 4, y(peak) - 16, x.end, y(peak) + 4),
                      (x.start, y.end, x.start + 200, y.end + 14)])
    for p in points:
        labels.taken += [(x(p.intensity) - 5, y(v) - 5, x(p.intensity) + 5, y(v) + 5)
                         for v in (p.eager, p.fastdet) if v]
    for p in sorted(points, key=lambda p: -(p.fastdet or p.eager or 0)):
        at = x(p.intensity)
        if p.eager and p.fastdet:
            body.append(_segment(at, y(p.eager), at, y(p.fastdet), "tie"))
        for who, v in (("eager", p.eager), ("fastdet", p.fastdet)):
            if v:
                full = f'fill="{_colour(who)}"' if who == "fastdet" else \
                    f'fill="var(--paper)" stroke="{_colour(who)}" stroke-width="1.8"'
                share = v / min(peak, p.intensity * bandwidth)
                body.append(f'<circle cx="{at:.1f}" cy="{y(v):.1f}" r="4" {full}><title>'
                            f"{escape(p.name)}, {who}: {v / 1e9:.3g} GFLOP/s, {share:.1%} of the "
                            "roof</title></circle>")
        body.append(labels.place(at, y(p.fastdet or p.eager or 0), p.name, x.end))
    body += [_text((x.start + x.end) / 2, height - 28, "operations per byte that must move",
                   "soft", "middle"),
             _text(x.start - 6, 28, "GFLOP/s", "soft", "end"),
             _text(0, height - 6, caption, "soft")]
    return _svg(width, height, title, body)


# --- lines -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Line:
    """A provider's time over something."""

    provider: str
    points: Sequence[tuple[float, float]]


def legend(providers: Sequence[str]) -> str:
    """A line that names providers by their colours."""
    return "".join(f'<span class="key"><i style="background:{_colour(who)}"></i>{escape(who)}'
                   "</span>" for who in providers)


def lines(title: str, across: str, up: str, series: Sequence[Line], caption: str) -> str:
    """Lines with dots from zero, each named at its end."""
    width, height, right = 310, 230, 66
    x = Scale(0, max(p for line in series for p, _ in line.points) * 1.02, 40, width - right)
    y = Scale(0, max(v for line in series for _, v in line.points) * 1.08, height - 58, 34)
    body = [_text(0, 14, title, "head"), _text(0, 28, up, "soft")]
    for tick in y.ticks():
        body += [_segment(x.start, y(tick), x.end, y(tick), "grid"),
                 _text(x.start - 5, y(tick) + 4, number(tick), "soft", "end")]
    for tick in x.ticks():
        body.append(_text(x(tick), y.start + 14, number(tick), "soft", "middle"))
    ends = []
    for line in series:
        way = " ".join(f"{x(p):.1f},{y(v):.1f}" for p, v in line.points)
        body.append(f'<polyline points="{way}" fill="none" stroke="{_colour(line.provider)}" '
                    'stroke-width="1.8"/>')
        body += [f'<circle cx="{x(p):.1f}" cy="{y(v):.1f}" r="3" fill="{_colour(line.provider)}">'
                 f"<title>{escape(line.provider)}: {number(v)} at {number(p)}</title></circle>"
                 for p, v in line.points]
        ends.append((y(line.points[-1][1]), line.provider))
    at = -math.inf
    for end, provider in sorted(ends):  # names keep a line's height between them
        at = max(end + 4, at + 12)
        body.append(_text(x.end + 6, at, provider).replace(
            "<text", f'<text style="fill:{_colour(provider)}"'))
    body += [_text((x.start + x.end) / 2, height - 28, across, "soft", "middle"),
             _text(0, height - 6, caption, "soft")]
    return _svg(width, height, title, body)
