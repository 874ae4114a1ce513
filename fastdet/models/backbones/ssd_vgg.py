"""The VGG of SSD (`arXiv 1512.02325 <https://arxiv.org/abs/1512.02325>`_)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from fastdet.cnn import VGG
from fastdet.runner import BaseModule

from ..builder import BACKBONES
from ..necks.ssd_neck import L2Norm
from ..utils.checks import check_image, check_indices
from ..utils.misc import pretrained_init_cfg

__all__ = ["L2Norm", "SSDVGG"]


@BACKBONES.register_module()
class SSDVGG(VGG, BaseModule):
    """VGG whose fully connected layers have become dilated convolutions.

    Args:
        depth: 11, 13, 16 or 19.
        with_last_pool: keep the pooling of the last stage.
        ceil_mode: round sizes up when pooling.
        out_indices: not used here, as in MMDetection; see :class:`fastdet.cnn.VGG`.
        out_feature_indices: the layers of ``features`` whose outputs are returned; 22 and 34
            are conv4_3 and fc7 of VGG-16.
        pretrained: deprecated; use ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: the initialiser's config. By default He initialisation of the convolutions,
            ones for the weights of batch norms, and normal linear layers.
        input_size: deprecated, without effect.
        l2_norm_scale: deprecated, without effect; it is an argument of ``SSDNeck`` now.

    Raises:
        KeyError: there is no VGG of this depth.
        ValueError: both ``pretrained`` and ``init_cfg`` are given.
    """

    #: The layers behind VGG, for each size of the image: channels, ``'S'`` for a stride of 2.
    extra_setting: ClassVar[dict[int, tuple[int | str, ...]]] = {
        300: (256, "S", 512, 128, "S", 256, 128, 256, 128, 256),
        512: (256, "S", 512, 128, "S", 256, 128, "S", 256, 128, "S", 256, 128)}
    features: nn.Sequential

    def __init__(self, depth: int, with_last_pool: bool = False, ceil_mode: bool = True,
                 out_indices: Sequence[int] = (3, 4), out_feature_indices: Sequence[int] = (22, 34),
                 pretrained: str | None = None, init_cfg: Any = None,
                 input_size: int | None = None, l2_norm_scale: float | None = None) -> None:
        super().__init__(depth, with_last_pool=with_last_pool, ceil_mode=ceil_mode,
                         out_indices=out_indices)
        self.init_cfg = pretrained_init_cfg(pretrained, init_cfg, [
            {"type": "Kaiming", "layer": "Conv2d"},
            {"type": "Constant", "val": 1, "layer": "BatchNorm2d"},
            {"type": "Normal", "std": 0.01, "layer": "Linear"}])
        for name, value in (("input_size", input_size), ("l2_norm_scale", l2_norm_scale)):
            if value is not None:
                warnings.warn(f"{name} of SSDVGG is deprecated and has no effect",
                              DeprecationWarning, stacklevel=2)
        check_indices("out_feature_indices", out_feature_indices, None)
        self.out_feature_indices = out_feature_indices
        self.features.extend([
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),
            nn.Conv2d(512, 1024, kernel_size=3, padding=6, dilation=6), nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, kernel_size=1), nn.ReLU(inplace=True)])

    def init_weights(self, pretrained: str | None = None) -> None:
        """Initialise as ``init_cfg`` says.

        Args:
            pretrained: must be ``None``; the constructor takes it.

        Raises:
            ValueError: it is not.
        """
        if pretrained is not None:
            raise ValueError("init_weights of SSDVGG takes no pretrained, give the constructor "
                             f"init_cfg=dict(type='Pretrained', checkpoint={pretrained!r})")
        BaseModule.init_weights(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the layers.

        Args:
            x: ``(N, 3, H, W)``.

        Returns:
            The maps of ``out_feature_indices``; a tensor instead of a tuple where there is but one.
        """
        check_image(self, x, 3)
        outs = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.out_feature_indices:
                outs.append(x)
        return outs[0] if len(outs) == 1 else tuple(outs)
