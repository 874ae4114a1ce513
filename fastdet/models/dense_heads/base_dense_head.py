"""What every dense head does: train on features, turn its outputs into detections."""

from __future__ import annotations

import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.core.bbox.transforms import bbox_mapping_back
from fastdet.core.post_processing.merge_augs import merge_aug_proposals
from fastdet.ops import batched_nms
from fastdet.runner import BaseModule

from .candidates import (
    Candidates,
    Detections,
    Metas,
    of_images,
    scale_factors,
    suppress,
    top_pairs,
)

__all__ = ["BaseDenseHead"]

Meta = dict[str, Any]


class BaseDenseHead(BaseModule, metaclass=ABCMeta):
    """The base of dense heads.

    A subclass has ``prior_generator``, ``bbox_coder``, ``cls_out_channels`` and
    ``use_sigmoid_cls``, or overrides :meth:`candidates`. One with towers names ``in_channels``,
    ``feat_channels``, ``stacked_convs``, ``conv_cfg`` and ``norm_cfg``.

    Args:
        init_cfg: how weights are initialised.
    """

    prior_generator: Any
    num_base_priors: Any
    bbox_coder: Any
    cls_out_channels: int
    num_classes: int
    use_sigmoid_cls: bool
    in_channels: Any
    feat_channels: int
    stacked_convs: int
    conv_cfg: Any
    norm_cfg: Any
    #: Whether convolutions of a tower have biases; ``'auto'`` where they have no norm.
    conv_bias: bool | str = "auto"
    cls_convs: Any
    reg_convs: Any
    #: Numbers that the head predicts for a box.
    box_channels = 4
    #: Whether class scores are probabilities, not logits.
    activated = False
    train_cfg: Any
    test_cfg: Any

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)

    @property
    def anchor_generator(self) -> Any:
        """The anchor generator; ``prior_generator`` is its name now."""
        warnings.warn("anchor_generator is deprecated, use prior_generator", DeprecationWarning,
                      stacklevel=2)
        return self.prior_generator

    @property
    def num_anchors(self) -> Any:
        """Anchors at a cell; ``num_base_priors`` is its name now."""
        warnings.warn("num_anchors is deprecated, use num_base_priors", DeprecationWarning,
                      stacklevel=2)
        return self.num_base_priors

    @abstractmethod
    def loss(self, **kwargs: Any) -> Any:
        """Losses of the head's outputs and the ground truth."""

    # --- layers -----------------------------------------------------------------------------
    def conv_at(self, i: int) -> Any:
        """Config of the i-th convolution of a tower."""
        return self.conv_cfg

    def tower(self) -> nn.ModuleList:
        """``stacked_convs`` convolutions of 3 x 3, each with norm and ReLU."""
        return nn.ModuleList([
            ConvModule(self.in_channels if i == 0 else self.feat_channels, self.feat_channels, 3,
                       padding=1, conv_cfg=self.conv_at(i), norm_cfg=self.norm_cfg,
                       bias=self.conv_bias) for i in range(self.stacked_convs)])

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the towers of the classes and of the boxes make of one level."""
        classes = boxes = x
        for conv in self.cls_convs:
            classes = conv(classes)
        for conv in self.reg_convs:
            boxes = conv(boxes)
        return classes, boxes

    # --- training ---------------------------------------------------------------------------
    def forward_train(self, x: Sequence[Tensor], img_metas: list[Meta], gt_bboxes: list[Tensor],
                      gt_labels: list[Tensor] | None = None,
                      gt_bboxes_ignore: list[Tensor] | None = None, proposal_cfg: Any = None,
                      **kwargs: Any) -> Any:
        """Losses of feature maps.

        Args:
            x: feature maps.
            img_metas: of each image.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image; ``None`` for one class.
            gt_bboxes_ignore: [g, 4] of each image.
            proposal_cfg: with it, proposals are returned, too.
            kwargs: not used; what detectors pass to both of their stages.

        Returns:
            The losses, and with ``proposal_cfg`` the proposals of each image.
        """
        outs = self(x)
        args = (*outs, gt_bboxes, *([] if gt_labels is None else [gt_labels]), img_metas)
        losses = self.loss(*args, gt_bboxes_ignore=gt_bboxes_ignore)
        if proposal_cfg is None:
            return losses
        return losses, self.proposals(outs, img_metas, proposal_cfg)

    def proposals(self, outs: tuple[Any, ...], img_metas: list[Meta], cfg: Any) -> Any:
        """Proposals of each image for a second stage."""
        return self.get_bboxes(*outs, img_metas=img_metas, cfg=cfg)

    def flattened(self, maps: Sequence[Tensor], channels: int) -> Tensor:
        """Maps [B, A C, H, W] of all levels to a row of each image and prior, [B N, channels]."""
        return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, channels) for m in maps],
                         dim=1).flatten(0, 1)

    # --- detections -------------------------------------------------------------------------
    def flat(self, maps: Sequence[Tensor], channels: int) -> list[Tensor]:
        """Maps [B, A C, H, W] of all levels to [B, H W A, C]."""
        return [m.detach().permute(0, 2, 3, 1).reshape(m.size(0), -1, channels) for m in maps]

    def decoded(self, priors: Tensor, pred: Tensor, level: int, max_shape: Any) -> Tensor:
        """Boxes [B, K, 4] of priors [B, K, ...] and predictions [B, K, box_channels] of a level."""
        return self.bbox_coder.decode(priors, pred, max_shape=max_shape)

    @torch.no_grad()
    def candidates(self, outs: tuple[Any, ...], img_metas: Metas, cfg: Any) -> Candidates:
        """The best pairs of prior and class of every level, decoded, in pixels of the input.

        Args:
            outs: what :meth:`forward` returned: class scores, boxes and, where the head has it, a
                factor of the scores, lists of maps.
            img_metas: ``img_shape`` of each image is read.
            cfg: ``nms_pre`` and ``score_thr``.
        """
        cls_scores, bbox_preds = outs[:2]
        sizes = [m.shape[-2:] for m in cls_scores]
        priors = self.prior_generator.grid_priors(sizes, dtype=cls_scores[0].dtype,
                                                  device=cls_scores[0].device)
        factors: list[Any] = [None] * len(sizes)
        if len(outs) > 2 and outs[2] is not None:
            factors = [f[..., 0].sigmoid() for f in self.flat(outs[2], 1)]
        shapes = of_images(img_metas, "img_shape")
        levels = []
        for i, (logits, deltas, mine, factor) in enumerate(zip(
                self.flat(cls_scores, self.cls_out_channels),
                self.flat(bbox_preds, self.box_channels), priors, factors)):
            if not self.use_sigmoid_cls:
                logits = logits.softmax(-1)[..., :-1]
            scores, labels, rows, valid = top_pairs(
                logits, cfg.get("nms_pre", -1), cfg.get("score_thr", 0.0),
                self.use_sigmoid_cls and not self.activated)
            deltas = deltas.gather(1, rows[..., None].expand(-1, -1, deltas.shape[2]))
            boxes = self.decoded(mine[rows], deltas, i, shapes)
            if factor is not None:
                scores = scores * factor.gather(1, rows)
            levels.append((boxes, scores, labels, valid))
        return Candidates(*(torch.cat(part, dim=1) for part in zip(*levels)))

    def _rescaled(self, found: Candidates, img_metas: Metas) -> Candidates:
        return found._replace(boxes=found.boxes / scale_factors(found.boxes, img_metas))

    def detect(self, outs: tuple[Any, ...], img_metas: Metas, cfg: Any = None,
               rescale: bool = False) -> Detections:
        """Padded detections of a batch, without a host sync.

        Args:
            outs: what :meth:`forward` returned.
            img_metas: of each image.
            cfg: settings in place of ``test_cfg``.
            rescale: in pixels of the original image.
        """
        cfg = self.test_cfg if cfg is None else cfg
        found = self.candidates(outs, img_metas, cfg)
        if rescale:
            found = self._rescaled(found, img_metas)
        return suppress(found, cfg["nms"], cfg.get("max_per_img", -1))

    def get_bboxes(self, *outs: Any, img_metas: list[Meta], cfg: Any = None,
                   rescale: bool = False, with_nms: bool = True) -> list[tuple[Tensor, ...]]:
        """Detections of each image.

        Args:
            outs: what :meth:`forward` returned.
            img_metas: of each image.
            cfg: settings in place of ``test_cfg``.
            rescale: in pixels of the original image.
            with_nms: suppress and cut; else every candidate is returned.

        Returns:
            Of each image boxes and scores ``[n, 5]`` and labels ``[n]``; without ``with_nms``
            boxes ``[n, 4]``, scores and labels ``[n]``.
        """
        cfg = self.test_cfg if cfg is None else cfg
        if with_nms and cfg["nms"].get("type", "nms") == "nms":
            return [*self.detect(outs, img_metas, cfg, rescale).unpad()]
        found = self.candidates(outs, img_metas, cfg)
        if rescale:
            found = self._rescaled(found, img_metas)
        each = [(b[v], s[v], c[v]) for b, s, c, v in zip(*found)]
        if not with_nms:
            return [*each]
        return [self.suppressed(boxes, scores, labels, cfg) for boxes, scores, labels in each]

    @staticmethod
    def suppressed(boxes: Tensor, scores: Tensor, labels: Tensor, cfg: Any) -> tuple[Tensor, ...]:
        """One image's candidates after any kind of suppression, cut to ``max_per_img``."""
        if boxes.numel() == 0:
            return torch.cat([boxes, scores[:, None]], dim=-1), labels
        found, keep = batched_nms(boxes, scores, labels, cfg["nms"])
        most = cfg.get("max_per_img", -1)
        return (found[:most], labels[keep][:most]) if most > 0 else (found, labels[keep])

    def simple_test(self, feats: Sequence[Tensor], img_metas: list[Meta],
                    rescale: bool = False) -> list[tuple[Tensor, ...]]:
        """Detections of each image from feature maps."""
        return self.get_bboxes(*self(feats), img_metas=img_metas, rescale=rescale)

    def aug_test(self, feats: list[Any], img_metas: list[list[Meta]],
                 rescale: bool = False) -> list[tuple[Tensor, ...]]:
        """Detections of one image from the feature maps of several views.

        Candidates of all views are mapped back to the original image and suppressed together.

        Args:
            feats: of each view.
            img_metas: of each view, of its one image.
            rescale: in pixels of the original image, else of the first view.
        """
        views = []
        for x, metas in zip(feats, img_metas):
            boxes, scores, labels = self.get_bboxes(*self(x), img_metas=metas, cfg=self.test_cfg,
                                                    with_nms=False)[0]
            meta = metas[0]
            boxes = bbox_mapping_back(boxes, meta["img_shape"], meta["scale_factor"], meta["flip"],
                                      meta.get("flip_direction") or "horizontal")
            views.append((boxes, scores, labels))
        boxes, scores, labels = (torch.cat(part) for part in zip(*views))
        found, labels = self.suppressed(boxes, scores, labels, self.test_cfg)
        if not rescale:
            factor = found.new_tensor(img_metas[0][0]["scale_factor"])
            found = torch.cat([found[:, :4] * factor, found[:, 4:]], dim=-1)
        return [(found, labels)]

    # --- proposals, where the head makes them ----------------------------------------------
    def simple_test_rpn(self, x: Sequence[Tensor], img_metas: list[Meta]) -> list[Tensor]:
        """Proposals and scores ``[n, 5]`` of each image."""
        found: Any = self.get_bboxes(*self(x), img_metas=img_metas)
        return found

    def aug_test_rpn(self, feats: list[Any], img_metas: list[list[Meta]]) -> list[Tensor]:
        """As :meth:`simple_test_rpn`, of images from several views of each, merged."""
        views = [self.simple_test_rpn(x, metas) for x, metas in zip(feats, img_metas)]
        return [merge_aug_proposals([view[i] for view in views], [m[i] for m in img_metas],
                                    self.test_cfg) for i in range(len(img_metas[0]))]
