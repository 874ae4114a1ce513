"""ResNet (He et al., https://arxiv.org/abs/1512.03385) and ResNetV1d."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch.utils.checkpoint as cp
from torch import Tensor, nn

from fastdet.cnn import build_conv_layer, build_norm_layer, build_plugin_layer
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, InitCfg

from ..builder import BACKBONES
from ..utils import ResLayer
from ..utils.checks import check_image, check_indices, known
from ..utils.misc import eval_batch_norms, pretrained_init_cfg

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "ResNetV1d"]


PLUGIN_POSITIONS = ("after_conv1", "after_conv2", "after_conv3")


class BasicBlock(BaseModule):
    """Residual block of two 3x3 convolutions.

    Args:
        inplanes: channels of the input.
        planes: channels of the output.
        stride: stride of the first convolution.
        dilation: dilation of the first convolution.
        downsample: the identity branch, where the shapes differ.
        style: not used; the block has the same form in both styles.
        with_cp: recompute the block in backward instead of keeping its activations.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        dcn: must be ``None``.
        plugins: must be ``None``.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: ``dcn`` or ``plugins`` is given.
    """

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, dilation: int = 1,
                 downsample: nn.Module | None = None, style: str = "pytorch",
                 with_cp: bool = False, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 dcn: Cfg | None = None, plugins: list[Cfg] | None = None,
                 init_cfg: Cfg | None = None) -> None:
        super().__init__(init_cfg)
        if dcn is not None or plugins is not None:
            raise ValueError("BasicBlock (ResNet-18 and 34) takes no dcn and no plugins, "
                             f"got dcn={dcn!r}, plugins={plugins!r}")
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, planes, postfix=1)
        self.norm2_name, norm2 = build_norm_layer(norm_cfg, planes, postfix=2)
        self.conv1 = build_conv_layer(conv_cfg, inplanes, planes, 3, stride=stride,
                                      padding=dilation, dilation=dilation, bias=False)
        self.add_module(self.norm1_name, norm1)
        self.conv2 = build_conv_layer(conv_cfg, planes, planes, 3, padding=1, bias=False)
        self.add_module(self.norm2_name, norm2)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride
        self.dilation = dilation
        self.with_cp = with_cp

    @property
    def norm1(self) -> nn.Module:
        """The normalisation after the first convolution."""
        return getattr(self, self.norm1_name)

    @property
    def norm2(self) -> nn.Module:
        """The normalisation after the second convolution."""
        return getattr(self, self.norm2_name)

    def _residual(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inplanes, H, W)`` to ``(N, planes, H / stride, W / stride)``."""
        if self.with_cp and x.requires_grad:
            out = cp.checkpoint(self._residual, x, use_reentrant=False)
        else:
            out = self._residual(x)
        return self.relu(out)


class Bottleneck(BaseModule):
    """Residual block of a 1x1, a 3x3 and a 1x1 convolution, the last four times as wide.

    A subclass that has another 3x3 convolution overrides :meth:`_add_conv2` and, if it is called
    differently, :meth:`_forward_conv2`.

    Args:
        inplanes: channels of the input.
        planes: base width; the block returns ``planes * expansion`` channels.
        stride: stride of the 3x3 convolution, or with ``style='caffe'`` of the first 1x1.
        dilation: dilation of the 3x3 convolution.
        downsample: the identity branch, where the shapes differ.
        style: ``'pytorch'`` or ``'caffe'``.
        with_cp: recompute the block in backward instead of keeping its activations.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        dcn: config of a deformable convolution in place of the 3x3 one. Its key
            ``fallback_on_stride`` keeps the plain one; the key is removed from the dict, so that of
            the blocks that share one only the first falls back, as in MMDetection.
        plugins: dicts with ``cfg`` and ``position``, see :meth:`ResNet.make_stage_plugins`.
        init_cfg: the initialiser's config.
        width: channels between the 1x1 convolutions; ``planes`` by default.
        groups: groups of the 3x3 convolution.

    Raises:
        ValueError: the style or a plugin's position is unknown, or ``dcn`` meets a ``conv_cfg``.
        TypeError: ``dcn`` is not a dict.
    """

    expansion = 4
    dcn_may_fall_back = True

    def __init__(self, inplanes: int, planes: int, stride: int = 1, dilation: int = 1,
                 downsample: nn.Module | None = None, style: str = "pytorch",
                 with_cp: bool = False, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 dcn: Cfg | None = None, plugins: list[Cfg] | None = None,
                 init_cfg: Cfg | None = None, *, width: int | None = None,
                 groups: int = 1) -> None:
        super().__init__(init_cfg)
        if style not in ("pytorch", "caffe"):
            raise ValueError(f"style must be 'pytorch' or 'caffe', got {style!r}")
        if dcn is not None and not isinstance(dcn, dict):
            raise TypeError(f"dcn must be a config dict or None, got {type(dcn).__name__}")
        self.inplanes = inplanes
        self.planes = planes
        self.stride = stride
        self.dilation = dilation
        self.style = style
        self.with_cp = with_cp
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.dcn = dcn
        self.with_dcn = dcn is not None
        self.plugins = plugins
        self.with_plugins = plugins is not None
        self.conv1_stride, self.conv2_stride = (1, stride) if style == "pytorch" else (stride, 1)

        width = planes if width is None else width
        outplanes = planes * self.expansion
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, width, postfix=1)
        self.norm3_name, norm3 = build_norm_layer(norm_cfg, outplanes, postfix=3)
        self.conv1 = build_conv_layer(conv_cfg, inplanes, width, 1, stride=self.conv1_stride,
                                      bias=False)
        self.add_module(self.norm1_name, norm1)
        self._add_conv2(width, groups)
        self.conv3 = build_conv_layer(conv_cfg, width, outplanes, 1, bias=False)
        self.add_module(self.norm3_name, norm3)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

        at: dict[str, list[Cfg]] = {position: [] for position in PLUGIN_POSITIONS}
        for plugin in plugins or ():
            if plugin["position"] not in at:
                raise ValueError(f"a plugin's position must be one of {PLUGIN_POSITIONS}, "
                                 f"got {plugin['position']!r}")
            at[plugin["position"]].append(plugin["cfg"])
        if plugins is not None:
            for position, cfgs in at.items():
                setattr(self, f"{position}_plugins", cfgs)
        self.after_conv1_plugin_names = self.make_block_plugins(width, at["after_conv1"])
        self.after_conv2_plugin_names = self.make_block_plugins(width, at["after_conv2"])
        self.after_conv3_plugin_names = self.make_block_plugins(outplanes, at["after_conv3"])

    def _add_conv2(self, width: int, groups: int) -> None:
        """Add the 3x3 convolution and what follows it before the second ReLU."""
        self.norm2_name, norm2 = build_norm_layer(self.norm_cfg, width, postfix=2)
        self.conv2 = self._conv3x3(width, groups)
        self.add_module(self.norm2_name, norm2)

    def _conv3x3(self, width: int, groups: int) -> nn.Module:
        return build_conv_layer(self._conv2_cfg(), width, width, 3, stride=self.conv2_stride,
                                padding=self.dilation, dilation=self.dilation, groups=groups,
                                bias=False)

    def _conv2_cfg(self) -> Cfg | None:
        """Cfg of the 3x3 convolution: ``dcn`` if there is one, else ``conv_cfg``."""
        if self.dcn is None or (self.dcn.pop("fallback_on_stride", False)
                                and self.dcn_may_fall_back):
            return self.conv_cfg
        if self.conv_cfg is not None:
            raise ValueError("conv_cfg must be None where dcn is given, "
                             f"got conv_cfg={self.conv_cfg!r} and dcn={self.dcn!r}")
        return self.dcn

    @property
    def norm1(self) -> nn.Module:
        """The normalisation after the first convolution."""
        return getattr(self, self.norm1_name)

    @property
    def norm2(self) -> nn.Module:
        """The normalisation after the 3x3 convolution."""
        return getattr(self, self.norm2_name)

    @property
    def norm3(self) -> nn.Module:
        """The normalisation after the last convolution."""
        return getattr(self, self.norm3_name)

    def make_block_plugins(self, in_channels: int, plugins: list[Cfg]) -> list[str]:
        """Add plugin layers to this block.

        Args:
            in_channels: channels of the map that the plugins work on.
            plugins: configs of the layers; the key ``postfix`` tells two of one type apart.

        Returns:
            The names under which the layers stand.

        Raises:
            ValueError: two plugins have the same name.
        """
        names = []
        for cfg in plugins:
            cfg = dict(cfg)
            name, layer = build_plugin_layer(cfg, postfix=cfg.pop("postfix", ""),
                                             in_channels=in_channels)
            if hasattr(self, name):
                raise ValueError(f"the block has a plugin {name!r} already; "
                                 "give one of the two another postfix")
            self.add_module(name, layer)
            names.append(name)
        return names

    def forward_plugin(self, x: Tensor, plugin_names: list[str]) -> Tensor:
        """Apply the plugins of the given names in order."""
        for name in plugin_names:
            x = getattr(self, name)(x)
        return x

    def _forward_conv2(self, x: Tensor) -> Tensor:
        return self.relu(self.norm2(self.conv2(x)))

    def _residual(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.forward_plugin(out, self.after_conv1_plugin_names)
        out = self.forward_plugin(self._forward_conv2(out), self.after_conv2_plugin_names)
        out = self.norm3(self.conv3(out))
        out = self.forward_plugin(out, self.after_conv3_plugin_names)
        # A plugin may return its input or a tensor that its backward needs: no in-place sum then.
        identity = x if self.downsample is None else self.downsample(x)
        return out + identity if self.after_conv3_plugin_names else out.add_(identity)

    def _checkpointed_residual(self, x: Tensor) -> Tensor:
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._residual, x, use_reentrant=False)
        return self._residual(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inplanes, H, W)`` to ``(N, planes * expansion, H / stride, W / stride)``."""
        return self.relu(self._checkpointed_residual(x))


@BACKBONES.register_module()
class ResNet(BaseModule):
    """ResNet backbone.

    Args:
        depth: depth of the network, one of 18, 34, 50, 101 and 152.
        in_channels: channels of the image.
        stem_channels: channels of the stem; ``base_channels`` by default.
        base_channels: base width of the first stage; each further stage doubles it.
        num_stages: number of stages, 1 to 4.
        strides: stride of the first block of each stage.
        dilations: dilation of each stage.
        out_indices: the stages whose output is returned.
        style: ``'pytorch'`` strides the 3x3 convolution of a bottleneck, ``'caffe'`` the first 1x1.
        deep_stem: three 3x3 convolutions in the stem instead of one 7x7.
        avg_down: downsample the identity branch by average pooling instead of a stride.
        frozen_stages: the stem and that many stages get no gradient and stay in eval mode; 0
            freezes the stem alone, -1 nothing.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        norm_eval: keep batch normalisation in eval mode while training.
        dcn: config of the deformable convolutions.
        stage_with_dcn: the stages that have them.
        plugins: plugin layers, see :meth:`make_stage_plugins`.
        with_cp: recompute blocks in backward instead of keeping their activations.
        zero_init_residual: initialise the last normalisation of each block to zero.
        pretrained: deprecated; use ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: the initialiser's config. By default He initialisation of the convolutions,
            and ones for the weights of batch and group normalisation.

    Raises:
        KeyError: there is no network of this depth.
        ValueError: an argument does not fit ``num_stages``, or both ``pretrained`` and
            ``init_cfg`` are given.

    Example:
        >>> import torch
        >>> self = ResNet(depth=18).eval()
        >>> [tuple(out.shape) for out in self(torch.rand(1, 3, 32, 32))]
        [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2), (1, 512, 1, 1)]
    """

    arch_settings: ClassVar[dict[Any, Any]] = {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(self, depth: int, in_channels: int = 3, stem_channels: int | None = None,
                 base_channels: int = 64, num_stages: int = 4,
                 strides: Sequence[int] = (1, 2, 2, 2), dilations: Sequence[int] = (1, 1, 1, 1),
                 out_indices: Sequence[int] = (0, 1, 2, 3), style: str = "pytorch",
                 deep_stem: bool = False, avg_down: bool = False, frozen_stages: int = -1,
                 conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN", "requires_grad": True},
                 norm_eval: bool = True, dcn: Cfg | None = None,
                 stage_with_dcn: Sequence[bool] = (False, False, False, False),
                 plugins: list[Cfg] | None = None, with_cp: bool = False,
                 zero_init_residual: bool = True, pretrained: str | None = None,
                 init_cfg: InitCfg = None) -> None:
        block, stage_blocks = self._architecture(depth)
        default = pretrained is None and init_cfg is None
        super().__init__(pretrained_init_cfg(pretrained, init_cfg, [
            {"type": "Kaiming", "layer": "Conv2d"},
            {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]}]))
        if not 1 <= num_stages <= len(stage_blocks):
            raise ValueError(f"num_stages must be 1 to {len(stage_blocks)}, got {num_stages}")
        for name, values in (("strides", strides), ("dilations", dilations),
                             *((("stage_with_dcn", stage_with_dcn),) if dcn is not None else ())):
            if len(values) != num_stages:
                raise ValueError(f"{name} must have num_stages={num_stages} entries, got {values}")
        check_indices("out_indices", out_indices, num_stages)
        if frozen_stages > num_stages:
            raise ValueError(f"frozen_stages must be at most num_stages={num_stages}, "
                             f"got {frozen_stages}")
        self.depth = depth
        self.stem_channels = base_channels if stem_channels is None else stem_channels
        self.base_channels = base_channels
        self.num_stages = num_stages
        self.strides = strides
        self.dilations = dilations
        self.out_indices = out_indices
        self.style = style
        self.deep_stem = deep_stem
        self.avg_down = avg_down
        self.frozen_stages = frozen_stages
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.norm_eval = norm_eval
        self.dcn = copy.copy(dcn)  # the blocks take a key out of it
        self.stage_with_dcn = stage_with_dcn
        self.plugins = plugins
        self.with_cp = with_cp
        self.zero_init_residual = zero_init_residual
        self.block = block
        self.stage_blocks = stage_blocks[:num_stages]

        self._make_stem_layer(in_channels, self.stem_channels)
        self.inplanes = self.stem_channels
        block_init_cfg = self._zero_init_cfg() if default and zero_init_residual else None
        self.res_layers = []
        for i, num_blocks in enumerate(self.stage_blocks):
            args = {
                "block": block, "inplanes": self.inplanes, "planes": base_channels * 2**i,
                "num_blocks": num_blocks, "stride": strides[i], "dilation": dilations[i],
                "style": style, "avg_down": avg_down, "with_cp": with_cp, "conv_cfg": conv_cfg,
                "norm_cfg": norm_cfg,
                "dcn": self.dcn if dcn is not None and stage_with_dcn[i] else None,
                "plugins": None if plugins is None else self.make_stage_plugins(plugins, i),
                "init_cfg": block_init_cfg, **self._stage_args(i)}
            name = f"layer{i + 1}"
            self.add_module(name, self.make_res_layer(**args))
            self.inplanes = args["planes"] * block.expansion
            self.res_layers.append(name)
        self.feat_dim = self.inplanes
        self._freeze_stages()

    def _architecture(self, depth: int) -> tuple[Any, tuple[int, ...]]:
        """The block and the number of blocks of each stage."""
        known(type(self).__name__, "depth", depth, self.arch_settings)
        return self.arch_settings[depth]

    def _stage_args(self, stage_idx: int) -> Cfg:
        """What a subclass passes to :meth:`make_res_layer` for one stage, over the usual."""
        return {}

    def _zero_init_cfg(self) -> Cfg | None:
        # Exactly these classes: MMDetection leaves the blocks derived from them alone.
        last = {BasicBlock: "norm2", Bottleneck: "norm3"}.get(self.block)
        return {"type": "Constant", "val": 0, "override": {"name": last}} if last else None

    def make_stage_plugins(self, plugins: list[Cfg], stage_idx: int) -> list[Cfg]:
        """The plugins of one stage.

        Args:
            plugins: one dict per plugin, with ``cfg`` (the layer's config; a key ``postfix``
                tells two plugins of one type apart), ``position`` (``'after_conv1'``,
                ``'after_conv2'`` or ``'after_conv3'``) and, if not all stages have it, ``stages``
                (a bool per stage).
            stage_idx: index of the stage.

        Returns:
            Those of them that the stage has, without ``stages``.

        Raises:
            ValueError: ``stages`` has another length than ``num_stages``.
        """
        chosen = []
        for plugin in plugins:
            plugin = dict(plugin)
            stages = plugin.pop("stages", None)
            if stages is not None and len(stages) != self.num_stages:
                raise ValueError(f"stages of a plugin must have num_stages={self.num_stages} "
                                 f"entries, got {stages}")
            if stages is None or stages[stage_idx]:
                chosen.append(plugin)
        return chosen

    def make_res_layer(self, **kwargs: Any) -> nn.Module:
        """Build one stage; the arguments are those of :class:`ResLayer`."""
        return ResLayer(**kwargs)

    @property
    def norm1(self) -> nn.Module:
        """The normalisation of the stem, which a deep stem has not."""
        return getattr(self, self.norm1_name)

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        if self.deep_stem:
            self._make_deep_stem(in_channels, stem_channels)
        else:
            self._make_plain_stem(in_channels, stem_channels, kernel_size=7)
        self.maxpool: nn.Module = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def _make_deep_stem(self, in_channels: int, stem_channels: int) -> None:
        half = stem_channels // 2
        layers: list[nn.Module] = []
        for c_in, c_out, stride in ((in_channels, half, 2), (half, half, 1),
                                    (half, stem_channels, 1)):
            layers += [build_conv_layer(self.conv_cfg, c_in, c_out, kernel_size=3, stride=stride,
                                        padding=1, bias=False),
                       build_norm_layer(self.norm_cfg, c_out)[1],
                       nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*layers)

    def _make_plain_stem(self, in_channels: int, stem_channels: int, kernel_size: int) -> None:
        self.conv1 = build_conv_layer(self.conv_cfg, in_channels, stem_channels,
                                      kernel_size=kernel_size, stride=2,
                                      padding=kernel_size // 2, bias=False)
        self.norm1_name, norm1 = build_norm_layer(self.norm_cfg, stem_channels, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.relu = nn.ReLU(inplace=True)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        if self.deep_stem:
            frozen: list[nn.Module] = [self.stem]
        else:
            frozen = [self.norm1]
            self.conv1.requires_grad_(False)
        frozen += [getattr(self, name) for name in self.res_layers[:self.frozen_stages]]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)

    def _forward_stem(self, x: Tensor) -> Tensor:
        first: Any = self.stem[0] if self.deep_stem else self.conv1
        check_image(self, x, first.in_channels)
        x = self.stem(x) if self.deep_stem else self.relu(self.norm1(self.conv1(x)))
        return self.maxpool(x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(N, in_channels, H, W)`` to the feature maps of ``out_indices``."""
        x = self._forward_stem(x)
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> ResNet:
        """Set the mode, but keep frozen stages and, with ``norm_eval``, batch norms in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            eval_batch_norms(self)
        return self


@BACKBONES.register_module()
class ResNetV1d(ResNet):
    """ResNet with a deep stem and average pooling in the downsampling identity branches.

    From "Bag of Tricks" (He et al., https://arxiv.org/abs/1812.01187).

    Args:
        **kwargs: the other arguments of :class:`ResNet`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(deep_stem=True, avg_down=True, **kwargs)
