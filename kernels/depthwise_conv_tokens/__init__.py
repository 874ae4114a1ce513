"""Depthwise 3x3 convolution of tokens, with the GELU that follows it."""

from .op import can_run_depthwise_conv_tokens, depthwise_conv_tokens

__all__ = ["can_run_depthwise_conv_tokens", "depthwise_conv_tokens"]
