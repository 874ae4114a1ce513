"""The registries of layers, as in ``mmcv.cnn.bricks.registry``."""

from __future__ import annotations

from fastdet.utils.registry import Registry, resolve

__all__ = [
    "ACTIVATION_LAYERS", "ATTENTION", "CONV_LAYERS", "DROPOUT_LAYERS", "FEEDFORWARD_NETWORK",
    "NORM_LAYERS", "PADDING_LAYERS", "PLUGIN_LAYERS", "POSITIONAL_ENCODING", "TRANSFORMER_LAYER",
    "TRANSFORMER_LAYER_SEQUENCE", "UPSAMPLE_LAYERS", "resolve",
]

CONV_LAYERS = Registry("conv layer", scope="mmcv")
NORM_LAYERS = Registry("norm layer", scope="mmcv")
ACTIVATION_LAYERS = Registry("activation layer", scope="mmcv")
PADDING_LAYERS = Registry("padding layer", scope="mmcv")
UPSAMPLE_LAYERS = Registry("upsample layer", scope="mmcv")
PLUGIN_LAYERS = Registry("plugin layer", scope="mmcv")
DROPOUT_LAYERS = Registry("dropout layer", scope="mmcv")
POSITIONAL_ENCODING = Registry("position encoding", scope="mmcv")
ATTENTION = Registry("attention", scope="mmcv")
FEEDFORWARD_NETWORK = Registry("feed-forward network", scope="mmcv")
TRANSFORMER_LAYER = Registry("transformer layer", scope="mmcv")
TRANSFORMER_LAYER_SEQUENCE = Registry("transformer layer sequence", scope="mmcv")
