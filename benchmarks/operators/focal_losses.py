"""Sigmoid focal loss of a RetinaNet, against MMDetection's form in eager torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdet.kernels.focal_losses import sigmoid_focal_loss

from ..entry import Entry, Inputs, Provider, Work, normal

GAMMA, ALPHA = 2.0, 0.25


def sigmoid_focal_loss_eager(pred: Tensor, labels: Tensor, weight: Tensor, avg_factor: float
                             ) -> Tensor:
    """The loss as MMDetection computes it where mmcv's operator does not run: one-hot targets."""
    target = F.one_hot(labels, pred.shape[1] + 1)[:, :-1].type_as(pred)
    s = pred.sigmoid()
    other = (1 - s) * target + s * (1 - target)
    focus = (ALPHA * target + (1 - ALPHA) * (1 - target)) * other.pow(GAMMA)
    loss = F.binary_cross_entropy_with_logits(pred, target, reduction="none") * focus
    return (loss * weight[:, None]).sum() / (avg_factor + torch.finfo(torch.float32).eps)


def _make(*, dtype: torch.dtype, device: torch.device, N: int, C: int) -> Inputs:
    labels = torch.randint(100 * C, (N,), device=device).clamp(max=C)  # one per cent are objects
    return {"pred": normal(N, C, dtype=dtype, device=device), "labels": labels,
            "weight": torch.ones(N, dtype=dtype, device=device), "avg_factor": 0.01 * N}


def _run(x: Inputs) -> Tensor:
    return sigmoid_focal_loss(x["pred"], x["labels"], x["weight"], GAMMA, ALPHA,
                              avg_factor=x["avg_factor"])


def _eager(x: Inputs) -> Tensor:
    return sigmoid_focal_loss_eager(x["pred"], x["labels"], x["weight"], x["avg_factor"])


def _work(*, dtype: torch.dtype, backward: bool, N: int, C: int) -> Work:
    # An exponential, two quotients, a series and the products; backward, half as much again.
    return Work(bytes=(1 + backward) * N * C * dtype.itemsize + 8 * N,
                flops=(30 + 15 * backward) * N * C)


ENTRY = Entry(
    name="focal_losses",
    shapes={"retinanet_b2": {"N": 2 * 217413, "C": 80}},
    cpu={"retinanet_part": {"N": 20000, "C": 80}},
    tiny={"N": 37, "C": 5},
    make=_make,
    providers={"eager": Provider(_eager), "compile": Provider(_eager, compiled=True),
               "fastdet": Provider(_run)},
    work=_work,
    kernels=("focal_losses_",),
    ledger=("retinanet_b2/fp32", "retinanet_b2/bf16"),
)
