"""DeepFashion."""

from fastdet.core.evaluation.class_names import data_set

from .builder import DATASETS
from .coco import CocoDataset

__all__ = ["DeepFashionDataset"]


@DATASETS.register_module()
class DeepFashionDataset(CocoDataset):
    """DeepFashion In-shop (Liu et al., CVPR 2016), its annotations in COCO's format."""

    CLASSES = data_set("deepfashion")
    PALETTE = data_set("deepfashion", "palette")
