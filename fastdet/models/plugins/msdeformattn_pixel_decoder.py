"""A pyramid encoded by multi-scale deformable attention (Mask2Former, arXiv 2112.01527)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import (
    PLUGIN_LAYERS,
    ConvModule,
    build_positional_encoding,
    build_transformer_layer_sequence,
    caffe2_xavier_init,
    normal_init,
    xavier_init,
)
from fastdet.kernels.multi_scale_deformable_attention import level_table
from fastdet.ops import MultiScaleDeformableAttention
from fastdet.runner import BaseModule, ModuleList

from ..utils.transformer import DeformableDetrTransformer

__all__ = ["MSDeformAttnPixelDecoder"]


@PLUGIN_LAYERS.register_module()
class MSDeformAttnPixelDecoder(BaseModule):
    """The coarser levels encoded together, the finer ones added top-down.

    Args:
        in_channels: of each feature map, the finest first.
        strides: of each feature map, in pixels.
        feat_channels: of the pyramid and the encoder.
        out_channels: of the map for the masks.
        num_outs: how many maps are for the queries.
        norm_cfg: config of the norms.
        act_cfg: config of the activations.
        encoder: its config; ``num_levels`` of its attention is how many levels it encodes.
        positional_encoding: its config.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: the encoder takes no level, or more than there are.
    """

    input_convs: Any
    lateral_convs: Any
    output_convs: Any

    def __init__(self, in_channels: Sequence[int] = [256, 512, 1024, 2048],
                 strides: Sequence[int] = [4, 8, 16, 32], feat_channels: int = 256,
                 out_channels: int = 256, num_outs: int = 3,
                 norm_cfg: Any = dict(type="GN", num_groups=32), act_cfg: Any = dict(type="ReLU"),
                 encoder: Any = dict(
                     type="DetrTransformerEncoder", num_layers=6,
                     transformerlayers=dict(
                         type="BaseTransformerLayer",
                         attn_cfgs=dict(
                             type="MultiScaleDeformableAttention", embed_dims=256, num_heads=8,
                             num_levels=3, num_points=4, im2col_step=64, dropout=0.0,
                             batch_first=False, norm_cfg=None, init_cfg=None),
                         feedforward_channels=1024, ffn_dropout=0.0,
                         operation_order=("self_attn", "norm", "ffn", "norm")),
                     init_cfg=None),
                 positional_encoding: Any = dict(type="SinePositionalEncoding", num_feats=128,
                                                 normalize=True),
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        levels = encoder["transformerlayers"]["attn_cfgs"]["num_levels"]
        if not 1 <= levels <= len(in_channels):
            raise ValueError(f"{type(self).__name__}: num_levels of the encoder's attention must "
                             f"be 1 to {len(in_channels)}, got {levels}")
        self.strides = strides
        self.num_input_levels = len(in_channels)
        self.num_encoder_levels = levels
        self.num_outs = num_outs
        coarsest_first = list(in_channels)[::-1]
        self.input_convs = ModuleList([
            ConvModule(channels, feat_channels, 1, norm_cfg=norm_cfg, act_cfg=None, bias=True)
            for channels in coarsest_first[:levels]])
        self.encoder = build_transformer_layer_sequence(encoder)
        self.postional_encoding: Any = build_positional_encoding(positional_encoding)
        self.level_encoding = nn.Embedding(levels, feat_channels)
        self.lateral_convs = ModuleList([
            ConvModule(channels, feat_channels, 1, bias=norm_cfg is None, norm_cfg=norm_cfg,
                       act_cfg=None) for channels in coarsest_first[levels:]])
        self.output_convs = ModuleList([
            ConvModule(feat_channels, feat_channels, 3, padding=1, bias=norm_cfg is None,
                       norm_cfg=norm_cfg, act_cfg=act_cfg) for _ in coarsest_first[levels:]])
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 1)

    def init_weights(self) -> None:
        """Xavier of several kinds, and the attentions' own rule."""
        for conv in self.input_convs:
            xavier_init(conv.conv, gain=1, bias=0, distribution="uniform")
        normal_init(self.level_encoding, mean=0, std=1)
        for conv in (*self.lateral_convs, *self.output_convs):
            caffe2_xavier_init(conv.conv, bias=0)
        caffe2_xavier_init(self.mask_feature, bias=0)
        for p in self.encoder.parameters():
            if p.dim() > 1:
                nn.init.xavier_normal_(p)
        for m in self.encoder.modules():
            if isinstance(m, MultiScaleDeformableAttention):
                m.init_weights()

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The map for the masks and those for the queries.

        Args:
            feats: feature maps, the finest first.

        Returns:
            ``[B, out_channels, H, W]`` of the finest map's size, and ``num_outs`` maps
            ``[B, feat_channels, h, w]``, the coarsest first.
        """
        b, device = len(feats[0]), feats[0].device
        coarsest_first = list(feats)[::-1]
        tokens, places, shapes = [], [], []
        for i, conv in enumerate(self.input_convs):
            x = conv(coarsest_first[i])
            place = self.postional_encoding(x.new_zeros((b, *x.shape[-2:]), dtype=torch.bool))
            place = place + self.level_encoding.weight[i].view(1, -1, 1, 1)
            tokens.append(x.flatten(2).permute(2, 0, 1))
            places.append(place.flatten(2).permute(2, 0, 1))
            shapes.append((x.shape[2], x.shape[3]))
        whole = torch.ones((b, len(shapes), 2), device=device)  # nothing is taken for padding
        spatial_shapes, level_start_index = level_table(shapes, device)
        memory = self.encoder(
            query=torch.cat(tokens), key=None, value=None, query_pos=torch.cat(places),
            query_key_padding_mask=None, spatial_shapes=spatial_shapes,
            level_start_index=level_start_index,
            reference_points=DeformableDetrTransformer.get_reference_points(shapes, whole, device))
        outs = [level.unflatten(2, shape) for level, shape in zip(
            memory.permute(1, 2, 0).split([h * w for h, w in shapes], dim=2), shapes)]
        for i, (lateral, output) in enumerate(zip(self.lateral_convs, self.output_convs)):
            x = lateral(coarsest_first[len(shapes) + i])
            outs.append(output(x + F.interpolate(outs[-1], size=x.shape[-2:], mode="bilinear",
                                                 align_corners=False)))
        return self.mask_feature(outs[-1]), outs[:self.num_outs]
