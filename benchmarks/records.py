"""Result files: one row per measurement, the conditions in the name and in every row.

``python -m benchmarks.records [--short] FOLDER`` prints them.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

import fastdet

__all__ = ["KEY", "Row", "ceilings", "conditions", "file_name", "load", "main", "save", "summary",
           "table"]


@dataclass
class Row:
    """One measurement. A cell that was not measured is ``None`` and stays empty.

    ``speedup`` is the median of eager's time over the provider's, round by round, between the ends
    of its 95 % confidence interval.
    """

    op: str
    kind: str
    shape: str
    dtype: str
    provider: str
    passes: str
    mode: str
    p20_us: float | None = None
    p50_us: float | None = None
    p80_us: float | None = None
    reps: int | None = None
    speedup_low: float | None = None
    speedup: float | None = None
    speedup_high: float | None = None
    floor_us: float | None = None
    share_of_floor: float | None = None
    peak_bytes: int | None = None
    launches: int | None = None
    first_call_ms: float | None = None
    backend: str = ""
    status: str = "ok"
    note: str = ""
    torch: str = ""
    triton: str = ""
    device: str = ""


#: What identifies a measurement.
KEY = ("op", "shape", "dtype", "provider", "passes", "mode")

_TYPES = {f.name: f.type for f in fields(Row)}


def _cpu() -> str:
    """The CPU's name as its maker gives it, where the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return re.sub(r"\s+|\((R|TM)\)", " ", line.partition(":")[2]).strip()
    return f"CPU {platform.processor() or platform.machine()}"


def conditions(device: torch.device) -> dict[str, str]:
    """What a figure holds for: versions and hardware."""
    try:
        import triton
        triton_version = triton.__version__
    except ImportError:
        triton_version = "none"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_cpu()}, {torch.get_num_threads()} threads"
    return {"torch": torch.__version__, "triton": triton_version, "device": name,
            "fastdet": fastdet.__version__, "python": platform.python_version()}


def file_name(op: str, dtype: str, where: dict[str, str]) -> str:
    """``op--dtype--torch…--triton…--device``, without its suffix."""
    parts = [op, dtype, f"torch{where['torch']}", f"triton{where['triton']}", where["device"]]
    return "--".join(re.sub(r"[^A-Za-z0-9.+_]+", "-", part) for part in parts)


def save(rows: Iterable[Row], folder: Path, where: dict[str, str],
         extra: dict[str, Any] | None = None) -> list[Path]:
    """Write rows as CSV and JSON, one pair of files per operator and data type."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.op, row.dtype), []).append(row)
    written = []
    for (op, dtype), group in groups.items():
        stem = folder / file_name(op, dtype, where)
        table_path, json_path = Path(f"{stem}.csv"), Path(f"{stem}.json")
        with table_path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(_TYPES))
            writer.writeheader()
            writer.writerows({k: "" if v is None else v for k, v in asdict(row).items()}
                             for row in group)
        json_path.write_text(json.dumps(
            {"conditions": where, **(extra or {}), "rows": [asdict(row) for row in group]},
            indent=1) + "\n")
        written += [table_path, json_path]
    return written


def _parse(name: str, text: str) -> Any:
    kind = str(_TYPES[name])
    if kind == "str":
        return text
    if text == "":
        return None
    return int(text) if kind.startswith("int") else float(text)


def load(path: Path) -> list[Row]:
    """Rows of one CSV file, or of every CSV file of a folder.

    Raises:
        ValueError: there is no such file, none in the folder, or its columns are not those of
            :class:`Row`.
    """
    paths = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not paths:
        raise ValueError(f"{path} holds no results")
    rows = []
    for one in paths:
        if not one.is_file():
            raise ValueError(f"{one} is not a result file")
        with one.open(newline="") as file:
            reader = csv.DictReader(file)
            if list(reader.fieldnames or ()) != list(_TYPES):
                raise ValueError(f"{one} has columns {reader.fieldnames}, not those of a result")
            rows += [Row(**{k: _parse(k, v) for k, v in line.items()}) for line in reader]
    return rows


def ceilings(path: Path) -> dict[str, float] | None:
    """What the device reached when a folder's results, or a file's, were measured."""
    paths = sorted(path.glob("*.json")) if path.is_dir() else [path.with_suffix(".json")]
    for one in paths:
        if one.is_file() and (found := json.loads(one.read_text()).get("ceilings")):
            return found
    return None


def _time(us: float | None) -> str:
    return "" if us is None else f"{us:.1f}"


def speedup(row: Row) -> str:
    """How many times faster than eager, and whether that is more than noise."""
    if row.speedup is None or row.speedup_low is None or row.speedup_high is None:
        return ""
    if row.provider == "eager":
        return f"{row.speedup:.2f}"
    noise = row.speedup_low <= 1 <= row.speedup_high
    return f"{row.speedup:.2f}" + (" no difference" if noise else "")


def table(rows: Iterable[Row]) -> str:
    """A readable table: median times, and how many times faster than eager each provider is."""
    lines = [("operator", "shape", "dtype", "passes", "mode", "provider", "p50 us", "p20", "p80",
              "x eager", "of floor", "peak MB", "launches", "")]
    for r in rows:
        lines.append((
            r.op, r.shape, r.dtype, r.passes, r.mode, r.provider, _time(r.p50_us), _time(r.p20_us),
            _time(r.p80_us), speedup(r), f"{r.share_of_floor:.0%}" if r.share_of_floor else "",
            "" if r.peak_bytes is None else f"{r.peak_bytes / 2**20:.0f}",
            "" if r.launches is None else str(r.launches),
            " ".join(filter(None, ["" if r.status == "ok" else r.status.upper(), r.note]))))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(line, widths)), line[-1][:100]]).rstrip()
        for line in lines)


def summary(rows: Iterable[Row]) -> str:
    """One short line per cell: every provider's median, and fastdet's against eager and floor."""
    cells: dict[tuple[str, ...], dict[str, Row]] = {}
    for r in rows:
        cells.setdefault((r.op, r.shape, r.dtype, r.passes, r.mode), {})[r.provider] = r
    lines = []
    for key, by in cells.items():
        times = [f"{name} {_time(r.p50_us) or (r.status if r.status != 'ok' else '-')}"
                 for name, r in by.items()]
        ours = by.get("fastdet")
        if ours and ours.speedup:
            times.append(f"x{speedup(ours)}")
        if ours and ours.share_of_floor:
            times.append(f"{ours.share_of_floor:.0%}")
        lines.append(" ".join([*key, "|", *times]))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.records", description=__doc__)
    parser.add_argument("results", type=Path, help="a CSV file or a folder of them")
    parser.add_argument("--short", action="store_true", help="one line per cell")
    options = parser.parse_args(argv)
    rows = load(options.results)
    print(summary(rows) if options.short else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
