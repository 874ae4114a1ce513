"""FPN with a choice of upsampling layers, among them CARAFE (https://arxiv.org/abs/1905.02188)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastdet.cnn import ConvModule, build_upsample_layer, xavier_init
from fastdet.ops import CARAFEPack
from fastdet.runner import BaseModule, ModuleList
from fastdet.utils.types import Cfg

from ..builder import NECKS
from ..utils.checks import check_maps
from .levels import channels_of_used, check_in_channels, end_of_levels

__all__ = ["FPN_CARAFE"]


UPSAMPLE_TYPES = ("nearest", "bilinear", "deconv", "pixel_shuffle", "carafe", None)


@NECKS.register_module()
class FPN_CARAFE(BaseModule):
    """Feature pyramid whose top-down path, extra levels included, upsamples by a layer.

    Args:
        in_channels: channels of each input map, from the finest to the coarsest.
        out_channels: channels of every output map.
        num_outs: number of output maps; those beyond the used inputs come from lateral 3x3
            convolutions of stride 2, the first of which reads the last input.
        start_level: index of the first input map that is used.
        end_level: index of the last input map that is used; -1 is the last one. A level before
            the last allows no extra outputs.
        norm_cfg: config of the normalisations; ``None`` for none.
        act_cfg: config of the activations; ``None`` for none.
        order: ``('conv', 'norm', 'act')`` or ``('act', 'conv', 'norm')``.
        upsample_cfg: ``type`` is ``'nearest'``, ``'bilinear'``, ``'deconv'``, ``'pixel_shuffle'``,
            ``'carafe'`` or ``None`` (add as it is); ``'deconv'`` and ``'pixel_shuffle'`` want the
            kernel's size as ``upsample_kernel``. The other keys are arguments of the layer.
        init_cfg: must be ``None``.

    Raises:
        TypeError: ``in_channels`` is not a list.
        ValueError: the levels and ``num_outs`` do not fit, ``order`` or the type of upsampling is
            unknown, its kernel is missing, or ``init_cfg`` is given.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_outs: int,
                 start_level: int = 0, end_level: int = -1, norm_cfg: Cfg | None = None,
                 act_cfg: Cfg | None = None,
                 order: tuple[str, str, str] = ("conv", "norm", "act"),
                 upsample_cfg: Cfg = {
                     "type": "carafe", "up_kernel": 5, "up_group": 1, "encoder_kernel": 3,
                     "encoder_dilation": 1},
                 init_cfg: None = None) -> None:
        if init_cfg is not None:
            raise ValueError("FPN_CARAFE initialises itself and takes no init_cfg, "
                             f"got {init_cfg!r}")
        super().__init__(init_cfg)
        check_in_channels(in_channels)
        if order not in (("conv", "norm", "act"), ("act", "conv", "norm")):
            raise ValueError("order must be ('conv', 'norm', 'act') or ('act', 'conv', 'norm'), "
                             f"got {order!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_ins = len(in_channels)
        self.num_outs = num_outs
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        self.with_bias = norm_cfg is None
        self.order = order
        self.start_level = start_level
        self.end_level = end_level
        self.backbone_end_level = end_of_levels(self.num_ins, num_outs, start_level, end_level)

        self.upsample_cfg = dict(upsample_cfg)
        self.upsample = self.upsample_cfg.get("type")
        if self.upsample not in UPSAMPLE_TYPES:
            raise ValueError(f"the type in upsample_cfg must be one of {UPSAMPLE_TYPES}, "
                             f"got {self.upsample!r}")
        if self.upsample in ("deconv", "pixel_shuffle"):
            self.upsample_kernel = self.upsample_cfg.pop("upsample_kernel", 0)
            if not (isinstance(self.upsample_kernel, int) and self.upsample_kernel > 0):
                raise ValueError(f"upsample_cfg of type {self.upsample!r} needs a positive "
                                 f"upsample_kernel, got {upsample_cfg}")

        conv: Cfg = {"norm_cfg": norm_cfg, "bias": self.with_bias, "act_cfg": act_cfg,
                        "inplace": False, "order": order}
        used = self.backbone_end_level - start_level
        self.relu = nn.ReLU(inplace=False)
        self.lateral_convs = ModuleList(
            ConvModule(c, out_channels, 1, **conv)
            for c in in_channels[start_level:self.backbone_end_level])
        for i in range(num_outs - used):
            self.lateral_convs.append(ConvModule(
                out_channels if i else in_channels[self.backbone_end_level - 1], out_channels, 3,
                stride=2, padding=1, **conv))
        self.fpn_convs = ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, **conv) for _ in range(num_outs))
        self.upsample_modules = ModuleList(
            self._build_upsample() for _ in range(num_outs - 1 if self.upsample else 0))

    def _build_upsample(self) -> nn.Module:
        channels = self.out_channels
        options: Cfg = {"scale_factor": 2}
        if self.upsample == "carafe":
            options["channels"] = channels
        elif self.upsample == "pixel_shuffle":
            options |= {"in_channels": channels, "out_channels": channels,
                        "upsample_kernel": self.upsample_kernel}
        elif self.upsample == "deconv":
            pad = (self.upsample_kernel - 1) // 2
            options = {"in_channels": channels, "out_channels": channels, "stride": 2,
                       "kernel_size": self.upsample_kernel, "padding": pad, "output_padding": pad}
        elif self.upsample == "bilinear":
            options["align_corners"] = False
        return build_upsample_layer(self.upsample_cfg | options)

    def init_weights(self) -> None:
        """Xavier's uniform draw for all convolutions, then what CARAFE wants for its own.

        All have drawn once before as blocks do, without effect but on torch's generator.
        """
        super().init_weights()
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
                xavier_init(m, distribution="uniform")
        for m in self.modules():
            if isinstance(m, CARAFEPack):
                m.init_weights()

    def slice_as(self, src: Tensor, dst: Tensor) -> Tensor:
        """Cut ``src`` at the right and the bottom to the height and width of ``dst``.

        Raises:
            ValueError: ``src`` is the smaller one.
        """
        height, width = dst.shape[2:]
        if src.shape[2] < height or src.shape[3] < width:
            raise ValueError(f"slice_as takes a src that is not smaller than dst, got "
                             f"{src.shape[2]}x{src.shape[3]} and {height}x{width}")
        return src[:, :, :height, :width]

    def tensor_add(self, a: Tensor, b: Tensor) -> Tensor:
        """Add to ``a`` as much of the equal or larger ``b`` as :meth:`slice_as` leaves."""
        return a + self.slice_as(b, a)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: one ``(N, in_channels[i], H_i, W_i)`` per level of the backbone.

        Returns:
            ``num_outs`` maps of ``out_channels``.

        Raises:
            ValueError: the number of maps is not that of ``in_channels``, or a map is smaller
                after upsampling than the level below it.
        """
        check_maps(self, inputs, channels_of_used(
            self.in_channels, self.start_level, self.backbone_end_level))
        sources = inputs[self.start_level:self.backbone_end_level]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, sources)]
        for i in range(len(laterals), self.num_outs):
            source = laterals[-1] if i > len(sources) else sources[-1]
            laterals.append(self.lateral_convs[i](source))
        for i in range(self.num_outs - 1, 0, -1):
            up = self.upsample_modules[i - 1](laterals[i]) if self.upsample else laterals[i]
            below = laterals[i - 1]
            if up.shape[2] < below.shape[2] or up.shape[3] < below.shape[3]:
                level = self.start_level + i
                raise ValueError(f"level {level} is {up.shape[2]}x{up.shape[3]} after upsampling, "
                                 f"smaller than level {level - 1} of "
                                 f"{below.shape[2]}x{below.shape[3]}")
            laterals[i - 1] = self.tensor_add(below, up)
        return tuple(conv(x) for conv, x in zip(self.fpn_convs, laterals))
