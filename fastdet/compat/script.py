"""Somebody's script or module, run as Python would, with fastdet in mmcv's place."""

from __future__ import annotations

import io
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from . import install

__all__ = ["run_module", "run_script"]

#: What a child process that ``multiprocessing`` spawns imports as its main module.
_SPAWNED = "fastdet.compat.spawned"


def run_script(path: str, args: Sequence[str] = ()) -> None:
    """Run a file as ``__main__``, like ``python PATH ARGS``, after :func:`fastdet.install`.

    ``sys.argv`` and ``sys.path[0]`` are what the script expects. Processes that it spawns install
    first, too.

    Args:
        path: the script.
        args: its arguments.

    Raises:
        OSError: the file cannot be read.
    """
    with io.open_code(os.path.abspath(path)) as f:
        source = f.read()
    install()
    code = compile(source, path, "exec", dont_inherit=True)
    main = ModuleType("__main__")
    main.__file__ = path
    main.__spec__ = ModuleSpec(_SPAWNED, None, origin=path)
    main.__dict__["__package__"] = None
    sys.argv = [path, *args]
    sys.path[0] = os.path.dirname(os.path.realpath(path))
    sys.modules["__main__"] = main
    os.environ["FASTDET_SCRIPT"] = os.path.abspath(path)  # for the processes that it spawns
    exec(code, main.__dict__)


def run_module(name: str, args: Sequence[str] = ()) -> None:
    """Run a module as ``__main__``, like ``python -m NAME ARGS``, after :func:`fastdet.install`.

    Processes that it spawns (rather than forks) have to call :func:`fastdet.install` themselves.

    Args:
        name: the module.
        args: its arguments.

    Raises:
        ImportError: there is no such module, or it is a package without ``__main__``.
    """
    install()
    sys.argv = [name, *args]
    sys.path[0] = os.getcwd()
    runpy.run_module(name, run_name="__main__", alter_sys=True)
