"""YOLOX (arXiv 2107.08430)."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from fastdet.core.utils.dist_utils import world_size

from ..builder import DETECTORS
from .base import Meta
from .single_stage import SingleStageDetector

__all__ = ["YOLOX"]


@DETECTORS.register_module()
class YOLOX(SingleStageDetector):
    """A backbone, a PAFPN and a YOLOXHead, trained on images whose size changes.

    Args:
        backbone: its config.
        neck: its config.
        bbox_head: its config.
        train_cfg: settings of training, for the head.
        test_cfg: settings of the test, for the head.
        pretrained: the old spelling of the backbone's ``init_cfg``.
        input_size: height and width of the images that are given.
        size_multiplier: sizes are multiples of it.
        random_size_range: the least and the largest multiple of a random height.
        random_size_interval: iterations between two sizes.
        init_cfg: how weights are initialised.
    """

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any], bbox_head: dict[str, Any],
                 train_cfg: Any = None, test_cfg: Any = None, pretrained: str | None = None,
                 input_size: tuple[int, int] = (640, 640), size_multiplier: int = 32,
                 random_size_range: tuple[int, int] = (15, 25), random_size_interval: int = 10,
                 init_cfg: Any = None) -> None:
        super().__init__(backbone, neck, bbox_head, train_cfg, test_cfg, pretrained, init_cfg)
        self._default_input_size = self._input_size = input_size
        self._size_multiplier = size_multiplier
        self._random_size_interval = random_size_interval
        self._random_size_range = random_size_range
        self._progress_in_iter = 0

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Any]:
        """As :meth:`SingleStageDetector.forward_train`, at the size in force."""
        scale_y, scale_x = (size / default for size, default in
                            zip(self._input_size, self._default_input_size))
        if (scale_y, scale_x) != (1, 1):
            img = F.interpolate(img, size=self._input_size, mode="bilinear", align_corners=False)
            gt_bboxes = [boxes * boxes.new_tensor([scale_x, scale_y] * 2) for boxes in gt_bboxes]
        losses = super().forward_train(img, img_metas, gt_bboxes, gt_labels, gt_bboxes_ignore)
        if (self._progress_in_iter + 1) % self._random_size_interval == 0:
            self._input_size = self._random_resize(img.device)
        self._progress_in_iter += 1
        return losses

    def _random_resize(self, device: torch.device) -> tuple[int, int]:
        """A height and a width: the first process draws for all."""
        if world_size() > 1 and dist.get_rank() > 0:
            height = width = 0
        else:
            size = random.randint(*self._random_size_range)
            ratio = self._default_input_size[1] / self._default_input_size[0]
            height, width = self._size_multiplier * size, self._size_multiplier * int(ratio * size)
        if world_size() > 1:
            shared = torch.tensor([height, width], device=device)
            dist.broadcast(shared, 0)
            height, width = shared.tolist()
        return height, width
