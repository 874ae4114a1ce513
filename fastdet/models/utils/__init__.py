"""Parts that backbones, necks and heads share, as in ``mmdet.models.utils``."""

from .brick_wrappers import AdaptiveAvgPool2d, adaptive_avg_pool2d
from .builder import build_linear_layer, build_transformer
from .conv_upsample import ConvUpsample
from .csp_layer import CSPLayer
from .deformable_detr import DeformableDetrTransformer, DeformableDetrTransformerDecoder
from .dynamic_conv import DynamicConv
from .inverted_residual import InvertedResidual
from .make_divisible import make_divisible
from .misc import interpolate_as, sigmoid_geometric_mean
from .normed_predictor import NormedConv2d, NormedLinear
from .panoptic_gt_processing import preprocess_panoptic_gt
from .point_sample import get_uncertain_point_coords_with_randomness, get_uncertainty
from .positional_encoding import LearnedPositionalEncoding, SinePositionalEncoding
from .res_layer import ResLayer, SimplifiedBasicBlock
from .se_layer import DyReLU, SELayer
from .transformer import (
    DetrTransformerDecoder,
    DetrTransformerDecoderLayer,
    PatchEmbed,
    Transformer,
    nchw_to_nlc,
    nlc_to_nchw,
)

__all__ = [
    "DeformableDetrTransformer", "DeformableDetrTransformerDecoder",
    "LearnedPositionalEncoding", "SinePositionalEncoding",
    "DetrTransformerDecoder", "DetrTransformerDecoderLayer", "PatchEmbed", "Transformer",
    "build_linear_layer", "build_transformer", "nchw_to_nlc", "nlc_to_nchw",
    "ResLayer", "SimplifiedBasicBlock", "interpolate_as", "make_divisible",
    "sigmoid_geometric_mean",
    "AdaptiveAvgPool2d", "adaptive_avg_pool2d", "ConvUpsample", "CSPLayer", "InvertedResidual",
    "NormedConv2d", "NormedLinear", "preprocess_panoptic_gt",
    "get_uncertain_point_coords_with_randomness", "get_uncertainty", "DyReLU", "SELayer",
    "DynamicConv",
]
