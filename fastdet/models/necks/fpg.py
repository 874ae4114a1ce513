"""Feature pyramid grids (Chen et al., https://arxiv.org/abs/2004.03580)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from ..utils.checks import check_count, check_maps
from .levels import channels_of_used, check_in_channels, check_size, end_of_levels

__all__ = ["FPG", "Identity", "LastConv", "Transition", "UpInterpolationConv"]



class Transition(BaseModule):
    """What takes a map from one node of the grid to another.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result.
        init_cfg: the initialiser's config.
    """

    def __init__(self, in_channels: int, out_channels: int,
                 init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels


class Identity(Transition):
    """The map as it is.

    Args:
        in_channels: channels of the map.
        out_channels: the same.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: the channels differ.
    """

    def __init__(self, in_channels: int, out_channels: int,
                 init_cfg: InitCfg = None) -> None:
        super().__init__(in_channels, out_channels, init_cfg)
        if in_channels != out_channels:
            raise ValueError("a transition of type 'identity' keeps the channels, got "
                             f"in_channels={in_channels} and out_channels={out_channels}")

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x


class UpInterpolationConv(Transition):
    """Upsample, then convolve.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result.
        scale_factor: how many times larger the result is.
        mode: as in :func:`torch.nn.functional.interpolate`.
        align_corners: as in :func:`torch.nn.functional.interpolate`.
        kernel_size: kernel of the convolution, odd.
        init_cfg: the initialiser's config.
        **kwargs: the other arguments of :class:`fastdet.cnn.ConvModule`.
    """

    def __init__(self, in_channels: int, out_channels: int, scale_factor: float = 2,
                 mode: str = "nearest", align_corners: bool | None = None, kernel_size: int = 3,
                 init_cfg: InitCfg = None, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, init_cfg)
        self.mode = mode
        self.scale_factor = scale_factor
        self.align_corners = align_corners
        self.conv = ConvModule(in_channels, out_channels, kernel_size,
                               padding=(kernel_size - 1) // 2, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, out_channels, H * scale_factor, W * scale_factor)``."""
        return self.conv(F.interpolate(x, scale_factor=self.scale_factor, mode=self.mode,
                                       align_corners=self.align_corners))


class LastConv(Transition):
    """Convolve the last of several maps.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result.
        num_inputs: number of maps.
        kernel_size: kernel of the convolution, odd.
        init_cfg: the initialiser's config.
        **kwargs: the other arguments of :class:`fastdet.cnn.ConvModule`.
    """

    def __init__(self, in_channels: int, out_channels: int, num_inputs: int, kernel_size: int = 3,
                 init_cfg: InitCfg = None, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, init_cfg)
        self.num_inputs = num_inputs
        self.conv_out = ConvModule(in_channels, out_channels, kernel_size,
                                   padding=(kernel_size - 1) // 2, **kwargs)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Map the last of ``num_inputs`` maps ``(N, C, H, W)`` to ``(N, out_channels, H, W)``."""
        check_count(self, inputs, self.num_inputs)
        return self.conv_out(inputs[-1])


@NECKS.register_module()
class FPG(BaseModule):
    """A grid of maps, levels by stages, in which transitions lead from node to node.

    A transition's config has a ``type`` (``'conv'``, ``'interpolation_conv'``, ``'last_conv'`` or
    ``'identity'``) and the arguments of that layer; ``None`` leaves it out. All maps that reach a
    node are added, and must have the node's height and width.

    Args:
        in_channels: channels of each input map, from the finest to the coarsest.
        out_channels: channels of every output map.
        num_outs: number of levels.
        stack_times: number of stages.
        paths: the direction of each stage: ``'bu'`` (bottom-up, from fine to coarse) or ``'td'``
            (top-down).
        inter_channels: channels inside the grid, one number or one for each level;
            ``out_channels`` by default.
        same_down_trans: from the coarser level of the same stage, in a top-down stage.
        same_up_trans: from the finer level of the same stage, in a bottom-up stage.
        across_lateral_trans: from the same level of the stage before.
        across_down_trans: from the coarser level of the stage before.
        across_up_trans: from the finer level of the stage before.
        across_skip_trans: from the same level in front of the first stage.
        output_trans: from all stages of a level to its output.
        start_level: index of the first input map that is used.
        end_level: index of the last input map that is used; -1 is the last one. A level before
            the last allows no extra levels.
        add_extra_convs: make the levels without input by 3x3 convolutions of stride 2, each from
            the level below it; else by subsampling.
        norm_cfg: kept; the configs of the transitions have their own.
        skip_inds: for each level the stages that it skips; ``None`` for none.
        init_cfg: the initialiser's config.

    Raises:
        TypeError: ``in_channels`` or ``paths`` is not a list.
        ValueError: the levels and ``num_outs`` do not fit; ``paths``, ``inter_channels`` or
            ``skip_inds`` has a wrong length or entry; a node gets no transition.
        KeyError: the type of a transition is unknown.
    """

    transition_types: ClassVar[dict[str, type[nn.Module]]] = {
        "conv": ConvModule,
        "interpolation_conv": UpInterpolationConv,
        "last_conv": LastConv,
        "identity": Identity,
    }

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_outs: int,
                 stack_times: int, paths: Sequence[str],
                 inter_channels: int | Sequence[int] | None = None,
                 same_down_trans: Cfg | None = None,
                 same_up_trans: Cfg | None = {
                     "type": "conv", "kernel_size": 3, "stride": 2, "padding": 1},
                 across_lateral_trans: Cfg | None = {
                     "type": "conv", "kernel_size": 1},
                 across_down_trans: Cfg | None = {
                     "type": "conv", "kernel_size": 3},
                 across_up_trans: Cfg | None = None,
                 across_skip_trans: Cfg | None = {"type": "identity"},
                 output_trans: Cfg = {"type": "last_conv", "kernel_size": 3},
                 start_level: int = 0, end_level: int = -1, add_extra_convs: bool = False,
                 norm_cfg: Cfg | None = None,
                 skip_inds: Sequence[Sequence[int]] | None = None,
                 init_cfg: InitCfg = [
                     {"type": "Caffe2Xavier", "layer": "Conv2d"},
                     {"type": "Constant", "val": 1.0,
                      "layer": ["_BatchNorm", "_InstanceNorm", "GroupNorm", "LayerNorm"]}]
                 ) -> None:
        super().__init__(init_cfg)
        check_in_channels(in_channels)
        if not isinstance(paths, (list, tuple)):
            raise TypeError(f"paths must be a list with one entry per stage, got {paths!r}")
        if len(paths) != stack_times or not set(paths) <= {"bu", "td"}:
            raise ValueError(f"paths must be stack_times={stack_times} entries of 'bu' or 'td', "
                             f"got {paths!r}")
        if inter_channels is None or isinstance(inter_channels, int):
            inter_channels = [inter_channels or out_channels] * num_outs
        skip_inds = [()] * num_outs if skip_inds is None else skip_inds
        for name, values in (("inter_channels", inter_channels), ("skip_inds", skip_inds)):
            if len(values) != num_outs:
                raise ValueError(f"{name} must have num_outs={num_outs} entries, got {values}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_ins = len(in_channels)
        self.num_outs = num_outs
        self.inter_channels = inter_channels
        self.stack_times = stack_times
        self.paths = paths
        self.same_down_trans = same_down_trans
        self.same_up_trans = same_up_trans
        self.across_lateral_trans = across_lateral_trans
        self.across_down_trans = across_down_trans
        self.across_up_trans = across_up_trans
        self.across_skip_trans = across_skip_trans
        self.output_trans = output_trans
        self.start_level = start_level
        self.end_level = end_level
        self.add_extra_convs = add_extra_convs
        self.norm_cfg = norm_cfg
        self.with_bias = norm_cfg is None
        self.skip_inds = skip_inds
        self.backbone_end_level = end_of_levels(self.num_ins, num_outs, start_level, end_level)

        used = in_channels[start_level:self.backbone_end_level]
        self.lateral_convs = nn.ModuleList(
            nn.Conv2d(c, inter, 1) for c, inter in zip(used, inter_channels))
        self.extra_downsamples = nn.ModuleList(
            nn.Conv2d(inter_channels[i - 1], inter_channels[i], 3, stride=2, padding=1)
            if add_extra_convs else nn.MaxPool2d(1, stride=2)
            for i in range(len(used), num_outs))
        self.fpn_transitions = nn.ModuleList(
            nn.ModuleList(self._build_node(stage, level) for level in range(num_outs))
            for stage in range(stack_times))
        self.output_transition = nn.ModuleList(
            self.build_trans(output_trans, inter, out_channels, num_inputs=stack_times + 1)
            for inter in inter_channels)

    def _build_node(self, stage: int, level: int) -> nn.ModuleDict:
        """The transitions that lead to a node, in the order of MMDetection's state dicts."""
        node = nn.ModuleDict()
        if stage in self.skip_inds[level]:
            return node
        for name, source in (("same_up", level - 1), ("same_down", level + 1),
                             ("across_lateral", level), ("across_down", level + 1),
                             ("across_up", level - 1), ("across_skip", level)):
            cfg = getattr(self, f"{name}_trans")
            if cfg is not None and 0 <= source < self.num_outs:
                node[name] = self.build_trans(cfg, self.inter_channels[source],
                                              self.inter_channels[level])
        if not {name for name, *_ in self._sources(stage, level)} & set(node):
            raise ValueError(f"no transition leads to level {level} of stage {stage}")
        return node

    def build_trans(self, cfg: Cfg, in_channels: int, out_channels: int,
                    **extra_args: Any) -> nn.Module:
        """Build a transition.

        Args:
            cfg: ``type`` and arguments of the transition.
            in_channels: channels of the map.
            out_channels: channels of the result.
            **extra_args: further arguments.

        Raises:
            KeyError: the type is unknown.
        """
        cfg = dict(cfg)
        kind = cfg.pop("type")
        if kind not in self.transition_types:
            raise KeyError(f"a transition's type must be one of {tuple(self.transition_types)}, "
                           f"got {kind!r}")
        return self.transition_types[kind](in_channels, out_channels, **cfg, **extra_args)

    def _sources(self, stage: int, level: int) -> Iterator[tuple[str, int, int]]:
        """Name of each transition to a node and stage and level it comes from; 0 is the input.

        Node (stage, level) of :attr:`fpn_transitions` makes a map of stage + 1.
        """
        if self.paths[stage] == "bu":
            yield "same_up", stage + 1, level - 1
        else:
            yield "same_down", stage + 1, level + 1
        yield "across_lateral", stage, level
        yield "across_up", stage, level - 1
        yield "across_down", stage, level + 1
        yield "across_skip", 0, level

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Build the pyramid.

        Args:
            inputs: one ``(N, in_channels[i], H_i, W_i)`` per level of the backbone.

        Returns:
            ``num_outs`` maps of ``out_channels``.

        Raises:
            ValueError: the number of maps is not that of ``in_channels``, or the maps that reach
                a node differ in size.
        """
        check_maps(self, inputs, channels_of_used(
            self.in_channels, self.start_level, self.backbone_end_level))
        feats = [conv(x) for conv, x in zip(
            self.lateral_convs, inputs[self.start_level:self.backbone_end_level])]
        for downsample in self.extra_downsamples:
            feats.append(downsample(feats[-1]))

        maps: list[dict[int, Tensor]] = [dict(enumerate(feats))]
        for stage, nodes in enumerate(self.fpn_transitions):
            maps.append({})
            levels = range(self.num_outs)
            for level in levels if self.paths[stage] == "bu" else reversed(levels):
                node = nodes[level]  # type: ignore[index]
                like = maps[stage][level]
                terms = []
                for name, from_stage, from_level in self._sources(stage, level):
                    if name in node:
                        term = node[name](maps[from_stage][from_level])
                        check_size(term, f"what {name} brings in stage {stage}", like, level)
                        terms.append(term)
                maps[-1][level] = sum(terms[1:], terms[0]) if terms else like
        return [trans([stage[level] for stage in maps])
                for level, trans in enumerate(self.output_transition)]
