"""Dynamic convolution of Sparse R-CNN: every proposal generates the weights it is filtered with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import build_activation_layer, build_norm_layer
from fastdet.cnn.bricks.layers import run_layers
from fastdet.kernels.dynamic_conv import dynamic_conv, two_products
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

from .builder import TRANSFORMER

__all__ = ["DynamicConv"]



def _is_affine_layer_norm(norm: nn.Module, channels: int) -> bool:
    return (type(norm) is nn.LayerNorm and norm.normalized_shape == (channels,)
            and norm.weight is not None and norm.bias is not None)


@TRANSFORMER.register_module()
class DynamicConv(BaseModule):
    """Two 1x1 convolutions of each proposal's region with weights made from its feature.

    Args:
        in_channels: channels of the proposals' features and of their regions.
        feat_channels: channels between the two convolutions.
        out_channels: channels of the result; ``in_channels`` by default.
        input_feat_shape: side of the regions; it sizes ``fc_layer`` alone.
        with_proj: whether a linear layer, a norm and the activation turn what the convolutions
            give for all places of a region into one vector.
        act_cfg: config of the activation.
        norm_cfg: config of the norms, which take ``(N, S, channels)`` or ``(N, channels)``.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Source: Sparse R-CNN, https://arxiv.org/abs/2011.12450
    """

    #: Bytes of generated weights at a time where they need not be kept.
    _PART_BYTES = 16 << 20

    norm_in: Any
    norm_out: Any

    def __init__(self, in_channels: int = 256, feat_channels: int = 64,
                 out_channels: int | None = None, input_feat_shape: int = 7,
                 with_proj: bool = True,
                 act_cfg: Cfg = {"type": "ReLU", "inplace": True},
                 norm_cfg: Cfg = {"type": "LN"},
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.feat_channels = feat_channels
        self.out_channels_raw = out_channels
        self.out_channels = out_channels or in_channels
        self.input_feat_shape = input_feat_shape
        self.with_proj = with_proj
        self.act_cfg = act_cfg
        self.norm_cfg = norm_cfg

        self.num_params_in = self.in_channels * self.feat_channels
        self.num_params_out = self.out_channels * self.feat_channels
        self.dynamic_layer = nn.Linear(self.in_channels, self.num_params_in + self.num_params_out)
        self.norm_in = build_norm_layer(norm_cfg, self.feat_channels)[1]
        self.norm_out = build_norm_layer(norm_cfg, self.out_channels)[1]
        self.activation = build_activation_layer(act_cfg)
        if self.with_proj:
            self.fc_layer = nn.Linear(self.out_channels * input_feat_shape**2, self.out_channels)
            self.fc_norm = build_norm_layer(norm_cfg, self.out_channels)[1]

    def forward(self, param_feature: Tensor, input_feature: Tensor) -> Tensor:
        """Filter each region with the weights that its proposal's feature generates.

        Args:
            param_feature: ``(N, in_channels)``.
            input_feature: ``(N, in_channels, H, W)`` or ``(N, in_channels, H * W)``.

        Returns:
            ``(N, out_channels)``; without ``with_proj`` ``(N, H * W, out_channels)``.

        Raises:
            ValueError: the shapes do not fit.
        """
        n = param_feature.shape[0]
        if (param_feature.dim() != 2 or input_feature.dim() < 3
                or input_feature.shape[:2] != (n, self.in_channels)):
            raise ValueError(f"DynamicConv: expected param_feature [N, {self.in_channels}] and "
                             f"input_feature [N, {self.in_channels}, H, W], got "
                             f"{list(param_feature.shape)} and {list(input_feature.shape)}")
        regions = input_feature.flatten(2)
        if self.with_proj and regions.shape[2] != self.input_feat_shape**2:
            raise ValueError(f"DynamicConv: its fc_layer takes {self.input_feat_shape}^2 places, "
                             f"got input_feature {list(input_feature.shape)}")
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or regions.device.type != "cpu":
            return self._filter(param_feature, regions)
        # Weights of a few proposals at a time are memory that malloc can reuse, not fresh pages.
        size = (self.num_params_in + self.num_params_out) * param_feature.element_size()
        step = max(1, self._PART_BYTES // size)
        if n <= step:
            return self._filter(param_feature, regions)
        return torch.cat([self._filter(*part) for part in zip(param_feature.split(step),
                                                              regions.split(step))])

    def _filter(self, param_feature: Tensor, regions: Tensor) -> Tensor:
        """The same for ``(N, in_channels, S)``."""
        params = run_layers([self.dynamic_layer], param_feature)
        if (_is_affine_layer_norm(self.norm_in, self.feat_channels)
                and _is_affine_layer_norm(self.norm_out, self.out_channels)
                and type(self.activation) is nn.ReLU):
            # fc_layer would cast the norm's float32 to what its operands are under autocast.
            features = dynamic_conv(
                regions, params, self.norm_in.weight, self.norm_in.bias, self.norm_out.weight,
                self.norm_out.bias, self.norm_in.eps, self.norm_out.eps,
                out_dtype=params.dtype if self.with_proj else None)
        else:
            features = two_products(
                regions, params, self.feat_channels, self.out_channels,
                lambda t: self.activation(self.norm_in(t)),
                lambda t: self.activation(self.norm_out(t)))
        if not self.with_proj:
            return features
        return self.activation(self.fc_norm(run_layers([self.fc_layer], features.flatten(1))))
