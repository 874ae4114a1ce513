"""What a detector needs around its network: priors, boxes, masks, and what matches them."""

from . import anchor, bbox, evaluation, mask, post_processing, utils, visualization
from .anchor import *
from .bbox import *
from .evaluation import *
from .mask import *
from .post_processing import *
from .utils import *
from .visualization import *

__all__ = [*anchor.__all__, *bbox.__all__, *evaluation.__all__, *mask.__all__,
           *post_processing.__all__, *utils.__all__, *visualization.__all__]
