"""DetectoRS's ResNet (Qiao et al., https://arxiv.org/abs/2006.02334)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastdet.cnn import build_conv_layer, constant_init, kaiming_init
from fastdet.runner import load_checkpoint
from fastdet.utils.types import Cfg

from ..builder import BACKBONES
from ..utils import ResLayer as _ResLayer
from .resnet import Bottleneck as _Bottleneck
from .resnet import ResNet

__all__ = ["Bottleneck", "DetectoRS_ResNet", "ResLayer"]



class Bottleneck(_Bottleneck):
    """Bottleneck with a switchable atrous convolution and an input from the feature pyramid.

    Args:
        inplanes: channels of the input.
        planes: base width.
        rfp_inplanes: channels of the feature pyramid's map; ``None`` where there is none.
        sac: config of the switchable atrous convolution in place of the 3x3 one.
        init_cfg: the initialiser's config; by default the map's convolution starts at zero.
        **kwargs: the other arguments of ResNet's bottleneck.

    Raises:
        TypeError: ``sac`` is not a dict.
    """

    expansion = 4

    def __init__(self, inplanes: int, planes: int, rfp_inplanes: int | None = None,
                 sac: Cfg | None = None, init_cfg: Cfg | None = None,
                 **kwargs: Any) -> None:
        if sac is not None and not isinstance(sac, dict):
            raise TypeError(f"sac must be a config dict or None, got {type(sac).__name__}")
        if rfp_inplanes and init_cfg is None:
            init_cfg = {"type": "Constant", "val": 0, "override": {"name": "rfp_conv"}}
        self.sac = sac
        self.with_sac = sac is not None
        self.rfp_inplanes = rfp_inplanes
        super().__init__(inplanes, planes, init_cfg=init_cfg, **kwargs)
        if rfp_inplanes:
            self.rfp_conv = build_conv_layer(None, rfp_inplanes, planes * self.expansion, 1,
                                             stride=1, bias=True)

    def _conv2_cfg(self) -> Cfg | None:
        return super()._conv2_cfg() if self.sac is None else self.sac

    def rfp_forward(self, x: Tensor, rfp_feat: Tensor | None) -> Tensor:
        """Run the block, and add the feature pyramid's map to its sum.

        Args:
            x: ``(N, inplanes, H, W)``.
            rfp_feat: ``(N, rfp_inplanes, H / stride, W / stride)``; not read by a block without
                ``rfp_inplanes``.

        Returns:
            ``(N, planes * expansion, H / stride, W / stride)``.
        """
        out = self._checkpointed_residual(x)
        if self.rfp_inplanes:
            out = out + self.rfp_conv(rfp_feat)
        return self.relu(out)


class ResLayer(_ResLayer):
    """One stage, whose first block takes the feature pyramid's map.

    Args:
        block: class of the blocks.
        inplanes: channels of the input.
        planes: base width; the stage returns ``planes * block.expansion`` channels.
        num_blocks: number of blocks.
        stride: see :class:`fastdet.models.utils.ResLayer`, as the next three.
        avg_down: pool before the convolution of ``downsample`` instead of striding it; where the
            stride is 1 there is no pool, unlike in other ResNets.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        downsample_first: must be true.
        rfp_inplanes: channels of the feature pyramid's map; ``None`` where there is none.
        **kwargs: further arguments of every block.

    Raises:
        ValueError: ``downsample_first`` is false.
    """

    def __init__(self, block: type[nn.Module], inplanes: int, planes: int, num_blocks: int,
                 stride: int = 1, avg_down: bool = False, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 downsample_first: bool = True, rfp_inplanes: int | None = None,
                 **kwargs: Any) -> None:
        if not downsample_first:
            raise ValueError("a stage of DetectoRS downsamples in its first block, "
                             "got downsample_first=False")
        self.first_block_args = {"rfp_inplanes": rfp_inplanes}
        super().__init__(block, inplanes, planes, num_blocks, stride, avg_down and stride != 1,
                         conv_cfg, norm_cfg, **kwargs)


@BACKBONES.register_module()
class DetectoRS_ResNet(ResNet):
    """ResNet backbone of DetectoRS.

    Args:
        sac: config of the switchable atrous convolutions.
        stage_with_sac: the stages that have them.
        rfp_inplanes: channels of the feature pyramid's maps that the stages but the first take
            in :meth:`rfp_forward`.
        output_img: return the image itself in front of the feature maps.
        pretrained: a checkpoint's path or address, for :meth:`init_weights`.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)``.
        **kwargs: the arguments of :class:`ResNet`; ``depth`` is one of 50, 101 and 152.

    Raises:
        ValueError: both ``pretrained`` and ``init_cfg`` are given, ``init_cfg`` is not of type
            ``'Pretrained'``, or ``stage_with_sac`` does not fit ``num_stages``.
    """

    arch_settings: ClassVar[dict[Any, Any]] = {
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(self, sac: Cfg | None = None,
                 stage_with_sac: Sequence[bool] = (False, False, False, False),
                 rfp_inplanes: int | None = None, output_img: bool = False,
                 pretrained: str | None = None, init_cfg: Cfg | None = None,
                 **kwargs: Any) -> None:
        if pretrained and init_cfg:
            raise ValueError("init_cfg and pretrained cannot be given together, "
                             f"got {init_cfg!r} and {pretrained!r}")
        if init_cfg and not (isinstance(init_cfg, dict) and init_cfg.get("type") == "Pretrained"):
            raise ValueError("init_cfg of a DetectoRS backbone must be of type 'Pretrained', "
                             f"got {init_cfg!r}")
        if not isinstance(pretrained, (str, type(None))):
            raise TypeError("pretrained must be a string or None, "
                            f"got {type(pretrained).__name__}")
        num_stages = kwargs.get("num_stages", 4)
        if sac is not None and len(stage_with_sac) != num_stages:
            raise ValueError(f"stage_with_sac must have num_stages={num_stages} entries, "
                             f"got {stage_with_sac}")
        self.pretrained = init_cfg["checkpoint"] if init_cfg else pretrained
        self.sac = sac
        self.stage_with_sac = stage_with_sac
        self.rfp_inplanes = rfp_inplanes
        self.output_img = output_img
        super().__init__(**kwargs)

    def _stage_args(self, stage_idx: int) -> Cfg:
        use_sac = self.sac is not None and self.stage_with_sac[stage_idx]
        return {"sac": self.sac if use_sac else None,
                "rfp_inplanes": self.rfp_inplanes if stage_idx > 0 else None, "init_cfg": None}

    def make_res_layer(self, **kwargs: Any) -> nn.Module:
        """Build one stage; the arguments are those of :class:`ResLayer`."""
        return ResLayer(**kwargs)

    def init_weights(self) -> None:
        """Load the pretrained checkpoint, or initialise every layer.

        Unlike in other modules no child runs its own ``init_weights()``: what the checkpoint
        does not name keeps the values with which it was built.
        """
        if self.pretrained is not None:
            load_checkpoint(self, self.pretrained, map_location="cpu", strict=False)
            return
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                kaiming_init(m)
            elif isinstance(m, (_BatchNorm, nn.GroupNorm)):
                constant_init(m, 1)
        for m in self.modules():
            if isinstance(m, Bottleneck):
                if self.dcn is not None and hasattr(m.conv2, "conv_offset"):
                    constant_init(m.conv2.conv_offset, 0)  # type: ignore[arg-type]
                if self.zero_init_residual:
                    constant_init(m.norm3, 0)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images to the feature maps of ``out_indices``, after the image if ``output_img``."""
        outs = super().forward(x)
        return (x, *outs) if self.output_img else outs

    def rfp_forward(self, x: Tensor, rfp_feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run the backbone with feedback from the feature pyramid.

        Args:
            x: images ``(N, in_channels, H, W)``.
            rfp_feats: one map per stage, ``(N, rfp_inplanes, h, w)`` with the height and width
                of the stage's output; the first one is not read.

        Returns:
            The feature maps of ``out_indices``.
        """
        x = self._forward_stem(x)
        outs = []
        for i, name in enumerate(self.res_layers):
            feat = rfp_feats[i] if i > 0 else None
            for block in getattr(self, name):
                x = block.rfp_forward(x, feat)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)
