"""All transforms of images, by MMDetection's name of their module."""

from .crop import CutOut, MinIoURandomCrop, RandomCenterCropPad, RandomCrop
from .geometric import Expand, Pad, RandomFlip, RandomShift, Resize, SegRescale
from .mix import CopyPaste, MixUp, Mosaic, RandomAffine
from .photometric import Albu, Corrupt, Normalize, PhotoMetricDistortion, YOLOXHSVRandomAug

__all__ = ["Albu", "CopyPaste", "Corrupt", "CutOut", "Expand", "MinIoURandomCrop", "MixUp",
           "Mosaic", "Normalize", "Pad", "PhotoMetricDistortion", "RandomAffine",
           "RandomCenterCropPad", "RandomCrop", "RandomFlip", "RandomShift", "Resize",
           "SegRescale", "YOLOXHSVRandomAug"]
