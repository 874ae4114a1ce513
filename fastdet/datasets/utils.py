"""Changes to pipelines of configs."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from .builder import PIPELINES
from .num_class_check import NumClassCheckHook
from .pipelines import LoadAnnotations, LoadImageFromFile, LoadPanopticAnnotations

__all__ = ["NumClassCheckHook", "get_loading_pipeline", "replace_ImageToTensor"]


def replace_ImageToTensor(pipelines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A test pipeline for batches: ``DefaultFormatBundle`` in place of ``ImageToTensor``."""
    pipelines = copy.deepcopy(pipelines)
    for i, step in enumerate(pipelines):
        if step["type"] == "MultiScaleFlipAug":
            step["transforms"] = replace_ImageToTensor(step["transforms"])
        elif step["type"] == "ImageToTensor":
            warnings.warn("ImageToTensor cannot pad the images of a batch to one size and is "
                          "replaced by DefaultFormatBundle; please write that in the config",
                          UserWarning, stacklevel=2)
            pipelines[i] = {"type": "DefaultFormatBundle"}
    return pipelines


def get_loading_pipeline(pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a training pipeline, what loads the image and its annotations.

    Raises:
        ValueError: it does not have both.
    """
    kinds = (LoadImageFromFile, LoadAnnotations, LoadPanopticAnnotations)
    loading = [cfg for cfg in pipeline if PIPELINES.get(cfg["type"]) in kinds]
    if len(loading) != 2:
        raise ValueError("the data pipeline must have LoadImageFromFile and LoadAnnotations, got "
                         f"{', '.join(cfg['type'] for cfg in pipeline)}")
    return loading
