"""Proposals that are parameters (Sparse R-CNN, arXiv 2011.12450)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastdet.core.bbox import bbox_cxcywh_to_xyxy
from fastdet.runner import BaseModule

from ..builder import HEADS
from .base_dense_head import Meta

__all__ = ["EmbeddingRPNHead"]


@HEADS.register_module()
class EmbeddingRPNHead(BaseModule):
    """A learned box and a learned feature for each proposal, the same in every image.

    Args:
        num_proposals: how many.
        proposal_feature_channel: channels of a feature.
        init_cfg: must be ``None``; ``init_weights`` has its own rules.
        kwargs: not used; what two-stage detectors give every proposal head.

    Raises:
        ValueError: ``init_cfg`` is given.
    """

    def __init__(self, num_proposals: int = 100, proposal_feature_channel: int = 256,
                 init_cfg: Any = None, **kwargs: Any) -> None:
        if init_cfg is not None:
            raise ValueError(f"{type(self).__name__} initialises its weights itself, got "
                             f"init_cfg={init_cfg!r}")
        super().__init__(init_cfg)
        self.num_proposals = num_proposals
        self.proposal_feature_channel = proposal_feature_channel
        self.init_proposal_bboxes = nn.Embedding(num_proposals, 4)
        self.init_proposal_features = nn.Embedding(num_proposals, proposal_feature_channel)

    def init_weights(self) -> None:
        """Every box starts as the whole image."""
        super().init_weights()
        nn.init.constant_(self.init_proposal_bboxes.weight[:, :2], 0.5)
        nn.init.constant_(self.init_proposal_bboxes.weight[:, 2:], 1)

    def forward(self, imgs: Sequence[Tensor],
                img_metas: list[Meta]) -> tuple[Tensor, Tensor, Tensor]:
        """Proposals of a batch.

        Args:
            imgs: feature maps; the type and device of the first are read.
            img_metas: ``img_shape`` is read.

        Returns:
            Boxes ``[B, N, 4]``, corners in pixels; features ``[B, N, C]``; and ``[B, 1, 4]``,
            width and height of each image, twice.
        """
        size = imgs[0].new_tensor([[[*meta["img_shape"][1::-1]] * 2] for meta in img_metas])
        features = self.init_proposal_features.weight
        return (bbox_cxcywh_to_xyxy(self.init_proposal_bboxes.weight) * size,
                features.expand(len(img_metas), *features.shape), size)

    forward_dummy = forward
    forward_train = forward
    simple_test_rpn = forward

    def aug_test_rpn(self, feats: Any, img_metas: Any) -> Any:
        """Not defined.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} has no test-time augmentation")
