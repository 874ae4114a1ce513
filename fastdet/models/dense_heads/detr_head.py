"""Boxes from queries by a transformer, matched one to one (DETR, arXiv 2005.12872)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdet.cnn import FFN, build_activation_layer, build_positional_encoding
from fastdet.core.bbox import GroundTruth, bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh, build_assigner
from fastdet.core.bbox.assigners.hungarian_assigner import least_cost_matchings
from fastdet.core.utils import multi_apply, reduce_mean

from ..builder import HEADS, build_loss
from ..losses.utils import at_least_float32
from ..utils import build_transformer
from ..utils.padding import padding_mask
from .base_dense_head import BaseDenseHead, Meta
from .candidates import Detections

__all__ = ["DETRHead"]

ASSIGNER = dict(type="HungarianAssigner", cls_cost=dict(type="ClassificationCost", weight=1.0),
                reg_cost=dict(type="BBoxL1Cost", weight=5.0),
                iou_cost=dict(type="IoUCost", iou_mode="giou", weight=2.0))


class Predictions(NamedTuple):
    """What L layers predict: logits [L, B, Q, C], boxes [L, B, Q, 4] and the classes to learn."""

    scores: Tensor
    boxes: Tensor
    gt_labels: list[Tensor]


@HEADS.register_module()
class DETRHead(BaseDenseHead):
    """A box and a class, or none, for each query.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature map.
        num_query: how many boxes are predicted.
        num_reg_fcs: linear layers of the box, less the last.
        transformer: its config; ``act_cfg`` in it is the activation of the box's layers.
        sync_cls_avg_factor: the classes' average factor is the mean over the processes.
        positional_encoding: its config.
        loss_cls: config of the classification loss; ``bg_cls_weight`` weighs "no object" where
            there is a ``class_weight``.
        loss_bbox: config of the loss of centre and size, in units of the image.
        loss_iou: config of the loss of the overlap, in pixels.
        train_cfg: ``assigner``, whose weights must be those of the losses.
        test_cfg: ``max_per_img``.
        init_cfg: must be ``None``; ``init_weights`` has its own rules.
        kwargs: not used.

    Raises:
        ValueError: ``init_cfg`` is given, the assigner weighs other than the losses, or the
            positional encoding has other channels than the transformer.
    """

    _version = 2

    embed_dims: Any
    in_channels: Any
    num_query: Any
    num_reg_fcs: Any
    transformer: Any

    def __init__(self, num_classes: int, in_channels: int, num_query: int = 100,
                 num_reg_fcs: int = 2, transformer: Any = None, sync_cls_avg_factor: bool = False,
                 positional_encoding: dict[str, Any] = dict(
                     type="SinePositionalEncoding", num_feats=128, normalize=True),
                 loss_cls: dict[str, Any] = dict(
                     type="CrossEntropyLoss", bg_cls_weight=0.1, use_sigmoid=False,
                     loss_weight=1.0, class_weight=1.0),
                 loss_bbox: dict[str, Any] = dict(type="L1Loss", loss_weight=5.0),
                 loss_iou: dict[str, Any] = dict(type="GIoULoss", loss_weight=2.0),
                 train_cfg: Any = dict(assigner=ASSIGNER),
                 test_cfg: Any = dict(max_per_img=100), init_cfg: Any = None,
                 **kwargs: Any) -> None:
        if init_cfg is not None:
            raise ValueError(f"{type(self).__name__} initialises its weights itself, got "
                             f"init_cfg={init_cfg!r}")
        super().__init__(init_cfg)
        loss_cls = dict(loss_cls)
        self.bg_cls_weight = self._weigh_background(loss_cls, num_classes)
        self.sync_cls_avg_factor = sync_cls_avg_factor
        self.num_query = num_query
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_reg_fcs = num_reg_fcs
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.fp16_enabled = False
        if train_cfg:
            self.assigner: Any = build_assigner(self._checked(train_cfg, loss_cls, loss_bbox,
                                                              loss_iou))
        self.use_sigmoid_cls = bool(loss_cls.get("use_sigmoid", False))
        self.cls_out_channels = num_classes if self.use_sigmoid_cls else num_classes + 1
        self.loss_cls = build_loss(loss_cls)
        self.loss_bbox = build_loss(loss_bbox)
        self.loss_iou = build_loss(loss_iou)
        self.act_cfg = (transformer or {}).get("act_cfg", dict(type="ReLU", inplace=True))
        self.activate = build_activation_layer(self.act_cfg)
        self.positional_encoding = build_positional_encoding(positional_encoding)
        self.transformer = build_transformer(transformer)
        self.embed_dims = self.transformer.embed_dims
        if positional_encoding["num_feats"] * 2 != self.embed_dims:
            raise ValueError(f"{type(self).__name__}: embed_dims must be 2 * num_feats of the "
                             f"positional encoding, got {self.embed_dims} and num_feats="
                             f"{positional_encoding['num_feats']}")
        self._init_layers()

    def _weigh_background(self, loss_cls: dict[str, Any], num_classes: int) -> float:
        """The weight of "no object"; puts one for each class into ``loss_cls``."""
        weight = loss_cls.get("class_weight")
        background = loss_cls.pop("bg_cls_weight", weight)
        if weight is None or not self.has_background:
            return 0
        for name, value in (("class_weight", weight), ("bg_cls_weight", background)):
            if not isinstance(value, float):
                raise ValueError(f"{type(self).__name__}: {name} of loss_cls must be one float, "
                                 f"got {value!r}")
        loss_cls["class_weight"] = [weight] * num_classes + [background]
        return background

    #: Whether "no object" is a class of its own, which can be weighed.
    has_background = True

    def _checked(self, train_cfg: Any, loss_cls: Any, loss_bbox: Any, loss_iou: Any) -> Any:
        """The assigner's config, whose costs weigh what the losses do."""
        if "assigner" not in train_cfg:
            raise ValueError(f"{type(self).__name__}: train_cfg needs an assigner, got "
                             f"{sorted(train_cfg)}")
        assigner = train_cfg["assigner"]
        for name, loss in (("cls_cost", loss_cls), ("reg_cost", loss_bbox),
                           ("iou_cost", loss_iou)):
            cost, weight = assigner[name]["weight"], loss.get("loss_weight", 1.0)
            if cost != weight:
                raise ValueError(f"{type(self).__name__}: the weight of {name} must be that of "
                                 f"its loss, got {cost} and {weight}")
        return assigner

    def _init_layers(self) -> None:
        dims = self.embed_dims
        self.input_proj = nn.Conv2d(self.in_channels, dims, 1)
        self.fc_cls = nn.Linear(dims, self.cls_out_channels)
        self.reg_ffn = FFN(dims, dims, self.num_reg_fcs, self.act_cfg, ffn_drop=0.0,
                           add_identity=False)
        self.fc_reg = nn.Linear(dims, 4)
        self.query_embedding = nn.Embedding(self.num_query, dims)

    def init_weights(self) -> None:
        """Xavier's uniform distribution in the transformer."""
        self.transformer.init_weights()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, local_metadata: Any,
                              *args: Any) -> None:
        """Checkpoints before version 2 name the parts of transformer layers otherwise."""
        version = local_metadata.get("version")
        if (version is None or version < 2) and type(self) is DETRHead:
            renamed = {".self_attn.": ".attentions.0.", ".ffn.": ".ffns.0.",
                       ".multihead_attn.": ".attentions.1.",
                       ".decoder.norm.": ".decoder.post_norm."}
            for key in [k for k in state_dict if k.startswith(prefix)]:
                new = key
                for old, now in renamed.items():
                    new = new.replace(old, now)
                if new != key:
                    state_dict[new] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    # --- predictions ------------------------------------------------------------------------
    def forward(self, feats: Sequence[Tensor], img_metas: list[Meta]  # type: ignore[override]
                ) -> tuple[list[Tensor], ...]:
        """Logits and boxes of every decoder layer.

        Args:
            feats: feature maps [B, in_channels, h, w]; losses and results are of the last.
            img_metas: ``batch_input_shape`` and ``img_shape`` are read.

        Returns:
            Of each map logits ``[L, B, Q, C]`` and boxes ``[L, B, Q, 4]``, centre and size in
            units of the image.
        """
        return multi_apply(self.forward_single, feats, [img_metas] * len(feats))

    def forward_single(self, x: Tensor, img_metas: list[Meta]) -> tuple[Tensor, Tensor]:
        """Logits and boxes of one map."""
        x = self.input_proj(x)
        mask = padding_mask(x, img_metas)
        states, _ = self.transformer(x, mask, self.query_embedding.weight,
                                     self.positional_encoding(mask))
        return (self.fc_cls(states),
                self.fc_reg(self.activate(self.reg_ffn(states))).sigmoid())

    # --- losses -----------------------------------------------------------------------------
    def forward_train(self, x: Sequence[Tensor], img_metas: list[Meta], gt_bboxes: list[Tensor],
                      gt_labels: list[Tensor] | None = None,
                      gt_bboxes_ignore: list[Tensor] | None = None, proposal_cfg: Any = None,
                      **kwargs: Any) -> dict[str, Tensor]:
        """Losses of feature maps.

        Args:
            x: feature maps.
            img_metas: of each image.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            gt_bboxes_ignore: must be ``None``.
            proposal_cfg: must be ``None``; queries are no proposals.
            kwargs: for :meth:`loss`.

        Raises:
            ValueError: ``proposal_cfg`` is given.
        """
        if proposal_cfg is not None:
            raise ValueError(f"{type(self).__name__} makes no proposals, got proposal_cfg="
                             f"{proposal_cfg!r}")
        args: Any = (*self(x, img_metas), gt_bboxes, gt_labels, img_metas)
        return self.loss(*args, **kwargs, gt_bboxes_ignore=gt_bboxes_ignore)  # type: ignore[misc]

    def loss(self, all_cls_scores_list: list[Tensor],  # type: ignore[override]
             all_bbox_preds_list: list[Tensor], gt_bboxes_list: list[Tensor],
             gt_labels_list: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of every decoder layer on the last map.

        Args:
            all_cls_scores_list: [L, B, Q, C] of each map.
            all_bbox_preds_list: [L, B, Q, 4] of each map.
            gt_bboxes_list: [G, 4] of each image.
            gt_labels_list: [G] of each image.
            img_metas: ``img_shape`` is read.
            gt_bboxes_ignore: must be ``None``.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_iou`` of the last layer, and of the others
            behind ``d0.``, ``d1.`` …
        """
        self._no_ignore(gt_bboxes_ignore)
        layers = self.losses([Predictions(all_cls_scores_list[-1], all_bbox_preds_list[-1],
                                          gt_labels_list)], gt_bboxes_list, img_metas)[0]
        return self.named(layers)

    @staticmethod
    def named(layers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The last layer's losses by their names, those before it behind ``d0.`` …"""
        return {**layers[-1], **{f"d{i}.{name}": value for i, layer in enumerate(layers[:-1])
                                 for name, value in layer.items()}}

    def _no_ignore(self, gt_bboxes_ignore: Any) -> None:
        if gt_bboxes_ignore is not None:
            raise ValueError(f"{type(self).__name__}: every prediction is matched or background; "
                             "gt_bboxes_ignore cannot be given")

    @torch.no_grad()
    def costs(self, pred: Predictions, gt_bboxes: list[Tensor],
              img_metas: list[Meta]) -> list[Tensor]:
        """Costs [Q, G] of each layer's images: L B matrices, the images of a layer in a row."""
        layers = len(pred.scores)
        each = [self.assigner.cost(box.flatten(0, 1), score.flatten(0, 1), gts, labels,
                                   meta["img_shape"]).chunk(layers)
                for score, box, gts, labels, meta in zip(
                    pred.scores.unbind(1), pred.boxes.unbind(1), gt_bboxes, pred.gt_labels,
                    img_metas)]
        return [images[i] for i in range(layers) for images in each]

    def losses(self, preds: Sequence[Predictions], gt_bboxes: list[Tensor],
               img_metas: list[Meta]) -> list[list[dict[str, Tensor]]]:
        """Losses of each layer of ``preds``, all of which are matched with one copy to the host.

        Args:
            preds: of some layers each.
            gt_bboxes: [G, 4] of each image.
            img_metas: ``img_shape`` is read.
        """
        preds = [Predictions(at_least_float32(p.scores), at_least_float32(p.boxes), p.gt_labels)
                 for p in preds]
        gt_bboxes = [boxes.to(preds[0].boxes.dtype) for boxes in gt_bboxes]
        matched = iter(least_cost_matchings(
            [cost for p in preds for cost in self.costs(p, gt_bboxes, img_metas)]))
        size = self.image_sizes(gt_bboxes[0], img_metas)[:, None]
        out = []
        for scores, boxes, labels in preds:
            gts = GroundTruth.pad(gt_bboxes, labels)
            out.append([self.loss_single(score, box, torch.stack([next(matched) for _ in box]),
                                         gts, size) for score, box in zip(scores, boxes)])
        return out

    @staticmethod
    def image_sizes(like: Tensor, img_metas: list[Meta]) -> Tensor:
        """[B, 4], width and height of each image, twice."""
        return like.new_tensor([[*meta["img_shape"][1::-1]] * 2 for meta in img_metas])

    def loss_single(self, cls_scores: Tensor, bbox_preds: Tensor, gt_inds: Tensor,
                    gts: GroundTruth, size: Tensor) -> dict[str, Tensor]:
        """Losses of one layer.

        Args:
            cls_scores: [B, Q, C].
            bbox_preds: [B, Q, 4].
            gt_inds: [B, Q], the gt of a query, counted from 1, or 0.
            gts: of the batch.
            size: [B, 1, 4], width and height of each image, twice.
        """
        boxes, labels = gts.of(gt_inds)
        pos = gt_inds > 0
        labels = torch.where(pos, labels, self.num_classes).flatten()
        weight = pos[..., None].to(boxes.dtype).expand_as(boxes).flatten(0, 1)
        num_pos = pos.sum().to(boxes.dtype)
        total = num_pos + (pos.numel() - num_pos) * self.bg_cls_weight
        if self.sync_cls_avg_factor:
            total = reduce_mean(total)
        num_pos = reduce_mean(num_pos).clamp(min=1)
        of_class = self.loss_cls(cls_scores.flatten(0, 1), labels, avg_factor=total.clamp(min=1))
        of_overlap = self.loss_iou(
            (bbox_cxcywh_to_xyxy(bbox_preds) * size).flatten(0, 1), boxes.flatten(0, 1), weight,
            avg_factor=num_pos)
        of_box = self.loss_bbox(
            bbox_preds.flatten(0, 1), bbox_xyxy_to_cxcywh(boxes / size).flatten(0, 1), weight,
            avg_factor=num_pos)
        return {"loss_cls": of_class, "loss_bbox": of_box, "loss_iou": of_overlap}

    # --- detections -------------------------------------------------------------------------
    def last(self, outs: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Logits [B, Q, C] and boxes [B, Q, 4] of the last layer, of what ``forward`` returned."""
        return outs[0][-1][-1], outs[1][-1][-1]

    @torch.no_grad()
    def detect(self, outs: tuple[Any, ...], img_metas: list[Meta], cfg: Any = None,
               rescale: bool = False) -> Detections:
        """The best detections of a batch; nothing is suppressed, and each image has as many.

        Args:
            outs: what :meth:`forward` returned.
            img_metas: of each image.
            cfg: settings in place of ``test_cfg``.
            rescale: in pixels of the original image.
        """
        cfg = self.test_cfg if cfg is None else cfg
        logits, boxes = (at_least_float32(t) for t in self.last(outs))
        num = cfg.get("max_per_img", self.num_query)
        if self.use_sigmoid_cls:
            scores, pairs = logits.sigmoid().flatten(1).topk(num)
            rows, labels = pairs // self.num_classes, pairs % self.num_classes
        else:
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
            scores, rows = scores.topk(num)
            labels = labels.gather(1, rows)
        size = self.image_sizes(boxes, img_metas)[:, None]
        boxes = bbox_cxcywh_to_xyxy(boxes.gather(1, rows[..., None].expand(-1, -1, 4))) * size
        boxes = boxes.clamp(min=0).minimum(size)
        if rescale:
            boxes = boxes / torch.stack(
                [boxes.new_tensor(meta["scale_factor"]) for meta in img_metas])[:, None]
        return Detections(torch.cat([boxes, scores[..., None]], dim=-1), labels,
                          labels.new_full((len(labels),), num))

    def get_bboxes(self, *outs: Any, img_metas: list[Meta],  # type: ignore[override]
                   rescale: bool = False) -> list[tuple[Tensor, Tensor]]:
        """Boxes and scores ``[n, 5]`` and labels ``[n]`` of each image, of what :meth:`forward`
        returned.

        Args:
            outs: what :meth:`forward` returned.
            img_metas: of each image.
            rescale: in pixels of the original image.
        """
        found = self.detect(outs, img_metas, rescale=rescale)
        return list(zip(found.boxes, found.labels))

    def simple_test(self, feats: Sequence[Tensor], img_metas: list[Meta],  # type: ignore[override]
                    rescale: bool = False) -> list[tuple[Tensor, Tensor]]:
        """Detections of each image from feature maps."""
        return self.get_bboxes(*self(feats, img_metas), img_metas=img_metas, rescale=rescale)

    def aug_test(self, feats: list[Any], img_metas: list[list[Meta]],
                 rescale: bool = False) -> Any:
        """Not defined: what several views find would have to be suppressed.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} has no test-time augmentation")
