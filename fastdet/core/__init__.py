"""What a detector needs around its network: priors, boxes, and what matches and samples them."""

from . import anchor, bbox
from .anchor import *
from .bbox import *

__all__ = [*anchor.__all__, *bbox.__all__]
