"""Building blocks of transformers by config, as in ``mmcv.cnn.bricks.transformer``."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from ...runner import BaseModule, ModuleList, Sequential
from ...utils import build_from_cfg
from .activation import build_activation_layer
from .conv import build_conv_layer
from .drop import build_dropout
from .norm import build_norm_layer
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

Config = dict[str, Any]
Size = int | tuple[int, int]


def build_positional_encoding(cfg: Config, default_args: Config | None = None) -> nn.Module:
    """Build a positional encoding from its config dict."""
    return build_from_cfg(cfg, POSITIONAL_ENCODING, default_args)


def build_attention(cfg: Config, default_args: Config | None = None) -> nn.Module:
    """Build an attention module from its config dict."""
    return build_from_cfg(cfg, ATTENTION, default_args)


def build_feedforward_network(cfg: Config, default_args: Config | None = None) -> nn.Module:
    """Build a feed-forward network from its config dict."""
    return build_from_cfg(cfg, FEEDFORWARD_NETWORK, default_args)


def build_transformer_layer(cfg: Config, default_args: Config | None = None) -> nn.Module:
    """Build one layer of a transformer from its config dict."""
    return build_from_cfg(cfg, TRANSFORMER_LAYER, default_args)


def build_transformer_layer_sequence(cfg: Config,
                                     default_args: Config | None = None) -> nn.Module:
    """Build an encoder or a decoder from its config dict."""
    return build_from_cfg(cfg, TRANSFORMER_LAYER_SEQUENCE, default_args)


def _renamed(**names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a method take keyword arguments under their deprecated names, with a warning.

    Args:
        **names: the new name of each old one.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old, new in names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise ValueError(f"got both {new!r} and its deprecated name {old!r}")
                    warnings.warn(f"{old!r} of {method.__qualname__} is deprecated, "
                                  f"use {new!r}", DeprecationWarning, stacklevel=2)
                    kwargs[new] = kwargs.pop(old)
            return method(*args, **kwargs)

        return wrapper

    return decorate


class AdaptivePadding(nn.Module):
    """Zero padding with which a sliding window covers the whole map, whatever its size.

    Args:
        kernel_size: size of the window, ``(h, w)`` or one number.
        stride: its step.
        dilation: spacing of its elements.
        padding: ``'corner'`` pads right and bottom; ``'same'`` pads all around, the odd row and
            column right and bottom.

    Raises:
        ValueError: ``padding`` is neither.
    """

    def __init__(self, kernel_size: Size = 1, stride: Size = 1, dilation: Size = 1,
                 padding: str = "corner") -> None:
        super().__init__()
        if padding not in ("same", "corner"):
            raise ValueError(f"padding must be 'same' or 'corner', got {padding!r}")
        self.padding = padding
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.dilation = _pair(dilation)

    def get_pad_shape(self, input_shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of padding that a map of ``input_shape`` ``(H, W)`` needs."""
        pad_h, pad_w = (
            max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            for size, kernel, stride, dilation in zip(
                input_shape, self.kernel_size, self.stride, self.dilation))
        return pad_h, pad_w

    def forward(self, x: Tensor) -> Tensor:
        """Pad a map ``[..., H, W]``."""
        pad_h, pad_w = self.get_pad_shape(x.shape[-2:])
        if pad_h == 0 and pad_w == 0:
            return x
        top, left = (pad_h // 2, pad_w // 2) if self.padding == "same" else (0, 0)
        return F.pad(x, (left, pad_w - left, top, pad_h - top))


def _window_count(size: int, pad: int, kernel: int, stride: int, dilation: int) -> int:
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


class PatchEmbed(BaseModule):
    """Image to a sequence of patch embeddings, by a convolution.

    Args:
        in_channels: channels of the image.
        embed_dims: channels of an embedding.
        conv_type: type of the convolution.
        kernel_size: size of a patch.
        stride: step between patches; ``kernel_size`` if ``None``.
        padding: numbers, or the mode of :class:`AdaptivePadding`.
        dilation: dilation of the convolution.
        bias: whether the convolution has a bias.
        norm_cfg: config of a norm over the embeddings, if any.
        input_size: ``(H, W)`` of the input, from which ``init_out_size`` is computed.
        init_cfg: see :class:`fastdet.runner.BaseModule`.
    """

    def __init__(self, in_channels: int = 3, embed_dims: int = 768, conv_type: str = "Conv2d",
                 kernel_size: Size = 16, stride: Size | None = 16, padding: Size | str = "corner",
                 dilation: Size = 1, bias: bool = True, norm_cfg: Config | None = None,
                 input_size: Size | None = None, init_cfg: Any = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.embed_dims = embed_dims
        kernel = _pair(kernel_size)
        step = kernel if stride is None else _pair(stride)
        spacing = _pair(dilation)
        self.adap_padding: AdaptivePadding | None = None
        if isinstance(padding, str):
            self.adap_padding = AdaptivePadding(kernel, step, spacing, padding)
            padding = 0
        pad = _pair(padding)
        self.projection = build_conv_layer(
            {"type": conv_type}, in_channels=in_channels, out_channels=embed_dims,
            kernel_size=kernel, stride=step, padding=pad, dilation=spacing, bias=bias)
        self.norm = build_norm_layer(norm_cfg, embed_dims)[1] if norm_cfg is not None else None

        self.init_input_size: tuple[int, int] | None = None
        self.init_out_size: tuple[int, int] | None = None
        if input_size is not None:
            self.init_input_size = size = _pair(input_size)
            if self.adap_padding is not None:
                extra = self.adap_padding.get_pad_shape(size)
                size = (size[0] + extra[0], size[1] + extra[1])
            rows, columns = map(_window_count, size, pad, kernel, step, spacing)
            self.init_out_size = (rows, columns)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed the patches of an image.

        Args:
            x: ``[B, in_channels, H, W]``.

        Returns:
            ``[B, h * w, embed_dims]``, patches row by row, and ``(h, w)``.
        """
        if self.adap_padding is not None:
            x = self.adap_padding(x)
        x = self.projection(x)
        hw = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        if self.norm is not None:
            x = self.norm(x)
        return x, hw


class PatchMerging(BaseModule):
    """Merge neighbouring tokens of a map: gather each window's, normalise, project.

    A merged token's channels are ordered as ``torch.nn.Unfold`` does: channel slowest, then the
    row and the column inside the window.

    Args:
        in_channels: channels of the tokens.
        out_channels: channels of the merged tokens.
        kernel_size: size of a window.
        stride: step between windows; ``kernel_size`` if ``None``.
        padding: numbers, or the mode of :class:`AdaptivePadding`.
        dilation: spacing of the tokens of a window.
        bias: whether the projection has a bias.
        norm_cfg: config of the norm before the projection, if any.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Source: Swin Transformer, https://arxiv.org/abs/2103.14030
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size = 2,
                 stride: Size | None = None, padding: Size | str = "corner", dilation: Size = 1,
                 bias: bool = False, norm_cfg: Config | None = {"type": "LN"},  # noqa: B006
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        kernel = _pair(kernel_size)
        step = _pair(stride) if stride else kernel
        spacing = _pair(dilation)
        self.adap_padding: AdaptivePadding | None = None
        if isinstance(padding, str):
            self.adap_padding = AdaptivePadding(kernel, step, spacing, padding)
            padding = 0
        pad = _pair(padding)
        self.sampler = nn.Unfold(kernel, dilation=spacing, padding=pad, stride=step)
        channels = kernel[0] * kernel[1] * in_channels
        self.norm = build_norm_layer(norm_cfg, channels)[1] if norm_cfg is not None else None
        self.reduction = nn.Linear(channels, out_channels, bias=bias)
        self._window = (pad, kernel, step, spacing)
        self._tiles = step == kernel and spacing == (1, 1) and pad == (0, 0)

    def forward(self, x: Tensor, input_size: Sequence[int]) -> tuple[Tensor, tuple[int, int]]:
        """Merge the tokens of a map.

        Args:
            x: ``[B, H * W, in_channels]``.
            input_size: ``(H, W)``.

        Returns:
            ``[B, h * w, out_channels]`` and ``(h, w)``.

        Raises:
            ValueError: ``input_size`` is not two numbers whose product is the number of tokens.
        """
        if not isinstance(input_size, Sequence) or len(input_size) != 2:
            raise ValueError(f"input_size must be (H, W), got {input_size!r}")
        height, width = input_size
        if x.shape[1] != height * width:
            raise ValueError(f"PatchMerging: {x.shape[1]} tokens cannot be a map of "
                             f"{height} x {width}")
        x = x.view(x.shape[0], height, width, x.shape[2]).permute(0, 3, 1, 2)
        if self.adap_padding is not None:
            x = self.adap_padding(x)
        rows, columns = map(_window_count, x.shape[2:], *self._window)
        x = self._tile(x, rows, columns) if self._tiles else self.sampler(x).transpose(1, 2)
        if self.norm is not None:
            x = self.norm(x)
        return self.reduction(x), (rows, columns)

    def _tile(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """What the sampler gives where windows tile the map, in one copy instead of three."""
        kh, kw = self._window[1]
        b, c = x.shape[:2]
        x = x[:, :, :rows * kh, :columns * kw].permute(0, 2, 3, 1)
        x = x.reshape(b, rows, kh, columns, kw, c).permute(0, 1, 3, 5, 2, 4)
        return x.reshape(b, rows * columns, c * kh * kw)


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

    @_renamed(dropout="ffn_drop", add_residual="add_identity")
    def __init__(self, embed_dims: int = 256, feedforward_channels: int = 1024, num_fcs: int = 2,
                 act_cfg: Config = {"type": "ReLU", "inplace": True},  # noqa: B006
                 ffn_drop: float = 0.0, dropout_layer: Config | None = None,
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

    @_renamed(residual="identity")
    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """Run the network.

        Args:
            x: ``[..., embed_dims]``.
            identity: added to the result if ``add_identity``; ``x`` by default.

        Returns:
            A tensor of the shape of ``x``.
        """
        out = self.dropout_layer(self._run_layers(x))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out

    def _run_layers(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu":
            return self.layers(x)
        rows = max(1, self._PART_BYTES // (self.feedforward_channels * x.element_size()))
        tokens = x.reshape(-1, x.shape[-1])
        if tokens.shape[0] < 2 * rows:
            return self.layers(x)
        return torch.cat([self.layers(part) for part in tokens.split(rows)]).view(x.shape)


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
        batch_first: whether tensors are ``[batch, n, embed_dims]``, not ``[n, batch, embed_dims]``.
        **kwargs: further arguments of ``torch.nn.MultiheadAttention``; ``dropout``, deprecated,
            sets ``attn_drop`` and the probability of ``dropout_layer``.
    """

    def __init__(self, embed_dims: int, num_heads: int, attn_drop: float = 0.0,
                 proj_drop: float = 0.0,
                 dropout_layer: Config | None = {"type": "Dropout", "drop_prob": 0.0},  # noqa: B006
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

    @_renamed(residual="identity")
    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None,
                identity: Tensor | None = None, query_pos: Tensor | None = None,
                key_pos: Tensor | None = None, attn_mask: Tensor | None = None,
                key_padding_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Attend, and add the identity.

        Args:
            query: ``[num_queries, bs, embed_dims]`` (batch first if ``batch_first``, as the
                others).
            key: ``[num_keys, bs, embed_dims]``; ``query`` by default.
            value: as ``key``, which is its default.
            identity: added to the result; ``query``, without its position, by default.
            query_pos: positional encoding added to the query.
            key_pos: positional encoding added to the key; by default that of the query, if it has
                the shape of ``key``.
            attn_mask: as of ``torch.nn.MultiheadAttention``.
            key_padding_mask: ``[bs, num_keys]``, true where a key is to be ignored.
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
        batch_first: whether tensors are ``[batch, n, embed_dims]``, not ``[n, batch, embed_dims]``.
        **kwargs: ``feedforward_channels``, ``ffn_dropout`` and ``ffn_num_fcs``, deprecated, set
            ``feedforward_channels``, ``ffn_drop`` and ``num_fcs`` of ``ffn_cfgs``; others are
            ignored with a warning.

    Raises:
        ValueError: ``operation_order`` and the configs do not fit each other.
    """

    _OPERATIONS = ("self_attn", "norm", "ffn", "cross_attn")
    _FFN_ARGS = {"feedforward_channels": "feedforward_channels",  # noqa: RUF012
                 "ffn_dropout": "ffn_drop", "ffn_num_fcs": "num_fcs"}

    def __init__(self, attn_cfgs: Config | Sequence[Config] | None = None,
                 ffn_cfgs: Config | Sequence[Config] = {  # noqa: B006
                     "type": "FFN", "embed_dims": 256, "feedforward_channels": 1024, "num_fcs": 2,
                     "ffn_drop": 0.0, "act_cfg": {"type": "ReLU", "inplace": True}},
                 operation_order: Sequence[str] | None = None,
                 norm_cfg: Config = {"type": "LN"},  # noqa: B006
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
    def _one_each(name: str, cfgs: Config | Sequence[Config] | None, count: int) -> list[Config]:
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
            query: ``[num_queries, bs, embed_dims]`` (batch first if ``batch_first``, as the
                others).
            key: ``[num_keys, bs, embed_dims]``, of the cross-attentions.
            value: as ``key``.
            query_pos: positional encoding of the query.
            key_pos: positional encoding of the key.
            attn_masks: one mask per attention, or one tensor for all, as of
                ``torch.nn.MultiheadAttention``.
            query_key_padding_mask: ``[bs, num_queries]``, true where a query is to be ignored as
                a key of self-attention.
            key_padding_mask: ``[bs, num_keys]``, likewise of cross-attention.
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

    def __init__(self, transformerlayers: Config | list[Config] | None = None,
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
