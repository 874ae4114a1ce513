"""The pyramid of NAS-FCOS (Wang et al., https://arxiv.org/abs/1906.04423)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule, caffe2_xavier_init
from fastdet.ops import ConcatCell
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

from ..builder import NECKS
from ..utils.checks import check_maps
from .levels import channels_of_used, check_in_channels, end_of_levels

__all__ = ["NASFCOS_FPN"]


# The cells in order. A name's first two digits are the maps that it merges: the used inputs count
# from 0, and the results of the cells follow them. Each has its second map convolved, or not.
CELLS = {"c22_1": True, "c22_2": True, "c32": False, "c02": False, "c42": True, "c36": True,
         "c61": True}
SHARED = 5  # this map is added to those below, which become the outputs
OUTPUTS = ((9, 1), (8, 2), (7, 3))  # a map and the input whose size its output gets


@NECKS.register_module()
class NASFCOS_FPN(BaseModule):
    """Inputs 1 to 3 merged by cells that architecture search has found, and coarser levels.

    Args:
        in_channels: channels of each input map, four or more, from the finest to the coarsest.
        out_channels: channels of every output map.
        num_outs: number of output maps; those beyond the used inputs come from 3x3 convolutions
            of stride 2.
        start_level: index of the first input map that is used.
        end_level: index of the last input map that is used; -1 is the last one.
        add_extra_convs: kept; the levels without input are made by convolutions anyway.
        conv_cfg: config of the convolutions in front of the cells; ``None`` is ``Conv2d``.
        norm_cfg: config of their normalisations; ``None`` for none.
        init_cfg: must be ``None``.

    Raises:
        TypeError: ``in_channels`` is not a list.
        ValueError: there are too few levels, they do not fit ``num_outs``, or ``init_cfg`` is
            given.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_outs: int,
                 start_level: int = 1, end_level: int = -1, add_extra_convs: bool | str = False,
                 conv_cfg: Cfg | None = None, norm_cfg: Cfg | None = None,
                 init_cfg: None = None) -> None:
        if init_cfg is not None:
            raise ValueError("NASFCOS_FPN initialises itself and takes no init_cfg, "
                             f"got {init_cfg!r}")
        super().__init__(init_cfg)
        check_in_channels(in_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_ins = len(in_channels)
        self.num_outs = num_outs
        self.norm_cfg = norm_cfg
        self.conv_cfg = conv_cfg
        self.start_level = start_level
        self.end_level = end_level
        self.add_extra_convs = add_extra_convs
        self.backbone_end_level = end_of_levels(self.num_ins, num_outs, start_level, end_level)
        used = in_channels[start_level:self.backbone_end_level]
        if self.num_ins < 4 or len(used) < 3:
            raise ValueError("NASFCOS_FPN needs at least 4 input maps and uses at least 3 of them, "
                             f"got {self.num_ins} and uses {len(used)}")

        self.adapt_convs = nn.ModuleList(
            ConvModule(c, out_channels, 1, bias=False, norm_cfg={"type": "BN"},
                       act_cfg={"type": "ReLU", "inplace": False})
            for c in used)
        self.fpn = nn.ModuleDict({
            name: ConcatCell(
                out_channels, out_channels, out_norm_cfg={"type": "BN"},
                out_conv_cfg={"kernel_size": 1, "padding": 0, "bias": False,
                              "groups": out_channels},
                out_conv_order=("norm", "act", "conv"), with_input1_conv=True,
                with_input2_conv=with_second, input_conv_cfg=conv_cfg, input_norm_cfg=norm_cfg,
                upsample_mode="nearest")
            for name, with_second in CELLS.items()})
        self.extra_downsamples = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, stride=2, padding=1,
                       act_cfg={"type": "ReLU", "inplace": False} if i else None,
                       order=("act", "norm", "conv"))
            for i in range(num_outs - len(used)))

    def init_weights(self) -> None:
        """Caffe2's Xavier for the convolutions in front of and behind the cells.

        The convolutions of the cells keep the draw with which they were built, as in MMDetection.
        """
        super().init_weights()
        for part in (self.adapt_convs, self.extra_downsamples):
            for m in part.modules():
                if isinstance(m, nn.Conv2d):
                    caffe2_xavier_init(m)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: one ``(N, in_channels[i], H_i, W_i)`` per level of the backbone.

        Returns:
            Three maps of ``out_channels`` with the sizes of inputs 1 to 3, then the coarser ones.

        Raises:
            ValueError: the number of maps is not that of ``in_channels``.
        """
        check_maps(self, inputs, channels_of_used(
            self.in_channels, self.start_level, self.backbone_end_level))
        feats = [conv(x) for conv, x in zip(
            self.adapt_convs, inputs[self.start_level:self.backbone_end_level])]
        for name, cell in self.fpn.items():
            feats.append(cell(feats[int(name[1])], feats[int(name[2])]))

        def resize(x: Tensor, like: Tensor) -> Tensor:
            return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)

        outs = [resize(feats[i] + resize(feats[SHARED], feats[i]), inputs[level])
                for i, level in OUTPUTS]
        for downsample in self.extra_downsamples:
            outs.append(downsample(outs[-1]))
        return tuple(outs)
