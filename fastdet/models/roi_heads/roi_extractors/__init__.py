"""From regions of an image to maps of one size."""

from .base_roi_extractor import BaseRoIExtractor
from .generic_roi_extractor import GenericRoIExtractor
from .single_level_roi_extractor import SingleRoIExtractor

__all__ = ["BaseRoIExtractor", "GenericRoIExtractor", "SingleRoIExtractor"]
