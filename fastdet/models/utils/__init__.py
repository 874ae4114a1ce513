"""Parts that backbones, necks and heads share, as in ``mmdet.models.utils``."""

from .brick_wrappers import AdaptiveAvgPool2d, adaptive_avg_pool2d
from .builder import LINEAR_LAYERS, TRANSFORMER, build_linear_layer, build_transformer
from .ckpt_convert import pvt_convert, swin_converter
from .conv_upsample import ConvUpsample
from .csp_layer import CSPLayer
from .dynamic_conv import DynamicConv
from .gaussian_target import (
    centernet_targets,
    cornernet_targets,
    gather_feat,
    gaussian_radius,
    gen_gaussian_target,
    get_local_maximum,
    get_topk_from_heatmap,
    transpose_and_gather_feat,
)
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
    AdaptivePadding,
    DeformableDetrTransformer,
    DeformableDetrTransformerDecoder,
    DetrTransformerDecoder,
    DetrTransformerDecoderLayer,
    DetrTransformerEncoder,
    PatchEmbed,
    PatchMerging,
    Transformer,
    inverse_sigmoid,
    nchw_to_nlc,
    nlc_to_nchw,
)

__all__ = [
    "AdaptiveAvgPool2d", "AdaptivePadding", "CSPLayer", "ConvUpsample",
    "DeformableDetrTransformer", "DeformableDetrTransformerDecoder", "DetrTransformerDecoder",
    "DetrTransformerDecoderLayer", "DetrTransformerEncoder", "DyReLU", "DynamicConv",
    "InvertedResidual", "LINEAR_LAYERS", "LearnedPositionalEncoding", "NormedConv2d",
    "NormedLinear", "PatchEmbed", "PatchMerging", "ResLayer", "SELayer", "SimplifiedBasicBlock",
    "SinePositionalEncoding", "TRANSFORMER", "Transformer", "adaptive_avg_pool2d",
    "build_linear_layer", "build_transformer", "centernet_targets", "cornernet_targets",
    "gather_feat", "gaussian_radius", "gen_gaussian_target",
    "get_local_maximum", "get_topk_from_heatmap", "get_uncertain_point_coords_with_randomness",
    "get_uncertainty", "interpolate_as", "inverse_sigmoid", "make_divisible", "nchw_to_nlc",
    "nlc_to_nchw", "preprocess_panoptic_gt", "pvt_convert", "sigmoid_geometric_mean",
    "swin_converter", "transpose_and_gather_feat",
]
