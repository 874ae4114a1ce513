"""What DyHead does after the convolutions of a block: norms, attention, dynamic ReLU."""

from .op import Act, Attention, can_run_dyhead_attention, dyhead_attention

__all__ = ["Act", "Attention", "can_run_dyhead_attention", "dyhead_attention"]
