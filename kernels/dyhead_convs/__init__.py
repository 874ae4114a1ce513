"""The deformable convolutions of all levels of a DyHead block."""

from .op import Convolved, Pyramid, can_run_dyhead_convs, channels_last_maps, dyhead_convs
from .reference import convolutions

__all__ = ["Convolved", "Pyramid", "can_run_dyhead_convs", "channels_last_maps", "convolutions",
           "dyhead_convs"]
