"""YAML, as in ``mmcv.fileio.handlers.yaml_handler``."""

from __future__ import annotations

from types import ModuleType
from typing import IO, Any

from ...utils.misc import optional_import
from .base import BaseFileHandler

__all__ = ["YamlHandler"]


def _yaml() -> ModuleType:
    return optional_import("yaml", "the file format YAML", "PyYAML")


class YamlHandler(BaseFileHandler):
    """Reads and writes YAML. Reading makes plain values and tuples, and runs nothing."""

    def load_from_fileobj(self, file: IO[str], **kwargs: Any) -> Any:
        yaml = _yaml()
        return yaml.load(file, **{"Loader": getattr(yaml, "CFullLoader", yaml.FullLoader),
                                  **kwargs})

    def dump_to_fileobj(self, obj: Any, file: IO[str], **kwargs: Any) -> None:
        yaml = _yaml()
        yaml.dump(obj, file, **{"Dumper": getattr(yaml, "CDumper", yaml.Dumper), **kwargs})

    def dump_to_str(self, obj: Any, **kwargs: Any) -> str:
        yaml = _yaml()
        return yaml.dump(obj, **{"Dumper": getattr(yaml, "CDumper", yaml.Dumper), **kwargs})
