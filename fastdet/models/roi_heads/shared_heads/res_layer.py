"""The last stage of a ResNet on regions (the C4 models of Faster R-CNN, arXiv 1506.01497)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastdet.runner import BaseModule, auto_fp16

from ...backbones import ResNet
from ...builder import SHARED_HEADS
from ...utils import ResLayer as Stage
from ...utils.checks import known
from ...utils.misc import eval_batch_norms, pretrained_init_cfg

__all__ = ["ResLayer"]


@SHARED_HEADS.register_module()
class ResLayer(BaseModule):
    """One stage of a ResNet.

    Args:
        depth: of the ResNet.
        stage: which of its stages, from 0.
        stride: of the stage's first block.
        dilation: of its 3x3 convolutions.
        style: ``'pytorch'`` or ``'caffe'``: which convolution of a bottleneck has the stride.
        norm_cfg: config of the norms.
        norm_eval: batch norms stay in eval mode.
        with_cp: recompute blocks in backward instead of keeping their activations.
        dcn: config of the deformable convolutions, if there are any.
        pretrained: the old spelling of ``init_cfg=dict(type='Pretrained', ...)``.
        init_cfg: how weights are initialised.

    Raises:
        KeyError: there is no ResNet of this depth.
        ValueError: ``pretrained`` and ``init_cfg`` are both given.
    """

    def __init__(self, depth: int, stage: int = 3, stride: int = 2, dilation: int = 1,
                 style: str = "pytorch",
                 norm_cfg: dict[str, Any] = dict(type="BN", requires_grad=True),
                 norm_eval: bool = True, with_cp: bool = False, dcn: Any = None,
                 pretrained: str | None = None, init_cfg: Any = None) -> None:
        super().__init__(pretrained_init_cfg(pretrained, init_cfg, [
            dict(type="Kaiming", layer="Conv2d"),
            dict(type="Constant", val=1, layer="_BatchNorm")]))
        known(type(self).__name__, "depth", depth, ResNet.arch_settings)
        self.norm_eval = norm_eval
        self.norm_cfg = norm_cfg
        self.stage = stage
        self.fp16_enabled = False
        block, stage_blocks = ResNet.arch_settings[depth]
        planes = 64 * 2 ** stage
        self.add_module(f"layer{stage + 1}", Stage(
            block, planes // 2 * block.expansion, planes, stage_blocks[stage], stride=stride,
            dilation=dilation, style=style, with_cp=with_cp, norm_cfg=norm_cfg, dcn=dcn))

    @auto_fp16()
    def forward(self, x: Tensor) -> Tensor:
        """Regions [N, C, h, w] to [N, 2 C, h / stride, w / stride]."""
        return getattr(self, f"layer{self.stage + 1}")(x)

    def train(self, mode: bool = True) -> ResLayer:
        """Set the mode, but with ``norm_eval`` keep batch norms in eval."""
        super().train(mode)
        if self.norm_eval:
            eval_batch_norms(self)
        return self
