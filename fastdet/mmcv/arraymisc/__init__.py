"""Arrays, as in ``mmcv.arraymisc``."""

from .quantization import dequantize, quantize

__all__ = ["dequantize", "quantize"]
