"""Config files of MMDetection 2.x, as ``mmcv.Config`` gives them, read without executing them.

mmcv imports a config file as a Python module. Here the file is parsed, a small interpreter
evaluates the part of Python that configs are written in (:mod:`.interpreter`, :mod:`.functions`),
bases are read and merged (:mod:`.reader`, :mod:`.merge`), and everything else is refused with the
file, the line and the construct. All of it is paid from one :class:`~.budget.Budget`, so that any
file is answered in a moment.
"""

from .arguments import DictAction, add_args
from .config import Config, ConfigDict
from .errors import ConfigError, ConfigNotFoundError
from .imports import import_modules_from_strings

__all__ = ["Config", "ConfigDict", "ConfigError", "ConfigNotFoundError", "DictAction", "add_args",
           "import_modules_from_strings"]
