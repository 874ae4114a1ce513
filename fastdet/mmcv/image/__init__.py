"""Images, as in ``mmcv.image``: OpenCV's and Pillow's work under mmcv's names."""

from .colorspace import (
    bgr2gray,
    bgr2hls,
    bgr2hsv,
    bgr2rgb,
    bgr2ycbcr,
    gray2bgr,
    gray2rgb,
    hls2bgr,
    hsv2bgr,
    imconvert,
    rgb2bgr,
    rgb2gray,
    rgb2ycbcr,
    ycbcr2bgr,
    ycbcr2rgb,
)
from .geometric import (
    cutout,
    imcrop,
    imflip,
    imflip_,
    impad,
    impad_to_multiple,
    imrescale,
    imresize,
    imresize_like,
    imresize_to_multiple,
    imrotate,
    imshear,
    imtranslate,
    rescale_size,
)
from .io import imfrombytes, imread, imwrite, supported_backends, use_backend
from .misc import tensor2imgs
from .photometric import (
    adjust_brightness,
    adjust_color,
    adjust_contrast,
    adjust_hue,
    adjust_lighting,
    adjust_sharpness,
    auto_contrast,
    clahe,
    imdenormalize,
    imequalize,
    iminvert,
    imnormalize,
    imnormalize_,
    lut_transform,
    posterize,
    solarize,
)

__all__ = [
    "bgr2gray", "bgr2hls", "bgr2hsv", "bgr2rgb", "bgr2ycbcr", "gray2bgr", "gray2rgb", "hls2bgr",
    "hsv2bgr", "imconvert", "rgb2bgr", "rgb2gray", "rgb2ycbcr", "ycbcr2bgr", "ycbcr2rgb",
    "cutout", "imcrop", "imflip", "imflip_", "impad", "impad_to_multiple", "imrescale", "imresize",
    "imresize_like", "imresize_to_multiple", "imrotate", "imshear", "imtranslate", "rescale_size",
    "imfrombytes", "imread", "imwrite", "supported_backends", "use_backend", "tensor2imgs",
    "adjust_brightness", "adjust_color", "adjust_contrast", "adjust_hue", "adjust_lighting",
    "adjust_sharpness", "auto_contrast", "clahe", "imdenormalize", "imequalize", "iminvert",
    "imnormalize", "imnormalize_", "lut_transform", "posterize", "solarize",
]
