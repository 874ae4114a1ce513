"""Data sets, their pipelines and their loaders."""

from .builder import DATASETS, PIPELINES, build_dataloader, build_dataset
from .cityscapes import CityscapesDataset
from .coco import CocoDataset
from .coco_panoptic import CocoPanopticDataset
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
from .openimages import OpenImagesChallengeDataset, OpenImagesDataset
from .samplers import DistributedGroupSampler, DistributedSampler, GroupSampler
from .utils import get_loading_pipeline, replace_ImageToTensor
from .voc import VOCDataset
from .wider_face import WIDERFaceDataset
from .xml_style import XMLDataset

__all__ = ["CityscapesDataset", "ClassBalancedDataset", "CocoDataset", "CocoPanopticDataset",
           "ConcatDataset", "CustomDataset", "DATASETS", "DeepFashionDataset",
           "DistributedGroupSampler", "DistributedSampler", "GroupSampler", "LVISDataset",
           "LVISV05Dataset", "LVISV1Dataset", "MultiImageMixDataset", "NumClassCheckHook",
           "OpenImagesChallengeDataset", "OpenImagesDataset", "PIPELINES", "RepeatDataset",
           "VOCDataset", "WIDERFaceDataset", "XMLDataset", "build_dataloader", "build_dataset",
           "get_loading_pipeline", "replace_ImageToTensor"]
