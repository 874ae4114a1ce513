"""Layouts of token sequences, patch embedding and merging, and the transformer of DETR."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
from fastdet.runner import BaseModule

from .builder import TRANSFORMER
from .dynamic_conv import DynamicConv

__all__ = [
    "AdaptivePadding", "DetrTransformerDecoder", "DetrTransformerDecoderLayer",
    "DetrTransformerEncoder", "DynamicConv", "PatchEmbed", "PatchMerging", "Transformer",
    "inverse_sigmoid", "nchw_to_nlc", "nlc_to_nchw",
]

Config = dict[str, Any]


def nlc_to_nchw(x: Tensor, hw_shape: Sequence[int]) -> Tensor:
    """Tokens ``[N, H * W, C]`` as a map ``[N, C, H, W]``.

    Args:
        x: ``[N, L, C]``, tokens row by row.
        hw_shape: ``(H, W)``.

    Raises:
        ValueError: ``x`` has not three dimensions, or not ``H * W`` tokens.
    """
    height, width = hw_shape
    if x.dim() != 3 or x.shape[1] != height * width:
        raise ValueError(f"x must be [N, {height} * {width}, C], got {list(x.shape)}")
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], height, width).contiguous()


def nchw_to_nlc(x: Tensor) -> Tensor:
    """A map ``[N, C, H, W]`` as tokens ``[N, H * W, C]``, row by row.

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

    def __init__(self, attn_cfgs: Config | Sequence[Config], feedforward_channels: int,
                 ffn_dropout: float = 0.0, operation_order: Sequence[str] | None = None,
                 act_cfg: Config = {"type": "ReLU", "inplace": True},  # noqa: B006
                 norm_cfg: Config = {"type": "LN"}, ffn_num_fcs: int = 2,  # noqa: B006
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

    def __init__(self, *args: Any, post_norm_cfg: Config | None = {"type": "LN"},  # noqa: B006
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
            ``[num_queries, bs, embed_dims]``.
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

    def __init__(self, *args: Any, post_norm_cfg: Config | None = {"type": "LN"},  # noqa: B006
                 return_intermediate: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.return_intermediate = return_intermediate
        self.post_norm: nn.Module | None = None
        if post_norm_cfg is not None:
            self.post_norm = build_norm_layer(post_norm_cfg, self.embed_dims)[1]

    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layers.

        Args:
            query: ``[num_queries, bs, embed_dims]``.
            *args: see :class:`fastdet.cnn.bricks.transformer.BaseTransformerLayer`.
            **kwargs: likewise.

        Returns:
            ``[num_layers, num_queries, bs, embed_dims]`` if ``return_intermediate``, else
            ``[1, num_queries, bs, embed_dims]``; without the leading axis where there is neither
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

    def __init__(self, encoder: Config | None = None, decoder: Config | None = None,
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
            x: ``[bs, embed_dims, H, W]``.
            mask: ``[bs, H, W]`` bool, true where a place is to be ignored.
            query_embed: ``[num_queries, embed_dims]``, the positional encoding of the queries,
                which themselves start as zeros.
            pos_embed: positional encoding of the map, of the shape of ``x``.

        Returns:
            ``[num_layers or 1, bs, num_queries, embed_dims]`` from the decoder, and the encoder's
            ``[bs, embed_dims, H, W]``.
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
