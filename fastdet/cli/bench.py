"""``fastdet bench``: how fast every operator and component is here, beside its peers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastdet.cli.errors import CliError

__all__ = ["run"]


def run(argv: Sequence[str]) -> int:
    """The suite of ``python -m benchmarks``; results go to ``out/bench`` by default.

    Returns:
        1 where fastdet was wrong, or slower than what it is compared with.
    """
    from fastdet.benchmarks.suite import main

    try:
        return main(argv, prog="fastdet bench", out=Path("out/bench"))
    except SystemExit as e:
        if isinstance(e.code, str):
            raise CliError(e.code) from None
        return int(e.code or 0)
    except ValueError as e:
        raise CliError(str(e)) from None
