"""The table of what is measured: every file of ``operators/``, ``components/``, ``detectors/`` and
``models/``.

A file declares one entry, ``ENTRY``, of its own name, or in ``ABSENT`` why it cannot run here. The
runner, the ledger, the tests, ``gpu.sh`` and pytest-benchmark all read :data:`ENTRIES`; nobody
keeps a list of names.

``python -m benchmarks.registry`` prints the names, one a line.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

from .entry import DTYPES, KINDS, Entry, Provider, Work, differentiate, flatten, leaves, upcast

__all__ = ["ABSENT", "DTYPES", "ENTRIES", "Entry", "Provider", "Work", "differentiate", "flatten",
           "leaves", "main", "upcast"]


def _collect() -> tuple[dict[str, Entry], dict[str, str]]:
    found, absent = {}, {}
    for folder in KINDS.values():
        package = importlib.import_module(f"{__package__}.{folder}")
        for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            if why := getattr(module, "ABSENT", ""):
                absent[info.name] = why
                continue
            entry = getattr(module, "ENTRY", None)
            if not isinstance(entry, Entry):
                raise TypeError(f"{module.__file__} declares no ENTRY")
            found[entry.name] = entry
    return found, absent


#: Entries by name; and those that cannot run here, with the reason.
ENTRIES, ABSENT = _collect()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registry",
                                     description="Names of the entries, one a line.")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--trains", action=argparse.BooleanOptionalAction,
                        help="only those with, or without, gradients")
    parser.add_argument("--provider", help="only those that it computes")
    options = parser.parse_args(argv)
    for entry in ENTRIES.values():
        if (options.kind in (None, entry.kind) and options.trains in (None, entry.trains)
                and (options.provider is None or options.provider in entry.providers)):
            print(entry.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
