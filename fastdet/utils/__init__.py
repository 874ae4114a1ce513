"""What MMDetection code takes from ``mmcv.utils``: registries and config files."""

from .config import (
    Config,
    ConfigDict,
    ConfigError,
    ConfigNotFoundError,
    DictAction,
    import_modules_from_strings,
)
from .registry import Registry, UnknownTypeError, build_from_cfg

__all__ = ["Config", "ConfigDict", "ConfigError", "ConfigNotFoundError", "DictAction", "Registry",
           "UnknownTypeError", "build_from_cfg", "import_modules_from_strings"]
