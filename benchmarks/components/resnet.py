"""ResNet-50, which has no kernel of ours: what everything else is measured beside."""

from __future__ import annotations

from ..entry import Entry, against_reference
from ..maps import IMAGES, sizes
from ..modules import make, mmdetection, run

_CONFIG = {"type": "ResNet", "depth": 50}
_MMDET, _ABSENT = mmdetection("backbone", _CONFIG)

ENTRY = Entry(
    name="resnet_50",
    kind="component",
    shapes={"800x1344_b2": IMAGES},
    cpu=sizes((320, 480, 1), (160, 240, 1), (480, 720, 1), (160, 240, 4)),
    tiny={"maps": [(1, 3, 40, 64)], "depth": 18, "base_channels": 8},
    make=make("backbone", _CONFIG),
    providers={**against_reference(run), **_MMDET},
    absent=_ABSENT,
    dtypes=("fp32", "bf16"),
)
