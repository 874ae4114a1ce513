"""A detector as one graph: for ``torch.export``, and for ONNX and its runtimes."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastdet
from fastdet.models.roi_heads.mask_heads.paste import sampled_masks

__all__ = ["DetectionProgram", "export_onnx", "export_program"]

#: What the ONNX form needs beside torch.
_PACKAGES = ("onnx", "onnxscript")


class DetectionProgram(nn.Module):
    """Image to padded detections, with tensors alone on both sides.

    Args:
        model: a detector that has ``detect``.
        masks: of detectors with masks: ``'boxes'`` returns each mask as it lies in its box,
            ``'image'`` puts them into the image, ``None`` leaves them out.

    Raises:
        TypeError: the detector has no padded detections.
        ValueError: ``masks`` is none of these.
    """

    def __init__(self, model: nn.Module, masks: str | None = "boxes") -> None:
        super().__init__()
        if not hasattr(model, "detect"):
            raise TypeError(f"{type(model).__name__} has no padded detections to export")
        if masks not in ("boxes", "image", None):
            raise ValueError(f"masks must be 'boxes', 'image' or None, got {masks!r}")
        self.model: Any = model
        self.masks = masks if self.model.with_mask else None

    @property
    def outputs(self) -> list[str]:
        """The names of what :meth:`forward` returns, in order."""
        return ["boxes", "scores", "labels", "counts", *(["masks"] if self.masks else [])]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Detect.

        Args:
            image: [B, 3, H, W], normalised and padded as by the test pipeline.

        Returns:
            ``boxes`` [B, K, 4] in pixels of the input, clipped to it; ``scores`` [B, K], in
            descending order; ``labels`` [B, K], -1 behind an image's own; ``counts`` [B], how many
            of the K are an image's own; and ``masks`` [B, K, h, w], probabilities in the box, or
            [B, K, H, W], bool, in the image.
        """
        height, width = image.shape[-2:]
        meta = {"img_shape": (height, width, 3), "pad_shape": (height, width, 3),
                "batch_input_shape": (height, width), "border": (0, height, 0, width)}
        options = {"with_masks": True} if self.masks else {}
        found, labels, counts, *masks = self.model.detect(image, meta, **options)
        boxes = found[..., :4]
        out = dict(boxes=boxes, scores=found[..., 4], labels=labels, counts=counts)
        if self.masks == "boxes":
            out["masks"] = masks[0]
        elif self.masks:
            b, k = labels.shape
            there = (labels >= 0)[..., None, None]
            pasted = sampled_masks(masks[0].flatten(0, 1)[:, None], boxes.flatten(0, 1), height,
                                   width, False)[0].view(b, k, height, width)
            out["masks"] = there & (pasted >= self.model.roi_head.test_cfg["mask_thr_binary"])
        return out


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _coarsest(model: Any) -> int:
    """Pixels of a cell of the coarsest map on which a detector predicts."""
    head = getattr(model, "rpn_head", None) or getattr(model, "bbox_head", None)
    strides = getattr(getattr(head, "prior_generator", None), "strides", None) or [(32, 32)]
    return max(math.ceil(n) for pair in strides for n in pair)


def export_program(model: nn.Module, size: Sequence[int] = (800, 1344), *, batch_size: int = 1,
                   dynamic: bool = True, divisor: int = 1,
                   masks: str | None = "boxes") -> torch.export.ExportedProgram:
    """A detector's inference as one graph of ``torch.export``.

    fastdet's operators stay what they are in it: on a GPU the program runs their kernels. A
    program that was saved is loaded after ``import fastdet.apis``.

    Args:
        model: a detector, see :class:`DetectionProgram`.
        size: height and width of the input.
        batch_size: images of the input.
        dynamic: accept any number of images, and any height and width that are multiples of
            ``divisor``; otherwise those given alone.
        divisor: to a multiple of which the test pipeline pads.
        masks: see :class:`DetectionProgram`.

    Returns:
        A program from ``image`` to what :class:`DetectionProgram` returns.

    Raises:
        TypeError: the detector has no padded detections.
        ValueError: the size is no multiple of ``divisor``, or an argument is wrong.
    """
    height, width = size
    program = DetectionProgram(model, masks)
    shapes = None
    if dynamic:
        least = _coarsest(model) // divisor + 1
        if any(n % divisor or n < least * divisor for n in size):
            raise ValueError(f"size must be multiples of divisor={divisor} and more than a cell of "
                             f"the coarsest map, {least * divisor} at least, got "
                             f"{height} x {width}")
        down, across = (torch.export.Dim(name, min=least) for name in ("height", "width"))
        # A batch of one would be a constant of the graph.
        batch_size = max(batch_size, 2)
        shapes = {"image": {0: torch.export.Dim("batch"), 2: divisor * down, 3: divisor * across}}
    like = next(model.parameters())
    image = torch.zeros(batch_size, 3, height, width, dtype=like.dtype, device=like.device)
    with _in_eval(program), torch.no_grad():
        return torch.export.export(program, (image,), dynamic_shapes=shapes)


def export_onnx(model: nn.Module, path: str | os.PathLike[str],
                size: Sequence[int] = (800, 1344), *, batch_size: int = 1, dynamic: bool = True,
                divisor: int = 1, masks: str | None = "boxes", opset: int = 18) -> None:
    """A detector's inference as an ONNX file of standard operators alone.

    Suppression is ``NonMaxSuppression`` and pooling is ``RoiAlign``, and both give what fastdet's
    operators give: boxes and labels are equal and in one order. Needs the extra ``onnx``.

    Args:
        model: a detector, see :class:`DetectionProgram`; it is left as it is.
        path: the file, which is written whole or not at all.
        size: height and width of the input ``image`` [B, 3, H, W].
        batch_size: images of the input.
        dynamic: accept any number of images, and any height and width that are multiples of
            ``divisor``; otherwise those given alone.
        divisor: to a multiple of which the test pipeline pads.
        masks: see :class:`DetectionProgram`, which also says what the outputs are.
        opset: version of the operators, 18 or newer.

    Raises:
        ModuleNotFoundError: ``onnx`` or ``onnxscript`` is not installed.
        TypeError: the detector has no padded detections.
        ValueError: the size is no multiple of ``divisor``, or an argument is wrong.
    """
    if lost := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ModuleNotFoundError(f"export to ONNX needs {' and '.join(lost)}; install them with "
                                  "pip install 'fastdet[onnx]'")
    if opset < 18:
        raise ValueError(f"opset must be 18 or newer, got {opset}")
    from .export_onnx import translations

    if next(model.parameters()).device.type != "cpu":
        model = copy.deepcopy(model).cpu()
    with fastdet.backend("torch"):
        program = export_program(model, size, batch_size=batch_size, dynamic=dynamic,
                                 divisor=divisor, masks=masks)
    names: Any = {"image": {0: "batch", 2: "height", 3: "width"}} if dynamic else None
    made: Any = torch.onnx.export(
        program, input_names=["image"],
        output_names=DetectionProgram(model, masks).outputs, opset_version=opset,
        dynamic_shapes=names, custom_translation_table=translations(), verbose=False)
    if classes := getattr(model, "CLASSES", None):
        made.model.metadata_props["classes"] = json.dumps(list(classes))
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        made.save(part, external_data=False)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
