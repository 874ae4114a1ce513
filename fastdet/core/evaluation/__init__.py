"""What results are and how good they are."""

from .panoptic_utils import INSTANCE_OFFSET

__all__ = ["INSTANCE_OFFSET"]
