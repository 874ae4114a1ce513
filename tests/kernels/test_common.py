"""What the operators share: data types, powers of two, launch configs, buffers."""

from typing import NamedTuple

import pytest
import torch

from fastdet.kernels.common import (
    dtype_reason,
    next_power_of_2,
    optional_empty,
    options,
    partial_sums,
)


class Tile(NamedTuple):
    block_m: int
    num_warps: int
    num_stages: int
    per_sm: int


class Run(NamedTuple):
    block_c: int
    num_warps: int
    num_stages: int
    per_sm: int


def test_only_blocks_and_launch_options_reach_a_kernel():
    tile = Tile(64, 4, 2, 8)
    assert options(tile) == {"BLOCK_M": 64, "num_warps": 4, "num_stages": 2}
    assert options(tile, without=["block_m"]) == {"num_warps": 4, "num_stages": 2}
    assert options(Run(*tile)) == {"BLOCK_C": 64, "num_warps": 4, "num_stages": 2}
    options(tile)["BLOCK_M"] = 0  # a caller may add to what it got
    assert options(tile)["BLOCK_M"] == 64


@pytest.mark.parametrize(("n", "least", "want"), [
    (0, 1, 1), (1, 1, 1), (2, 1, 2), (3, 1, 4), (64, 1, 64), (65, 1, 128), (3, 16, 16),
    (17, 16, 32)])
def test_next_power_of_2(n, least, want):
    assert next_power_of_2(n, least) == want


def test_dtype_reason_names_the_first_that_does_not_fit():
    half = torch.zeros(1, dtype=torch.float16)
    assert dtype_reason(half, torch.bfloat16, torch.float32) is None
    assert dtype_reason(half, half.double()) == \
        "its kernels take float32, float16 and bfloat16, not float64"
    assert "not int64" in dtype_reason(torch.int64)


def test_buffers():
    like = torch.zeros(2, 3, 4, 5, dtype=torch.float16).to(memory_format=torch.channels_last)
    assert optional_empty(like, False).shape == (0,)
    assert optional_empty(like, True).stride() == like.stride()
    whole = optional_empty(like, True, torch.contiguous_format)
    assert (whole.dtype, whole.shape, whole.is_contiguous()) == (like.dtype, like.shape, True)
    partial = partial_sums((2, 3), torch.device("cpu"))
    assert (partial.dtype, partial.shape) == (torch.float32, (2, 3))
    assert partial_sums((2, 3), torch.device("cpu"), needed=False).shape == (0,)
