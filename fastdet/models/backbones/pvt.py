"""Pyramid Vision Transformer and its version 2.

Sources: PVT, https://arxiv.org/abs/2102.12122; PVTv2, https://arxiv.org/abs/2106.13797
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastdet.cnn import build_activation_layer, build_norm_layer
from fastdet.cnn.bricks.drop import DropPath, build_dropout
from fastdet.cnn.bricks.fused import add_gelu_linear, add_norm, bare, cast_dtype, casts
from fastdet.cnn.bricks.layers import is_gelu, is_idle, run_layers
from fastdet.cnn.bricks.transformer import MultiheadAttention, PatchEmbed
from fastdet.cnn.utils.weight_init import (
    constant_init,
    normal_init,
    trunc_normal_,
    trunc_normal_init,
)
from fastdet.kernels.depthwise_conv_tokens import depthwise_conv_tokens
from fastdet.kernels.gelu_linear import can_run_gelu_linear
from fastdet.kernels.linear import linear
from fastdet.kernels.spatial_reduction_attention import spatial_reduction_attention
from fastdet.runner import (
    BaseModule,
    CheckpointLoader,
    ModuleList,
    Sequential,
    find_state_dict,
    load_state_dict,
)
from fastdet.utils.types import Cfg

from ..builder import BACKBONES
from ..utils.checks import check_image, check_indices
from ..utils.ckpt_convert import pvt_convert
from ..utils.misc import pretrained_init_cfg
from ..utils.transformer import nlc_to_nchw

__all__ = [
    "AbsolutePositionEmbedding", "MixFFN", "PVTEncoderLayer", "PyramidVisionTransformer",
    "PyramidVisionTransformerV2", "SpatialReductionAttention",
]

logger = logging.getLogger("fastdet")



def _as_map(tokens: Tensor, hw_shape: Sequence[int]) -> Tensor:
    """Tokens ``(B, H * W, C)`` as a map ``(B, C, H, W)``, channels last: a view, no copy."""
    return tokens.transpose(1, 2).unflatten(2, tuple(hw_shape))


def _check_tokens(tokens: Tensor, hw_shape: Sequence[int]) -> None:
    height, width = hw_shape
    if tokens.dim() != 3 or tokens.shape[1] != height * width:
        raise ValueError(f"expected tokens [B, {height} * {width}, C], got {list(tokens.shape)}")


def _as_tokens(x: Tensor) -> Tensor:
    """A map ``(B, C, H, W)`` as tokens ``(B, H * W, C)``."""
    return x.flatten(2).transpose(1, 2)


def _linear(layer: Any, x: Tensor, **kwargs: Any) -> Tensor:
    """A 1x1 convolution as a linear layer on tokens."""
    return linear(x, layer.weight.flatten(1), layer.bias, **kwargs)


def _is_depthwise(layer: Any) -> bool:
    """Whether a layer is a 3x3 convolution of each channel by itself, which nobody looks at."""
    return (type(layer) is nn.Conv2d and bare(layer) and layer.padding_mode == "zeros"
            and layer.kernel_size == (3, 3) and layer.groups == layer.out_channels
            == layer.in_channels
            and layer.stride == layer.padding == layer.dilation == (1, 1))


def _is_linear(layer: nn.Module) -> bool:
    """Whether a layer is linear and nobody looks at it."""
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward and bare(layer)


class MixFFN(BaseModule):
    """Feed-forward network of 1x1 convolutions, with a depthwise one between them if wanted.

    The 1x1 convolutions run as linear layers on the tokens.

    Args:
        embed_dims: channels in and out.
        feedforward_channels: channels between.
        act_cfg: config of the activation.
        ffn_drop: probability of the dropout after the activation and after the last layer.
        dropout_layer: config of a dropout of the result, before the identity is added.
        use_conv: put a depthwise 3x3 convolution before the activation.
        init_cfg: see :class:`fastdet.runner.BaseModule`.
    """

    def __init__(self, embed_dims: int, feedforward_channels: int,
                 act_cfg: Cfg = {"type": "GELU"},
                 ffn_drop: float = 0.0, dropout_layer: Cfg | None = None,
                 use_conv: bool = False, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.feedforward_channels = feedforward_channels
        self.act_cfg = act_cfg
        drop = nn.Dropout(ffn_drop)
        layers: list[nn.Module] = [
            nn.Conv2d(embed_dims, feedforward_channels, 1), build_activation_layer(act_cfg), drop,
            nn.Conv2d(feedforward_channels, embed_dims, 1), drop]
        if use_conv:
            layers.insert(1, nn.Conv2d(feedforward_channels, feedforward_channels, 3, padding=1,
                                       groups=feedforward_channels))
        self.layers = Sequential(*layers)
        self.dropout_layer = build_dropout(dropout_layer) if dropout_layer else nn.Identity()

    def forward(self, x: Tensor, hw_shape: Sequence[int], identity: Tensor | None = None) -> Tensor:
        """Run the network.

        Args:
            x: ``(B, H * W, embed_dims)``.
            hw_shape: ``(H, W)``.
            identity: added to the result; ``x`` by default.

        Returns:
            A tensor of the shape of ``x``.

        Raises:
            ValueError: ``x`` has not ``H * W`` tokens.
        """
        _check_tokens(x, hw_shape)
        expand, *between, reduce, drop = self.layers
        depthwise: Any = between.pop(0) if isinstance(between[0], nn.Conv2d) else None
        identity = x if identity is None else identity
        on_load = (type(between[0]) is nn.GELU and self._is_gelu_last()
                   and can_run_gelu_linear(cast_dtype(x), self.embed_dims) is None)
        gelu = not on_load and is_gelu(between[0])
        out = _linear(expand, x, gelu=gelu and depthwise is None)
        if depthwise is not None and _is_depthwise(depthwise):
            out = depthwise_conv_tokens(out, depthwise.weight, depthwise.bias, hw_shape, gelu=gelu)
        elif depthwise is not None:
            gelu, out = False, _as_tokens(depthwise(_as_map(out, hw_shape)))
        if on_load:
            last: Any = reduce
            return add_gelu_linear(out, last, self.dropout_layer, identity)
        for layer in between[gelu:]:
            out = layer(out)
        if is_idle(drop) and is_idle(self.dropout_layer):
            return _linear(reduce, out, residual=identity)
        return identity + self.dropout_layer(drop(_linear(reduce, out)))

    def _is_gelu_last(self) -> bool:
        """Whether a GELU, a 1x1 convolution and stochastic depth are all that is left to run, and
        nobody looks at what is between them."""
        layers: list[Any] = list(self.layers)
        act, drop, last, end = layers[-4:]
        return (act.approximate == "none" and type(last) is nn.Conv2d
                and not (drop.training and drop.p)
                and type(self.dropout_layer) in (DropPath, nn.Identity)
                and bare(self.layers, act, drop, last, end, self.dropout_layer))


class SpatialReductionAttention(MultiheadAttention):
    """Multi-head attention whose keys and values come from a coarser map.

    Args:
        embed_dims: channels.
        num_heads: number of heads.
        attn_drop: probability of the dropout of the attention weights.
        proj_drop: probability of the dropout after the output projection.
        dropout_layer: config of a dropout of the result, before the identity is added.
        batch_first: whether tokens are ``(B, n, embed_dims)``, not ``(n, B, embed_dims)``.
        qkv_bias: whether the projections, that of the output included, have a bias.
        norm_cfg: config of the norm of the coarser map.
        sr_ratio: how many times coarser it is per side; with 1 it is the map itself.
        init_cfg: see :class:`fastdet.runner.BaseModule`.
    """

    def __init__(self, embed_dims: int, num_heads: int, attn_drop: float = 0.0,
                 proj_drop: float = 0.0, dropout_layer: Cfg | None = None,
                 batch_first: bool = True, qkv_bias: bool = True,
                 norm_cfg: Cfg = {"type": "LN"},
                 sr_ratio: int = 1, init_cfg: Any = None) -> None:
        # ``attn`` holds the projections under the names of checkpoints; it does not run.
        super().__init__(embed_dims, num_heads, attn_drop, proj_drop,
                         dropout_layer=dropout_layer, batch_first=batch_first, bias=qkv_bias,
                         init_cfg=init_cfg)
        self.sr_ratio = sr_ratio
        if sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = build_norm_layer(norm_cfg, embed_dims)[1]

    def forward(self, x: Tensor, hw_shape: Sequence[int], identity: Tensor | None = None  # type: ignore[override]
                ) -> Tensor:
        """Attend, and add the identity.

        Args:
            x: ``(B, H * W, embed_dims)``.
            hw_shape: ``(H, W)``; rows and columns that do not fill a cell of the coarser map are
                no keys.
            identity: added to the result; ``x`` by default.

        Returns:
            A tensor of the shape of ``x``.

        Raises:
            ValueError: ``x`` has not ``H * W`` tokens, or ``H`` or ``W`` is below ``sr_ratio``.
        """
        out = self.attend(x if self.batch_first else x.transpose(0, 1), hw_shape)
        if not self.batch_first:
            out = out.transpose(0, 1)
        return (x if identity is None else identity) + self.dropout_layer(out)

    def attend(self, tokens: Tensor, hw_shape: Sequence[int]) -> Tensor:
        """Attend on tokens ``(B, H * W, embed_dims)``, without last dropout and identity."""
        _check_tokens(tokens, hw_shape)
        reduced = tokens
        if self.sr_ratio > 1:
            if min(hw_shape) < self.sr_ratio:
                raise ValueError(f"a map of {hw_shape[0]} x {hw_shape[1]} is smaller than "
                                 f"sr_ratio={self.sr_ratio}; give a larger image")
            reduced = self.norm(self._reduce(tokens, *hw_shape))
        attn, c = self.attn, self.embed_dims
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        q_bias, kv_bias = (None, None) if bias is None else (bias[:c], bias[c:])
        q, kv = linear(tokens, weight[:c], q_bias), linear(reduced, weight[c:], kv_bias)
        dropout_p = attn.dropout if self.training else 0.0
        last: list[nn.Module] = [attn.out_proj, self.proj_drop]
        if self.num_heads == 1 and self.sr_ratio > 1 and not dropout_p and _is_linear(last[0]):
            # One head's weights sum to one: what follows their mean of values may as well come
            # before it, where there are sr_ratio ** 2 times fewer.
            k, v = kv.chunk(2, -1)
            kv = torch.cat([k, run_layers([last.pop(0)], v)], -1)
        return run_layers(last, spatial_reduction_attention(q, kv, self.num_heads,
                                                            dropout_p=dropout_p))

    def _reduce(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """The convolution, on a CPU as a linear layer on its windows: its kernel is its stride."""
        if tokens.device.type != "cpu" or not bare(self.sr):
            return _as_tokens(self.sr(_as_map(tokens, (height, width))))
        r, c = self.sr_ratio, self.embed_dims
        rows, columns = height // r, width // r
        x = tokens.unflatten(1, (height, width))[:, :rows * r, :columns * r]
        x = x.unflatten(2, (columns, r)).unflatten(1, (rows, r)).transpose(2, 3)
        weight = self.sr.weight.permute(0, 2, 3, 1).reshape(c, -1)
        return linear(x.reshape(-1, rows * columns, r * r * c), weight, self.sr.bias)


class PVTEncoderLayer(BaseModule):
    """One layer: spatial-reduction attention and a feed-forward network, each behind a norm.

    Args:
        embed_dims: channels.
        num_heads: number of heads.
        feedforward_channels: hidden channels of the feed-forward network.
        drop_rate: probability of the dropouts after linear layers.
        attn_drop_rate: probability of the dropout of the attention weights.
        drop_path_rate: chance of a sample to skip the attention, or the feed-forward network.
        qkv_bias: see :class:`SpatialReductionAttention`.
        act_cfg: config of the activation.
        norm_cfg: config of the norms.
        sr_ratio: see :class:`SpatialReductionAttention`.
        use_conv_ffn: see ``use_conv`` of :class:`MixFFN`.
        init_cfg: see :class:`fastdet.runner.BaseModule`.
    """

    def __init__(self, embed_dims: int, num_heads: int, feedforward_channels: int,
                 drop_rate: float = 0.0, attn_drop_rate: float = 0.0, drop_path_rate: float = 0.0,
                 qkv_bias: bool = True,
                 act_cfg: Cfg = {"type": "GELU"},
                 norm_cfg: Cfg = {"type": "LN"},
                 sr_ratio: int = 1, use_conv_ffn: bool = False, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        drop_path = {"type": "DropPath", "drop_prob": drop_path_rate}
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = SpatialReductionAttention(
            embed_dims, num_heads, attn_drop_rate, drop_rate, dropout_layer=drop_path,
            qkv_bias=qkv_bias, norm_cfg=norm_cfg, sr_ratio=sr_ratio)
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = MixFFN(embed_dims, feedforward_channels, act_cfg, drop_rate, drop_path,
                          use_conv=use_conv_ffn)

    def forward(self, x: Tensor, hw_shape: Sequence[int]) -> Tensor:
        """Run the layer on tokens ``(B, H * W, embed_dims)`` of a map ``hw_shape`` ``(H, W)``."""
        attn, ffn = self.attn, self.ffn
        if type(attn) is not SpatialReductionAttention or type(ffn) is not MixFFN \
                or not bare(attn, ffn) or not attn.batch_first:
            x = attn(self.norm1(x), hw_shape, identity=x)
            return ffn(self.norm2(x), hw_shape, identity=x)
        x, out = add_norm(self.norm1, x, cast=attn.sr_ratio == 1 or casts(attn.sr))
        x, out = add_norm(self.norm2, x, attn.attend(out, hw_shape), attn.dropout_layer,
                          cast=casts(ffn.layers[0]))
        return ffn(out, hw_shape, identity=x)


class AbsolutePositionEmbedding(BaseModule):
    """A learned embedding per position of a map, resized to the map at hand.

    Args:
        pos_shape: ``(H, W)`` of the embedding, or one number for both.
        pos_dim: channels.
        drop_rate: probability of the dropout of the sum.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Raises:
        ValueError: ``pos_shape`` is not one or two numbers.
    """

    def __init__(self, pos_shape: int | Sequence[int], pos_dim: int, drop_rate: float = 0.0,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.pos_shape = _one_or_two("pos_shape", pos_shape)
        self.pos_dim = pos_dim
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.pos_shape), pos_dim))
        self.drop = nn.Dropout(p=drop_rate)

    def init_weights(self) -> None:
        """Draw the embedding from a truncated normal distribution."""
        trunc_normal_(self.pos_embed, std=0.02)

    def resize_pos_embed(self, pos_embed: Tensor, input_shape: Sequence[int], mode: str = "bilinear"
                         ) -> Tensor:
        """Resize an embedding of ``pos_shape``.

        Args:
            pos_embed: ``(1, n, pos_dim)``; its last ``H * W`` tokens are the map.
            input_shape: ``(h, w)`` to resize to.
            mode: as in :func:`torch.nn.functional.interpolate`.

        Returns:
            ``(1, h * w, pos_dim)``.

        Raises:
            ValueError: ``pos_embed`` has not three dimensions.
        """
        if pos_embed.dim() != 3:
            raise ValueError(f"pos_embed must be [1, n, pos_dim], got {list(pos_embed.shape)}")
        pos_embed = pos_embed[:, -math.prod(self.pos_shape):]
        if tuple(input_shape) == self.pos_shape:
            return pos_embed
        x = _as_map(pos_embed, self.pos_shape)
        align = None if mode.startswith("nearest") else False
        return _as_tokens(F.interpolate(x, size=tuple(input_shape), mode=mode,
                                        align_corners=align))

    def forward(self, x: Tensor, hw_shape: Sequence[int], mode: str = "bilinear") -> Tensor:
        """Add the embedding to tokens ``(B, H * W, pos_dim)`` of a map ``hw_shape`` ``(H, W)``."""
        return self.drop(x + self.resize_pos_embed(self.pos_embed, hw_shape, mode))


def _one_or_two(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """``(H, W)`` of one number, or of a sequence of one or two."""
    if isinstance(value, int):
        return value, value
    if len(value) not in (1, 2):
        raise ValueError(f"{name} must be one or two numbers, got {value}")
    return value[0], value[-1]


@BACKBONES.register_module()
class PyramidVisionTransformer(BaseModule):
    """Pyramid Vision Transformer backbone.

    Args:
        pretrain_img_size: ``(H, W)`` of the images of pre-training, in pixels, or one number; the
            sizes of the position embeddings follow from it.
        in_channels: channels of the image.
        embed_dims: channels per head.
        num_stages: number of stages.
        num_layers: layers of each stage.
        num_heads: heads of each stage, which has ``embed_dims * num_heads`` channels.
        patch_sizes: kernel of each stage's patch embedding.
        strides: its stride.
        paddings: its padding.
        sr_ratios: how many times coarser keys and values are per side, in each stage.
        out_indices: the stages whose output is returned.
        mlp_ratios: hidden channels of the feed-forward networks per channel, in each stage.
        qkv_bias: whether the projections of the attention have a bias.
        drop_rate: probability of the dropouts after linear layers.
        attn_drop_rate: probability of the dropout of the attention weights.
        drop_path_rate: chance of a sample to skip the last layer's branches; it grows linearly
            from 0 at the first layer.
        use_abs_pos_embed: whether each stage adds a learned position embedding.
        norm_after_stage: whether a norm follows each stage.
        use_conv_ffn: whether the feed-forward networks have a depthwise convolution.
        act_cfg: config of the activations.
        norm_cfg: config of the norms.
        pretrained: deprecated; a checkpoint's path or address.
        convert_weights: whether the checkpoint is one of whai362/PVT, to be renamed and packed.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` or ``None``.

    Raises:
        ValueError: arguments do not fit each other; the message says which.

    Source: Pyramid Vision Transformer, https://arxiv.org/abs/2102.12122
    """

    def __init__(self, pretrain_img_size: int | Sequence[int] = 224, in_channels: int = 3,
                 embed_dims: int = 64, num_stages: int = 4,
                 num_layers: Sequence[int] = [3, 4, 6, 3],
                 num_heads: Sequence[int] = [1, 2, 5, 8],
                 patch_sizes: Sequence[int] = [4, 2, 2, 2],
                 strides: Sequence[int] = [4, 2, 2, 2],
                 paddings: Sequence[int] = [0, 0, 0, 0],
                 sr_ratios: Sequence[int] = [8, 4, 2, 1],
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 mlp_ratios: Sequence[int] = [8, 8, 4, 4],
                 qkv_bias: bool = True, drop_rate: float = 0.0, attn_drop_rate: float = 0.0,
                 drop_path_rate: float = 0.1, use_abs_pos_embed: bool = True,
                 norm_after_stage: bool = False, use_conv_ffn: bool = False,
                 act_cfg: Cfg = {"type": "GELU"},
                 norm_cfg: Cfg = {"type": "LN", "eps": 1e-6},
                 pretrained: str | None = None, convert_weights: bool = True,
                 init_cfg: Any = None) -> None:
        super().__init__(pretrained_init_cfg(pretrained, init_cfg))
        for name, values in (("num_layers", num_layers), ("num_heads", num_heads),
                             ("patch_sizes", patch_sizes), ("strides", strides),
                             ("paddings", paddings), ("sr_ratios", sr_ratios),
                             ("mlp_ratios", mlp_ratios)):
            if len(values) != num_stages:
                raise ValueError(f"{name} must have num_stages={num_stages} entries, got {values}")
        check_indices("out_indices", out_indices, num_stages)
        img_size = _one_or_two("pretrain_img_size", pretrain_img_size)
        self.convert_weights = convert_weights
        self.embed_dims = embed_dims
        self.num_stages = num_stages
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.patch_sizes = patch_sizes
        self.strides = strides
        self.sr_ratios = sr_ratios
        self.out_indices = out_indices
        self.in_channels = in_channels
        self.pretrained = pretrained

        rates = iter(torch.linspace(0, drop_path_rate, sum(num_layers), device="cpu").tolist())
        self.layers = ModuleList()
        for i, depth in enumerate(num_layers):
            channels = embed_dims * num_heads[i]
            patch_embed = PatchEmbed(in_channels, channels, kernel_size=patch_sizes[i],
                                     stride=strides[i], padding=paddings[i], norm_cfg=norm_cfg)
            blocks = ModuleList()
            if use_abs_pos_embed:
                total = math.prod(strides[:i + 1])
                blocks.append(AbsolutePositionEmbedding([side // total for side in img_size],
                                                        channels, drop_rate))
            blocks.extend(
                PVTEncoderLayer(channels, num_heads[i], mlp_ratios[i] * channels, drop_rate,
                                attn_drop_rate, next(rates), qkv_bias, act_cfg, norm_cfg,
                                sr_ratios[i], use_conv_ffn)
                for _ in range(depth))
            norm = build_norm_layer(norm_cfg, channels)[1] if norm_after_stage else nn.Identity()
            self.layers.append(ModuleList([patch_embed, blocks, norm]))
            in_channels = channels

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``, or initialise for training from scratch.

        What does not match the model is logged; a tensor of another shape is left out.

        Raises:
            ValueError: ``init_cfg`` names no checkpoint.
        """
        if self.init_cfg is not None:
            if not isinstance(self.init_cfg, dict) or "checkpoint" not in self.init_cfg:
                raise ValueError(f"init_cfg of {type(self).__name__} must be None or "
                                 "dict(type='Pretrained', checkpoint=...), "
                                 f"got {self.init_cfg!r}")
            state = find_state_dict(
                CheckpointLoader.load_checkpoint(self.init_cfg["checkpoint"], map_location="cpu"))
            load_state_dict(self, pvt_convert(state) if self.convert_weights else state)
            return
        logger.warning("%s has no pre-trained weights, training starts from scratch",
                       type(self).__name__)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                trunc_normal_init(m, std=0.02, bias=0.0)
            elif isinstance(m, nn.LayerNorm):
                constant_init(m, 1.0)
            elif isinstance(m, nn.Conv2d):
                fan_out = math.prod(m.kernel_size) * m.out_channels // m.groups
                normal_init(m, 0, math.sqrt(2.0 / fan_out))
            elif isinstance(m, AbsolutePositionEmbedding):
                m.init_weights()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature maps of an image.

        Args:
            x: ``(B, in_channels, H, W)``.

        Returns:
            One ``(B, C, h, w)`` per entry of ``out_indices``, in the order of stages.
        """
        check_image(self, x, self.in_channels)
        outs = []
        for i, stage in enumerate(self.layers):
            patch_embed, blocks, norm = stage.children()
            x, hw = patch_embed(x)
            for block in blocks.children():
                x = block(x, hw)
            x = norm(x)
            if i in self.out_indices:
                outs.append(nlc_to_nchw(x, hw))
            x = _as_map(x, hw)
        return outs


@BACKBONES.register_module()
class PyramidVisionTransformerV2(PyramidVisionTransformer):
    """PVTv2: overlapping patches and convolutional feed-forward networks, no position embedding.

    Args:
        **kwargs: the other arguments of :class:`PyramidVisionTransformer`.

    Source: PVTv2, https://arxiv.org/abs/2106.13797
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(patch_sizes=[7, 3, 3, 3], paddings=[3, 1, 1, 1], use_abs_pos_embed=False,
                         norm_after_stage=True, use_conv_ffn=True, **kwargs)
