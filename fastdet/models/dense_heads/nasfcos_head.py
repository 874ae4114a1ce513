"""NAS-FCOS's head (arXiv 1906.04423): FCOS's, with towers that a search has found."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastdet.cnn import ConvModule

from ..builder import HEADS
from .fcos_head import FCOSHead

__all__ = ["NASFCOSHead"]

DEFORMABLE = {"kernel_size": 3, "padding": 1, "bias": True,
              "conv_cfg": {"type": "DCNv2", "deform_groups": 2}}
#: The convolutions of both towers.
TOWER: tuple[dict[str, Any], ...] = (
    DEFORMABLE, {"kernel_size": 3, "padding": 1, "bias": False, "conv_cfg": {"type": "Conv"}},
    DEFORMABLE, {"kernel_size": 1, "padding": 0, "bias": False, "conv_cfg": {"type": "Conv"}})


@HEADS.register_module()
class NASFCOSHead(FCOSHead):
    """As FCOSHead, whose number and kind of convolutions are fixed.

    Args:
        args: of :class:`FCOSHead`.
        init_cfg: how weights are initialised.
        kwargs: of :class:`FCOSHead`.
    """

    def __init__(self, *args: Any, init_cfg: Any = None, **kwargs: Any) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(type="Caffe2Xavier", layer=["ConvModule", "Conv2d"]),
                dict(type="Normal", std=0.01, override=[
                    dict(name="conv_reg"), dict(name="conv_centerness"),
                    dict(name="conv_cls", type="Normal", std=0.01, bias_prob=0.01)])]
        super().__init__(*args, init_cfg=init_cfg, **kwargs)  # type: ignore[misc]

    def tower(self) -> nn.ModuleList:
        """The convolutions that were found, each with norm and ReLU."""
        return nn.ModuleList([
            ConvModule(self.in_channels if i == 0 else self.feat_channels, self.feat_channels,
                       norm_cfg=self.norm_cfg, **kind) for i, kind in enumerate(TOWER)])
