"""The package ``mmdet`` where MMDetection is not installed: its version; the rest is fastdet's."""

from __future__ import annotations

__all__ = ["__version__", "version_info"]

__version__ = "2.26.0"
version_info = (2, 26, 0)

# A package without files of its own: what is below it is found by the finder.
__path__: list[str] = []
