"""What DyHead does after the convolutions of a block: norms, attention, dynamic ReLU."""

from .op import Act, Combination, can_run_dyhead_combine, dyhead_combine

__all__ = ["Act", "Combination", "can_run_dyhead_combine", "dyhead_combine"]
