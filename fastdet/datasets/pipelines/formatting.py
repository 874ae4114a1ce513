"""Arrays to tensors, and what a detector gets of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdet.mmcv.parallel import DataContainer as DC

from ..builder import PIPELINES
from .base import Results, Transform

__all__ = ["Collect", "DefaultFormatBundle", "ImageToTensor", "ToDataContainer", "ToTensor",
           "Transpose", "WrapFieldsToLists", "to_tensor"]


def to_tensor(data: Any) -> Tensor:
    """An array, a list of numbers or a number as a tensor.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(data, Tensor):
        return data
    if isinstance(data, np.ndarray):
        return torch.from_numpy(data)
    if isinstance(data, Sequence) and not isinstance(data, str):
        return torch.tensor(data)
    if isinstance(data, int):
        return torch.LongTensor([data])
    if isinstance(data, float):
        return torch.FloatTensor([data])
    raise TypeError(f"type {type(data).__name__} cannot be converted to a tensor")


def _channels_first(img: np.ndarray) -> Tensor:
    """[H, W] or [H, W, C] to a contiguous [C, H, W]."""
    if img.ndim < 3:
        img = img[..., None]
    if img.flags.c_contiguous:
        return torch.from_numpy(img).permute(2, 0, 1).contiguous()
    return torch.from_numpy(np.ascontiguousarray(img.transpose(2, 0, 1)))


@PIPELINES.register_module()
class ToTensor(Transform):
    """:func:`to_tensor` of these keys."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys

    def __call__(self, results: Results) -> Results:
        for key in self.keys:
            results[key] = to_tensor(results[key])
        return results


@PIPELINES.register_module()
class ImageToTensor(Transform):
    """Images [H, W, C] of these keys to tensors [C, H, W]."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys

    def __call__(self, results: Results) -> Results:
        for key in self.keys:
            results[key] = _channels_first(results[key])
        return results


@PIPELINES.register_module()
class Transpose(Transform):
    """The dimensions of these keys in another order."""

    def __init__(self, keys: Sequence[str], order: Sequence[int]) -> None:
        self.keys = keys
        self.order = order

    def __call__(self, results: Results) -> Results:
        for key in self.keys:
            results[key] = results[key].transpose(self.order)
        return results


@PIPELINES.register_module()
class ToDataContainer(Transform):
    """Wrap values for :func:`fastdet.mmcv.parallel.collate`.

    Args:
        fields: of each value its ``key`` and arguments of the container.
    """

    def __init__(self, fields: Sequence[dict[str, Any]] = (
            dict(key="img", stack=True), dict(key="gt_bboxes"), dict(key="gt_labels"))) -> None:
        self.fields = fields

    def __call__(self, results: Results) -> Results:
        for field in self.fields:
            options = {k: v for k, v in field.items() if k != "key"}
            results[field["key"]] = DC(results[field["key"]], **options)
        return results


@PIPELINES.register_module()
class DefaultFormatBundle(Transform):
    """Everything that detectors train on as tensors in containers.

    ``img`` is stacked, ``gt_semantic_seg`` too; ``proposals``, ``gt_bboxes``, ``gt_bboxes_ignore``
    and ``gt_labels`` are lists of tensors, ``gt_masks`` stay on the host.

    Args:
        img_to_float: convert an image of bytes to float32.
        pad_val: what a batch's smaller images, masks and maps are padded with.
    """

    def __init__(self, img_to_float: bool = True,
                 pad_val: dict[str, int] = dict(img=0, masks=0, seg=255)) -> None:
        self.img_to_float = img_to_float
        self.pad_val = pad_val

    def __call__(self, results: Results) -> Results:
        if "img" in results:
            img = results["img"]
            if self.img_to_float and img.dtype == np.uint8:
                img = img.astype(np.float32)
            self._add_default_meta_keys(results)
            results["img"] = DC(_channels_first(img), padding_value=self.pad_val["img"],
                                stack=True)
        for key in ("proposals", "gt_bboxes", "gt_bboxes_ignore", "gt_labels"):
            if key in results:
                results[key] = DC(to_tensor(results[key]))
        if "gt_masks" in results:
            results["gt_masks"] = DC(results["gt_masks"], padding_value=self.pad_val["masks"],
                                     cpu_only=True)
        if "gt_semantic_seg" in results:
            results["gt_semantic_seg"] = DC(to_tensor(results["gt_semantic_seg"][None, ...]),
                                            padding_value=self.pad_val["seg"], stack=True)
        return results

    def _add_default_meta_keys(self, results: Results) -> None:
        """What an image has that was neither padded, resized nor normalised."""
        img = results["img"]
        channels = 1 if img.ndim < 3 else img.shape[2]
        results.setdefault("pad_shape", img.shape)
        results.setdefault("scale_factor", 1.0)
        results.setdefault("img_norm_cfg", dict(
            mean=np.zeros(channels, dtype=np.float32), std=np.ones(channels, dtype=np.float32),
            to_rgb=False))


@PIPELINES.register_module()
class Collect(Transform):
    """What a detector gets: these keys, and the meta keys in ``img_metas``.

    Args:
        keys: of the results.
        meta_keys: of ``img_metas``.

    Raises:
        KeyError: (when called) no transform has set a key.
    """

    def __init__(self, keys: Sequence[str], meta_keys: Sequence[str] = (
            "filename", "ori_filename", "ori_shape", "img_shape", "pad_shape", "scale_factor",
            "flip", "flip_direction", "img_norm_cfg")) -> None:
        self.keys = keys
        self.meta_keys = meta_keys

    def __call__(self, results: Results) -> Results:
        missing = [k for k in (*self.keys, *self.meta_keys) if k not in results]
        if missing:
            raise KeyError(f"Collect: nothing in the pipeline has set {', '.join(missing)}; there "
                           f"are {', '.join(results)}")
        metas = {key: results[key] for key in self.meta_keys}
        return {"img_metas": DC(metas, cpu_only=True), **{k: results[k] for k in self.keys}}


@PIPELINES.register_module()
class WrapFieldsToLists(Transform):
    """Every value in a list, as test-time augmentation has them."""

    def __call__(self, results: Results) -> Results:
        return {key: [value] for key, value in results.items()}
