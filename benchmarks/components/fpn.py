"""FPN on the maps of a ResNet-50."""

from __future__ import annotations

from ..entry import Entry, against_reference
from ..modules import make, mmdetection, run

_CONFIG = {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": 256,
           "num_outs": 5}
_MMDET, _ABSENT = mmdetection("neck", _CONFIG)

ENTRY = Entry(
    name="fpn",
    kind="component",
    shapes={"r50_800x1344_b2": {"maps": [
        (2, 256, 200, 336), (2, 512, 100, 168), (2, 1024, 50, 84), (2, 2048, 25, 42)]}},
    cpu={"r50_320x480_b1": {"maps": [
        (1, 256, 80, 120), (1, 512, 40, 60), (1, 1024, 20, 30), (1, 2048, 10, 15)]}},
    tiny={"maps": [(1, 8, 9, 14), (1, 16, 5, 7)], "in_channels": [8, 16], "out_channels": 8,
          "num_outs": 3},
    make=make("neck", _CONFIG),
    providers={**against_reference(run), **_MMDET},
    absent=_ABSENT,
    dtypes=("fp32", "bf16"),
)
