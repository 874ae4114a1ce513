"""A one-stage detector that learns from a teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.runner import load_checkpoint
from fastdet.utils import Config

from ..builder import DETECTORS, build_detector
from .base import BaseDetector, Meta
from .single_stage import SingleStageDetector

__all__ = ["KnowledgeDistillationSingleStageDetector"]


@DETECTORS.register_module()
class KnowledgeDistillationSingleStageDetector(SingleStageDetector):
    """The student; its teacher is no part of its state dict and its parameters.

    Args:
        backbone: its config.
        neck: its config.
        bbox_head: its config.
        teacher_config: a config with the teacher's ``model``, or the path of one.
        teacher_ckpt: the teacher's checkpoint.
        eval_teacher: the teacher stays in evaluation.
        train_cfg: settings of training, for the head.
        test_cfg: settings of the test, for the head.
        pretrained: the old spelling of the backbone's ``init_cfg``.
    """

    teacher_model: Any

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any], bbox_head: dict[str, Any],
                 teacher_config: Any, teacher_ckpt: str | None = None, eval_teacher: bool = True,
                 train_cfg: Any = None, test_cfg: Any = None,
                 pretrained: str | None = None) -> None:
        super().__init__(backbone, neck, bbox_head, train_cfg, test_cfg, pretrained)
        self.eval_teacher = eval_teacher
        if isinstance(teacher_config, (str, Path)):
            teacher_config = Config.fromfile(teacher_config)
        self.teacher_model = self._teacher(teacher_config, teacher_ckpt)

    def _teacher(self, teacher_config: Any, teacher_ckpt: str | None) -> nn.Module:
        teacher = build_detector(teacher_config["model"])
        if teacher_ckpt is not None:
            load_checkpoint(teacher, teacher_ckpt, map_location="cpu")
        return teacher

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "teacher_model":  # kept beside the modules: not saved, not optimised
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True
               ) -> KnowledgeDistillationSingleStageDetector:
        """The teacher follows to another device or type."""
        self.teacher_model._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> KnowledgeDistillationSingleStageDetector:
        """Training or evaluation, of the teacher too unless ``eval_teacher``."""
        self.teacher_model.train(mode and not self.eval_teacher)
        return super().train(mode)

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Any]:
        """As :meth:`SingleStageDetector.forward_train`."""
        BaseDetector.forward_train(self, img, img_metas)
        x = self.extract_feat(img)
        with torch.no_grad():
            out_teacher = self.teacher_model.bbox_head(self.teacher_model.extract_feat(img))
        return self.bbox_head.forward_train(x, out_teacher, img_metas, gt_bboxes, gt_labels,
                                            gt_bboxes_ignore)
