"""Layouts of token sequences, patches, and the transformers of DETR and Deformable DETR."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import build_norm_layer, xavier_init
from fastdet.cnn.bricks.registry import TRANSFORMER_LAYER, TRANSFORMER_LAYER_SEQUENCE
from fastdet.cnn.bricks.transformer import (
    AdaptivePadding,
    BaseTransformerLayer,
    PatchEmbed,
    PatchMerging,
    TransformerLayerSequence,
    build_transformer_layer_sequence,
)
from fastdet.kernels.multi_scale_deformable_attention import level_table
from fastdet.ops import MultiScaleDeformableAttention
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

from .builder import TRANSFORMER
from .dynamic_conv import DynamicConv

__all__ = [
    "AdaptivePadding", "DeformableDetrTransformer", "DeformableDetrTransformerDecoder",
    "DetrTransformerDecoder", "DetrTransformerDecoderLayer",
    "DetrTransformerEncoder", "DynamicConv", "PatchEmbed", "PatchMerging", "Transformer",
    "inverse_sigmoid", "nchw_to_nlc", "nlc_to_nchw",
]



def nlc_to_nchw(x: Tensor, hw_shape: Sequence[int]) -> Tensor:
    """Tokens ``(N, H * W, C)`` as a map ``(N, C, H, W)``.

    Args:
        x: ``(N, L, C)``, tokens row by row.
        hw_shape: ``(H, W)``.

    Raises:
        ValueError: ``x`` has not three dimensions, or not ``H * W`` tokens.
    """
    height, width = hw_shape
    if x.dim() != 3 or x.shape[1] != height * width:
        raise ValueError(f"x must be [N, {height} * {width}, C], got {list(x.shape)}")
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], height, width).contiguous()


def nchw_to_nlc(x: Tensor) -> Tensor:
    """A map ``(N, C, H, W)`` as tokens ``(N, H * W, C)``, row by row.

    Raises:
        ValueError: ``x`` has not four dimensions.
    """
    if x.dim() != 4:
        raise ValueError(f"x must be [N, C, H, W], got {list(x.shape)}")
    return x.flatten(2).transpose(1, 2).contiguous()


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """The logit of ``x`` clamped to [0, 1], numerator and denominator being at least ``eps``.

    Args:
        x: probabilities of any shape.
        eps: the bound.

    Returns:
        A tensor of the shape of ``x``.
    """
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


@TRANSFORMER_LAYER.register_module()
class DetrTransformerDecoderLayer(BaseTransformerLayer):
    """A decoder layer of DETR: self-attention, cross-attention and a feed-forward network.

    Args:
        attn_cfgs: configs of the two attentions, or one dict for both.
        feedforward_channels: hidden channels of the feed-forward network.
        ffn_dropout: probability of its dropouts.
        operation_order: six names in which all of ``'self_attn'``, ``'cross_attn'``, ``'ffn'`` and
            ``'norm'`` occur.
        act_cfg: not used, as in MMDetection; ``act_cfg`` in ``ffn_cfgs`` is.
        norm_cfg: config of the norms.
        ffn_num_fcs: number of linear layers in the feed-forward network.
        **kwargs: further arguments of :class:`fastdet.cnn.bricks.transformer.BaseTransformerLayer`.

    Raises:
        ValueError: ``operation_order`` is not as above.

    Source: End-to-End Object Detection with Transformers, https://arxiv.org/abs/2005.12872
    """

    def __init__(self, attn_cfgs: Cfg | Sequence[Cfg], feedforward_channels: int,
                 ffn_dropout: float = 0.0, operation_order: Sequence[str] | None = None,
                 act_cfg: Cfg = {"type": "ReLU", "inplace": True},
                 norm_cfg: Cfg = {"type": "LN"}, ffn_num_fcs: int = 2,
                 **kwargs: Any) -> None:
        if act_cfg.get("type") != "ReLU":
            warnings.warn("act_cfg of DetrTransformerDecoderLayer has no effect, as in "
                          "MMDetection; set it in ffn_cfgs", stacklevel=2)
        super().__init__(
            attn_cfgs=attn_cfgs, feedforward_channels=feedforward_channels, ffn_dropout=ffn_dropout,
            operation_order=operation_order, norm_cfg=norm_cfg, ffn_num_fcs=ffn_num_fcs, **kwargs)
        if len(self.operation_order) != 6 or set(self.operation_order) != set(self._OPERATIONS):
            raise ValueError("operation_order of a DETR decoder layer must be six names with each "
                             f"of {self._OPERATIONS} among them, got {operation_order!r}")


@TRANSFORMER_LAYER_SEQUENCE.register_module()
class DetrTransformerEncoder(TransformerLayerSequence):
    """The encoder of DETR.

    Args:
        *args: see :class:`fastdet.cnn.bricks.transformer.TransformerLayerSequence`.
        post_norm_cfg: config of the norm after the last layer, which there is only if the layers
            are pre-norm.
        **kwargs: likewise.

    Raises:
        ValueError: ``post_norm_cfg`` is ``None`` and the layers are pre-norm.
    """

    def __init__(self, *args: Any, post_norm_cfg: Cfg | None = {"type": "LN"},
                 **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.post_norm: nn.Module | None = None
        if self.pre_norm:
            if post_norm_cfg is None:
                raise ValueError("an encoder of pre-norm layers needs a post_norm_cfg, got None")
            self.post_norm = build_norm_layer(post_norm_cfg, self.embed_dims)[1]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layers, and the last norm if there is one.

        Returns:
            ``(num_queries, bs, embed_dims)``.
        """
        x = super().forward(*args, **kwargs)
        return x if self.post_norm is None else self.post_norm(x)


@TRANSFORMER_LAYER_SEQUENCE.register_module()
class DetrTransformerDecoder(TransformerLayerSequence):
    """The decoder of DETR.

    Args:
        *args: see :class:`fastdet.cnn.bricks.transformer.TransformerLayerSequence`.
        post_norm_cfg: config of the norm of every result, if any.
        return_intermediate: whether to return the results of all layers.
        **kwargs: likewise.
    """

    def __init__(self, *args: Any, post_norm_cfg: Cfg | None = {"type": "LN"},
                 return_intermediate: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.return_intermediate = return_intermediate
        self.post_norm: nn.Module | None = None
        if post_norm_cfg is not None:
            self.post_norm = build_norm_layer(post_norm_cfg, self.embed_dims)[1]

    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layers.

        Args:
            query: ``(num_queries, bs, embed_dims)``.
            *args: see :class:`fastdet.cnn.bricks.transformer.BaseTransformerLayer`.
            **kwargs: likewise.

        Returns:
            ``(num_layers, num_queries, bs, embed_dims)`` if ``return_intermediate``, else
            ``(1, num_queries, bs, embed_dims)``; without the leading axis where there is neither
            ``return_intermediate`` nor a norm.
        """
        if not self.return_intermediate:
            query = super().forward(query, *args, **kwargs)
            return query if self.post_norm is None else self.post_norm(query)[None]
        results = []
        for layer in self.layers:
            query = layer(query, *args, **kwargs)
            results.append(query if self.post_norm is None else self.post_norm(query))
        return torch.stack(results)


@TRANSFORMER.register_module()
class Transformer(BaseModule):
    """The transformer of DETR: positions go into every attention, and the decoder returns a stack.

    Args:
        encoder: config of the encoder.
        decoder: config of the decoder.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Source: End-to-End Object Detection with Transformers, https://arxiv.org/abs/2005.12872
    """

    def __init__(self, encoder: Cfg | None = None, decoder: Cfg | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.encoder = build_transformer_layer_sequence(encoder)  # type: ignore[arg-type]
        self.decoder = build_transformer_layer_sequence(decoder)  # type: ignore[arg-type]
        self.embed_dims = self.encoder.embed_dims

    def init_weights(self) -> None:
        """Draw every weight matrix from Xavier's uniform distribution and zero its bias."""
        for m in self.modules():
            weight = getattr(m, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() > 1:
                xavier_init(m, distribution="uniform")
        self._is_init = True

    def forward(self, x: Tensor, mask: Tensor, query_embed: Tensor,
                pos_embed: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a map and decode the queries against it.

        Args:
            x: ``(bs, embed_dims, H, W)``.
            mask: ``(bs, H, W)`` bool, true where a place is to be ignored.
            query_embed: ``(num_queries, embed_dims)``, the positional encoding of the queries,
                which themselves start as zeros.
            pos_embed: positional encoding of the map, of the shape of ``x``.

        Returns:
            ``(num_layers or 1, bs, num_queries, embed_dims)`` from the decoder, and the encoder's
            ``(bs, embed_dims, H, W)``.
        """
        bs = x.shape[0]
        tokens = x.flatten(2).permute(2, 0, 1)
        pos_embed = pos_embed.flatten(2).permute(2, 0, 1)
        query_embed = query_embed.unsqueeze(1).repeat(1, bs, 1)
        mask = mask.flatten(1)
        memory = self.encoder(query=tokens, key=None, value=None, query_pos=pos_embed,
                              query_key_padding_mask=mask)
        out = self.decoder(query=torch.zeros_like(query_embed), key=memory, value=memory,
                           key_pos=pos_embed, query_pos=query_embed, key_padding_mask=mask)
        return out.transpose(1, 2), memory.permute(1, 2, 0).reshape(x.shape)


Sizes = Tensor | Sequence[tuple[int, int]]


def _pairs(sizes: Sizes) -> Iterable[tuple[int, int]]:
    """Numbers of the host; of a tensor on a GPU they have to be waited for."""
    return sizes.tolist() if isinstance(sizes, Tensor) else sizes


def _valid_size(mask: Tensor) -> Tensor:
    """``(bs, 2)``, width and height of the valid part of ``(bs, h, w)``, true where padded."""
    return torch.stack([(~mask[:, 0]).sum(1), (~mask[:, :, 0]).sum(1)], -1)


def _cells(height: int, width: int, device: torch.device) -> Tensor:
    """``(height * width, 2)``, the centres ``(x, y)`` of a map's places, row by row."""
    y, x = (torch.arange(n, dtype=torch.float32, device=device) + 0.5 for n in (height, width))
    return torch.stack([x.repeat(height), y.repeat_interleave(width, output_size=height * width)],
                       -1)


@TRANSFORMER_LAYER_SEQUENCE.register_module()
class DeformableDetrTransformerDecoder(TransformerLayerSequence):
    """The decoder of Deformable DETR: reference points may move from layer to layer.

    Args:
        *args: see :class:`fastdet.cnn.bricks.transformer.TransformerLayerSequence`.
        return_intermediate: whether to return the results of all layers.
        **kwargs: likewise.
    """

    def __init__(self, *args: Any, return_intermediate: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.return_intermediate = return_intermediate

    def forward(self, query: Tensor, *args: Any,  # type: ignore[override]
                reference_points: Tensor | None = None, valid_ratios: Tensor | None = None,
                reg_branches: Sequence[nn.Module] | None = None,
                **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Run the layers.

        Args:
            query: ``(num_queries, bs, embed_dims)``.
            *args: see :class:`fastdet.cnn.bricks.transformer.BaseTransformerLayer`.
            reference_points: ``(bs, num_queries, 2)``, ``(x, y)``, or ``(..., 4)``,
                ``(cx, cy, w, h)``, in ``(0, 1)`` of the valid part of the images.
            valid_ratios: ``(bs, num_levels, 2)``, the valid share of each level's width and height.
            reg_branches: one module for each layer, which moves the reference points by what it
                makes of the layer's result, ``(bs, num_queries, 4)``; points become boxes.
            **kwargs: see :class:`fastdet.cnn.bricks.transformer.BaseTransformerLayer`.

        Returns:
            The result and the reference points, ``(num_queries, bs, embed_dims)`` and as they were
            given (or moved), each with a leading axis of the layers if ``return_intermediate``.

        Raises:
            ValueError: ``reference_points`` or ``valid_ratios`` is missing or of another shape.
        """
        if reference_points is None or valid_ratios is None:
            missing = "reference_points" if reference_points is None else "valid_ratios"
            raise ValueError(f"{type(self).__name__} needs {missing}, got None")
        if reference_points.shape[-1] not in (2, 4):
            raise ValueError("the last dimension of reference_points must be 2 or 4, got "
                             f"{list(reference_points.shape)}")
        results, points = [], []
        for i, layer in enumerate(self.layers):
            boxes = reference_points.shape[-1] == 4
            ratios = torch.cat([valid_ratios] * 2, -1) if boxes else valid_ratios
            query = layer(query, *args, reference_points=reference_points[:, :, None]
                          * ratios[:, None], **kwargs)
            if reg_branches is not None:
                moved = reg_branches[i](query.transpose(0, 1))
                at = inverse_sigmoid(reference_points)
                # New points start from the old; the size of a box that was a point from nothing.
                moved = moved + at if boxes else torch.cat(
                    [moved[..., :2] + at, moved[..., 2:]], -1)
                reference_points = moved.sigmoid().detach()
            results.append(query)
            points.append(reference_points)
        if self.return_intermediate:
            return torch.stack(results), torch.stack(points)
        return query, reference_points


@TRANSFORMER.register_module()
class DeformableDetrTransformer(Transformer):
    """The transformer of Deformable DETR over the levels of a pyramid.

    Args:
        as_two_stage: whether queries come from the encoder's best proposals.
        num_feature_levels: number of levels.
        two_stage_num_proposals: number of proposals that become queries.
        **kwargs: see :class:`fastdet.models.utils.transformer.Transformer`.

    Source: Deformable DETR, https://arxiv.org/abs/2010.04159
    """

    def __init__(self, as_two_stage: bool = False, num_feature_levels: int = 4,
                 two_stage_num_proposals: int = 300, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.as_two_stage = as_two_stage
        self.num_feature_levels = num_feature_levels
        self.two_stage_num_proposals = two_stage_num_proposals
        self.init_layers()

    def init_layers(self) -> None:
        """Make the parameters beside those of the encoder and the decoder."""
        dims: int = self.embed_dims  # type: ignore[assignment]
        self.level_embeds = nn.Parameter(torch.zeros(self.num_feature_levels, dims))
        if self.as_two_stage:
            self.enc_output = nn.Linear(dims, dims)
            self.enc_output_norm = nn.LayerNorm(dims)
            self.pos_trans = nn.Linear(dims * 2, dims * 2)
            self.pos_trans_norm = nn.LayerNorm(dims * 2)
        else:
            self.reference_points = nn.Linear(dims, 2)

    def init_weights(self) -> None:
        """Xavier's uniform distribution for matrices, each attention's own rule, normal levels."""
        for matrix in (p for p in self.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(matrix)
        for layer in self.modules():
            if isinstance(layer, MultiScaleDeformableAttention):
                layer.init_weights()
        if not self.as_two_stage:
            xavier_init(self.reference_points, distribution="uniform", bias=0.0)
        nn.init.normal_(self.level_embeds)
        self._is_init = True

    def gen_encoder_output_proposals(self, memory: Tensor, memory_padding_mask: Tensor,
                                     spatial_shapes: Sizes) -> tuple[Tensor, Tensor]:
        """A proposal from every place of every level: a box around it, and its features.

        Args:
            memory: ``(bs, num_keys, embed_dims)``, the encoder's result.
            memory_padding_mask: ``(bs, num_keys)``, true where an image is padded.
            spatial_shapes: ``(h, w)`` of every level.

        Returns:
            ``(bs, num_keys, embed_dims)``, zeros projected and normalised where there is no
            proposal: at padding, and where the box's centre is within 0.01 of the border of the
            image; and ``(bs, num_keys, 4)``, the logits of ``(cx, cy, w, h)``, infinite there.
            Sides are 0.05 of the image on the first level, twice that on the next, and so on.
        """
        boxes, start = [], 0
        for level, (h, w) in enumerate(_pairs(spatial_shapes)):
            mask = memory_padding_mask[:, start:start + h * w].view(-1, h, w)
            centers = _cells(h, w, memory.device) / _valid_size(mask)[:, None]
            boxes.append(torch.cat([centers, torch.full_like(centers, 0.05 * 2.0**level)], -1))
            start += h * w
        proposals = torch.cat(boxes, 1)
        real = ((proposals > 0.01) & (proposals < 0.99)).all(-1, keepdim=True)
        none = memory_padding_mask.unsqueeze(-1) | ~real
        logits = torch.log(proposals / (1 - proposals)).masked_fill(none, math.inf)
        return self.enc_output_norm(self.enc_output(memory.masked_fill(none, 0.0))), logits

    @staticmethod
    def get_reference_points(spatial_shapes: Sizes, valid_ratios: Tensor,
                             device: torch.device | str) -> Tensor:
        """Where the encoder's queries are: the centres of all places, on every level.

        Args:
            spatial_shapes: ``(h, w)`` of every level.
            valid_ratios: ``(bs, num_levels, 2)``, the valid share of each level's width and height.
            device: where the result is to be.

        Returns:
            ``(bs, num_keys, num_levels, 2)``, ``(x, y)`` as shares of each level, padding included.
        """
        points = []
        for level, (h, w) in enumerate(_pairs(spatial_shapes)):
            cells = _cells(h, w, torch.device(device))
            # One axis at a time: a tensor of (w, h) would have to come from the host.
            size = valid_ratios[:, level].unbind(-1)
            points.append(torch.stack([cells[:, i] / (size[i][:, None] * n)
                                       for i, n in enumerate((w, h))], -1))
        return torch.cat(points, 1)[:, :, None] * valid_ratios[:, None]

    def get_valid_ratio(self, mask: Tensor) -> Tensor:
        """``(bs, 2)``, the valid share of width and height of ``mask`` ``(bs, h, w)``."""
        valid = _valid_size(mask).float()
        return torch.stack([valid[:, 0] / mask.shape[2], valid[:, 1] / mask.shape[1]], -1)

    def get_proposal_pos_embed(self, proposals: Tensor, num_pos_feats: int = 128,
                               temperature: float = 10000) -> Tensor:
        """Sines and cosines of the four numbers of proposals.

        Args:
            proposals: ``(bs, n, 4)``, logits.
            num_pos_feats: channels for each number.
            temperature: ratio of the longest wave to the shortest.

        Returns:
            ``(bs, n, 4 * num_pos_feats)``, sine and cosine by turns.
        """
        pair = torch.arange(0, num_pos_feats, 2, dtype=torch.float32, device=proposals.device)
        angle = (proposals.sigmoid() * (2 * math.pi)).unsqueeze(-1)
        angle = angle / temperature ** (pair / num_pos_feats)
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(2)

    def forward(self, mlvl_feats: Sequence[Tensor],  # type: ignore[override]
                mlvl_masks: Sequence[Tensor], query_embed: Tensor | None,
                mlvl_pos_embeds: Sequence[Tensor],
                reg_branches: Sequence[nn.Module] | None = None,
                cls_branches: Sequence[nn.Module] | None = None, **kwargs: Any
                ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Encode the levels and decode the queries against them.

        Args:
            mlvl_feats: maps ``(bs, embed_dims, h, w)``, one for each level.
            mlvl_masks: ``(bs, h, w)`` bool each, true where an image is padded.
            query_embed: ``(num_queries, embed_dims * 2)``, position and content of the queries;
                ``None`` with ``as_two_stage``.
            mlvl_pos_embeds: positional encodings of the maps, of their shapes.
            reg_branches: one module for each decoder layer, where boxes are refined layer by
                layer; with ``as_two_stage`` one more, for the encoder's proposals.
            cls_branches: with ``as_two_stage``, likewise, of which only the last is used here; the
                first channel of its result ranks the proposals.
            **kwargs: passed on to encoder and decoder.

        Returns:
            The decoder's results, ``(num_layers, num_queries, bs, embed_dims)`` (with its
            ``return_intermediate``); the first reference points, ``(bs, num_queries, 2 or 4)``;
            those after each layer, ``(num_layers, bs, num_queries, 2 or 4)``; and, with
            ``as_two_stage``, classes and box logits of all proposals, ``(bs, num_keys, classes)``
            and ``(bs, num_keys, 4)``, else ``None`` twice.

        Raises:
            ValueError: ``query_embed`` is missing without ``as_two_stage``, or branches with it;
                or the levels are not ``num_feature_levels``.
        """
        if len(mlvl_feats) != self.num_feature_levels:
            raise ValueError(f"expected {self.num_feature_levels} levels, got {len(mlvl_feats)}")
        if not self.as_two_stage and query_embed is None:
            raise ValueError("query_embed must be given where as_two_stage is not set, got None")
        if self.as_two_stage and (reg_branches is None or cls_branches is None):
            raise ValueError("as_two_stage needs reg_branches and cls_branches, got "
                             f"{reg_branches!r} and {cls_branches!r}")
        shapes = [(feat.shape[2], feat.shape[3]) for feat in mlvl_feats]
        tokens = torch.cat([feat.flatten(2).permute(2, 0, 1) for feat in mlvl_feats])
        positions = torch.cat([pos.flatten(2).permute(2, 0, 1) + embed for pos, embed in
                               zip(mlvl_pos_embeds, self.level_embeds)])
        mask = torch.cat([m.flatten(1) for m in mlvl_masks], 1)
        valid_ratios = torch.stack([self.get_valid_ratio(m) for m in mlvl_masks], 1)
        spatial_shapes, level_start_index = level_table(shapes, tokens.device)
        levels = {"spatial_shapes": spatial_shapes, "level_start_index": level_start_index,
                  "valid_ratios": valid_ratios}
        memory = self.encoder(
            query=tokens, key=None, value=None, query_pos=positions, query_key_padding_mask=mask,
            reference_points=self.get_reference_points(shapes, valid_ratios, tokens.device),
            **levels, **kwargs)

        classes = boxes = None
        if self.as_two_stage:
            last: int = self.decoder.num_layers  # type: ignore[assignment]
            found, proposals = self.gen_encoder_output_proposals(
                memory.transpose(0, 1), mask, shapes)
            classes = cls_branches[last](found)  # type: ignore[index]
            boxes = reg_branches[last](found) + proposals  # type: ignore[index]
            best = classes[..., 0].topk(self.two_stage_num_proposals, dim=1).indices
            best_boxes = boxes.gather(1, best.unsqueeze(-1).expand(-1, -1, 4)).detach()
            reference_points = best_boxes.sigmoid()
            both = self.pos_trans_norm(self.pos_trans(
                self.get_proposal_pos_embed(best_boxes, memory.shape[2] // 2).to(memory.dtype)))
            query_pos, query = both.transpose(0, 1).chunk(2, -1)
        else:
            assert query_embed is not None
            query_pos, query = query_embed.unsqueeze(1).expand(
                -1, memory.shape[1], -1).chunk(2, -1)
            reference_points = self.reference_points(query_pos.transpose(0, 1)).sigmoid()
        states, points = self.decoder(
            query=query, key=None, value=memory, query_pos=query_pos, key_padding_mask=mask,
            reference_points=reference_points, reg_branches=reg_branches, **levels, **kwargs)
        return states, reference_points, points, classes, boxes
