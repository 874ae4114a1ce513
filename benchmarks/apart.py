"""A call in a process of its own, so that a crash in it is an answer and not the end."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Crashed", "apart"]


class Crashed(Exception):
    """What ended the process: a signal, an exit, the clock, or an exception, in one sentence."""


def _answer(pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        pipe.send((function(*args), None))
    except Exception as error:
        pipe.send((None, f"{type(error).__name__}: {error}".splitlines()[0]))


def _ended_by(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with {code} and no answer"


def apart(function: Callable[..., Any], *args: Any, limit: float) -> Any:
    """Call ``function(*args)`` in a fresh process.

    Args:
        function: importable by name; it, its arguments and its result are pickled.
        limit: seconds, after which the process is killed.

    Raises:
        Crashed: the call raised, crashed or took too long.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_answer, args=(there, function, args), daemon=False)
    process.start()
    there.close()  # so that the end of the process is the end of the pipe
    try:
        if not here.poll(limit):
            raise Crashed(f"took more than {limit:.0f} s")
        result, error = here.recv()
    except EOFError:
        process.join()
        raise Crashed(_ended_by(process.exitcode)) from None
    finally:
        if process.is_alive():
            process.join(1)
        if process.is_alive():
            process.kill()
        process.join()
        here.close()
    if error is not None:
        raise Crashed(error)
    return result
