"""Which priors of a feature pyramid lie inside each image of a batch."""

from .op import can_run_valid_flags, valid_flags

__all__ = ["can_run_valid_flags", "valid_flags"]
