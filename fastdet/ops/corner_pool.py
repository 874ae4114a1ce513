"""Corner pooling (CornerNet, arXiv 1808.01244): the largest value on the way to one side."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

__all__ = ["CornerPool"]


class CornerPool(nn.Module):
    """The maximum of every pixel and all that lie before it, in one of four directions.

    Args:
        mode: ``'bottom'`` and ``'right'`` run with the rows and columns, ``'top'`` and ``'left'``
            against them.

    Raises:
        ValueError: ``mode`` is another.
    """

    cummax_dim_flip: ClassVar[dict[str, tuple[int, bool]]] = {
        "bottom": (2, False), "left": (3, True), "right": (3, False), "top": (2, True)}

    def __init__(self, mode: str) -> None:
        super().__init__()
        if mode not in self.cummax_dim_flip:
            raise ValueError(f"CornerPool: mode must be one of {', '.join(self.cummax_dim_flip)}, "
                             f"got {mode!r}")
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``x`` ``(B, C, H, W)``. Where values tie, the gradient goes to the last of them."""
        dim, against = self.cummax_dim_flip[self.mode]
        pooled = (x.flip(dim) if against else x).cummax(dim).values
        return pooled.flip(dim) if against else pooled
