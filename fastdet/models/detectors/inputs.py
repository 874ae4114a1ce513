"""Ground truth that cannot be right, and losses that are not finite, named with their image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["check_finite", "check_ground_truth", "faults", "num_classes"]


def num_classes(model: nn.Module) -> int | None:
    """How many classes a detector tells apart; ``None`` where no head says."""
    for name in ("roi_head.bbox_head", "bbox_head", "mask_head"):
        head: Any = model
        for part in name.split("."):
            head = getattr(head, part, None)
        if isinstance(head, nn.ModuleList):
            head = head[0]
        found = getattr(head, "num_classes", None)
        if isinstance(found, int):
            return found
    return None


def _image(data: Mapping[str, Any], i: int) -> str:
    name = data["img_metas"][i].get("filename")
    return f"image {i}" if name is None else f"image {i} ({name})"


def faults(data: Mapping[str, Any], classes: int | None, everywhere: bool) -> Iterator[str]:
    """Sentences on boxes and labels of a batch that cannot be right.

    Args:
        data: ``img_metas`` and, of each image, ``gt_bboxes`` and ``gt_labels``.
        classes: how many there are; ``None`` leaves labels aside.
        everywhere: look at tensors on a GPU, too, which waits for it.
    """
    for i, boxes in enumerate(data.get("gt_bboxes") or ()):
        if isinstance(boxes, Tensor) and (everywhere or boxes.device.type == "cpu"):
            # A NaN is not at least anything: it is found, too.
            for row in (~(boxes[:, 2:4] >= boxes[:, :2]).all(1)).nonzero()[:1, 0].tolist():
                yield (f"{_image(data, i)}: gt_bboxes[{row}] must be x1, y1, x2, y2 with x2 >= x1 "
                       f"and y2 >= y1, got {[round(v, 2) for v in boxes[row].tolist()]}")
    for i, labels in enumerate(data.get("gt_labels") or () if classes is not None else ()):
        if isinstance(labels, Tensor) and (everywhere or labels.device.type == "cpu"):
            assert classes is not None
            for row in ((labels < 0) | (labels >= classes)).nonzero()[:1, 0].tolist():
                yield (f"{_image(data, i)}: gt_labels[{row}] must be a class from 0 to "
                       f"{classes - 1}, got {int(labels[row])}")


def check_ground_truth(model: nn.Module, data: Mapping[str, Any]) -> None:
    """Look at the ground truth that is on the CPU; on a GPU that would wait for it.

    Raises:
        ValueError: a box ends before it begins, or there is no such class.
    """
    for fault in faults(data, num_classes(model), everywhere=torch.is_anomaly_enabled()):
        raise ValueError(fault)


def _only(value: Any, i: int, size: int) -> Any:
    """What of an argument belongs to one image."""
    if isinstance(value, (list, tuple, Tensor)) and len(value) == size:
        return value[i:i + 1]
    return value


def check_finite(model: nn.Module, data: Mapping[str, Any], logged: Mapping[str, float]) -> None:
    """Name losses that are not finite and, by running each image alone, the images they are of.

    Raises:
        FloatingPointError: there are some.
    """
    wrong = [name for name, value in logged.items() if name != "loss" and not math.isfinite(value)]
    if not wrong:
        return
    size, images = len(data["img_metas"]), []
    for i in range(size):
        with torch.no_grad():
            losses = model(**{name: _only(value, i, size) for name, value in data.items()})
        values = [v for name in wrong for v in (
            losses[name] if isinstance(losses[name], list) else [losses[name]])]
        if not all(bool(v.isfinite().all()) for v in values):
            images.append(_image(data, i))
    raise FloatingPointError(
        f"{', '.join(wrong)} not finite; alone, it is so for {', '.join(images) or 'no image'}")
