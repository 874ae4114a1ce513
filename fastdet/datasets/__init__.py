"""Data sets, their pipelines and their loaders."""

from .builder import DATASETS, PIPELINES, build_dataloader, build_dataset
from .coco import CocoDataset
from .custom import CustomDataset
from .dataset_wrappers import (
    ClassBalancedDataset,
    ConcatDataset,
    MultiImageMixDataset,
    RepeatDataset,
)
from .deepfashion import DeepFashionDataset
from .lvis import LVISDataset, LVISV05Dataset, LVISV1Dataset
from .num_class_check import NumClassCheckHook
from .samplers import DistributedGroupSampler, DistributedSampler, GroupSampler
from .utils import get_loading_pipeline, replace_ImageToTensor
from .voc import VOCDataset
from .wider_face import WIDERFaceDataset
from .xml_style import XMLDataset

__all__ = ["ClassBalancedDataset", "CocoDataset", "ConcatDataset", "CustomDataset", "DATASETS",
           "DeepFashionDataset", "DistributedGroupSampler", "DistributedSampler", "GroupSampler",
           "LVISDataset", "LVISV05Dataset", "LVISV1Dataset", "MultiImageMixDataset",
           "NumClassCheckHook", "PIPELINES", "RepeatDataset", "VOCDataset", "WIDERFaceDataset",
           "XMLDataset", "build_dataloader", "build_dataset", "get_loading_pipeline",
           "replace_ImageToTensor"]
