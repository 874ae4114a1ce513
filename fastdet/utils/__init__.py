"""What MMDetection code takes from ``mmcv.utils``: registries and config files."""

from .config import Config, ConfigDict, ConfigError
from .registry import Registry, UnknownTypeError, build_from_cfg

__all__ = ["Config", "ConfigDict", "ConfigError", "Registry", "UnknownTypeError", "build_from_cfg"]
