"""How often the target is among the highest scores."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["Accuracy", "accuracy"]


def accuracy(pred: Tensor, target: Tensor, topk: int | Sequence[int] = 1,
             thresh: float | None = None) -> Tensor | list[Tensor]:
    """Percentage of rows whose target is among the ``k`` highest scores.

    Args:
        pred: [N, C], scores.
        target: [N], classes.
        topk: one ``k``, or several.
        thresh: a score must also be above this to count.

    Returns:
        ``[1]`` for one ``k``, a list of such for several; 0 where there are no rows.

    Raises:
        ValueError: shapes do not fit, or a ``k`` is above the number of classes.
    """
    ks = (topk,) if isinstance(topk, int) else tuple(topk)
    if pred.size(0) == 0:
        results = [pred.new_tensor(0.0) for _ in ks]
        return results[0] if isinstance(topk, int) else results
    if pred.dim() != 2 or target.dim() != 1 or pred.size(0) != target.size(0):
        raise ValueError(f"accuracy: pred must be [N, C] and target [N], got {list(pred.shape)} "
                         f"and {list(target.shape)}")
    if max(ks) > pred.size(1):
        raise ValueError(f"accuracy: topk {max(ks)} is above the {pred.size(1)} classes of pred")
    scores, classes = pred.topk(max(ks), dim=1)
    right = classes == target[:, None]
    if thresh is not None:
        right = right & (scores > thresh)
    results = [right[:, :k].float().sum().view(1) * (100.0 / pred.size(0)) for k in ks]
    return results[0] if isinstance(topk, int) else results


class Accuracy(nn.Module):
    """:func:`accuracy` as a module.

    Args:
        topk: one ``k``, or several.
        thresh: a score must also be above this to count.
    """

    def __init__(self, topk: int | Sequence[int] = (1,), thresh: float | None = None) -> None:
        super().__init__()
        self.topk = topk
        self.thresh = thresh

    def forward(self, pred: Tensor, target: Tensor) -> Tensor | list[Tensor]:
        return accuracy(pred, target, self.topk, self.thresh)
