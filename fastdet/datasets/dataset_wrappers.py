"""Data sets made of data sets: joined, repeated, balanced, mixed."""

from __future__ import annotations

import collections
import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset as _ConcatDataset

from fastdet.core.evaluation.report import say
from fastdet.utils import build_from_cfg

from .builder import DATASETS, PIPELINES

__all__ = ["ClassBalancedDataset", "ConcatDataset", "MultiImageMixDataset", "RepeatDataset"]


@DATASETS.register_module()
class ConcatDataset(_ConcatDataset):
    """Several data sets one after another.

    Args:
        datasets: of one set of classes.
        separate_eval: judge each on its own rather than all as one.

    Raises:
        ValueError: they cannot be judged as one.
    """

    def __init__(self, datasets: Sequence[Any], separate_eval: bool = True) -> None:
        super().__init__(datasets)
        self.CLASSES = datasets[0].CLASSES
        self.PALETTE = getattr(datasets[0], "PALETTE", None)
        self.separate_eval = separate_eval
        if not separate_eval:
            kinds = sorted({type(d).__name__ for d in datasets})
            if any(hasattr(d, "coco") for d in datasets) or len(kinds) != 1:
                raise ValueError("data sets of one kind, with annotations that are not COCO's, can "
                                 f"be judged as one; set separate_eval=True for "
                                 f"{', '.join(kinds)}")
        if hasattr(datasets[0], "flag"):
            self.flag = np.concatenate([d.flag for d in datasets])

    def _find(self, idx: int) -> tuple[Any, int]:
        if idx < 0:
            if -idx > len(self):
                raise ValueError(f"index {idx} is beyond the {len(self)} images")
            idx += len(self)
        which = int(np.searchsorted(self.cumulative_sizes, idx, side="right"))
        return self.datasets[which], idx - (self.cumulative_sizes[which - 1] if which else 0)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes of the objects of an image."""
        dataset, idx = self._find(idx)
        return dataset.get_cat_ids(idx)

    def get_ann_info(self, idx: int) -> dict[str, Any]:
        """Annotations of an image."""
        dataset, idx = self._find(idx)
        return dataset.get_ann_info(idx)

    def evaluate(self, results: list[Any], logger: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Numbers of each data set, their names with its place in front: ``0_bbox_mAP``.

        Raises:
            ValueError: there are not as many results as images.
        """
        if len(results) != len(self):
            raise ValueError(f"there are {len(results)} results for {len(self)} images")
        if self.separate_eval:
            found: dict[str, Any] = {}
            start = 0
            each: list[Any] = list(self.datasets)
            for i, (end, dataset) in enumerate(zip(self.cumulative_sizes, each)):
                say(f"\nEvaluating {dataset.ann_file} with {end - start} images now", logger)
                own = dataset.evaluate(results[start:end], logger=logger, **kwargs)
                found.update({f"{i}_{key}": value for key, value in own.items()})
                start = end
            return found
        first: Any = self.datasets[0]
        infos = first.data_infos
        every: list[Any] = list(self.datasets)
        first.data_infos = [info for d in every for info in d.data_infos]
        try:
            return first.evaluate(results, logger=logger, **kwargs)
        finally:
            first.data_infos = infos


@DATASETS.register_module()
class RepeatDataset:
    """A data set ``times`` over: fewer epochs, each of them longer."""

    def __init__(self, dataset: Any, times: int) -> None:
        self.dataset = dataset
        self.times = times
        self.CLASSES = dataset.CLASSES
        self.PALETTE = getattr(dataset, "PALETTE", None)
        if hasattr(dataset, "flag"):
            self.flag = np.tile(dataset.flag, times)
        self._ori_len = len(dataset)

    def __getitem__(self, idx: int) -> Any:
        return self.dataset[idx % self._ori_len]

    def __len__(self) -> int:
        return self.times * self._ori_len

    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes of the objects of an image."""
        return self.dataset.get_cat_ids(idx % self._ori_len)

    def get_ann_info(self, idx: int) -> dict[str, Any]:
        """Annotations of an image."""
        return self.dataset.get_ann_info(idx % self._ori_len)


@DATASETS.register_module()
class ClassBalancedDataset:
    """Images repeated by how rare their rarest class is (LVIS, arXiv:1908.03195).

    An image whose class occurs in a part ``f`` of the images is repeated
    ``sqrt(oversample_thr / f)`` times, rounded up.

    Args:
        dataset: has ``get_cat_ids``.
        oversample_thr: classes in a smaller part of the images are repeated.
        filter_empty_gt: else images without objects are a class of their own.
    """

    def __init__(self, dataset: Any, oversample_thr: float, filter_empty_gt: bool = True) -> None:
        self.dataset = dataset
        self.oversample_thr = oversample_thr
        self.filter_empty_gt = filter_empty_gt
        self.CLASSES = dataset.CLASSES
        self.PALETTE = getattr(dataset, "PALETTE", None)
        factors = self._get_repeat_factors(dataset, oversample_thr)
        times = [math.ceil(f) for f in factors]
        self.repeat_indices = [i for i, n in enumerate(times) for _ in range(n)]
        if hasattr(dataset, "flag"):
            self.flag = np.array([f for f, n in zip(dataset.flag, times) for _ in range(n)],
                                 dtype=np.uint8)

    def _get_repeat_factors(self, dataset: Any, repeat_thr: float) -> list[float]:
        seen: dict[int, int] = defaultdict(int)
        classes = []
        for i in range(len(dataset)):
            own = set(dataset.get_cat_ids(i))
            if not own and not self.filter_empty_gt:
                own = {len(self.CLASSES)}
            classes.append(own)
            for label in own:
                seen[label] += 1
        factor = {label: max(1.0, math.sqrt(repeat_thr / (n / len(dataset))))
                  for label, n in seen.items()}
        return [max((factor[label] for label in own), default=1) for own in classes]

    def __getitem__(self, idx: int) -> Any:
        return self.dataset[self.repeat_indices[idx]]

    def __len__(self) -> int:
        return len(self.repeat_indices)

    def get_ann_info(self, idx: int) -> dict[str, Any]:
        """Annotations of an image."""
        return self.dataset.get_ann_info(self.repeat_indices[idx])


@DATASETS.register_module()
class MultiImageMixDataset:
    """A data set whose pipeline mixes several images: Mosaic, MixUp, CopyPaste.

    Args:
        dataset: gives the images.
        pipeline: transforms, as configs; one with ``get_indexes`` gets the images that it asks for
            in ``mix_results``.
        dynamic_scale: gone since MMDetection 2.16.
        skip_type_keys: types of transforms that are left out.
        max_refetch: how often images are drawn again where a transform drops one.

    Raises:
        RuntimeError: ``dynamic_scale`` is given, or no image could be found.
    """

    def __init__(self, dataset: Any, pipeline: Sequence[dict[str, Any]], dynamic_scale: Any = None,
                 skip_type_keys: Sequence[str] | None = None, max_refetch: int = 15) -> None:
        if dynamic_scale is not None:
            raise RuntimeError("dynamic_scale is deprecated: resize with Resize in the pipeline")
        if not isinstance(pipeline, collections.abc.Sequence):
            raise TypeError(f"pipeline must be a list of configs, got {type(pipeline).__name__}")
        self._check_keys(skip_type_keys)
        self._skip_type_keys = skip_type_keys
        self.pipeline = []
        self.pipeline_types = []
        for transform in pipeline:
            if not isinstance(transform, dict):
                raise TypeError(f"a transform must be a dict, got {type(transform).__name__}")
            self.pipeline_types.append(transform["type"])
            self.pipeline.append(build_from_cfg(transform, PIPELINES))
        self.dataset = dataset
        self.CLASSES = dataset.CLASSES
        self.PALETTE = getattr(dataset, "PALETTE", None)
        if hasattr(dataset, "flag"):
            self.flag = dataset.flag
        self.num_samples = len(dataset)
        self.max_refetch = max_refetch

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, idx: int) -> Any:
        results = copy.deepcopy(self.dataset[idx])
        for transform, kind in zip(self.pipeline, self.pipeline_types):
            if self._skip_type_keys is not None and kind in self._skip_type_keys:
                continue
            if hasattr(transform, "get_indexes"):
                results["mix_results"] = self._partners(transform)
            for _ in range(self.max_refetch):
                # The transform writes into what it gets, and is tried again where it drops it.
                changed = transform(copy.deepcopy(results))
                if changed is not None:
                    results = changed
                    break
            else:
                raise RuntimeError(f"{kind} dropped the image {self.max_refetch} times; see its "
                                   "settings and the annotations of image "
                                   f"{idx}")
            results.pop("mix_results", None)
        return results

    def _partners(self, transform: Any) -> list[Any]:
        for _ in range(self.max_refetch):
            indexes = transform.get_indexes(self.dataset)
            if not isinstance(indexes, collections.abc.Sequence):
                indexes = [indexes]
            found = [copy.deepcopy(self.dataset[i]) for i in indexes]
            if None not in found:
                return found
        raise RuntimeError("the data set's own pipeline dropped the images to mix "
                           f"{self.max_refetch} times; see it and the annotations")

    def update_skip_type_keys(self, skip_type_keys: Sequence[str] | None) -> None:
        """Leave out other transforms from now on."""
        self._check_keys(skip_type_keys)
        self._skip_type_keys = skip_type_keys

    @staticmethod
    def _check_keys(keys: Any) -> None:
        if keys is not None and not all(isinstance(k, str) for k in keys):
            raise TypeError(f"skip_type_keys must be names, got {keys!r}")
