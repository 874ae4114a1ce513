"""What other Tritons make of the kernels: ``python -m benchmarks.ledger --diff FOLDER ...``.

Each ledger is a column, the recorded one the first. A kernel has a line where a column differs in
what costs speed; code that merely is another is counted. What got worse is said again below, so
that the answer to "does the new Triton break a kernel" is one look at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .binary import Entries, Facts
from .gate import worse
from .ledger import load
from .targets import bound

__all__ = ["cell", "print_diff"]

def cell(facts: Facts, target: str) -> str:
    """Registers, spills, shared memory, matrix instructions and occupancy in a few letters."""
    matrix = "+".join(f"{n} {name}" for name, n in facts.get("tensor_core", {}).items())
    return "  ".join(filter(None, [
        f"{facts['registers']}r" if "registers" in facts else "",
        f"{facts['spills']} spilled" if facts.get("spills") else "", _size(facts["shared"]), matrix,
        f"{bound(facts, target).occupancy:.0%}"]))


def _size(n: int) -> str:
    return f"{n / 1024:.3g}K" if n >= 1024 else f"{n}B" if n else ""


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(line, widths)).rstrip()
                     for line in lines)


def _rows(ledgers: Sequence[Entries], target: str) -> tuple[list[list[str]], list[list[str]], int]:
    """Lines of the table, what got worse by column, and how many differ in their code alone."""
    first, code = ledgers[0], 0
    lines: list[list[str]] = []
    lost: list[list[str]] = [[] for _ in ledgers]
    for key in dict.fromkeys(key for entries in ledgers for key in sorted(entries)):
        cells = [cell(entries[key], target) if key in entries else "-" for entries in ledgers]
        if len(set(cells)) > 1:
            lines.append([key, cells[0], *("=" if text == cells[0] else text
                                           for text in cells[1:])])
        elif len({entries[key].get("code") for entries in ledgers}) > 1:
            code += 1
        for entries, phrases in zip(ledgers[1:], lost[1:]):
            if key not in entries:
                phrases.append(f"{key}: gone")
            elif key in first and (why := worse(first[key], entries[key], target)):
                phrases.append(f"{key}: {', '.join(why)}")
    return lines, lost, code


def print_diff(folders: Sequence[Path], operators: Iterable[str], targets: Iterable[str]) -> int:
    """Print how ledgers in other folders differ from the recorded one.

    Returns:
        1 where a kernel got worse in one of them, 2 where a folder holds no ledger of them; else 0.
    """
    operators, targets = list(operators), list(targets)
    ledgers: list[dict[str, dict[str, Any]]] = [
        {operator: load(operator, folder) for operator in operators}
        for folder in (None, *folders)]
    names = [", ".join(sorted({str(found["triton"]) for found in ledger.values()
                               if found["triton"]})) for ledger in ledgers]
    for folder, name in zip(folders, names[1:]):
        if not name:
            print(f"{folder} holds no ledger of {', '.join(operators)}; "
                  "--update --folder writes one")
            return 2
    bad: list[list[str]] = [[] for _ in ledgers]
    for target in targets:
        lines, code, kernels = [], 0, 0
        for operator in operators:
            columns = [ledger[operator]["targets"].get(target) for ledger in ledgers]
            if any(column is None for column in columns):
                continue  # a target or operator that one of them was not asked for
            kernels += len(columns[0] or ())
            some, lost, other = _rows([column or {} for column in columns], target)
            lines += [[f"{operator} {line[0]}", *line[1:]] for line in some]
            code += other
            for all_lost, more in zip(bad, lost):
                all_lost += [f"{operator} {target} {phrase}" for phrase in more]
        if kernels:
            print(_table([[target, *(f"triton {name}" for name in names)], *lines]))
            print(f"{kernels} kernels: {len(lines)} differ above, {code} in their code alone\n")
    _print_seconds(names, ledgers, targets)
    for name, phrases in zip(names[1:], bad[1:]):
        print(f"worse under {name}: {len(phrases) or 'nothing'}")
        print(*(f"  {phrase}" for phrase in phrases), sep="\n", end="\n" if phrases else "")
    return 1 if any(bad) else 0


def _print_seconds(names: Sequence[str], ledgers: Sequence[dict[str, dict[str, Any]]],
                   targets: Sequence[str]) -> None:
    """The seconds of CPU that compilation took, where they were measured (``--time``)."""
    def seconds(found: dict[str, Any]) -> str:
        known = found.get("compile_s", {})
        return f"{sum(known[t] for t in targets if t in known):.0f}" \
            if any(t in known for t in targets) else ""

    lines = [line for operator in ledgers[0] if any(
        (line := [operator, *(seconds(ledger[operator]) for ledger in ledgers)])[1:])]
    if lines:
        print(_table([["seconds of CPU to compile", *names], *lines]), end="\n\n")
