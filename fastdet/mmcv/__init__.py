"""mmcv 1.7.2's names, whole as far as MMDetection and code written for it use them.

``fastdet.install()`` makes ``import mmcv`` mean this package. ``mmcv.cnn`` is :mod:`fastdet.cnn`,
``mmcv.ops`` is :mod:`fastdet.ops`, and so on: nothing exists twice.
"""

from typing import Any

from fastdet import cnn, ops

from . import arraymisc, engine, fileio, image, parallel, runner, utils, video, visualization
from .arraymisc import *  # noqa: F403
from .fileio import *  # noqa: F403
from .image import *  # noqa: F403
from .utils import *  # noqa: F403
from .version import __version__, parse_version_info, version_info
from .video import *  # noqa: F403
from .visualization import *  # noqa: F403

__all__ = [
    "__version__", "arraymisc", "cnn", "engine", "fileio", "image", "ops", "parallel",
    "parse_version_info", "runner", "utils", "version_info", "video", "visualization",
    *arraymisc.__all__, *fileio.__all__, *image.__all__, *utils.__all__, *video.__all__,
    *visualization.__all__,
]

# mmcv shows it there too; our cnn stands below ops and cannot.
cnn.bricks.transformer.MultiScaleDeformableAttention = (  # type: ignore[attr-defined]
    ops.MultiScaleDeformableAttention)


def __getattr__(name: str) -> Any:
    return getattr(utils, name)
