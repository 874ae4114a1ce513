"""Generalised attention (`arXiv 1904.05873 <https://arxiv.org/abs/1904.05873>`_)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.runner.weight_init import kaiming_init

from .registry import PLUGIN_LAYERS

__all__ = ["GeneralizedAttention"]

# Side of the largest map that the local range covers in a checkpoint, by number of channels.
_MAX_SIDE = {256: 84, 512: 42}


def _out_of_range(size: int, size_kv: int, spatial_range: int, kv_stride: int,
                  device: torch.device | None = None) -> Tensor:
    """Which keys of one axis are too far from each query: bool ``(size, size_kv)``."""
    query = torch.arange(size, device=device)[:, None]
    key = torch.arange(size_kv, device=device)
    first = torch.div(query - spatial_range, kv_stride, rounding_mode="floor")
    last = torch.div(query + spatial_range + 1, kv_stride, rounding_mode="floor")
    return (key < first) | (key > last)


def _position_embedding(size: int, size_kv: int, q_stride: int, kv_stride: int, magnitude: float,
                        dim: int, like: Tensor, wave_length: float = 1000.0) -> Tensor:
    """Sines and cosines of the distances on one axis: ``(size, size_kv, dim / 2)``."""
    def positions(n: int, stride: int) -> Tensor:
        return torch.arange(n, device=like.device, dtype=like.dtype) * stride

    distance = positions(size, q_stride)[:, None] - positions(size_kv, kv_stride)
    step = torch.arange(math.ceil(dim / 4), device=like.device, dtype=like.dtype)
    base = torch.full((), wave_length, device=like.device, dtype=like.dtype)
    phase = (distance * magnitude)[..., None] / base**(4.0 / dim * step)
    return torch.cat((phase.sin(), phase.cos()), dim=-1)


@PLUGIN_LAYERS.register_module()
class GeneralizedAttention(nn.Module):
    """Attention over pixels whose energy is the sum of up to four terms.

    Args:
        in_channels: channels of the input, ``C``.
        spatial_range: how many rows and columns away a key may be; -1 for no limit.
        num_heads: heads; each has ``C // num_heads`` channels.
        position_embedding_dim: size of the position embedding; -1 for ``C``.
        position_magnitude: factor of the distances that are embedded.
        kv_stride: keys and values are taken every so many rows and columns.
        q_stride: queries likewise; the result is resized bilinearly.
        attention_type: which terms are on, a ``'1'`` or ``'0'`` each: query and key content,
            query content and relative position, key content only, relative position only.

    Raises:
        ValueError: ``attention_type`` is not four digits 0 or 1, or ``spatial_range`` is set for a
            number of channels other than 256 and 512.
    """

    _abbr_ = "gen_attention_block"

    def __init__(self, in_channels: int, spatial_range: int = -1, num_heads: int = 9,
                 position_embedding_dim: int = -1, position_magnitude: float = 1,
                 kv_stride: int = 2, q_stride: int = 1, attention_type: str = "1111") -> None:
        super().__init__()
        if len(attention_type) != 4 or not set(attention_type) <= {"0", "1"}:
            raise ValueError(f"attention_type must be four digits 0 or 1, got {attention_type!r}")
        self.position_embedding_dim = (
            position_embedding_dim if position_embedding_dim > 0 else in_channels)
        self.position_magnitude = position_magnitude
        self.num_heads = num_heads
        self.in_channels = in_channels
        self.spatial_range = spatial_range
        self.kv_stride = kv_stride
        self.q_stride = q_stride
        self.attention_type = [digit == "1" for digit in attention_type]
        self.qk_embed_dim = in_channels // num_heads
        self.v_dim = in_channels // num_heads
        out_channels = self.qk_embed_dim * num_heads
        content, relative, key_only, position_only = self.attention_type

        if content or relative:
            self.query_conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        if content or key_only:
            self.key_conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.value_conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        if relative or position_only:
            half = self.position_embedding_dim // 2
            self.appr_geom_fc_x = nn.Linear(half, out_channels, bias=False)
            self.appr_geom_fc_y = nn.Linear(half, out_channels, bias=False)
        bound = 1.0 / math.sqrt(self.qk_embed_dim * 2)
        if key_only:
            self.appr_bias = nn.Parameter(bound - 2 * bound * torch.rand(out_channels))
        if position_only:
            self.geom_bias = nn.Parameter(bound - 2 * bound * torch.rand(out_channels))
        self.proj_conv = nn.Conv2d(out_channels, in_channels, 1, bias=True)
        self.gamma = nn.Parameter(torch.zeros(1))

        if spatial_range >= 0:
            if in_channels not in _MAX_SIDE:
                raise ValueError("spatial_range needs in_channels of "
                                 f"{' or '.join(map(str, _MAX_SIDE))}, got {in_channels}")
            # forward() derives the same mask for maps of any size; checkpoints hold this one.
            side = _MAX_SIDE[in_channels]
            far = _out_of_range(side, (side - 1) // kv_stride + 1, spatial_range, kv_stride)
            self.local_constraint_map = nn.Parameter(
                (far[:, None, :, None] | far[:, None, :]).to(torch.uint8), requires_grad=False)

        self.q_downsample = nn.AvgPool2d(kernel_size=1, stride=q_stride) if q_stride > 1 else None
        self.kv_downsample = (
            nn.AvgPool2d(kernel_size=1, stride=kv_stride) if kv_stride > 1 else None)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw all convolutions and linear layers from Kaiming's uniform distribution."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                kaiming_init(module, a=1, mode="fan_in", nonlinearity="leaky_relu",
                             distribution="uniform")

    def _heads(self, x: Tensor) -> Tensor:
        """Split ``(B, heads * d, h, w)`` into ``(B, heads, h * w, d)``."""
        return x.unflatten(1, (self.num_heads, -1)).flatten(3).mT

    def _probe(self, query: Tensor | None, bias: Tensor | None) -> Tensor:
        """What keys are compared with: the queries, a bias of all queries, or their sum."""
        if bias is None:
            assert query is not None
            return query
        shared = bias.view(1, self.num_heads, 1, self.qk_embed_dim)
        return shared if query is None else query + shared

    def forward(self, x_input: Tensor) -> Tensor:
        """Attend over ``x_input`` ``(B, C, H, W)``; the shape stays."""
        content, relative, key_only, position_only = self.attention_type
        x_q = x_input if self.q_downsample is None else self.q_downsample(x_input)
        x_kv = x_input if self.kv_downsample is None else self.kv_downsample(x_input)
        (h, w), (h_kv, w_kv) = x_q.shape[2:], x_kv.shape[2:]
        if self.attention_type == [False, False, True, False]:
            h = w = 1  # all queries share their energies

        # The energies of all terms broadcast to (B, heads, h * w, h_kv * w_kv).
        energy: Tensor | None = None
        query = self._heads(self.query_conv(x_q)) if content or relative else None
        if content or key_only:
            probe = self._probe(query if content else None, self.appr_bias if key_only else None)
            energy = probe @ self._heads(self.key_conv(x_kv)).mT
        if relative or position_only:
            probe = self._probe(query if relative else None,
                                self.geom_bias if position_only else None)
            position = self._position_energy(probe, h, w, h_kv, w_kv, x_q)
            energy = position if energy is None else energy + position
        if energy is None:
            energy = x_q.new_zeros(1, 1, 1, h_kv * w_kv)
        energy = energy.expand(x_q.shape[0], self.num_heads, h * w, h_kv * w_kv)
        if self.spatial_range >= 0:
            far_y = _out_of_range(h, h_kv, self.spatial_range, self.kv_stride, x_q.device)
            far_x = _out_of_range(w, w_kv, self.spatial_range, self.kv_stride, x_q.device)
            far = far_y[:, None, :, None] | far_x[:, None, :]
            energy = energy.masked_fill(far.view(h * w, h_kv * w_kv), -math.inf)

        out = energy.softmax(dim=3) @ self._heads(self.value_conv(x_kv))
        out = self.proj_conv(out.mT.reshape(x_q.shape[0], -1, h, w))
        if self.q_downsample is not None:
            out = F.interpolate(out, size=x_input.shape[2:], mode="bilinear", align_corners=False)
        return self.gamma * out + x_input

    def _position_energy(self, probe: Tensor, h: int, w: int, h_kv: int, w_kv: int,
                         like: Tensor) -> Tensor:
        """Energies of the relative positions.

        Args:
            probe: ``(B, heads, h * w, d)``, or ``(1, heads, 1, d)`` where queries do not matter.
            h: rows of queries.
            w: columns of queries.
            h_kv: rows of keys.
            w_kv: columns of keys.
            like: gives the dtype of the embedding (autocast makes that of ``probe`` too coarse).

        Returns:
            ``(B or 1, heads, h * w, h_kv * w_kv)``.
        """
        def feature(fc: nn.Linear, size: int, size_kv: int) -> Tensor:  # (size, size_kv, heads, d)
            embedding = _position_embedding(
                size, size_kv, self.q_stride, self.kv_stride, self.position_magnitude,
                self.position_embedding_dim, like)
            return fc(embedding).unflatten(2, (self.num_heads, -1)) / math.sqrt(2)

        grid = probe.unflatten(2, (h, w) if probe.shape[2] == h * w else (1, 1))
        relative, position_only = self.attention_type[1], self.attention_type[3]
        rows = grid.expand(-1, -1, h, -1, -1)
        if relative and not position_only:
            # Here mmcv pairs the row distances with the transposed map of queries, and fails where
            # that does not fit. Checkpoints were trained so.
            if h != w:
                raise ValueError("attention_type with its second digit 1 and its fourth 0 needs "
                                 f"a square map of queries, got {h} x {w}")
            rows = grid.transpose(2, 3)
        columns = grid.expand(-1, -1, -1, w, -1)
        energy_y = torch.einsum("bnyxd,yknd->bnyxk", rows, feature(self.appr_geom_fc_y, h, h_kv))
        energy_x = torch.einsum("bnyxd,xknd->bnyxk", columns,
                                feature(self.appr_geom_fc_x, w, w_kv))
        energy = energy_y.unsqueeze(5) + energy_x.unsqueeze(4)
        return energy.reshape(*energy.shape[:2], h * w, h_kv * w_kv)
