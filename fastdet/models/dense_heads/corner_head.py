"""CornerNet's head (arXiv 1808.01244): an object is a pair of corners that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule, bias_init_with_prob
from fastdet.core.utils import multi_apply
from fastdet.ops import CornerPool
from fastdet.runner import BaseModule

from ..builder import HEADS, build_loss
from ..utils.gaussian_target import (
    cornernet_targets,
    gather_feat,
    get_local_maximum,
    get_topk_from_heatmap,
    transpose_and_gather_feat,
)
from .base_dense_head import BaseDenseHead, Meta
from .candidates import Candidates

__all__ = ["BiCornerPool", "CornerHead"]

#: What a pair scores that is no object.
REJECTED = -1.0


class BiCornerPool(BaseModule):
    """The largest values on the way to two sides, added and refined (section 3.5, figure 7).

    Args:
        in_channels: of the map.
        directions: two modes of :class:`CornerPool`.
        feat_channels: of the maps that are pooled.
        out_channels: of the result.
        norm_cfg: config of the norms.
        init_cfg: how weights are initialised.
    """

    def __init__(self, in_channels: int, directions: Sequence[str], feat_channels: int = 128,
                 out_channels: int = 128,
                 norm_cfg: dict[str, Any] = dict(type="BN", requires_grad=True),
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.direction1_conv = ConvModule(in_channels, feat_channels, 3, padding=1,
                                          norm_cfg=norm_cfg)
        self.direction2_conv = ConvModule(in_channels, feat_channels, 3, padding=1,
                                          norm_cfg=norm_cfg)
        self.aftpool_conv = ConvModule(feat_channels, out_channels, 3, padding=1,
                                       norm_cfg=norm_cfg, act_cfg=None)
        self.conv1 = ConvModule(in_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.conv2 = ConvModule(in_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg)
        self.direction1_pool = CornerPool(directions[0])
        self.direction2_pool = CornerPool(directions[1])
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Pool [B, C, H, W]."""
        pooled = (self.direction1_pool(self.direction1_conv(x))
                  + self.direction2_pool(self.direction2_conv(x)))
        return self.conv2(self.relu(self.aftpool_conv(pooled) + self.conv1(x)))


def centripetal_distance(size: Tensor, middle: Tensor, tl_centre: Tensor,
                         br_centre: Tensor) -> Tensor:
    """How far two corners disagree on their object's centre (arXiv 2003.09119, eq. 3 to 5).

    The area between their two centres over that of the box's central region, whose sides are 1 /
    2.1 of those of boxes above 3 500 square pixels, 1 / 2.4 of others'; infinite if a centre is
    not in that region.

    Args:
        size: [..., 2], of the boxes, width and height.
        middle: [..., 2], of the boxes.
        tl_centre: [..., 2], where the top-left corner has the centre.
        br_centre: [..., 2], where the bottom-right corner has it.
    """
    share = torch.where(size.prod(-1, keepdim=True).abs() > 3500, 1 / 2.1, 1 / 2.4)
    low, high = middle - share * size / 2, middle + share * size / 2
    outside = [(centre <= low) | (centre >= high) for centre in (tl_centre, br_centre)]
    apart = (br_centre - tl_centre).prod(-1).abs() / (high - low).prod(-1).abs()
    return apart.masked_fill(torch.cat(outside, dim=-1).any(-1), torch.inf)


@HEADS.register_module()
class CornerHead(BaseDenseHead):
    """Of each corner a heat map for each class, an offset and an embedding.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        num_feat_levels: feature maps, one of each stacked hourglass; all are trained on the same
            targets, the last one detects.
        corner_emb_channels: 1, or 0 for a head without embeddings.
        train_cfg: not used.
        test_cfg: ``corner_topk``, ``local_maximum_kernel``, ``distance_threshold``, ``nms``,
            ``max_per_img``.
        loss_heatmap: config of the loss of the heat maps.
        loss_embedding: config of the loss of the embeddings, or ``None``.
        loss_offset: config of the loss of the offsets.
        init_cfg: must be ``None``; the initialisation is the paper's.

    Raises:
        ValueError: there is an ``init_cfg``.
    """

    def __init__(self, num_classes: int, in_channels: int, num_feat_levels: int = 2,
                 corner_emb_channels: int = 1, train_cfg: Any = None, test_cfg: Any = None,
                 loss_heatmap: dict[str, Any] = dict(
                     type="GaussianFocalLoss", alpha=2.0, gamma=4.0, loss_weight=1),
                 loss_embedding: dict[str, Any] | None = dict(
                     type="AssociativeEmbeddingLoss", pull_weight=0.25, push_weight=0.25),
                 loss_offset: dict[str, Any] = dict(
                     type="SmoothL1Loss", beta=1.0, loss_weight=1),
                 init_cfg: Any = None) -> None:
        if init_cfg is not None:
            raise ValueError(f"{type(self).__name__} is initialised as in the paper; init_cfg "
                             f"must be None, got {init_cfg!r}")
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.corner_emb_channels = corner_emb_channels
        self.with_corner_emb = corner_emb_channels > 0
        self.num_feat_levels = num_feat_levels
        self.loss_heatmap = build_loss(loss_heatmap)
        self.loss_embedding = None if loss_embedding is None else build_loss(loss_embedding)
        self.loss_offset = build_loss(loss_offset)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.fp16_enabled = False
        self._init_layers()

    def _pools(self, *directions: str) -> nn.ModuleList:
        return nn.ModuleList([
            BiCornerPool(self.in_channels, directions, out_channels=self.in_channels)
            for _ in range(self.num_feat_levels)])

    def _branches(self, out_channels: int, feat_channels: int = 256) -> nn.ModuleList:
        """Of each level two convolutions, from the pooled features to an output."""
        return nn.ModuleList([nn.Sequential(
            ConvModule(self.in_channels, feat_channels, 3, padding=1),
            ConvModule(feat_channels, out_channels, 1, norm_cfg=None, act_cfg=None))
            for _ in range(self.num_feat_levels)])

    def _init_layers(self) -> None:
        self.tl_pool, self.br_pool = self._pools("top", "left"), self._pools("bottom", "right")
        self.tl_heat, self.br_heat = (self._branches(self.num_classes) for _ in range(2))
        self.tl_off, self.br_off = self._branches(2), self._branches(2)
        if self.with_corner_emb:
            self.tl_emb, self.br_emb = (self._branches(self.corner_emb_channels)
                                        for _ in range(2))

    def init_weights(self) -> None:
        """PyTorch's own initialisation of the outputs, and a heat of 0.1 everywhere."""
        super().init_weights()
        branches: list[Any] = [*self.tl_heat, *self.br_heat, *self.tl_off, *self.br_off]
        if self.with_corner_emb:
            branches += [*self.tl_emb, *self.br_emb]
        for branch in branches:
            branch[-1].conv.reset_parameters()
        for branch in branches[:2 * self.num_feat_levels]:
            nn.init.constant_(branch[-1].conv.bias, bias_init_with_prob(0.1))

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Any], ...]:
        """Heat (logits) [B, C, H, W], embeddings [B, 1, H, W] or ``None`` and offsets [B, 2, H, W]
        of the top-left and the bottom-right corners, of each level."""
        return multi_apply(self.forward_single, feats, range(self.num_feat_levels))

    def forward_single(self, x: Tensor, lvl_ind: int, return_pool: bool = False) -> list[Any]:
        """The maps of one level, and with ``return_pool`` what they are made from."""
        tl, br = self.tl_pool[lvl_ind](x), self.br_pool[lvl_ind](x)
        outs = [self.tl_heat[lvl_ind](tl), self.br_heat[lvl_ind](br), None, None,
                self.tl_off[lvl_ind](tl), self.br_off[lvl_ind](br)]
        if self.with_corner_emb:
            outs[2:4] = self.tl_emb[lvl_ind](tl), self.br_emb[lvl_ind](br)
        return [*outs, tl, br] if return_pool else outs

    # --- losses -----------------------------------------------------------------------------
    def get_targets(self, gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                    feat_shape: Sequence[int], img_shape: Sequence[int],
                    with_corner_emb: bool = False, with_guiding_shift: bool = False,
                    with_centripetal_shift: bool = False) -> dict[str, Any]:
        """What the maps learn, see :func:`cornernet_targets`."""
        return cornernet_targets(gt_bboxes, gt_labels, feat_shape, img_shape, with_corner_emb,
                                 with_guiding_shift, with_centripetal_shift)

    def loss(self, tl_heats: list[Tensor], br_heats: list[Tensor],  # type: ignore[override]
             tl_embs: list[Any], br_embs: list[Any], tl_offs: list[Tensor], br_offs: list[Tensor],
             gt_bboxes: list[Tensor], gt_labels: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            tl_heats, br_heats: [B, C, H, W] of each level, logits.
            tl_embs, br_embs: [B, 1, H, W] of each level, or ``None``.
            tl_offs, br_offs: [B, 2, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: ``pad_shape`` of the first image is read.
            gt_bboxes_ignore: not used.

        Returns:
            ``det_loss``, ``off_loss`` and, with embeddings, ``pull_loss`` and ``push_loss``.
        """
        targets = self.get_targets(gt_bboxes, gt_labels, tl_heats[-1].shape,
                                   img_metas[0]["pad_shape"], self.with_corner_emb)
        det, pull, push, off = multi_apply(self.loss_single, tl_heats, br_heats, tl_embs, br_embs,
                                           tl_offs, br_offs, targets=targets)
        losses = {"det_loss": det, "off_loss": off}
        return losses if pull[0] is None else {**losses, "pull_loss": pull, "push_loss": push}

    def loss_single(self, tl_hmp: Tensor, br_hmp: Tensor, tl_emb: Any, br_emb: Any,
                    tl_off: Tensor, br_off: Tensor, targets: dict[str, Any]) -> tuple[Any, ...]:
        """Losses of one level: of the heat, pull and push (or ``None``), of the offsets."""
        det: Any = 0.0
        for heat, name in ((tl_hmp, "topleft"), (br_hmp, "bottomright")):
            target = targets[f"{name}_heatmap"]
            det = det + self.loss_heatmap(
                heat.sigmoid(), target, avg_factor=target.eq(1).sum().clamp(min=1))
        pull, push = None, None
        if tl_emb is not None and self.loss_embedding is not None:
            pull, push = self.loss_embedding(tl_emb, br_emb, targets["corner_embedding"])
        return det / 2, pull, push, self.loss_at_corners(self.loss_offset, tl_off, br_off, targets,
                                                         "offset")

    @staticmethod
    def loss_at_corners(loss: Any, tl_pred: Tensor, br_pred: Tensor, targets: dict[str, Any],
                        name: str) -> Tensor:
        """The mean over both kinds of corners of a loss of [B, 2, H, W] where corners are."""
        total: Any = 0.0
        for pred, corner in ((tl_pred, "topleft"), (br_pred, "bottomright")):
            mask = targets[f"{corner}_heatmap"].eq(1).any(1, keepdim=True).to(pred.dtype)
            total = total + loss(pred, targets[f"{corner}_{name}"], mask,
                                 avg_factor=mask.sum().clamp(min=1))
        return total / 2

    # --- detections -------------------------------------------------------------------------
    def decode_heatmap(self, tl_heat: Tensor, br_heat: Tensor, tl_off: Tensor, br_off: Tensor,
                       tl_emb: Tensor | None = None, br_emb: Tensor | None = None,
                       tl_centripetal_shift: Tensor | None = None,
                       br_centripetal_shift: Tensor | None = None,
                       img_meta: Meta | list[Meta] | None = None, k: int = 100, kernel: int = 3,
                       distance_threshold: float = 0.5,
                       num_dets: int = 1000) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of corners as boxes (section 3.5 of CornerNet, 4.1 of CentripetalNet).

        A pair is rejected, that is scored -1, if its classes differ, if it is no box, or if its
        distance is above the threshold: that of the embeddings, or :func:`centripetal_distance`.

        Args:
            tl_heat, br_heat: [B, C, H, W], probabilities.
            tl_off, br_off: [B, 2, H, W], in cells.
            tl_emb, br_emb: [B, 1, H, W]; without them the shifts decide.
            tl_centripetal_shift, br_centripetal_shift: [B, 2, H, W], logarithms of the way from
                the corner to the centre in cells.
            img_meta: of all images, or of each: ``pad_shape`` of the input, and ``border`` (top,
                bottom, left, right) where the image has one.
            k: how many corners of either kind.
            kernel: side of the neighbourhood in which a corner is the maximum.
            distance_threshold: pairs must not be above it.
            num_dets: how many pairs.

        Returns:
            Boxes ``[B, n, 4]`` in pixels of the image without its border, scores ``[B, n, 1]`` in
            descending order and classes ``[B, n, 1]``; n is at most k * k.

        Raises:
            ValueError: there are both embeddings and shifts, or neither.
        """
        if (tl_emb is None) == (tl_centripetal_shift is None):
            raise ValueError("corners are paired by embeddings or by centripetal shifts, give one "
                             "of them")
        b, _, height, width = tl_heat.shape
        metas = img_meta if isinstance(img_meta, list) else [img_meta or {}] * b
        stride = torch.stack([tl_heat.new_tensor(
            [meta["pad_shape"][1] / width, meta["pad_shape"][0] / height]) for meta in metas])
        border = torch.stack([tl_heat.new_tensor(meta.get("border", (0, 0, 0, 0)))[[2, 0]]
                              for meta in metas])
        stride, border = stride[:, None, None], border[:, None, None]

        def corners(heat: Tensor, off: Tensor, dim: int, *maps: Any) -> tuple[Any, ...]:
            """The highest of one kind, along one side of all pairs: what maps have there."""
            scores, cell, classes, y, x = get_topk_from_heatmap(get_local_maximum(heat, kernel), k)
            at = torch.stack([x, y], dim=-1) + transpose_and_gather_feat(off, cell)
            there = [None if m is None else transpose_and_gather_feat(m, cell).unsqueeze(dim)
                     for m in maps]
            return scores.unsqueeze(dim), classes.unsqueeze(dim), at.unsqueeze(dim), *there

        def pixels(at: Tensor) -> Tensor:
            return (at * stride - border).clamp(min=0)

        tl_score, tl_class, tl, tl_tag, tl_shift = corners(
            tl_heat, tl_off, 2, tl_emb, tl_centripetal_shift)
        br_score, br_class, br, br_tag, br_shift = corners(
            br_heat, br_off, 1, br_emb, br_centripetal_shift)
        low, high = torch.broadcast_tensors(pixels(tl), pixels(br))  # [B, k, k, 2]
        if tl_emb is not None:
            apart = (tl_tag - br_tag).abs()[..., 0]
        else:
            apart = centripetal_distance(high - low, (low + high) / 2, pixels(tl + tl_shift.exp()),
                                         pixels(br - br_shift.exp()))
        rejected = ((tl_class != br_class) | (apart > distance_threshold)
                    | (high <= low).any(-1))
        scores = torch.where(rejected, REJECTED, (tl_score + br_score) / 2).flatten(1)
        scores, pair = scores.topk(min(num_dets, k * k))
        classes = tl_class.expand(-1, -1, k).flatten(1)
        boxes = torch.cat([low, high], dim=-1).flatten(1, 2)
        return (gather_feat(boxes, pair), scores[..., None], gather_feat(classes[..., None], pair))

    def pairs(self, outs: tuple[Any, ...]) -> dict[str, Any]:
        """What :meth:`decode_heatmap` takes, of the last level."""
        names = ("tl_heat", "br_heat", "tl_emb", "br_emb", "tl_off", "br_off")
        return dict(zip(names, (maps[-1] for maps in outs)))

    @torch.no_grad()
    def candidates(self, outs: tuple[Any, ...], img_metas: list[Meta], cfg: Any) -> Candidates:
        """Pairs of the highest corners that belong together, in pixels without the border."""
        maps = self.pairs(outs)
        for name in ("tl_heat", "br_heat"):
            maps[name] = maps[name].sigmoid()
        boxes, scores, labels = self.decode_heatmap(
            **maps, img_meta=img_metas, k=cfg["corner_topk"], kernel=cfg["local_maximum_kernel"],
            distance_threshold=cfg["distance_threshold"])
        return Candidates(boxes, scores[..., 0], labels[..., 0], scores[..., 0] > REJECTED)

    def get_bboxes(self, *outs: Any, img_metas: list[Meta], cfg: Any = None,
                   rescale: bool = False, with_nms: bool = True) -> list[tuple[Tensor, ...]]:
        """As :meth:`BaseDenseHead.get_bboxes`; without ``with_nms``, too, boxes are [n, 5]."""
        found = super().get_bboxes(*outs, img_metas=img_metas, cfg=cfg, rescale=rescale,
                                   with_nms=with_nms)
        return found if with_nms else [
            (torch.cat([boxes, scores[:, None]], dim=-1), labels)
            for boxes, scores, labels in found]
