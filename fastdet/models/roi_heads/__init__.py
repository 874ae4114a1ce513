"""The second stage of two-stage detectors; of it, the RoI extractors."""

from . import roi_extractors
from .roi_extractors import *  # noqa: F403

__all__ = [*roi_extractors.__all__]
