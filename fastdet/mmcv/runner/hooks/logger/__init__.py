"""What is in ``mmcv.runner.hooks.logger``."""

from .base import LoggerHook
from .clearml import ClearMLLoggerHook
from .dvclive import DvcliveLoggerHook
from .mlflow import MlflowLoggerHook
from .neptune import NeptuneLoggerHook
from .pavi import PaviLoggerHook
from .segmind import SegmindLoggerHook
from .tensorboard import TensorboardLoggerHook
from .text import TextLoggerHook
from .wandb import WandbLoggerHook

__all__ = ["ClearMLLoggerHook", "DvcliveLoggerHook", "LoggerHook", "MlflowLoggerHook",
           "NeptuneLoggerHook", "PaviLoggerHook", "SegmindLoggerHook", "TensorboardLoggerHook",
           "TextLoggerHook", "WandbLoggerHook"]
