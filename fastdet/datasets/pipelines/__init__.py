"""What is done to an image and its annotations before a detector sees them."""

from .auto_augment import (
    AutoAugment,
    BrightnessTransform,
    ColorTransform,
    ContrastTransform,
    EqualizeTransform,
    Rotate,
    Shear,
    Translate,
)
from .compose import Compose
from .formatting import (
    Collect,
    DefaultFormatBundle,
    ImageToTensor,
    ToDataContainer,
    ToTensor,
    Transpose,
    WrapFieldsToLists,
    to_tensor,
)
from .instaboost import InstaBoost
from .loading import (
    FilterAnnotations,
    LoadAnnotations,
    LoadImageFromFile,
    LoadImageFromWebcam,
    LoadMultiChannelImageFromFiles,
    LoadPanopticAnnotations,
    LoadProposals,
)
from .test_time_aug import MultiScaleFlipAug
from .transforms import (
    Albu,
    CopyPaste,
    Corrupt,
    CutOut,
    Expand,
    MinIoURandomCrop,
    MixUp,
    Mosaic,
    Normalize,
    Pad,
    PhotoMetricDistortion,
    RandomAffine,
    RandomCenterCropPad,
    RandomCrop,
    RandomFlip,
    RandomShift,
    Resize,
    SegRescale,
    YOLOXHSVRandomAug,
)

__all__ = [
    "Albu", "AutoAugment", "BrightnessTransform", "Collect", "ColorTransform", "Compose",
    "ContrastTransform", "CopyPaste", "Corrupt", "CutOut", "DefaultFormatBundle",
    "EqualizeTransform", "Expand", "FilterAnnotations", "ImageToTensor", "InstaBoost",
    "LoadAnnotations", "LoadImageFromFile", "LoadImageFromWebcam",
    "LoadMultiChannelImageFromFiles", "LoadPanopticAnnotations", "LoadProposals",
    "MinIoURandomCrop", "MixUp", "Mosaic", "MultiScaleFlipAug", "Normalize", "Pad",
    "PhotoMetricDistortion", "RandomAffine", "RandomCenterCropPad", "RandomCrop", "RandomFlip",
    "RandomShift", "Resize", "Rotate", "SegRescale", "Shear", "ToDataContainer", "ToTensor",
    "Translate", "Transpose", "WrapFieldsToLists", "YOLOXHSVRandomAug", "to_tensor",
]
