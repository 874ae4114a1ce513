"""``mmcv.onnx``: torch's exporter needs no help any more."""

from .info import is_custom_op_loaded
from .symbolic import register_extra_symbolics

__all__ = ["is_custom_op_loaded", "register_extra_symbolics"]
