"""The main module of a process that a script spawned: installs, then loads the script's names.

``multiprocessing`` imports the parent's main module in a child that it spawns, so that what was
pickled finds its functions. For a script that :func:`fastdet.compat.script.run_script` runs, this
stands for it.
"""

import os

import fastdet

if __name__ == "__mp_main__":
    fastdet.install()
    __file__ = os.environ["FASTDET_SCRIPT"]
    with open(__file__, "rb") as _f:
        _code = compile(_f.read(), __file__, "exec", dont_inherit=True)
    exec(_code, globals())
