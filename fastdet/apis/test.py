"""A detector over a data set, masks as run-length codes."""

from __future__ import annotations

import os.path as osp
from typing import Any

import torch
from torch import nn

from fastdet.core.mask import encode_mask_results
from fastdet.mmcv.engine import collect_results_cpu, collect_results_gpu
from fastdet.mmcv.engine.test import run_model, run_shared
from fastdet.mmcv.image import imresize, tensor2imgs

__all__ = ["collect_results_cpu", "collect_results_gpu", "multi_gpu_test", "single_gpu_test"]


def _encoded(data: Any, results: list[Any]) -> list[Any]:
    """Results of a batch with masks as run-length codes, which take less memory."""
    out = []
    for result in results:
        if isinstance(result, tuple):
            result = (result[0], encode_mask_results(result[1]))
        elif isinstance(result, dict) and "ins_results" in result:
            boxes, masks = result["ins_results"]
            result = {**result, "ins_results": (boxes, encode_mask_results(masks))}
        out.append(result)
    return out


def _show(model: Any, data: dict[str, Any], results: list[Any], palette: Any, show: bool,
          out_dir: str | None, score_thr: float) -> None:
    """Draw the results of a batch on its images, as they were before they were resized."""
    img = data["img"][0]
    tensor = img if isinstance(img, torch.Tensor) else img.data[0]
    metas = data["img_metas"][0]
    metas = metas.data[0] if hasattr(metas, "data") else metas
    for pixels, meta, result in zip(tensor2imgs(tensor, **metas[0]["img_norm_cfg"]), metas,
                                    results):
        h, w = meta["img_shape"][:2]
        ori_h, ori_w = meta["ori_shape"][:2]
        out_file = None if out_dir is None else osp.join(out_dir, meta["ori_filename"])
        model.show_result(imresize(pixels[:h, :w], (ori_w, ori_h)), result, bbox_color=palette,
                          text_color=palette, mask_color=palette, show=show, out_file=out_file,
                          score_thr=score_thr)


def single_gpu_test(model: nn.Module, data_loader: Any, show: bool = False,
                    out_dir: str | None = None, show_score_thr: float = 0.3) -> list[Any]:
    """Results of every image, in one process.

    Args:
        model: a detector in its data-parallel wrapper.
        data_loader: of a data set in test mode.
        show: show every result in a window.
        out_dir: write every result's picture there.
        show_score_thr: what scores less is not drawn.
    """
    palette = getattr(data_loader.dataset, "PALETTE", None)

    def keep(data: Any, batch: list[Any]) -> list[Any]:
        if show or out_dir:
            _show(getattr(model, "module", model), data, batch, palette, show, out_dir,
                  show_score_thr)
        return _encoded(data, batch)

    return run_model(model, data_loader, keep, rescale=True)


def multi_gpu_test(model: nn.Module, data_loader: Any, tmpdir: str | None = None,
                   gpu_collect: bool = False) -> list[Any] | None:
    """Results of every image, in the data set's order, from several processes.

    Args:
        model: a detector in its data-parallel wrapper.
        data_loader: of this process.
        tmpdir: a folder that all processes reach.
        gpu_collect: send results by the process group instead.

    Returns:
        All results on rank 0, ``None`` elsewhere.
    """
    return run_shared(model, data_loader, tmpdir, gpu_collect, keep=_encoded, rescale=True)
