"""RoIAlign over one map, or over a pyramid whose levels are chosen per region."""

from .op import can_run_roi_align, multi_level_roi_align, roi_align

__all__ = ["can_run_roi_align", "multi_level_roi_align", "roi_align"]
