"""Swin-T with its own attention, MMDetection's form of it and torch's fused attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from fastdet.models.backbones.swin import ShiftWindowMSA

from ..entry import Entry, Provider
from ..maps import IMAGES, sizes
from ..modules import make, mmdetection, run, swapped
from ..operators.window_attention import window_attention_eager, window_attention_sdpa


class _Peer(ShiftWindowMSA):
    """The layer around another window attention."""

    attention: ClassVar[Callable[..., Tensor]]

    def forward(self, query: Tensor, hw_shape: Sequence[int]) -> Tensor:
        msa = self.w_msa
        qkv = msa.qkv(query)
        out = self.attention(
            qkv, msa.relative_position_bias_table, hw_shape, num_heads=msa.num_heads,
            window_size=self.window_size, shift=self.shift_size, scale=msa.scale,
            pad_value=msa.qkv.bias.to(qkv.dtype),
            relative_position_index=msa.relative_position_index)
        return self.drop(msa.proj_drop(msa.proj(out)))


class _Eager(_Peer):
    attention = staticmethod(window_attention_eager)


class _Sdpa(_Peer):
    attention = staticmethod(window_attention_sdpa)


_EAGER = swapped(ShiftWindowMSA, _Eager)

_CONFIG = {"type": "SwinTransformer"}
_MMDET, _ABSENT = mmdetection("backbone", _CONFIG)

ENTRY = Entry(
    name="swin_t",
    kind="component",
    shapes={"800x1344_b2": IMAGES},
    cpu=sizes((320, 480, 1), (160, 240, 1), (480, 720, 1), (160, 240, 4)),
    tiny={"maps": [(1, 3, 30, 44)], "embed_dims": 32, "depths": (2, 2), "num_heads": (2, 4),
          "strides": (4, 2), "out_indices": (0, 1), "window_size": 4},
    make=make("backbone", _CONFIG),
    providers={
        "eager": Provider(run, _EAGER),
        "compile": Provider(run, _EAGER, compiled=True),
        "sdpa": Provider(run, swapped(ShiftWindowMSA, _Sdpa)),
        "fastdet": Provider(run),
        **_MMDET,
    },
    absent=_ABSENT,
    dtypes=("fp32", "bf16"),
    kernels=("window_attention_",),
)
