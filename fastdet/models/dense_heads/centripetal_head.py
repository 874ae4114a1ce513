"""CentripetalNet's head (arXiv 2003.09119): corners that agree on a centre belong together."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastdet.cnn import ConvModule, normal_init
from fastdet.core.utils import multi_apply
from fastdet.ops import DeformConv2d

from ..builder import HEADS, build_loss
from .base_dense_head import Meta
from .corner_head import CornerHead

__all__ = ["CentripetalHead"]


@HEADS.register_module()
class CentripetalHead(CornerHead):
    """Of each corner, in place of an embedding, the shift to its object's centre.

    A guiding shift tells a deformable convolution where the object is, whose features the
    centripetal shift is predicted from.

    Args:
        args: of :class:`CornerHead`.
        centripetal_shift_channels: must be 2, x and y.
        guiding_shift_channels: must be 2.
        feat_adaption_conv_kernel: side of the deformable convolution.
        loss_guiding_shift: config of the loss of the guiding shifts.
        loss_centripetal_shift: config of the loss of the centripetal shifts.
        init_cfg: must be ``None``.
        kwargs: of :class:`CornerHead`.

    Raises:
        ValueError: a shift has other than two channels, or there is an ``init_cfg``.
    """

    def __init__(self, *args: Any, centripetal_shift_channels: int = 2,
                 guiding_shift_channels: int = 2, feat_adaption_conv_kernel: int = 3,
                 loss_guiding_shift: dict[str, Any] = dict(
                     type="SmoothL1Loss", beta=1.0, loss_weight=0.05),
                 loss_centripetal_shift: dict[str, Any] = dict(
                     type="SmoothL1Loss", beta=1.0, loss_weight=1),
                 init_cfg: Any = None, **kwargs: Any) -> None:
        if (centripetal_shift_channels, guiding_shift_channels) != (2, 2):
            raise ValueError("CentripetalHead: a shift has two channels, x and y, got "
                             f"centripetal_shift_channels={centripetal_shift_channels} and "
                             f"guiding_shift_channels={guiding_shift_channels}")
        self.centripetal_shift_channels = centripetal_shift_channels
        self.guiding_shift_channels = guiding_shift_channels
        self.feat_adaption_conv_kernel = feat_adaption_conv_kernel
        super().__init__(*args, **{**kwargs, "init_cfg": init_cfg})
        self.loss_guiding_shift = build_loss(loss_guiding_shift)
        self.loss_centripetal_shift = build_loss(loss_centripetal_shift)

    def _init_layers(self) -> None:
        super()._init_layers()
        kernel, levels = self.feat_adaption_conv_kernel, range(self.num_feat_levels)
        self.tl_feat_adaption, self.br_feat_adaption = (nn.ModuleList([
            DeformConv2d(self.in_channels, self.in_channels, kernel, 1, 1) for _ in levels])
            for _ in range(2))
        self.tl_dcn_offset, self.br_dcn_offset = (nn.ModuleList([
            ConvModule(2, kernel ** 2 * 2, 1, bias=False, act_cfg=None) for _ in levels])
            for _ in range(2))
        self.tl_guiding_shift, self.br_guiding_shift = self._branches(2), self._branches(2)
        self.tl_centripetal_shift, self.br_centripetal_shift = (self._branches(2)
                                                                for _ in range(2))

    def init_weights(self) -> None:
        """As :class:`CornerHead`; small weights where offsets are made and used."""
        super().init_weights()
        for conv in (*self.tl_feat_adaption, *self.br_feat_adaption):
            normal_init(conv, std=0.01)
        offsets: Any = [*self.tl_dcn_offset, *self.br_dcn_offset]
        for layer in offsets:
            normal_init(layer.conv, std=0.1)
        branches: Any = [*self.tl_guiding_shift, *self.br_guiding_shift,
                         *self.tl_centripetal_shift, *self.br_centripetal_shift]
        for branch in branches:
            for layer in branch:
                layer.conv.reset_parameters()

    def forward_single(self, x: Tensor, lvl_ind: int,  # type: ignore[override]
                       return_pool: bool = False) -> list[Any]:
        """Heat, offsets, guiding and centripetal shifts of one level."""
        tl_heat, br_heat, _, _, tl_off, br_off, tl, br = super().forward_single(x, lvl_ind, True)
        tl_guide, br_guide = self.tl_guiding_shift[lvl_ind](tl), self.br_guiding_shift[lvl_ind](br)
        tl_there = self.tl_feat_adaption[lvl_ind](tl, self.tl_dcn_offset[lvl_ind](
            tl_guide.detach()))
        br_there = self.br_feat_adaption[lvl_ind](br, self.br_dcn_offset[lvl_ind](
            br_guide.detach()))
        outs = [tl_heat, br_heat, tl_off, br_off, tl_guide, br_guide,
                self.tl_centripetal_shift[lvl_ind](tl_there),
                self.br_centripetal_shift[lvl_ind](br_there)]
        return [*outs, tl, br] if return_pool else outs

    def loss(self, tl_heats: list[Tensor], br_heats: list[Tensor],  # type: ignore[override]
             tl_offs: list[Tensor], br_offs: list[Tensor], tl_guiding_shifts: list[Tensor],
             br_guiding_shifts: list[Tensor], tl_centripetal_shifts: list[Tensor],
             br_centripetal_shifts: list[Tensor], gt_bboxes: list[Tensor],
             gt_labels: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            tl_heats, br_heats: [B, C, H, W] of each level, logits.
            tl_offs, br_offs: [B, 2, H, W] of each level.
            tl_guiding_shifts, br_guiding_shifts: [B, 2, H, W] of each level.
            tl_centripetal_shifts, br_centripetal_shifts: [B, 2, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: ``pad_shape`` of the first image is read.
            gt_bboxes_ignore: not used.

        Returns:
            ``det_loss``, ``off_loss``, ``guiding_loss`` and ``centripetal_loss``.
        """
        targets = self.get_targets(gt_bboxes, gt_labels, tl_heats[-1].shape,
                                   img_metas[0]["pad_shape"], with_guiding_shift=True,
                                   with_centripetal_shift=True)
        losses = multi_apply(self.loss_single, tl_heats, br_heats, tl_offs, br_offs,
                             tl_guiding_shifts, br_guiding_shifts, tl_centripetal_shifts,
                             br_centripetal_shifts, targets=targets)
        return dict(zip(("det_loss", "off_loss", "guiding_loss", "centripetal_loss"), losses))

    def loss_single(self, tl_hmp: Tensor, br_hmp: Tensor,  # type: ignore[override]
                    tl_off: Tensor, br_off: Tensor, tl_guiding_shift: Tensor,
                    br_guiding_shift: Tensor, tl_centripetal_shift: Tensor,
                    br_centripetal_shift: Tensor, targets: dict[str, Any]) -> tuple[Any, ...]:
        """Losses of one level: of the heat, the offsets, the guiding and centripetal shifts."""
        det, _, _, off = super().loss_single(tl_hmp, br_hmp, None, None, tl_off, br_off, targets)
        guiding = self.loss_at_corners(self.loss_guiding_shift, tl_guiding_shift,
                                       br_guiding_shift, targets, "guiding_shift")
        centripetal = self.loss_at_corners(self.loss_centripetal_shift, tl_centripetal_shift,
                                           br_centripetal_shift, targets, "centripetal_shift")
        return det, off, guiding, centripetal

    def pairs(self, outs: tuple[Any, ...]) -> dict[str, Any]:
        """What :meth:`decode_heatmap` takes, of the last level."""
        names = ("tl_heat", "br_heat", "tl_off", "br_off", "tl_centripetal_shift",
                 "br_centripetal_shift")
        return dict(zip(names, (maps[-1] for maps in (*outs[:4], *outs[6:]))))
