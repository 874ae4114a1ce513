"""VGG (`arXiv 1409.1556 <https://arxiv.org/abs/1409.1556>`_), the base of SSD's backbone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastdet.runner import load_checkpoint
from fastdet.runner.weight_init import constant_init, kaiming_init, normal_init
from fastdet.utils.registry import UnknownTypeError

__all__ = ["VGG", "make_vgg_layer"]


def make_vgg_layer(inplanes: int, planes: int, num_blocks: int, dilation: int = 1,
                   with_bn: bool = False, ceil_mode: bool = False) -> list[nn.Module]:
    """The layers of one stage: 3x3 convolutions, then a pooling that halves the size.

    Args:
        inplanes: channels of the input.
        planes: channels of the result.
        num_blocks: number of convolutions.
        dilation: their dilation.
        with_bn: follow each by a batch norm.
        ceil_mode: round the size up when halving.
    """
    layers: list[nn.Module] = []
    for _ in range(num_blocks):
        layers.append(nn.Conv2d(inplanes, planes, 3, padding=dilation, dilation=dilation))
        if with_bn:
            layers.append(nn.BatchNorm2d(planes))
        layers.append(nn.ReLU(inplace=True))
        inplanes = planes
    layers.append(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=ceil_mode))
    return layers


class VGG(nn.Module):
    """The VGG backbone.

    Args:
        depth: 11, 13, 16 or 19.
        with_bn: use batch norms.
        num_classes: classes of the classifier; -1 for no classifier.
        num_stages: number of stages, 1 to 5.
        dilations: dilation of each stage.
        out_indices: stages to return.
        frozen_stages: stages to freeze, counted from the first; -1 for none.
        bn_eval: keep the batch norms in eval mode.
        bn_frozen: freeze the batch norms' weights, too.
        ceil_mode: round sizes up when halving.
        with_last_pool: keep the pooling of the last stage.

    Raises:
        KeyError: ``depth`` is unknown.
        ValueError: ``num_stages``, ``dilations`` and ``out_indices`` do not fit together.
    """

    arch_settings = {  # noqa: RUF012
        11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

    def __init__(self, depth: int, with_bn: bool = False, num_classes: int = -1,
                 num_stages: int = 5, dilations: Sequence[int] = (1, 1, 1, 1, 1),
                 out_indices: Sequence[int] = (0, 1, 2, 3, 4), frozen_stages: int = -1,
                 bn_eval: bool = True, bn_frozen: bool = False, ceil_mode: bool = False,
                 with_last_pool: bool = True) -> None:
        super().__init__()
        if depth not in self.arch_settings:
            raise UnknownTypeError(
                f"depth of VGG must be one of {sorted(self.arch_settings)}, got {depth!r}")
        if not 1 <= num_stages <= 5:
            raise ValueError(f"num_stages must be 1 to 5, got {num_stages}")
        if len(dilations) != num_stages:
            raise ValueError(f"dilations must have num_stages = {num_stages} entries, "
                             f"got {tuple(dilations)}")
        if not isinstance(out_indices, (list, tuple, range)):
            raise TypeError(f"out_indices must be a list or tuple of stages, got {out_indices!r}")
        if max(out_indices, default=0) > num_stages:
            raise ValueError(f"out_indices must not exceed num_stages = {num_stages}, "
                             f"got {tuple(out_indices)}")
        self.num_classes = num_classes
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.bn_eval = bn_eval
        self.bn_frozen = bn_frozen
        self.stage_blocks = self.arch_settings[depth][:num_stages]

        layers: list[nn.Module] = []
        self.range_sub_modules: list[list[int]] = []
        self.inplanes = 3
        for i, num_blocks in enumerate(self.stage_blocks):
            planes = min(64 * 2**i, 512)
            stage = make_vgg_layer(self.inplanes, planes, num_blocks, dilations[i], with_bn,
                                   ceil_mode)
            self.range_sub_modules.append([len(layers), len(layers) + len(stage)])
            layers += stage
            self.inplanes = planes
        if not with_last_pool:
            layers.pop()
            self.range_sub_modules[-1][1] -= 1
        self.module_name = "features"
        self.add_module(self.module_name, nn.Sequential(*layers))
        if num_classes > 0:
            self.classifier = nn.Sequential(
                nn.Linear(512 * 7 * 7, 4096), nn.ReLU(True), nn.Dropout(),
                nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout(),
                nn.Linear(4096, num_classes))

    def init_weights(self, pretrained: str | None = None) -> None:
        """Initialise all layers, or load a checkpoint.

        Args:
            pretrained: file or URL of a checkpoint; ``None`` initialises.
        """
        if pretrained is not None:
            load_checkpoint(self, pretrained, strict=False)
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_init(module)
            elif isinstance(module, nn.BatchNorm2d):
                constant_init(module, 1)
            elif isinstance(module, nn.Linear):
                normal_init(module, std=0.01)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the stages.

        Args:
            x: ``(B, 3, H, W)``.

        Returns:
            The maps of ``out_indices``, and the class scores if there is a classifier; a tensor
            instead of a tuple where there is but one.
        """
        outs = []
        layers = getattr(self, self.module_name)
        for i, (start, end) in enumerate(self.range_sub_modules):
            for j in range(start, end):
                x = layers[j](x)
            if i in self.out_indices:
                outs.append(x)
        if self.num_classes > 0:
            outs.append(self.classifier(x.flatten(1)))
        return outs[0] if len(outs) == 1 else tuple(outs)

    def train(self, mode: bool = True) -> VGG:
        """Set train or eval mode; batch norms and frozen stages as the arguments say."""
        super().train(mode)
        if self.bn_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
                    if self.bn_frozen:
                        module.requires_grad_(False)
        if mode and self.frozen_stages >= 0:
            layers = getattr(self, self.module_name)
            for start, end in self.range_sub_modules[:self.frozen_stages]:
                layers[start:end].eval().requires_grad_(False)
        return self
