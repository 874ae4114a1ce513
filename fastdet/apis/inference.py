"""A detector from a config and a checkpoint, and what it finds in images."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastdet.core.evaluation import get_classes
from fastdet.datasets import replace_ImageToTensor
from fastdet.datasets.pipelines import Compose
from fastdet.mmcv.image import imread
from fastdet.mmcv.parallel import collate, scatter
from fastdet.models import build_detector
from fastdet.runner import load_checkpoint
from fastdet.utils import Config

__all__ = ["LoadImage", "async_inference_detector", "inference_detector", "init_detector",
           "show_result_pyplot"]


def init_detector(config: Any, checkpoint: str | None = None, device: Any = "cuda:0",
                  cfg_options: dict[str, Any] | None = None) -> nn.Module:
    """Build a detector for inference.

    Args:
        config: a config or its file; weights that it names for training are not read.
        checkpoint: the detector's weights; random ones without it.
        device: where it runs.
        cfg_options: settings in place of the config's, ``{'model.backbone.depth': 18}``.

    Returns:
        The detector in eval mode, with ``cfg`` and ``CLASSES``.

    Raises:
        TypeError: ``config`` is neither a file nor a config.
    """
    if isinstance(config, (str, Path)):
        config = Config.fromfile(config)
    elif not isinstance(config, Config):
        raise TypeError(f"config must be a file name or a Config, got {type(config).__name__}")
    if cfg_options is not None:
        config.merge_from_dict(cfg_options)
    if "pretrained" in config.model:
        config.model.pretrained = None
    elif "init_cfg" in config.model.get("backbone", {}):
        config.model.backbone.init_cfg = None
    config.model.train_cfg = None
    model: Any = build_detector(config.model, test_cfg=config.get("test_cfg"))
    if checkpoint is not None:
        read = load_checkpoint(model, checkpoint, map_location="cpu")
        classes = read.get("meta", {}).get("CLASSES") if isinstance(read, dict) else None
        if classes is None:
            warnings.simplefilter("once")
            warnings.warn("the checkpoint does not name its classes; COCO's are taken",
                          stacklevel=2)
            classes = get_classes("coco")
        model.CLASSES = classes
    model.cfg = config
    return model.to(device).eval()


class LoadImage:
    """The first step of older test pipelines: reads ``img``, a file, or takes it, an array."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        given = results["img"]
        name = given if isinstance(given, str) else None
        img = imread(given) if isinstance(given, str) else given
        results.update(filename=name, ori_filename=name, img=img, img_fields=["img"],
                       img_shape=img.shape, ori_shape=img.shape)
        return results


def _batch(model: Any, imgs: list[Any]) -> dict[str, Any]:
    """Images through the test pipeline, on the model's device."""
    steps = copy.deepcopy(model.cfg.data.test.pipeline)
    if isinstance(imgs[0], np.ndarray):
        steps[0]["type"] = "LoadImageFromWebcam"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of ImageToTensor, which is replaced here
        pipeline = Compose(replace_ImageToTensor(steps))
    samples = [pipeline(dict(img=img) if isinstance(img, np.ndarray)
                        else dict(img_info=dict(filename=str(img)), img_prefix=None))
               for img in imgs]
    data = collate(samples, samples_per_gpu=len(imgs))
    data["img_metas"] = [metas.data[0] for metas in data["img_metas"]]
    data["img"] = [img.data[0] for img in data["img"]]
    device = next(model.parameters()).device
    return data if device.type == "cpu" else scatter(data, [device])[0]


def inference_detector(model: nn.Module, imgs: Any) -> Any:
    """Detect.

    Args:
        model: of :func:`init_detector`.
        imgs: a file name, an array [H, W, 3] in BGR, or a list or tuple of either, which becomes
            one batch.

    Returns:
        Of each class boxes [n, 5], or a pair of that and masks; a list of such for a list.
    """
    many = isinstance(imgs, (list, tuple))
    batch = list(imgs) if many else [imgs]
    if not batch:
        return []
    with torch.no_grad():
        results = model(return_loss=False, rescale=True, **_batch(model, batch))
    return results if many else results[0]


async def async_inference_detector(model: Any, imgs: Any) -> Any:
    """:func:`inference_detector` for callers in an event loop; always a list for a list."""
    batch = list(imgs) if isinstance(imgs, (list, tuple)) else [imgs]
    with torch.no_grad():
        return await model.aforward_test(rescale=True, **_batch(model, batch))


def show_result_pyplot(model: Any, img: Any, result: Any, score_thr: float = 0.3,
                       title: str = "result", wait_time: float = 0, palette: Any = None,
                       out_file: str | None = None) -> None:
    """Show a result in a window, or write its picture to ``out_file``.

    Args:
        model, img, result, score_thr, wait_time, out_file: see ``model.show_result``.
        title: of the window.
        palette: colours of classes, see :func:`fastdet.core.visualization.get_palette`.
    """
    if hasattr(model, "module"):
        model = model.module
    model.show_result(img, result, score_thr=score_thr, show=True, wait_time=wait_time,
                      win_name=title, bbox_color=palette, text_color=(200, 200, 200),
                      mask_color=palette, out_file=out_file)
