"""Label assignment distillation (arXiv 2108.10520)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdet.runner import load_checkpoint

from ..builder import DETECTORS, build_backbone, build_head, build_neck
from .base import BaseDetector, Meta
from .kd_one_stage import KnowledgeDistillationSingleStageDetector

__all__ = ["LAD"]


@DETECTORS.register_module()
class LAD(KnowledgeDistillationSingleStageDetector):
    """A student whose positives a teacher chooses.

    Args:
        backbone: its config.
        neck: its config.
        bbox_head: its config.
        teacher_backbone: the teacher's.
        teacher_neck: the teacher's.
        teacher_bbox_head: the teacher's.
        teacher_ckpt: the teacher's checkpoint.
        eval_teacher: the teacher stays in evaluation.
        train_cfg: settings of training, for both heads.
        test_cfg: settings of the test, for both heads.
        pretrained: the old spelling of the backbone's ``init_cfg``.
    """

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any], bbox_head: dict[str, Any],
                 teacher_backbone: dict[str, Any], teacher_neck: dict[str, Any] | None,
                 teacher_bbox_head: dict[str, Any], teacher_ckpt: str | None,
                 eval_teacher: bool = True, train_cfg: Any = None, test_cfg: Any = None,
                 pretrained: str | None = None) -> None:
        parts = {"backbone": teacher_backbone, "neck": teacher_neck,
                 "bbox_head": {**teacher_bbox_head, "train_cfg": train_cfg, "test_cfg": test_cfg}}
        super().__init__(backbone, neck, bbox_head, parts, teacher_ckpt, eval_teacher, train_cfg,
                         test_cfg, pretrained)

    def _teacher(self, teacher_config: Any, teacher_ckpt: str | None) -> nn.Module:
        teacher = nn.Module()
        teacher.backbone = build_backbone(teacher_config["backbone"])
        if teacher_config["neck"] is not None:
            teacher.neck = build_neck(teacher_config["neck"])
        teacher.bbox_head = build_head(teacher_config["bbox_head"])
        if teacher_ckpt is not None:
            load_checkpoint(teacher, teacher_ckpt, map_location="cpu")
        return teacher

    @property
    def with_teacher_neck(self) -> bool:
        """Whether the teacher has a neck."""
        return getattr(self.teacher_model, "neck", None) is not None

    def extract_teacher_feat(self, img: Tensor) -> Any:
        """The teacher's feature maps of images [B, 3, H, W]."""
        x = self.teacher_model.backbone(img)
        return self.teacher_model.neck(x) if self.with_teacher_neck else x

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Any]:
        """As :meth:`SingleStageDetector.forward_train`."""
        BaseDetector.forward_train(self, img, img_metas)
        head = self.teacher_model.bbox_head
        with torch.no_grad():
            chosen = head.get_label_assignment(*head(self.extract_teacher_feat(img)), gt_bboxes,
                                               gt_labels, img_metas, gt_bboxes_ignore)
        return self.bbox_head.forward_train(self.extract_feat(img), chosen, img_metas, gt_bboxes,
                                            gt_labels, gt_bboxes_ignore)
