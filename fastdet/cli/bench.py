"""The commands whose options are those of :mod:`fastdet.benchmarks`: bench, ledger, nightly."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdet.cli.errors import CliError

__all__ = ["COMMANDS", "run"]

#: What each is for, by its name. They are parsed where they run: the table of entries, whose names
#: the options know, takes a while to import.
COMMANDS = {
    "bench": "time every operator and component beside its peers",
    "ledger": "compile every kernel, without a GPU, and hold it against what is recorded",
    "nightly": "verify, ledger and bench in one summary",
}


def run(name: str, argv: Sequence[str]) -> int:
    """Run one of them; results go below ``out/`` by default.

    Returns:
        1 where something was wrong, slower or compiles to something worse.
    """
    more: dict[str, Any] = {"bench": {"out": Path("out/bench")}}.get(name, {})
    module = importlib.import_module(
        f"fastdet.benchmarks.{'suite' if name == 'bench' else name}")
    try:
        return module.main(list(argv), prog=f"fastdet {name}", **more)
    except SystemExit as e:
        if isinstance(e.code, str):
            raise CliError(e.code) from None
        return int(e.code or 0)
    except ValueError as e:
        raise CliError(str(e)) from None
