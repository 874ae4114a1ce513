"""Building blocks of transformers by config, as in ``mmcv.cnn.bricks.transformer``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastdet.kernels.gelu_linear import can_run_gelu_linear
from fastdet.runner import BaseModule, ModuleList, Sequential
from fastdet.utils import build_from_cfg
from fastdet.utils.deprecation import renamed
from fastdet.utils.types import Cfg, InitCfg

from .activation import build_activation_layer
from .drop import DropPath, build_dropout
from .fused import add_gelu_linear, bare, cast_dtype, casts
from .layers import is_idle, run_layers
from .norm import build_norm_layer
from .patches import AdaptivePadding, PatchEmbed, PatchMerging
from .registry import (
    ATTENTION,
    FEEDFORWARD_NETWORK,
    POSITIONAL_ENCODING,
    TRANSFORMER_LAYER,
    TRANSFORMER_LAYER_SEQUENCE,
)

__all__ = [
    "AdaptivePadding", "PatchEmbed", "PatchMerging", "FFN", "MultiheadAttention",
    "BaseTransformerLayer", "TransformerLayerSequence", "build_positional_encoding",
    "build_attention", "build_feedforward_network", "build_transformer_layer",
    "build_transformer_layer_sequence",
]



def build_positional_encoding(cfg: Cfg, default_args: Cfg | None = None) -> nn.Module:
    """Build a positional encoding from its config dict."""
    return build_from_cfg(cfg, POSITIONAL_ENCODING, default_args)


def build_attention(cfg: Cfg, default_args: Cfg | None = None) -> nn.Module:
    """Build an attention module from its config dict."""
    return build_from_cfg(cfg, ATTENTION, default_args)


def build_feedforward_network(cfg: Cfg, default_args: Cfg | None = None) -> nn.Module:
    """Build a feed-forward network from its config dict."""
    return build_from_cfg(cfg, FEEDFORWARD_NETWORK, default_args)


def build_transformer_layer(cfg: Cfg, default_args: Cfg | None = None) -> nn.Module:
    """Build one layer of a transformer from its config dict."""
    return build_from_cfg(cfg, TRANSFORMER_LAYER, default_args)


def build_transformer_layer_sequence(cfg: Cfg,
                                     default_args: Cfg | None = None) -> nn.Module:
    """Build an encoder or a decoder from its config dict."""
    return build_from_cfg(cfg, TRANSFORMER_LAYER_SEQUENCE, default_args)


@FEEDFORWARD_NETWORK.register_module()
class FFN(BaseModule):
    """Feed-forward network of a transformer: linear layers with an activation between them.

    Args:
        embed_dims: channels in and out.
        feedforward_channels: channels between.
        num_fcs: number of linear layers, at least 2.
        act_cfg: config of the activation.
        ffn_drop: probability of the dropout after every linear layer.
        dropout_layer: config of a dropout of the result, before the identity is added.
        add_identity: whether to add the identity.
        init_cfg: see :class:`fastdet.runner.BaseModule`.
        **kwargs: ignored with a warning; ``dropout`` and ``add_residual`` are the deprecated names
            of ``ffn_drop`` and ``add_identity``.

    Raises:
        ValueError: ``num_fcs`` is below 2.
    """

    #: The hidden layer is computed in parts of about this many bytes where the whole one need
    #: not be kept: memory that fits the cache and that malloc can reuse, not fresh pages.
    _PART_BYTES = 8 << 20

    @renamed(dropout="ffn_drop", add_residual="add_identity")
    def __init__(self, embed_dims: int = 256, feedforward_channels: int = 1024, num_fcs: int = 2,
                 act_cfg: Cfg = {"type": "ReLU", "inplace": True},
                 ffn_drop: float = 0.0, dropout_layer: Cfg | None = None,
                 add_identity: bool = True, init_cfg: Any = None, **kwargs: Any) -> None:
        super().__init__(init_cfg)
        if num_fcs < 2:
            raise ValueError(f"num_fcs must be at least 2, got {num_fcs}")
        if kwargs:
            warnings.warn(f"FFN ignores the arguments {', '.join(kwargs)}", stacklevel=2)
        self.embed_dims = embed_dims
        self.feedforward_channels = feedforward_channels
        self.num_fcs = num_fcs
        self.act_cfg = act_cfg
        self.activate = build_activation_layer(act_cfg)
        layers: list[nn.Module] = []
        channels = embed_dims
        for _ in range(num_fcs - 1):
            layers.append(Sequential(
                nn.Linear(channels, feedforward_channels), self.activate, nn.Dropout(ffn_drop)))
            channels = feedforward_channels
        layers += [nn.Linear(channels, embed_dims), nn.Dropout(ffn_drop)]
        self.layers = Sequential(*layers)
        self.dropout_layer = build_dropout(dropout_layer) if dropout_layer else nn.Identity()
        self.add_identity = add_identity

    @renamed(residual="identity")
    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """Run the network.

        Args:
            x: ``(..., embed_dims)``.
            identity: added to the result if ``add_identity``; ``x`` by default.

        Returns:
            A tensor of the shape of ``x``.
        """
        identity = x if identity is None else identity
        if self.add_identity and self._is_gelu_alone():
            (first, *_), last, _ = cast(Any, self.layers)
            if can_run_gelu_linear(cast_dtype(x), last.out_features) is None:
                return add_gelu_linear(first(x), last, self.dropout_layer, identity)
        residual = identity if self.add_identity else None
        if is_idle(self.dropout_layer):
            return self._run_layers(x, residual)
        out = self.dropout_layer(self._run_layers(x, None))
        return out if residual is None else residual + out

    def _is_gelu_alone(self) -> bool:
        """Whether two linear layers with a GELU between them, and stochastic depth, are all that
        runs, and nobody looks at what is between them."""
        layers: list[Any] = list(self.layers)
        if self.num_fcs != 2 or len(layers) != 3 or type(layers[0]) is not Sequential:
            return False
        (first, act, drop), last, end = layers
        return (type(first) is nn.Linear and type(last) is nn.Linear and type(act) is nn.GELU
                and act.approximate == "none" and not any(d.training and d.p for d in (drop, end))
                and type(self.dropout_layer) in (DropPath, nn.Identity)
                and bare(self.layers, layers[0], first, act, drop, last, end,
                         self.dropout_layer))

    def casts(self) -> bool:
        """Whether the input is read as autocast casts it, and nobody sees it before that."""
        first: Any = self.layers[0]
        return type(first) is Sequential and bare(self.layers, first) and casts(first[0])

    def _run_layers(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu":
            return run_layers([self.layers], x, residual)
        rows = max(1, self._PART_BYTES // (self.feedforward_channels * x.element_size()))
        tokens = x.reshape(-1, x.shape[-1])
        if tokens.shape[0] < 2 * rows:
            return run_layers([self.layers], x, residual)
        parts = tokens.split(rows)
        added = [None] * len(parts) if residual is None \
            else residual.expand_as(x).reshape(tokens.shape).split(rows)
        return torch.cat([run_layers([self.layers], part, r)
                          for part, r in zip(parts, added)]).view(x.shape)


@ATTENTION.register_module()
class MultiheadAttention(BaseModule):
    """``torch.nn.MultiheadAttention`` with positional encodings, a dropout and the identity.

    Args:
        embed_dims: channels.
        num_heads: number of heads.
        attn_drop: probability of the dropout of the attention weights.
        proj_drop: probability of the dropout after the output projection.
        dropout_layer: config of a dropout of the result, before the identity is added. (In mmcv the
            default is one dict for all: the deprecated ``dropout`` of one instance changes it for
            those built later. Here it does not.)
        init_cfg: see :class:`fastdet.runner.BaseModule`.
        batch_first: whether tensors are ``(batch, n, embed_dims)``, not ``(n, batch, embed_dims)``.
        **kwargs: further arguments of ``torch.nn.MultiheadAttention``; ``dropout``, deprecated,
            sets ``attn_drop`` and the probability of ``dropout_layer``.
    """

    def __init__(self, embed_dims: int, num_heads: int, attn_drop: float = 0.0,
                 proj_drop: float = 0.0,
                 dropout_layer: Cfg | None = {"type": "Dropout", "drop_prob": 0.0},
                 init_cfg: Any = None, batch_first: bool = False, **kwargs: Any) -> None:
        super().__init__(init_cfg)
        if "dropout" in kwargs:
            warnings.warn("'dropout' of MultiheadAttention is deprecated, use 'attn_drop', "
                          "'proj_drop' and 'dropout_layer'", DeprecationWarning, stacklevel=2)
            attn_drop = kwargs.pop("dropout")
            if dropout_layer:
                dropout_layer = {**dropout_layer, "drop_prob": attn_drop}
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.batch_first = batch_first
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, attn_drop, **kwargs)
        self.proj_drop = nn.Dropout(proj_drop)
        self.dropout_layer = build_dropout(dropout_layer) if dropout_layer else nn.Identity()

    @renamed(residual="identity")
    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None,
                identity: Tensor | None = None, query_pos: Tensor | None = None,
                key_pos: Tensor | None = None, attn_mask: Tensor | None = None,
                key_padding_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Attend, and add the identity.

        Args:
            query: ``(num_queries, bs, embed_dims)`` (batch first if ``batch_first``, as the
                others).
            key: ``(num_keys, bs, embed_dims)``; ``query`` by default.
            value: as ``key``, which is its default.
            identity: added to the result; ``query``, without its position, by default.
            query_pos: positional encoding added to the query.
            key_pos: positional encoding added to the key; by default that of the query, if it has
                the shape of ``key``.
            attn_mask: as of ``torch.nn.MultiheadAttention``.
            key_padding_mask: ``(bs, num_keys)``, true where a key is to be ignored.
            **kwargs: not used; other attention modules of a layer may need them.

        Returns:
            A tensor of the shape of ``query``.
        """
        if key is None:
            key = query
        if value is None:
            value = key
        if identity is None:
            identity = query
        if key_pos is None and query_pos is not None:
            if query_pos.shape == key.shape:
                key_pos = query_pos
            else:
                warnings.warn(f"{type(self).__name__}: the keys have no positional encoding, and "
                              "that of the queries has another shape", stacklevel=2)
        if query_pos is not None:
            query = query + query_pos
        if key_pos is not None:
            key = key + key_pos
        if self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        # Without weights torch takes a fused attention.
        out = self.attn(query, key, value, attn_mask=attn_mask, key_padding_mask=key_padding_mask,
                        need_weights=False)[0]
        if self.batch_first:
            out = out.transpose(0, 1)
        return identity + self.dropout_layer(self.proj_drop(out))


@TRANSFORMER_LAYER.register_module()
class BaseTransformerLayer(BaseModule):
    """One layer of a transformer: attentions, feed-forward networks and norms in a given order.

    Args:
        attn_cfgs: configs of the attentions in the order in which they run; one dict stands for
            all of them.
        ffn_cfgs: likewise of the feed-forward networks.
        operation_order: names out of ``'self_attn'``, ``'cross_attn'``, ``'ffn'`` and ``'norm'``.
            A layer that starts with ``'norm'`` is a pre-norm one: identities are taken before
            the norm.
        norm_cfg: config of the norms.
        init_cfg: see :class:`fastdet.runner.BaseModule`.
        batch_first: whether tensors are ``(batch, n, embed_dims)``, not ``(n, batch, embed_dims)``.
        **kwargs: ``feedforward_channels``, ``ffn_dropout`` and ``ffn_num_fcs``, deprecated, set
            ``feedforward_channels``, ``ffn_drop`` and ``num_fcs`` of ``ffn_cfgs``; others are
            ignored with a warning.

    Raises:
        ValueError: ``operation_order`` and the configs do not fit each other.
    """

    _OPERATIONS = ("self_attn", "norm", "ffn", "cross_attn")
    _FFN_ARGS = {"feedforward_channels": "feedforward_channels",  # noqa: RUF012
                 "ffn_dropout": "ffn_drop", "ffn_num_fcs": "num_fcs"}

    def __init__(self, attn_cfgs: Cfg | Sequence[Cfg] | None = None,
                 ffn_cfgs: Cfg | Sequence[Cfg] = {
                     "type": "FFN", "embed_dims": 256, "feedforward_channels": 1024, "num_fcs": 2,
                     "ffn_drop": 0.0, "act_cfg": {"type": "ReLU", "inplace": True}},
                 operation_order: Sequence[str] | None = None,
                 norm_cfg: Cfg = {"type": "LN"},
                 init_cfg: Any = None, batch_first: bool = False, **kwargs: Any) -> None:
        super().__init__(init_cfg)
        if not operation_order or not set(operation_order) <= set(self._OPERATIONS):
            raise ValueError(f"operation_order must list names out of {self._OPERATIONS}, "
                             f"got {operation_order!r}")
        self.batch_first = batch_first
        self.operation_order = operation_order
        self.norm_cfg = norm_cfg
        self.pre_norm = operation_order[0] == "norm"

        attn_names = [name for name in operation_order if name.endswith("attn")]
        self.num_attn = len(attn_names)
        if not attn_names:
            raise ValueError(f"operation_order must hold an attention, got {operation_order!r}")
        self.attentions = ModuleList()
        for name, cfg in zip(attn_names, self._one_each("attn_cfgs", attn_cfgs, self.num_attn)):
            if cfg.setdefault("batch_first", batch_first) != batch_first:
                raise ValueError(f"an attention has batch_first={cfg['batch_first']}, "
                                 f"its layer {batch_first}")
            attention = build_attention(cfg)
            attention.operation_name = name  # type: ignore[assignment]
            self.attentions.append(attention)
        self.embed_dims: int = self.attentions[0].embed_dims  # type: ignore[assignment]

        self.ffns = ModuleList()
        ffn_args = {new: kwargs.pop(old) for old, new in self._FFN_ARGS.items() if old in kwargs}
        if kwargs:
            warnings.warn(f"{type(self).__name__} ignores the arguments {', '.join(kwargs)}",
                          stacklevel=2)
        for cfg in self._one_each("ffn_cfgs", ffn_cfgs, operation_order.count("ffn")):
            cfg.update(ffn_args)
            if cfg.setdefault("embed_dims", self.embed_dims) != self.embed_dims:
                raise ValueError(f"a feed-forward network has embed_dims={cfg['embed_dims']}, "
                                 f"the attentions {self.embed_dims}")
            self.ffns.append(build_feedforward_network(cfg, {"type": "FFN"}))

        self.norms = ModuleList(build_norm_layer(norm_cfg, self.embed_dims)[1]
                                for _ in range(operation_order.count("norm")))

    @staticmethod
    def _one_each(name: str, cfgs: Cfg | Sequence[Cfg] | None, count: int) -> list[Cfg]:
        if isinstance(cfgs, dict):
            cfgs = [cfgs] * count
        if cfgs is None or len(cfgs) != count:
            raise ValueError(f"{name} must be a dict or {count} of them, as operation_order says, "
                             f"got {cfgs!r}")
        return [copy.deepcopy(cfg) for cfg in cfgs]

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None,
                query_pos: Tensor | None = None, key_pos: Tensor | None = None,
                attn_masks: Tensor | Sequence[Tensor | None] | None = None,
                query_key_padding_mask: Tensor | None = None,
                key_padding_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Run the operations in order.

        Args:
            query: ``(num_queries, bs, embed_dims)`` (batch first if ``batch_first``, as the
                others).
            key: ``(num_keys, bs, embed_dims)``, of the cross-attentions.
            value: as ``key``.
            query_pos: positional encoding of the query.
            key_pos: positional encoding of the key.
            attn_masks: one mask per attention, or one tensor for all, as of
                ``torch.nn.MultiheadAttention``.
            query_key_padding_mask: ``(bs, num_queries)``, true where a query is to be ignored as
                a key of self-attention.
            key_padding_mask: ``(bs, num_keys)``, likewise of cross-attention.
            **kwargs: passed on to the attentions.

        Returns:
            A tensor of the shape of ``query``.

        Raises:
            ValueError: the number of masks is not that of attentions.
        """
        if attn_masks is None or isinstance(attn_masks, Tensor):
            if attn_masks is not None and self.num_attn > 1:
                warnings.warn(f"{type(self).__name__} uses one attn_mask in all its attentions",
                              stacklevel=2)
            attn_masks = [attn_masks] * self.num_attn
        elif len(attn_masks) != self.num_attn:
            raise ValueError(f"attn_masks must hold one mask for each of the {self.num_attn} "
                             f"attentions, got {len(attn_masks)}")
        attentions, ffns, norms = iter(self.attentions), iter(self.ffns), iter(self.norms)
        masks = iter(attn_masks)
        identity = query
        for name in self.operation_order:
            before = identity if self.pre_norm else None
            if name == "self_attn":
                query = next(attentions)(
                    query, query, query, before, query_pos=query_pos, key_pos=query_pos,
                    attn_mask=next(masks), key_padding_mask=query_key_padding_mask, **kwargs)
                identity = query
            elif name == "cross_attn":
                query = next(attentions)(
                    query, key, value, before, query_pos=query_pos, key_pos=key_pos,
                    attn_mask=next(masks), key_padding_mask=key_padding_mask, **kwargs)
                identity = query
            elif name == "norm":
                query = next(norms)(query)
            else:
                query = next(ffns)(query, before)
        return query


@TRANSFORMER_LAYER_SEQUENCE.register_module()
class TransformerLayerSequence(BaseModule):
    """A stack of transformer layers: the base of encoders and decoders.

    Args:
        transformerlayers: configs of the layers; one dict stands for all of them.
        num_layers: number of layers.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Raises:
        ValueError: ``transformerlayers`` is neither a dict nor a list of ``num_layers`` of them.
    """

    def __init__(self, transformerlayers: InitCfg = None,
                 num_layers: int | None = None, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if not isinstance(num_layers, int) or num_layers < 1:
            raise ValueError(f"num_layers must be a positive number, got {num_layers!r}")
        if isinstance(transformerlayers, dict):
            transformerlayers = [transformerlayers] * num_layers
        if not isinstance(transformerlayers, list) or len(transformerlayers) != num_layers:
            raise ValueError(f"transformerlayers must be a dict or a list of {num_layers} of them, "
                             f"got {transformerlayers!r}")
        self.num_layers = num_layers
        self.layers = ModuleList(build_transformer_layer(copy.deepcopy(cfg))
                                 for cfg in transformerlayers)
        self.embed_dims: int = self.layers[0].embed_dims  # type: ignore[assignment]
        self.pre_norm = self.layers[0].pre_norm

    def forward(self, query: Tensor, key: Tensor | None, value: Tensor | None,
                query_pos: Tensor | None = None, key_pos: Tensor | None = None,
                attn_masks: Tensor | Sequence[Tensor | None] | None = None,
                query_key_padding_mask: Tensor | None = None,
                key_padding_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Run the layers one after another; arguments as of :class:`BaseTransformerLayer`."""
        for layer in self.layers:
            query = layer(query, key, value, query_pos=query_pos, key_pos=key_pos,
                          attn_masks=attn_masks, query_key_padding_mask=query_key_padding_mask,
                          key_padding_mask=key_padding_mask, **kwargs)
        return query
