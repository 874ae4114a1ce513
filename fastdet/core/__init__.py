"""What a detector needs around its network: priors, boxes, and what matches and samples them."""

from . import anchor, bbox, post_processing
from .anchor import *
from .bbox import *
from .post_processing import *

__all__ = [*anchor.__all__, *bbox.__all__, *post_processing.__all__]
