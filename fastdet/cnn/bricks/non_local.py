"""Non-local blocks (`arXiv 1711.07971 <https://arxiv.org/abs/1711.07971>`_)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.runner.weight_init import constant_init, normal_init

from .conv_module import ConvModule
from .registry import PLUGIN_LAYERS

__all__ = ["NonLocal1d", "NonLocal2d", "NonLocal3d"]

_MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


class _NonLocalNd(nn.Module):
    """Every position attends to every position; the result is added to the input.

    Args:
        in_channels: channels of the input, ``C``.
        reduction: the embeddings have ``max(C // reduction, 1)`` channels.
        use_scale: divide the products by the root of the number of embedding channels
            (``'embedded_gaussian'`` only).
        conv_cfg: config of the 1x1 convolutions.
        norm_cfg: config of the norm of the output convolution.
        mode: how two positions are compared: ``'embedded_gaussian'``, ``'gaussian'``,
            ``'dot_product'`` or ``'concatenation'``.
        kwargs: arguments of :meth:`init_weights`.

    Raises:
        ValueError: ``mode`` is unknown.
    """

    def __init__(self, in_channels: int, reduction: int = 2, use_scale: bool = True,
                 conv_cfg: dict[str, Any] | None = None, norm_cfg: dict[str, Any] | None = None,
                 mode: str = "embedded_gaussian", **kwargs: Any) -> None:
        super().__init__()
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
        self.in_channels = in_channels
        self.reduction = reduction
        self.use_scale = use_scale
        self.inter_channels = max(in_channels // reduction, 1)
        self.mode = mode

        def embed() -> ConvModule:
            return ConvModule(in_channels, self.inter_channels, 1, conv_cfg=conv_cfg, act_cfg=None)

        self.g: nn.Module = embed()
        self.conv_out = ConvModule(self.inter_channels, in_channels, 1, conv_cfg=conv_cfg,
                                   norm_cfg=norm_cfg, act_cfg=None)
        if mode != "gaussian":
            self.theta = embed()
            self.phi: nn.Module = embed()
        if mode == "concatenation":
            self.concat_project = ConvModule(self.inter_channels * 2, 1, 1, bias=False)
        self.init_weights(**kwargs)

    def init_weights(self, std: float = 0.01, zeros_init: bool = True) -> None:
        """Draw the embeddings from a normal distribution.

        Args:
            std: its standard deviation.
            zeros_init: zero the last layer, so that the block starts as the identity.
        """
        for embedding in [self.g] if self.mode == "gaussian" else [self.g, self.theta, self.phi]:
            # Sub-sampling wraps the convolution: [ConvModule, pool].
            module: Any = embedding[0] if isinstance(embedding, nn.Sequential) else embedding
            normal_init(module.conv, std=std)
        last = self.conv_out.conv if self.conv_out.norm is None else self.conv_out.norm
        if zeros_init:
            constant_init(last, 0)
        else:
            normal_init(last, std=std)

    def _sub_sample(self, pool: nn.Module) -> None:
        """Pool the positions that are attended to."""
        self.g = nn.Sequential(self.g, pool)
        self.phi = pool if self.mode == "gaussian" else nn.Sequential(self.phi, pool)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over ``x`` ``(B, C, ...)``; the shape stays."""
        def tokens(t: Tensor) -> Tensor:
            """(B, positions, channels); the fused attention needs unit channel strides."""
            return t.flatten(2).mT.contiguous()

        value = tokens(self.g(x))
        if self.mode == "gaussian":
            query = tokens(x)
            key = tokens(self.phi(x)) if hasattr(self, "phi") else query
        else:
            query = tokens(self.theta(x))
            key = tokens(self.phi(x))

        if self.mode in ("gaussian", "embedded_gaussian"):
            scaled = self.use_scale and self.mode == "embedded_gaussian"
            y = F.scaled_dot_product_attention(
                query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1),
                scale=self.inter_channels**-0.5 if scaled else 1.0).squeeze(1)
        elif self.mode == "dot_product":
            # (q k^T) v = q (k^T v) never holds positions x positions. Half of the division on
            # either side of the sum over positions keeps fp16 in range.
            half = key.shape[1]**-0.5
            y = query @ ((key * half).mT @ (value * half))
        else:
            # The projection of a concatenation is the sum of the projections of its halves.
            of_query, of_key = self.concat_project.conv.weight.flatten(1).chunk(2, dim=1)
            pairwise = torch.relu(F.linear(query, of_query) + F.linear(key, of_key).mT)
            y = (pairwise / key.shape[1]) @ value
        return x + self.conv_out(y.mT.reshape(x.shape[0], self.inter_channels, *x.shape[2:]))


class NonLocal1d(_NonLocalNd):
    """Non-local block over ``(B, C, L)``.

    Args:
        in_channels: channels of the input.
        sub_sample: attend to every second position, by max pooling.
        conv_cfg: config of the 1x1 convolutions.
        kwargs: ``reduction``, ``use_scale``, ``norm_cfg``, ``mode``, ``std``, ``zeros_init``.
    """

    def __init__(self, in_channels: int, sub_sample: bool = False,
                 conv_cfg: dict[str, Any] | None = {"type": "Conv1d"},
                 **kwargs: Any) -> None:
        super().__init__(in_channels, conv_cfg=conv_cfg, **kwargs)
        self.sub_sample = sub_sample
        if sub_sample:
            self._sub_sample(nn.MaxPool1d(kernel_size=2))


@PLUGIN_LAYERS.register_module()
class NonLocal2d(_NonLocalNd):
    """Non-local block over ``(B, C, H, W)``.

    Args:
        in_channels: channels of the input.
        sub_sample: attend to every second row and column, by max pooling.
        conv_cfg: config of the 1x1 convolutions.
        kwargs: ``reduction``, ``use_scale``, ``norm_cfg``, ``mode``, ``std``, ``zeros_init``.
    """

    _abbr_ = "nonlocal_block"

    def __init__(self, in_channels: int, sub_sample: bool = False,
                 conv_cfg: dict[str, Any] | None = {"type": "Conv2d"},
                 **kwargs: Any) -> None:
        super().__init__(in_channels, conv_cfg=conv_cfg, **kwargs)
        self.sub_sample = sub_sample
        if sub_sample:
            self._sub_sample(nn.MaxPool2d(kernel_size=(2, 2)))


class NonLocal3d(_NonLocalNd):
    """Non-local block over ``(B, C, T, H, W)``.

    Args:
        in_channels: channels of the input.
        sub_sample: attend to every second row and column of every frame, by max pooling.
        conv_cfg: config of the 1x1 convolutions.
        kwargs: ``reduction``, ``use_scale``, ``norm_cfg``, ``mode``, ``std``, ``zeros_init``.
    """

    def __init__(self, in_channels: int, sub_sample: bool = False,
                 conv_cfg: dict[str, Any] | None = {"type": "Conv3d"},
                 **kwargs: Any) -> None:
        super().__init__(in_channels, conv_cfg=conv_cfg, **kwargs)
        self.sub_sample = sub_sample
        if sub_sample:
            self._sub_sample(nn.MaxPool3d(kernel_size=(1, 2, 2)))
