"""Swin Transformer (`arXiv 2103.14030 <https://arxiv.org/abs/2103.14030>`_)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torch.utils.checkpoint import checkpoint

from fastdet.cnn import build_norm_layer, constant_init, trunc_normal_init
from fastdet.cnn.bricks.drop import build_dropout
from fastdet.cnn.bricks.fused import add_norm, bare, casts
from fastdet.cnn.bricks.layers import run_layers
from fastdet.cnn.bricks.transformer import FFN, PatchEmbed, PatchMerging
from fastdet.kernels.window_attention import window_attention
from fastdet.runner import BaseModule, CheckpointLoader, ModuleList, find_state_dict
from fastdet.runner.weight_init import trunc_normal_
from fastdet.utils.types import HW, Cfg

from ..builder import BACKBONES
from ..utils.checks import check_image, check_indices
from ..utils.ckpt_convert import swin_converter
from ..utils.misc import pretrained_init_cfg

__all__ = ["ShiftWindowMSA", "SwinBlock", "SwinBlockSequence", "SwinTransformer", "WindowMSA"]

logger = logging.getLogger("fastdet")



def _position_index(height: int, width: int) -> Tensor:
    """Row of the bias table for every (query, key) of a window: ``(h * w, h * w)`` int64."""
    rows = torch.arange(height) * (2 * width - 1)
    place = (rows[:, None] + torch.arange(width)).flatten()
    return place[:, None] + place.flip(0)


class WindowMSA(BaseModule):
    """Multi-head self-attention inside windows, with a learned bias per relative position.

    Args:
        embed_dims: channels.
        num_heads: number of heads.
        window_size: ``(h, w)`` of a window.
        qkv_bias: whether the projection to query, key and value has a bias.
        qk_scale: factor on the query; ``head_dims ** -0.5`` if ``None`` or 0.
        attn_drop_rate: probability of the dropout of the attention weights.
        proj_drop_rate: probability of the dropout of the result.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Raises:
        ValueError: ``embed_dims`` is not a multiple of ``num_heads``.
    """

    relative_position_index: Tensor

    def __init__(self, embed_dims: int, num_heads: int, window_size: HW, qkv_bias: bool = True,
                 qk_scale: float | None = None, attn_drop_rate: float = 0.0,
                 proj_drop_rate: float = 0.0, init_cfg: Any = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if embed_dims % num_heads:
            raise ValueError(f"embed_dims must be a multiple of num_heads, got {embed_dims} and "
                             f"{num_heads}")
        self.embed_dims = embed_dims
        self.window_size = window_size
        self.num_heads = num_heads
        self.scale = qk_scale or (embed_dims // num_heads) ** -0.5

        height, width = window_size
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * height - 1) * (2 * width - 1), num_heads))
        self.register_buffer("relative_position_index", _position_index(height, width))
        # Known at load time, so that a forward need not look into the buffer.
        self._standard_index = True
        self.qkv = nn.Linear(embed_dims, embed_dims * 3, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        self.softmax = nn.Softmax(dim=-1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        index = self.relative_position_index
        if not index.is_meta:
            self._standard_index = torch.equal(index.cpu(), _position_index(*self.window_size))

    def init_weights(self) -> None:
        """Draw the bias table from a truncated normal distribution."""
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend inside windows that are already cut.

        Args:
            x: ``(num_windows * B, N, embed_dims)``, the ``N`` tokens of a window row by row.
            mask: ``(num_windows, N, N)``, added to the scores.

        Returns:
            A tensor of the shape of ``x``.

        Raises:
            ValueError: ``x`` does not hold whole windows, or not a multiple of those of ``mask``.
        """
        b, n, c = x.shape
        if n != math.prod(self.window_size):
            raise ValueError(f"a window of {self.window_size} has {math.prod(self.window_size)} "
                             f"tokens, got {n}")
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        scores = scores + bias.view(n, n, -1).permute(2, 0, 1)
        if mask is not None:
            if b % mask.shape[0]:
                raise ValueError(f"x must hold a multiple of the {mask.shape[0]} windows of mask, "
                                 f"got {b}")
            scores = scores.unflatten(0, (-1, mask.shape[0])) + mask[:, None]
            scores = scores.flatten(0, 1)
        weights = self.attn_drop(self.softmax(scores))
        x = (weights.to(v.dtype) @ v).transpose(1, 2).reshape(b, n, c)
        return self.proj_drop(self.proj(x))


class ShiftWindowMSA(BaseModule):
    """Window attention over a whole map, its windows shifted or not.

    Args:
        embed_dims: channels.
        num_heads: number of heads.
        window_size: side of a window, in tokens.
        shift_size: rows and columns that windows are shifted by, below ``window_size``.
        qkv_bias: see :class:`WindowMSA`, as the next three.
        qk_scale: factor on the query.
        attn_drop_rate: probability of the dropout of the attention weights.
        proj_drop_rate: probability of the dropout of the projected result.
        dropout_layer: config of the last dropout.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Raises:
        ValueError: ``shift_size`` is out of range.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int, shift_size: int = 0,
                 qkv_bias: bool = True, qk_scale: float | None = None, attn_drop_rate: float = 0,
                 proj_drop_rate: float = 0,
                 dropout_layer: Cfg = {"type": "DropPath", "drop_prob": 0.0},
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if not 0 <= shift_size < window_size:
            raise ValueError(f"shift_size must be at least 0 and below window_size {window_size}, "
                             f"got {shift_size}")
        self.window_size = window_size
        self.shift_size = shift_size
        self.w_msa = WindowMSA(embed_dims, num_heads, (window_size, window_size), qkv_bias,
                               qk_scale, attn_drop_rate, proj_drop_rate)
        self.drop = build_dropout(dropout_layer)

    def forward(self, query: Tensor, hw_shape: Sequence[int]) -> Tensor:
        """Attend.

        Args:
            query: ``(B, H * W, embed_dims)``.
            hw_shape: ``(H, W)``.

        Returns:
            A tensor of the shape of ``query``.

        Raises:
            ValueError: ``query`` has not ``H * W`` tokens.
        """
        return self.drop(self.attend(query, hw_shape))

    def attend(self, query: Tensor, hw_shape: Sequence[int]) -> Tensor:
        """What :meth:`forward` computes, before the last dropout."""
        height, width = hw_shape
        if query.shape[1] != height * width:
            raise ValueError(f"{query.shape[1]} tokens cannot be a map of {height} x {width}")
        msa = self.w_msa
        qkv = run_layers([msa.qkv], query)
        # Padded tokens are zeros before the projection, hence its bias after it.
        pad = None if msa.qkv.bias is None else msa.qkv.bias.to(qkv.dtype)
        out = window_attention(
            qkv, msa.relative_position_bias_table, (height, width), num_heads=msa.num_heads,
            window_size=self.window_size, shift=self.shift_size, scale=msa.scale, pad_value=pad,
            dropout_p=msa.attn_drop.p if msa.attn_drop.training else 0.0,
            relative_position_index=None if msa._standard_index else msa.relative_position_index)
        return run_layers([msa.proj, msa.proj_drop], out)


class SwinBlock(BaseModule):
    """One block: window attention and a feed-forward network, each behind a norm.

    Args:
        embed_dims: channels.
        num_heads: number of heads.
        feedforward_channels: hidden channels of the feed-forward network.
        window_size: side of a window, in tokens.
        shift: whether to shift windows, by half a window.
        qkv_bias: see :class:`WindowMSA`, as the next.
        qk_scale: factor on the query.
        drop_rate: probability of the dropouts after linear layers.
        attn_drop_rate: probability of the dropout of the attention weights.
        drop_path_rate: chance of a sample to skip the attention, or the feed-forward network.
        act_cfg: config of the activation.
        norm_cfg: config of the norms.
        with_cp: compute the block anew in backward instead of keeping what it needs.
        init_cfg: see :class:`fastdet.runner.BaseModule`.
    """

    def __init__(self, embed_dims: int, num_heads: int, feedforward_channels: int,
                 window_size: int = 7, shift: bool = False, qkv_bias: bool = True,
                 qk_scale: float | None = None, drop_rate: float = 0.0,
                 attn_drop_rate: float = 0.0, drop_path_rate: float = 0.0,
                 act_cfg: Cfg = {"type": "GELU"},
                 norm_cfg: Cfg = {"type": "LN"},
                 with_cp: bool = False, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.with_cp = with_cp
        drop_path = {"type": "DropPath", "drop_prob": drop_path_rate}
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = ShiftWindowMSA(
            embed_dims, num_heads, window_size, shift_size=window_size // 2 if shift else 0,
            qkv_bias=qkv_bias, qk_scale=qk_scale, attn_drop_rate=attn_drop_rate,
            proj_drop_rate=drop_rate, dropout_layer=drop_path)
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = FFN(embed_dims, feedforward_channels, ffn_drop=drop_rate,
                       dropout_layer=drop_path, act_cfg=act_cfg)

    def _forward(self, x: Tensor, hw_shape: HW) -> Tensor:
        attn, ffn = self.attn, self.ffn
        if type(attn) is not ShiftWindowMSA or type(ffn) is not FFN or not bare(attn, ffn):
            x = x + attn(self.norm1(x), hw_shape)
            return ffn(self.norm2(x), identity=x)
        x, out = add_norm(self.norm1, x, cast=casts(attn.w_msa.qkv))
        x, out = add_norm(self.norm2, x, attn.attend(out, hw_shape), attn.drop, cast=ffn.casts())
        return ffn(out, identity=x)

    def forward(self, x: Tensor, hw_shape: HW) -> Tensor:
        """Run the block on tokens ``(B, H * W, embed_dims)`` of a map ``hw_shape`` ``(H, W)``."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._forward, x, hw_shape, use_reentrant=False)
        return self._forward(x, hw_shape)


class SwinBlockSequence(BaseModule):
    """A stage: blocks whose windows are shifted in turn, and the merging of patches after them.

    Args:
        embed_dims: channels.
        num_heads: number of heads.
        feedforward_channels: hidden channels of the feed-forward networks.
        depth: number of blocks.
        window_size: side of a window, in tokens.
        qkv_bias: see :class:`WindowMSA`, as the next.
        qk_scale: factor on the query.
        drop_rate: see :class:`SwinBlock`, as the next.
        attn_drop_rate: probability of the dropout of the attention weights.
        drop_path_rate: of all blocks, or one per block.
        downsample: the module that merges patches, if any.
        act_cfg: config of the activations.
        norm_cfg: config of the norms.
        with_cp: see :class:`SwinBlock`.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Raises:
        ValueError: ``drop_path_rate`` is a list of another length than ``depth``.
    """

    def __init__(self, embed_dims: int, num_heads: int, feedforward_channels: int, depth: int,
                 window_size: int = 7, qkv_bias: bool = True, qk_scale: float | None = None,
                 drop_rate: float = 0.0, attn_drop_rate: float = 0.0,
                 drop_path_rate: float | Sequence[float] = 0.0,
                 downsample: nn.Module | None = None,
                 act_cfg: Cfg = {"type": "GELU"},
                 norm_cfg: Cfg = {"type": "LN"},
                 with_cp: bool = False, init_cfg: Any = None) -> None:
        super().__init__(init_cfg=init_cfg)
        rates = [drop_path_rate] * depth if isinstance(drop_path_rate, (int, float)) \
            else list(drop_path_rate)
        if len(rates) != depth:
            raise ValueError(f"drop_path_rate must be a number or {depth} of them, one per block, "
                             f"got {len(rates)}")
        self.blocks = ModuleList(
            SwinBlock(embed_dims, num_heads, feedforward_channels, window_size, shift=i % 2 == 1,
                      qkv_bias=qkv_bias, qk_scale=qk_scale, drop_rate=drop_rate,
                      attn_drop_rate=attn_drop_rate, drop_path_rate=rate, act_cfg=act_cfg,
                      norm_cfg=norm_cfg, with_cp=with_cp)
            for i, rate in enumerate(rates))
        self.downsample = downsample

    def forward(self, x: Tensor, hw_shape: HW) -> tuple[Tensor, HW, Tensor, HW]:
        """Run the stage.

        Args:
            x: ``(B, H * W, embed_dims)``.
            hw_shape: ``(H, W)``.

        Returns:
            The input of the next stage and its size, then the output of the last block and its
            size; the same twice where there is no ``downsample``.
        """
        for block in self.blocks:
            x = block(x, hw_shape)
        if self.downsample is None:
            return x, hw_shape, x, hw_shape
        return *self.downsample(x, hw_shape), x, hw_shape


@BACKBONES.register_module()
class SwinTransformer(BaseModule):
    """Swin Transformer backbone.

    Args:
        pretrain_img_size: ``(H, W)`` of the images of pre-training, in pixels, or one number; the
            size of the absolute position embedding follows from it.
        in_channels: channels of the image.
        embed_dims: channels of the first stage; every stage doubles them.
        patch_size: side of a patch, in pixels, or ``(h, w)``.
        window_size: side of a window, in tokens.
        mlp_ratio: hidden channels of a feed-forward network per channel.
        depths: number of blocks of each stage.
        num_heads: number of heads of each stage.
        strides: stride of the patch embedding, which is ``patch_size``, then of each merging.
        out_indices: stages whose outputs are returned.
        qkv_bias: whether the projections to query, key and value have a bias.
        qk_scale: factor on the query; ``head_dims ** -0.5`` if ``None`` or 0.
        patch_norm: whether there are norms in patch embedding and merging.
        drop_rate: probability of the dropouts after linear layers and after the embedding.
        attn_drop_rate: probability of the dropout of the attention weights.
        drop_path_rate: chance of a sample to skip the last block's branches; it grows linearly
            from 0 at the first block.
        use_abs_pos_embed: whether to add a learned absolute position embedding.
        act_cfg: config of the activations.
        norm_cfg: config of the norms.
        with_cp: compute blocks anew in backward instead of keeping what they need.
        pretrained: deprecated; a checkpoint's path or address.
        convert_weights: whether the checkpoint is one of microsoft/Swin-Transformer, to be renamed
            and reordered.
        frozen_stages: in ``train()``, freeze the patch embedding (from 0 on) and this many stages;
            none if -1.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` or ``None``.

    Raises:
        ValueError: arguments do not fit each other; the message says which.

    Source: Swin Transformer, https://arxiv.org/abs/2103.14030
    """

    def __init__(self, pretrain_img_size: int | tuple[int, ...] = 224, in_channels: int = 3,
                 embed_dims: int = 96, patch_size: int | HW = 4, window_size: int = 7,
                 mlp_ratio: int = 4, depths: Sequence[int] = (2, 2, 6, 2),
                 num_heads: Sequence[int] = (3, 6, 12, 24),
                 strides: Sequence[int | HW] = (4, 2, 2, 2),
                 out_indices: Sequence[int] = (0, 1, 2, 3), qkv_bias: bool = True,
                 qk_scale: float | None = None, patch_norm: bool = True, drop_rate: float = 0.0,
                 attn_drop_rate: float = 0.0, drop_path_rate: float = 0.1,
                 use_abs_pos_embed: bool = False,
                 act_cfg: Cfg = {"type": "GELU"},
                 norm_cfg: Cfg = {"type": "LN"},
                 with_cp: bool = False, pretrained: str | None = None,
                 convert_weights: bool = False, frozen_stages: int = -1,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg=pretrained_init_cfg(pretrained, init_cfg))
        num_stages = len(depths)
        for name, value in (("num_heads", num_heads), ("strides", strides)):
            if len(value) != num_stages:
                raise ValueError(f"{name} must have one entry for each of the {num_stages} stages "
                                 f"of depths, got {tuple(value)}")
        check_indices("out_indices", out_indices, num_stages)
        if frozen_stages > num_stages:
            raise ValueError(f"frozen_stages must be at most {num_stages}, the number of stages, "
                             f"got {frozen_stages}")
        patch = _pair(patch_size)
        if _pair(strides[0]) != patch:
            raise ValueError("the first of strides must be patch_size, as patches do not overlap, "
                             f"got {strides[0]} and {patch_size}")
        if not isinstance(pretrain_img_size, int) and len(pretrain_img_size) not in (1, 2):
            raise ValueError(f"pretrain_img_size must be one or two numbers, "
                             f"got {pretrain_img_size}")
        self.convert_weights = convert_weights
        self.frozen_stages = frozen_stages
        self.out_indices = out_indices
        self.use_abs_pos_embed = use_abs_pos_embed

        embed_norm_cfg = norm_cfg if patch_norm else None
        self.patch_embed = PatchEmbed(in_channels, embed_dims, kernel_size=patch, stride=patch,
                                      norm_cfg=embed_norm_cfg)
        if use_abs_pos_embed:
            size = pretrain_img_size if isinstance(pretrain_img_size, int) \
                else (pretrain_img_size[0], pretrain_img_size[-1])
            rows, columns = (s // p for s, p in zip(_pair(size), patch))
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dims, rows, columns))
        self.drop_after_pos = nn.Dropout(drop_rate)

        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.num_features = [embed_dims * 2**i for i in range(num_stages)]
        self.stages = ModuleList()
        for i, (depth, channels) in enumerate(zip(depths, self.num_features)):
            downsample = None
            if i < num_stages - 1:
                downsample = PatchMerging(channels, 2 * channels, stride=strides[i + 1],
                                          norm_cfg=embed_norm_cfg)
            done = sum(depths[:i])
            self.stages.append(SwinBlockSequence(
                channels, num_heads[i], int(mlp_ratio * channels), depth, window_size,
                qkv_bias=qkv_bias, qk_scale=qk_scale, drop_rate=drop_rate,
                attn_drop_rate=attn_drop_rate, drop_path_rate=rates[done:done + depth],
                downsample=downsample, act_cfg=act_cfg, norm_cfg=norm_cfg, with_cp=with_cp))
        for i in out_indices:
            self.add_module(f"norm{i}", build_norm_layer(norm_cfg, self.num_features[i])[1])

    def train(self, mode: bool = True) -> SwinTransformer:
        """Set the mode, and freeze ``frozen_stages`` stages.

        Returns:
            The module itself.
        """
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen: list[nn.Module] = [self.patch_embed, self.drop_after_pos]
        for i in range(self.frozen_stages):
            frozen.append(self.stages[i])
            if i in self.out_indices:
                frozen.append(getattr(self, f"norm{i}"))
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
        if self.use_abs_pos_embed:
            self.absolute_pos_embed.requires_grad_(False)

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``, or initialise for training from scratch.

        Keys may start with ``'backbone.'`` or ``'module.'``. Bias tables of another window size and
        position embeddings of another map are resized bicubically.

        Raises:
            ValueError: ``init_cfg`` names no checkpoint, or a bias table or position embedding has
                another number of heads or channels.
            RuntimeError: another tensor of the checkpoint has another shape.
        """
        if self.init_cfg is not None:
            if not isinstance(self.init_cfg, dict) or "checkpoint" not in self.init_cfg:
                raise ValueError("init_cfg of SwinTransformer must be None or "
                                 "dict(type='Pretrained', checkpoint=...), "
                                 f"got {self.init_cfg!r}")
            self._load_pretrained(self.init_cfg["checkpoint"])
            return
        logger.warning("SwinTransformer has no pre-trained weights, training starts from scratch")
        if self.use_abs_pos_embed:
            trunc_normal_(self.absolute_pos_embed, std=0.02)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                trunc_normal_init(m, std=0.02, bias=0.0)
            elif isinstance(m, nn.LayerNorm):
                constant_init(m, 1.0)

    def _load_pretrained(self, path: str) -> None:
        given = find_state_dict(CheckpointLoader.load_checkpoint(path, map_location="cpu"))
        given = {k.removeprefix("module."): v for k, v in given.items()}
        if self.convert_weights:
            given = swin_converter(given)
        if any(k.startswith("backbone.") for k in given):  # else it is a backbone's own checkpoint
            given = {k.removeprefix("backbone."): v for k, v in given.items()
                     if k.startswith("backbone.")}
        own = self.state_dict()
        state = {}
        for key, value in given.items():
            if key in own and key.endswith("relative_position_bias_table"):
                value = _resized_table(key, value, own[key].shape)
            elif key in own and key == "absolute_pos_embed":
                value = _resized_pos_embed(value, own[key].shape)
            elif key in own and key.endswith("relative_position_index") \
                    and value.shape != own[key].shape:
                continue  # a constant of the window's size, not a weight
            state[key] = value
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [k for k in missing if not k.endswith("relative_position_index")]
        for what, keys in (("lacks", missing), ("has also", unexpected)):
            if keys:
                logger.warning("the checkpoint %s %s: %s", path, what, ", ".join(keys))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature maps of an image.

        Args:
            x: ``(B, in_channels, H, W)``.

        Returns:
            One ``(B, C, h, w)`` per entry of ``out_indices``, in the order of stages.
        """
        check_image(self, x, self.patch_embed.projection.in_channels)  # type: ignore[arg-type]
        x, hw = self.patch_embed(x)
        if self.use_abs_pos_embed:
            embed: Tensor = self.absolute_pos_embed
            if embed.shape[2:] != hw:
                embed = F.interpolate(embed, size=hw, mode="bicubic", align_corners=False)
            x = x + embed.flatten(2).transpose(1, 2)
        x = self.drop_after_pos(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x, hw, out, out_hw = stage(x, hw)
            if i in self.out_indices:
                out = getattr(self, f"norm{i}")(out)
                outs.append(out.transpose(1, 2).unflatten(2, out_hw).contiguous())
        return outs


def _resized_table(key: str, table: Tensor, shape: torch.Size) -> Tensor:
    """A bias table for the window size of a table of ``shape``."""
    (rows, heads), (own_rows, own_heads) = table.shape, shape
    if heads != own_heads:
        raise ValueError(f"{key} in the checkpoint is for {heads} heads, the model has {own_heads}")
    if rows == own_rows:
        return table
    side, own_side = math.isqrt(rows), math.isqrt(own_rows)
    table = table.T.reshape(1, heads, side, side)
    table = F.interpolate(table, size=(own_side, own_side), mode="bicubic")
    return table.view(heads, own_rows).T.contiguous()


def _resized_pos_embed(embed: Tensor, shape: torch.Size) -> Tensor:
    """A position embedding, of tokens or of a map, as a map of ``shape``."""
    if embed.dim() == 3:
        count = embed.shape[1]
        side = math.isqrt(count)
        size = shape[2:] if count == shape[2] * shape[3] else (side, side)
        if count != size[0] * size[1]:
            raise ValueError(f"absolute_pos_embed in the checkpoint has {count} tokens, which are "
                             f"neither a square map nor one of {tuple(shape[2:])}")
        embed = embed.transpose(1, 2).unflatten(2, size)
    if embed.shape[1] != shape[1]:
        raise ValueError(f"absolute_pos_embed in the checkpoint has {embed.shape[1]} channels, the "
                         f"model {shape[1]}")
    if embed.shape[2:] != shape[2:]:
        embed = F.interpolate(embed, size=shape[2:], mode="bicubic", align_corners=False)
    return embed
