"""Soft non-maximum suppression, and the groups that plain suppression makes."""

from .op import match, soft_nms
from .reference import METHODS

__all__ = ["METHODS", "match", "soft_nms"]
