"""Balanced feature pyramid of Libra R-CNN (Pang et al., https://arxiv.org/abs/1904.02701)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule, NonLocal2d
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from ..utils.checks import check_maps

__all__ = ["BFP"]



@NECKS.register_module()
class BFP(BaseModule):
    """Average all levels at the size of one, refine the average, add it to every level.

    Args:
        in_channels: channels of every map.
        num_levels: number of maps.
        refine_level: index of the level at whose size the maps are averaged.
        refine_type: ``'conv'`` refines by a 3x3 convolution, ``'non_local'`` by a non-local block,
            ``None`` not at all.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations; ``None`` for none.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: ``refine_level`` is no level, or ``refine_type`` is unknown.
    """

    def __init__(self, in_channels: int, num_levels: int, refine_level: int = 2,
                 refine_type: str | None = None, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg | None = None,
                 init_cfg: InitCfg = {
                     "type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}) -> None:
        super().__init__(init_cfg)
        if refine_type not in (None, "conv", "non_local"):
            raise ValueError("refine_type must be None, 'conv' or 'non_local', "
                             f"got {refine_type!r}")
        if not 0 <= refine_level < num_levels:
            raise ValueError(f"refine_level must be one of 0 to {num_levels - 1}, "
                             f"got {refine_level}")
        self.in_channels = in_channels
        self.num_levels = num_levels
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.refine_level = refine_level
        self.refine_type = refine_type
        if refine_type == "conv":
            self.refine: nn.Module = ConvModule(in_channels, in_channels, 3, padding=1,
                                                conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        elif refine_type == "non_local":
            self.refine = NonLocal2d(in_channels, reduction=1, use_scale=False, conv_cfg=conv_cfg,
                                     norm_cfg=norm_cfg)

    @staticmethod
    def _resize(x: Tensor, size: Sequence[int], shrink: bool) -> Tensor:
        if shrink:
            return F.adaptive_max_pool2d(x, tuple(size))
        return F.interpolate(x, size=tuple(size), mode="nearest")

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Balance the levels.

        Args:
            inputs: ``num_levels`` maps ``(N, in_channels, H_i, W_i)``, finest first.

        Returns:
            As many maps of the same shapes.

        Raises:
            ValueError: the number of maps is not ``num_levels``.
        """
        check_maps(self, inputs, [self.in_channels] * self.num_levels)
        size = inputs[self.refine_level].shape[2:]
        maps = [self._resize(x, size, shrink=i < self.refine_level)
                for i, x in enumerate(inputs)]
        gathered = sum(maps[1:], maps[0]) / self.num_levels
        if self.refine_type is not None:
            gathered = self.refine(gathered)
        return tuple(x + self._resize(gathered, x.shape[2:], shrink=i >= self.refine_level)
                     for i, x in enumerate(inputs))
