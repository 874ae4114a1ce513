"""What the ledger objects to: rules that hold of every binary, and what one lost to the recorded.

A rule of the second kind is no law, since a kernel may be better for a change that breaks one. It
asks for a look: ``make ledger`` prints what got worse, and records it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .binary import Entries, Facts
from .entry import Entry
from .targets import TARGETS, bound

__all__ = ["changes", "faults", "worse"]

#: Growth that counts, as a share: of registers, of the places of all waves that stay empty, of the
#: mean width of an access, and of the instructions, which are what compiling takes its time for.
REGISTERS, EMPTY, WIDTH, INSTRUCTIONS = 0.1, 0.1, 0.1, 0.5

_GLOBAL = re.compile(r"(?:LDG|STG|LDGSTS)\.(\d+)|(?:global|buffer|flat)_(?:load|store)_\w*?"
                     r"(?:dwordx(\d)|(dword)|(short)|(byte))")


def _widths(facts: Facts) -> dict[int, int]:
    """Bits that one thread moves to or from global memory, and in how many instructions."""
    found: dict[int, int] = {}
    for name, count in facts.get("memory", {}).items():
        if match := _GLOBAL.match(name):
            nvidia, words, word, short, _ = match.groups()
            bits = int(nvidia) if nvidia else 32 * int(words) if words else \
                32 if word else 16 if short else 8
            found[bits] = found.get(bits, 0) + count
    return found


def _mean(widths: dict[int, int]) -> float:
    return sum(bits * count for bits, count in widths.items()) / sum(widths.values())


def _lost(old: Facts, new: Facts, target: str) -> Iterator[str]:
    """What costs speed and is no rule of its own, one phrase each."""
    if lost := old.get("tensor_core", {}).keys() - new.get("tensor_core", {}).keys():
        instead = ", ".join(new["tensor_core"]) or "none"
        yield f"matrix instructions {', '.join(sorted(lost))} -> {instead}"
    for fact, growth in (("registers", REGISTERS), ("instructions", INSTRUCTIONS)):
        before, after = old.get(fact, 0), new.get(fact, 0)
        if before and after > before * (1 + growth):
            yield f"{fact} {before} -> {after}"
    was, now = bound(old, target), bound(new, target)
    if now.programs < was.programs:
        yield f"resident programs {was.programs} -> {now.programs} ({now.limiter})"
    if (old.get("grid") and now.filled < was.filled - EMPTY
            and now.occupancy <= was.occupancy):  # more places are no loss, empty or not
        yield (f"waves {was.waves:.2f} -> {now.waves:.2f}, of whose places "
               f"{was.filled:.0%} -> {now.filled:.0%} have a program")
    before_widths, widths = _widths(old), _widths(new)
    if not before_widths or not widths:
        return
    for name, of in (("widest", max), ("narrowest", min)):
        if of(widths) < of(before_widths):
            yield f"{name} access {of(before_widths)} -> {of(widths)} bits"
    if _mean(widths) < _mean(before_widths) * (1 - WIDTH):
        yield f"mean access {_mean(before_widths):.0f} -> {_mean(widths):.0f} bits"


def _over(facts: Facts, target: str) -> str:
    limit = TARGETS[target].shared
    return f"needs {facts['shared']} bytes of shared memory, the card has {limit}" \
        if facts["shared"] > limit else ""


def worse(old: Facts, new: Facts, target: str) -> list[str]:
    """What a kernel lost, one phrase each; empty where it lost nothing that the ledger sees."""
    found = [f"{what} {old[fact]} -> {new[fact]}"
             for fact, what in (("spills", "spills"), ("f64", "float64 instructions"))
             if new.get(fact, 0) > old.get(fact, 0)]
    return [*found, *filter(None, [_over(new, target)]), *_lost(old, new, target)]


def faults(entry: Entry, case: str, target: str, now: Entries, recorded: dict[str, Any],
           triton_version: str) -> list[str]:
    """What the gate objects to in a freshly compiled case, one sentence a kernel.

    A binary of another Triton version is held to the absolute rules alone.
    """
    before: Entries = {key: facts for key, facts in recorded["targets"].get(target, {}).items()
                       if key.rpartition("/")[0] == case}
    same = recorded["triton"] in (None, triton_version)
    found = []
    if not now:
        found.append(f"{case} on {target} launches no kernel")
    if same:
        hint = "run `make ledger` and read the difference"
        found += [f"{key} on {target} is not in the ledger; {hint}"
                  for key in now if key not in before]
        found += [f"{key} on {target} is in the ledger and no longer launched; {hint}"
                  for key in before if key not in now]
    for key, facts in now.items():
        kernel = key.rpartition("/")[2].partition("#")[0]
        old = before.get(key) if same else None
        phrases = [_over(facts, target)]
        if facts.get("f64") and (kernel, "f64") not in entry.exceptions:
            phrases.append(f"has {facts['f64']} float64 instructions")
        allowed = (kernel, "spills") in entry.exceptions
        granted = old.get("spills", 0) if old and allowed else 0
        if facts.get("spills", 0) > granted and (old or not allowed):
            phrases.append(f"spills: {facts['spills']} registers' loads and stores, "
                           f"{granted} granted")
        if old:
            phrases += _lost(old, facts, target)
        if any(phrases):
            found.append(f"{key} on {target}: {'; '.join(filter(None, phrases))}")
    return found


def changes(before: Entries, now: Entries) -> list[str]:
    """Every fact that differs, for people: one line a kernel, numbers with their change."""
    def flat(facts: Facts) -> Facts:
        return {f"{fact}.{name}" if name else fact: value for fact, values in facts.items()
                for name, value in (values.items() if isinstance(values, dict)
                                    else [("", values)])}

    def moved(fact: str, old: Any, new: Any) -> str:
        if fact == "code":  # a hash says no more
            return "code"
        numbers = all(isinstance(x, int) and not isinstance(x, bool) for x in (old, new))
        return f"{fact} {old} -> {new}" + (f" ({new / old - 1:+.0%})" if numbers and old else "")

    lines = []
    for key in sorted(before.keys() | now.keys()):
        if key not in now or key not in before:
            lines.append(f"{key}: {'gone' if key in before else 'new'}")
            continue
        old, new = flat(before[key]), flat(now[key])
        facts = [moved(fact, old.get(fact, 0), new.get(fact, 0)) for fact in {**old, **new}
                 if fact != "ptx" and old.get(fact, 0) != new.get(fact, 0)]
        if facts:
            lines.append(f"{key}: " + ", ".join(facts))
    return lines
