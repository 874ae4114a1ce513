"""``mmcv.tensorrt``: there are no plugins; the names import and say so when used."""

from .._absent import absent_class, absent_function

__all__ = ["TRTWraper", "TRTWrapper", "get_tensorrt_op_path", "is_tensorrt_plugin_loaded",
           "load_tensorrt_plugin", "load_trt_engine", "onnx2trt", "save_trt_engine"]

_WHY = ("mmcv's TensorRT plugins are compiled extensions; export with torch.onnx and build the "
        "engine with TensorRT's own tools")


def is_tensorrt_plugin_loaded() -> bool:
    """Whether mmcv's TensorRT plugins are loaded: never."""
    return False


def get_tensorrt_op_path() -> str:
    """Where mmcv's TensorRT plugins lie: nowhere."""
    return ""


TRTWraper = TRTWrapper = absent_class("mmcv.tensorrt.TRTWrapper", _WHY)
load_tensorrt_plugin = absent_function("mmcv.tensorrt.load_tensorrt_plugin", _WHY)
load_trt_engine = absent_function("mmcv.tensorrt.load_trt_engine", _WHY)
onnx2trt = absent_function("mmcv.tensorrt.onnx2trt", _WHY)
save_trt_engine = absent_function("mmcv.tensorrt.save_trt_engine", _WHY)
