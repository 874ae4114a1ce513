"""NAS-FPN (Ghiasi et al., https://arxiv.org/abs/1904.07392), as found for RetinaNet."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.ops import GlobalPoolingCell, SumCell
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from ..utils.checks import check_maps
from .levels import channels_of_used, check_in_channels, end_of_levels

__all__ = ["NASFPN"]


# The cells of a stage in order: name, its two inputs, its result. The last digit of a name is the
# level whose size the result has. A result of a number replaces that level; one with a letter is
# used inside the stage only.
CELLS = (
    ("gp_64_4", "6", "4", "4a"),
    ("sum_44_4", "4a", "4", "4b"),
    ("sum_43_3", "4b", "3", "3"),
    ("sum_34_4", "3", "4b", "4"),
    ("gp_43_5", "4", "3", "5a"),
    ("sum_55_5", "5", "5a", "5"),
    ("gp_54_7", "5", "4b", "7a"),
    ("sum_77_7", "7", "7a", "7"),
    ("gp_75_6", "7", "5", "6"),
)
WITHOUT_CONV = ("gp_43_5", "gp_54_7")


@NECKS.register_module()
class NASFPN(BaseModule):
    """Levels 3 to 7, merged by stages of cells that architecture search has found.

    Args:
        in_channels: channels of each input map, from the finest to the coarsest.
        out_channels: channels of every output map.
        num_outs: number of output maps, which must be 5.
        stack_times: number of stages.
        start_level: index of the first input map that is used.
        end_level: index of the last input map that is used; -1 is the last one.
        add_extra_convs: kept; a level without input is the one below it after a 1x1 convolution
            and a max pooling, whatever this says.
        norm_cfg: config of the normalisations; ``None`` for none.
        init_cfg: the initialiser's config.

    Raises:
        TypeError: ``in_channels`` is not a list.
        ValueError: the levels do not fit, or ``num_outs`` is not 5.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_outs: int,
                 stack_times: int, start_level: int = 0, end_level: int = -1,
                 add_extra_convs: bool | str = False, norm_cfg: Cfg | None = None,
                 init_cfg: InitCfg = {
                     "type": "Caffe2Xavier", "layer": "Conv2d"}) -> None:
        super().__init__(init_cfg)
        check_in_channels(in_channels)
        if num_outs != 5:
            raise ValueError(f"NASFPN makes the levels 3 to 7: num_outs must be 5, got {num_outs}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_ins = len(in_channels)
        self.num_outs = num_outs
        self.stack_times = stack_times
        self.norm_cfg = norm_cfg
        self.start_level = start_level
        self.end_level = end_level
        self.add_extra_convs = add_extra_convs
        self.backbone_end_level = end_of_levels(self.num_ins, num_outs, start_level, end_level)

        used = in_channels[start_level:self.backbone_end_level]
        self.lateral_convs = nn.ModuleList(
            ConvModule(c, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None) for c in used)
        self.extra_downsamples = nn.ModuleList(
            nn.Sequential(ConvModule(out_channels, out_channels, 1, norm_cfg=norm_cfg,
                                     act_cfg=None),
                          nn.MaxPool2d(2, 2))
            for _ in range(num_outs - len(used)))
        self.fpn_stages = nn.ModuleList(self._build_stage() for _ in range(stack_times))

    def _build_stage(self) -> nn.ModuleDict:
        return nn.ModuleDict({
            name: (SumCell if name.startswith("sum") else GlobalPoolingCell)(
                in_channels=self.out_channels, out_channels=self.out_channels,
                with_out_conv=name not in WITHOUT_CONV, out_norm_cfg=self.norm_cfg)
            for name, *_ in CELLS})

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: one ``(N, in_channels[i], H_i, W_i)`` per level of the backbone.

        Returns:
            Five maps of ``out_channels``.

        Raises:
            ValueError: the number of maps is not that of ``in_channels``.
        """
        check_maps(self, inputs, channels_of_used(
            self.in_channels, self.start_level, self.backbone_end_level))
        feats = [conv(x) for conv, x in zip(
            self.lateral_convs, inputs[self.start_level:self.backbone_end_level])]
        for downsample in self.extra_downsamples:
            feats.append(downsample(feats[-1]))
        maps = dict(zip("34567", feats))
        for stage in self.fpn_stages:
            for name, first, second, result in CELLS:
                maps[result] = stage[name](  # type: ignore[index]
                    maps[first], maps[second], out_size=maps[name[-1]].shape[-2:])
        return tuple(maps[level] for level in "34567")
