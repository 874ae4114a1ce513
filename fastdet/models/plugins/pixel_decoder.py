"""Pyramids that end in one map for the masks (MaskFormer, arXiv 2107.06278)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import (
    PLUGIN_LAYERS,
    ConvModule,
    build_positional_encoding,
    build_transformer_layer_sequence,
    caffe2_xavier_init,
)
from fastdet.runner import BaseModule, ModuleList

from ..utils.padding import padding_mask

__all__ = ["PixelDecoder", "TransformerEncoderPixelDecoder"]

Meta = dict[str, Any]


@PLUGIN_LAYERS.register_module()
class PixelDecoder(BaseModule):
    """A top-down pyramid without a prediction at each level.

    Args:
        in_channels: of each feature map.
        feat_channels: of the pyramid.
        out_channels: of the map for the masks.
        norm_cfg: config of the norms.
        act_cfg: config of the activations.
        init_cfg: how weights are initialised.
    """

    lateral_convs: Any
    output_convs: Any
    last_feat_conv: Any

    def __init__(self, in_channels: Sequence[int], feat_channels: int, out_channels: int,
                 norm_cfg: Any = dict(type="GN", num_groups=32), act_cfg: Any = dict(type="ReLU"),
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.num_inputs = len(in_channels)
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        self.use_bias = norm_cfg is None
        self.lateral_convs = ModuleList([
            ConvModule(channels, feat_channels, 1, bias=self.use_bias, norm_cfg=norm_cfg,
                       act_cfg=None) for channels in in_channels[:-1]])
        self.output_convs = ModuleList([self._conv(feat_channels, feat_channels)
                                        for _ in in_channels[:-1]])
        self.last_feat_conv = self._conv(in_channels[-1], feat_channels)
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 3, padding=1)

    def _conv(self, inputs: int, outputs: int) -> ConvModule:
        return ConvModule(inputs, outputs, 3, padding=1, bias=self.use_bias,
                          norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)

    def init_weights(self) -> None:
        """Caffe2's Xavier; the last level of the pyramid keeps torch's own, as in MMDetection."""
        for lateral, output in list(zip(self.lateral_convs, self.output_convs))[:-1]:
            caffe2_xavier_init(lateral.conv, bias=0)
            caffe2_xavier_init(output.conv, bias=0)
        caffe2_xavier_init(self.mask_feature, bias=0)
        if self.last_feat_conv is not None:
            caffe2_xavier_init(self.last_feat_conv, bias=0)

    def pyramid(self, feats: Sequence[Tensor], y: Tensor) -> Tensor:
        """The map for the masks, of the feature maps and the top of the pyramid."""
        for i in reversed(range(self.num_inputs - 1)):
            lateral = self.lateral_convs[i](feats[i])
            y = self.output_convs[i](lateral + F.interpolate(y, size=lateral.shape[-2:]))
        return self.mask_feature(y)

    def forward(self, feats: Sequence[Tensor], img_metas: list[Meta]) -> tuple[Tensor, Tensor]:
        """The map for the masks and that for the queries.

        Args:
            feats: feature maps, the finest first.
            img_metas: not used.

        Returns:
            ``[B, out_channels, H, W]`` of the finest map's size, and the coarsest map itself.
        """
        return self.pyramid(feats, self.last_feat_conv(feats[-1])), feats[-1]


@PLUGIN_LAYERS.register_module()
class TransformerEncoderPixelDecoder(PixelDecoder):
    """A :class:`PixelDecoder` whose coarsest map a transformer encodes.

    Args:
        in_channels: of each feature map.
        feat_channels: of the pyramid and the encoder.
        out_channels: of the map for the masks.
        norm_cfg: config of the norms.
        act_cfg: config of the activations.
        encoder: its config.
        positional_encoding: its config.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: the encoder or the positional encoding has other channels.
    """

    positional_encoding: Any

    def __init__(self, in_channels: Sequence[int], feat_channels: int, out_channels: int,
                 norm_cfg: Any = dict(type="GN", num_groups=32), act_cfg: Any = dict(type="ReLU"),
                 encoder: Any = None,
                 positional_encoding: Any = dict(type="SinePositionalEncoding", num_feats=128,
                                                 normalize=True),
                 init_cfg: Any = None) -> None:
        super().__init__(in_channels, feat_channels, out_channels, norm_cfg, act_cfg, init_cfg)
        self.last_feat_conv = None
        self.encoder = build_transformer_layer_sequence(encoder)
        self.encoder_embed_dims = self.encoder.embed_dims
        if self.encoder_embed_dims != feat_channels:
            raise ValueError(f"{type(self).__name__}: embed_dims of the encoder must be "
                             f"feat_channels={feat_channels}, got {self.encoder_embed_dims}")
        self.positional_encoding = build_positional_encoding(positional_encoding)
        if self.positional_encoding.num_feats * 2 != feat_channels:
            raise ValueError(f"{type(self).__name__}: feat_channels must be 2 * num_feats of the "
                             f"positional encoding, got {feat_channels} and num_feats="
                             f"{self.positional_encoding.num_feats}")
        self.encoder_in_proj = nn.Conv2d(in_channels[-1], feat_channels, 1)
        self.encoder_out_proj = self._conv(feat_channels, feat_channels)

    def init_weights(self) -> None:
        """As :class:`PixelDecoder`; Xavier's uniform distribution in the encoder."""
        super().init_weights()
        caffe2_xavier_init(self.encoder_in_proj, bias=0)
        caffe2_xavier_init(self.encoder_out_proj.conv, bias=0)
        for p in self.encoder.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)

    def forward(self, feats: Sequence[Tensor], img_metas: list[Meta]) -> tuple[Tensor, Tensor]:
        """The map for the masks and the encoder's.

        Args:
            feats: feature maps, the finest first.
            img_metas: ``batch_input_shape`` and ``img_shape`` are read.

        Returns:
            ``[B, out_channels, H, W]`` of the finest map's size, and ``[B, feat_channels, h, w]``
            of the coarsest one's.
        """
        x = self.encoder_in_proj(feats[-1])
        mask = padding_mask(x, img_metas)
        tokens, places = (t.flatten(2).permute(2, 0, 1)
                          for t in (x, self.positional_encoding(mask)))
        memory = self.encoder(query=tokens, key=None, value=None, query_pos=places,
                              query_key_padding_mask=mask.flatten(1))
        memory = memory.permute(1, 2, 0).reshape(x.shape)
        return self.pyramid(feats, self.encoder_out_proj(memory)), memory
