"""Blocks that configs put into other models."""

from .dropblock import DropBlock
from .msdeformattn_pixel_decoder import MSDeformAttnPixelDecoder
from .pixel_decoder import PixelDecoder, TransformerEncoderPixelDecoder

__all__ = ["DropBlock", "MSDeformAttnPixelDecoder", "PixelDecoder",
           "TransformerEncoderPixelDecoder"]
