"""Convolutions and linear layers before the predictions of regions."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastdet.cnn import ConvModule

from ...builder import HEADS
from .bbox_head import BBoxHead

__all__ = ["ConvFCBBoxHead", "Shared2FCBBoxHead", "Shared4Conv1FCBBoxHead"]


@HEADS.register_module()
class ConvFCBBoxHead(BBoxHead):
    """Shared layers, then a branch for classes and one for boxes::

                                   /-> cls convs -> cls fcs -> cls
        shared convs -> shared fcs
                                   \\-> reg convs -> reg fcs -> reg

    Args:
        num_shared_convs: convolutions that both branches share.
        num_shared_fcs: linear layers that both share.
        num_cls_convs: convolutions of the classes alone.
        num_cls_fcs: linear layers of the classes alone.
        num_reg_convs: convolutions of the boxes alone.
        num_reg_fcs: linear layers of the boxes alone.
        conv_out_channels: of every convolution.
        fc_out_channels: of every linear layer.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        init_cfg: how weights are initialised.
        args: of :class:`BBoxHead`.
        kwargs: of :class:`BBoxHead`.

    Raises:
        ValueError: there is no layer at all, a branch has its own convolutions after shared
            linear layers, or a branch has layers and no prediction.
    """

    init_cfg: Any

    def __init__(self, num_shared_convs: int = 0, num_shared_fcs: int = 0, num_cls_convs: int = 0,
                 num_cls_fcs: int = 0, num_reg_convs: int = 0, num_reg_fcs: int = 0,
                 conv_out_channels: int = 256, fc_out_channels: int = 1024, conv_cfg: Any = None,
                 norm_cfg: Any = None, init_cfg: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        counts = (num_shared_convs, num_shared_fcs, num_cls_convs, num_cls_fcs, num_reg_convs,
                  num_reg_fcs)
        name = type(self).__name__
        if sum(counts) == 0:
            raise ValueError(f"{name}: all six numbers of layers are zero; BBoxHead has none")
        if num_shared_fcs > 0 and (num_cls_convs or num_reg_convs):
            raise ValueError(f"{name}: a branch cannot have convolutions after "
                             f"{num_shared_fcs} shared linear layers")
        if (not self.with_cls and (num_cls_convs or num_cls_fcs)) or (
                not self.with_reg and (num_reg_convs or num_reg_fcs)):
            raise ValueError(f"{name}: a branch that predicts nothing has layers")
        (self.num_shared_convs, self.num_shared_fcs, self.num_cls_convs, self.num_cls_fcs,
         self.num_reg_convs, self.num_reg_fcs) = counts
        self.conv_out_channels = conv_out_channels
        self.fc_out_channels = fc_out_channels
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.shared_convs, self.shared_fcs, last = self._add_conv_fc_branch(
            num_shared_convs, num_shared_fcs, self.in_channels, True)
        self.shared_out_channels = last
        self.cls_convs, self.cls_fcs, self.cls_last_dim = self._add_conv_fc_branch(
            num_cls_convs, num_cls_fcs, last)
        self.reg_convs, self.reg_fcs, self.reg_last_dim = self._add_conv_fc_branch(
            num_reg_convs, num_reg_fcs, last)
        if num_shared_fcs == 0 and not self.with_avg_pool:
            if num_cls_fcs == 0:
                self.cls_last_dim *= self.roi_feat_area
            if num_reg_fcs == 0:
                self.reg_last_dim *= self.roi_feat_area
        self.relu = nn.ReLU(inplace=True)
        if self.with_cls:
            self.fc_cls = self.predictor(self.cls_predictor_cfg, self.cls_last_dim,
                                         self.cls_channels)
        if self.with_reg:
            self.fc_reg = self.predictor(self.reg_predictor_cfg, self.reg_last_dim,
                                         self.reg_channels)
        if init_cfg is None:
            self.init_cfg = [*self.init_cfg, dict(type="Xavier", distribution="uniform", override=[
                dict(name="shared_fcs"), dict(name="cls_fcs"), dict(name="reg_fcs")])]
        else:
            self.init_cfg = init_cfg

    def _add_conv_fc_branch(self, num_branch_convs: int, num_branch_fcs: int, in_channels: int,
                            is_shared: bool = False) -> tuple[nn.ModuleList, nn.ModuleList, int]:
        """Convolutions, linear layers, and how wide their output is."""
        width = in_channels
        convs = nn.ModuleList()
        for _ in range(num_branch_convs):
            convs.append(ConvModule(width, self.conv_out_channels, 3, padding=1,
                                    conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg))
            width = self.conv_out_channels
        fcs = nn.ModuleList()
        if num_branch_fcs:
            # What enters the first linear layer is a map, unless shared ones made it a row.
            if (is_shared or self.num_shared_fcs == 0) and not self.with_avg_pool:
                width *= self.roi_feat_area
            for _ in range(num_branch_fcs):
                fcs.append(nn.Linear(width, self.fc_out_channels))
                width = self.fc_out_channels
        return convs, fcs, width

    def _as_rows(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return x
        return self.avg_pool(x).flatten(1) if self.with_avg_pool else x.flatten(1)

    def _shared(self, x: Tensor) -> Tensor:
        for conv in self.shared_convs:
            x = conv(x)
        if self.num_shared_fcs:
            x = self._as_rows(x)
            for fc in self.shared_fcs:
                x = self.relu(fc(x))
        return x

    def _branch(self, x: Tensor, convs: nn.ModuleList, fcs: nn.ModuleList) -> Tensor:
        for conv in convs:
            x = conv(x)
        x = self._as_rows(x)
        for fc in fcs:
            x = self.relu(fc(x))
        return x

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Logits and deltas of regions [N, in_channels, h, w]."""
        return self._predictions(self._shared(x))

    def _predictions(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Logits and deltas of what comes after the shared layers."""
        classes = self._branch(x, self.cls_convs, self.cls_fcs)
        boxes = self._branch(x, self.reg_convs, self.reg_fcs)
        return (self.fc_cls(classes) if self.with_cls else None,
                self.fc_reg(boxes) if self.with_reg else None)


@HEADS.register_module()
class Shared2FCBBoxHead(ConvFCBBoxHead):
    """Two shared linear layers (FPN, arXiv 1612.03144)."""

    def __init__(self, fc_out_channels: int = 1024, *args: Any, **kwargs: Any) -> None:
        kwargs.update(num_shared_fcs=2, fc_out_channels=fc_out_channels)
        super().__init__(*args, **kwargs)


@HEADS.register_module()
class Shared4Conv1FCBBoxHead(ConvFCBBoxHead):
    """Four shared convolutions and a linear layer (GN, arXiv 1803.08494)."""

    def __init__(self, fc_out_channels: int = 1024, *args: Any, **kwargs: Any) -> None:
        kwargs.update(num_shared_convs=4, num_shared_fcs=1, fc_out_channels=fc_out_channels)
        super().__init__(*args, **kwargs)
