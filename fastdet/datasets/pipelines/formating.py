"""The old name of :mod:`.formatting`."""

from .formatting import *  # noqa: F403
from .formatting import __all__ as __all__
