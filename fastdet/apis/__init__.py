"""What users call: build a detector, detect, train, test."""

from . import hooks  # registers them
from .export import DetectionProgram, export_onnx, export_program
from .inference import (
    async_inference_detector,
    inference_detector,
    init_detector,
    show_result_pyplot,
)
from .test import multi_gpu_test, single_gpu_test
from .train import init_random_seed, set_random_seed, train_detector
from .utils import get_root_logger

__all__ = ["DetectionProgram", "async_inference_detector", "export_onnx", "export_program",
           "get_root_logger", "hooks", "inference_detector",
           "init_detector", "init_random_seed", "multi_gpu_test", "set_random_seed",
           "show_result_pyplot", "single_gpu_test", "train_detector"]
