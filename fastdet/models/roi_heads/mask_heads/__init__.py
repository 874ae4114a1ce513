"""Heads of masks of regions."""

from .fcn_mask_head import FCNMaskHead

__all__ = ["FCNMaskHead"]
