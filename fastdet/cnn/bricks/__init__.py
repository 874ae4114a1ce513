"""Layers and blocks, and their builders: what MMDetection takes from ``mmcv.cnn.bricks``."""

from .activation import Clamp, HSigmoid, HSwish, Swish, build_activation_layer
from .context_block import ContextBlock
from .conv import build_conv_layer
from .conv2d_adaptive_padding import Conv2dAdaptivePadding
from .conv_module import ConvModule
from .conv_ws import ConvAWS2d, ConvWS2d, conv_ws_2d
from .depthwise_separable_conv_module import DepthwiseSeparableConvModule
from .drop import Dropout, DropPath, build_dropout, drop_path
from .generalized_attention import GeneralizedAttention
from .non_local import NonLocal1d, NonLocal2d, NonLocal3d
from .norm import build_norm_layer, is_norm
from .padding import build_padding_layer
from .plugin import build_plugin_layer
from .registry import (
    ACTIVATION_LAYERS,
    ATTENTION,
    CONV_LAYERS,
    DROPOUT_LAYERS,
    FEEDFORWARD_NETWORK,
    NORM_LAYERS,
    PADDING_LAYERS,
    PLUGIN_LAYERS,
    POSITIONAL_ENCODING,
    TRANSFORMER_LAYER,
    TRANSFORMER_LAYER_SEQUENCE,
    UPSAMPLE_LAYERS,
)
from .scale import Scale
from .upsample import PixelShufflePack, build_upsample_layer
from .wrappers import (
    Conv2d,
    Conv3d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
    MaxPool2d,
    MaxPool3d,
)

__all__ = [
    "ACTIVATION_LAYERS", "ATTENTION", "CONV_LAYERS", "DROPOUT_LAYERS", "FEEDFORWARD_NETWORK",
    "NORM_LAYERS", "PADDING_LAYERS", "PLUGIN_LAYERS", "POSITIONAL_ENCODING", "TRANSFORMER_LAYER",
    "TRANSFORMER_LAYER_SEQUENCE", "UPSAMPLE_LAYERS",
    "build_activation_layer", "build_conv_layer", "build_dropout", "build_norm_layer",
    "build_padding_layer", "build_plugin_layer", "build_upsample_layer", "is_norm",
    "Clamp", "ContextBlock", "Conv2dAdaptivePadding", "ConvAWS2d", "ConvModule", "ConvWS2d",
    "DepthwiseSeparableConvModule", "DropPath", "Dropout", "GeneralizedAttention", "HSigmoid",
    "HSwish", "NonLocal1d", "NonLocal2d", "NonLocal3d", "PixelShufflePack", "Scale", "Swish",
    "conv_ws_2d", "drop_path",
    "Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d", "Linear", "MaxPool2d", "MaxPool3d",
]
