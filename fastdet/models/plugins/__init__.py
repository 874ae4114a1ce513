"""Blocks that configs put into other models."""

from .msdeformattn_pixel_decoder import MSDeformAttnPixelDecoder
from .pixel_decoder import PixelDecoder, TransformerEncoderPixelDecoder

__all__ = ["MSDeformAttnPixelDecoder", "PixelDecoder", "TransformerEncoderPixelDecoder"]
