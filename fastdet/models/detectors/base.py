"""What every detector does: train on a batch, detect in one, add up losses, draw results."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections import OrderedDict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastdet.core.utils.dist_utils import world_size
from fastdet.core.visualization.image import imshow_det_bboxes, unpack
from fastdet.runner import BaseModule, auto_fp16

from .inputs import check_finite, check_ground_truth

__all__ = ["BaseDetector"]

Meta = dict[str, Any]


class BaseDetector(BaseModule, metaclass=ABCMeta):
    """The base of all detectors.

    Args:
        init_cfg: how weights are initialised.
    """

    backbone: Any
    neck: Any
    bbox_head: Any
    mask_head: Any
    rpn_head: Any
    roi_head: Any

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.fp16_enabled = False

    def _has(self, name: str) -> bool:
        return getattr(self, name, None) is not None

    @property
    def with_neck(self) -> bool:
        """Whether there is a neck."""
        return self._has("neck")

    @property
    def with_shared_head(self) -> bool:
        """Whether the RoI head has a part that boxes and masks share."""
        return self._has("roi_head") and self.roi_head.with_shared_head

    @property
    def with_bbox(self) -> bool:
        """Whether boxes are predicted."""
        return (self._has("roi_head") and self.roi_head.with_bbox) or self._has("bbox_head")

    @property
    def with_mask(self) -> bool:
        """Whether masks are predicted."""
        return (self._has("roi_head") and self.roi_head.with_mask) or self._has("mask_head")

    @abstractmethod
    def extract_feat(self, imgs: Tensor) -> Any:
        """Feature maps of images [B, 3, H, W]."""

    def extract_feats(self, imgs: list[Tensor]) -> list[Any]:
        """Feature maps of each of several batches."""
        return [self.extract_feat(img) for img in imgs]

    def forward_train(self, imgs: Tensor, img_metas: list[Meta], **kwargs: Any) -> Any:
        """Losses of a batch; here, only what every detector notes in the metas.

        Args:
            imgs: [B, 3, H, W].
            img_metas: of each image.
            kwargs: ground truth.
        """
        for meta in img_metas:
            meta["batch_input_shape"] = tuple(imgs[0].size()[-2:])

    @abstractmethod
    def simple_test(self, img: Tensor, img_metas: list[Meta], **kwargs: Any) -> Any:
        """Results of a batch."""

    @abstractmethod
    def aug_test(self, imgs: list[Tensor], img_metas: list[list[Meta]], **kwargs: Any) -> Any:
        """Results of one image from several views of it."""

    async def async_simple_test(self, img: Tensor, img_metas: list[Meta], **kwargs: Any) -> Any:
        """:meth:`simple_test` for callers in an event loop."""
        return self.simple_test(img, img_metas, **kwargs)

    async def aforward_test(self, *, img: list[Tensor], img_metas: list[list[Meta]],
                            **kwargs: Any) -> Any:
        """:meth:`forward_test` of one view for callers in an event loop."""
        return self.forward_test(img, img_metas, **kwargs)

    def forward_test(self, imgs: list[Tensor], img_metas: list[list[Meta]], **kwargs: Any) -> Any:
        """Results of a batch, or of one image from several views.

        Args:
            imgs: of each view, [B, 3, H, W].
            img_metas: of each view, the metas of its images.
            kwargs: for :meth:`simple_test` or :meth:`aug_test`; ``proposals`` are of each view.

        Raises:
            TypeError: an argument is no list.
            ValueError: the views do not fit together.
        """
        for name, value in (("imgs", imgs), ("img_metas", img_metas)):
            if not isinstance(value, list):
                raise TypeError(f"{name} must be a list, one entry for each view, got "
                                f"{type(value).__name__}")
        if len(imgs) != len(img_metas):
            raise ValueError(f"there are {len(imgs)} views in imgs and {len(img_metas)} in "
                             "img_metas")
        for img, metas in zip(imgs, img_metas):
            for meta in metas:
                meta["batch_input_shape"] = tuple(img.size()[-2:])
        if len(imgs) == 1:
            # Proposals are nested as the images are, for tests with several views.
            if "proposals" in kwargs:
                kwargs["proposals"] = kwargs["proposals"][0]
            return self.simple_test(imgs[0], img_metas[0], **kwargs)
        if imgs[0].size(0) != 1:
            raise ValueError("several views are of one image at a time, got a batch of "
                             f"{imgs[0].size(0)}")
        if "proposals" in kwargs:
            raise ValueError("proposals cannot be given with several views of an image")
        return self.aug_test(imgs, img_metas, **kwargs)

    @auto_fp16(apply_to=("img",))
    def forward(self, img: Any, img_metas: Any, return_loss: bool = True, **kwargs: Any) -> Any:
        """Losses of a batch, or results.

        Args:
            img: [B, 3, H, W]; for results a list of such, one for each view.
            img_metas: of each image; for results of each view and image.
            return_loss: losses rather than results.
            kwargs: ground truth, or options of the test.
        """
        if return_loss:
            return self.forward_train(img, img_metas, **kwargs)
        return self.forward_test(img, img_metas, **kwargs)

    def _parse_losses(self, losses: dict[str, Any]) -> tuple[Tensor, OrderedDict[str, float]]:
        """The sum of the losses, and every value for the log, with one copy to the host.

        Args:
            losses: tensors or lists of tensors; a name with ``loss`` in it counts.

        Raises:
            TypeError: a value is neither.
        """
        values: OrderedDict[str, Tensor] = OrderedDict()
        for name, value in losses.items():
            if isinstance(value, Tensor):
                values[name] = value.mean()
            elif isinstance(value, list):
                values[name] = sum(v.mean() for v in value)  # type: ignore[assignment]
            else:
                raise TypeError(f"{name} must be a tensor or a list of tensors, got "
                                f"{type(value).__name__}")
        loss = sum(v for name, v in values.items() if "loss" in name)
        values["loss"] = loss  # type: ignore[assignment]
        logged = torch.stack([v.detach().float().reshape(()) for v in values.values()])
        if world_size() > 1:
            self._check_same_names(list(values), logged.device)
            logged = logged / world_size()
            dist.all_reduce(logged)
        return loss, OrderedDict(zip(values, logged.tolist()))  # type: ignore[return-value]

    @staticmethod
    def _check_same_names(names: list[str], device: torch.device) -> None:
        total = torch.tensor(len(names), device=device)
        dist.all_reduce(total)
        if int(total) != len(names) * world_size():
            raise ValueError(f"the processes log different losses; rank {dist.get_rank()} has "
                             f"{', '.join(names)}")

    def train_step(self, data: dict[str, Any], optimizer: Any) -> dict[str, Any]:
        """One iteration of training, less the optimiser's step.

        Args:
            data: what :meth:`forward` takes.
            optimizer: not used; some models need it.

        Returns:
            ``loss``, ``log_vars`` and ``num_samples``.

        Raises:
            ValueError: a box of the ground truth ends before it begins, or there is no such class.
                On a GPU, where looking would wait, only under ``torch.autograd.detect_anomaly``.
            FloatingPointError: a loss is not finite, under ``detect_anomaly``; without it, as in
                MMDetection, the runner's hooks decide.
        """
        check_ground_truth(self, data)
        loss, log_vars = self._parse_losses(self(**data))
        if torch.is_anomaly_enabled():
            check_finite(self, data, log_vars)
        return {"loss": loss, "log_vars": log_vars, "num_samples": len(data["img_metas"])}

    def val_step(self, data: dict[str, Any], optimizer: Any = None) -> dict[str, Any]:
        """One iteration of validation by losses, whose names end in ``_val``."""
        loss, log_vars = self._parse_losses(self(**data))
        named = OrderedDict((f"{name}_val", value) for name, value in log_vars.items())
        return {"loss": loss, "log_vars": named, "num_samples": len(data["img_metas"])}

    def show_result(self, img: Any, result: Any, score_thr: float = 0.3,
                    bbox_color: Any = (72, 101, 241), text_color: Any = (72, 101, 241),
                    mask_color: Any = None, thickness: float = 2, font_size: float = 13,
                    win_name: str = "", show: bool = False, wait_time: float = 0,
                    out_file: str | None = None) -> Any:
        """Draw a result on its image.

        Args:
            img: [H, W, 3] in BGR, or a path.
            result: of each class boxes [n, 5], or a pair of that and masks; of panoptic detectors
                a dict of ``pan_results``, which are drawn segment by segment.
            score_thr: what scores less is left out; segments have no scores.
            bbox_color, text_color, mask_color, thickness, font_size, win_name, wait_time: see
                :func:`fastdet.core.visualization.imshow_det_bboxes`.
            show: open a window, unless the picture is written.
            out_file: write the picture there.

        Returns:
            The picture in BGR where it is neither shown nor written.
        """
        boxes, labels, segms = unpack(result, getattr(self, "num_classes", None))
        show = show and out_file is None
        drawn = imshow_det_bboxes(
            img, boxes, labels, segms, class_names=getattr(self, "CLASSES", None),
            score_thr=0 if boxes is None else score_thr, bbox_color=bbox_color,
            text_color=text_color, mask_color=mask_color, thickness=thickness, font_size=font_size,
            win_name=win_name, show=show, wait_time=wait_time, out_file=out_file)
        return None if show or out_file is not None else drawn
