from collections import namedtuple

import pytest
import torch
from torch import nn

from fastdet.runner import auto_fp16, force_fp32

Pair = namedtuple("Pair", "a b")


def dtypes(*values):
    return [v.dtype for v in values]


class Net(nn.Module):
    fp16_enabled = False

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    @auto_fp16()
    def plain(self, x, *rest, scale=1):
        """Doc."""
        self.seen = dtypes(x, *rest)
        return self.fc(x) * scale

    @auto_fp16(apply_to=("x",), out_fp32=True)
    def chosen(self, x, y):
        self.seen = dtypes(x, y)
        return {"out": [self.fc(x), Pair(x, "text")]}

    @force_fp32(apply_to=("x", "nested"))
    def full(self, x, y=None, nested=()):
        self.seen = dtypes(x, *nested)
        return self.fc(x), y

    @force_fp32(out_fp16=True)
    def back(self, x):
        return x + 1


F32, F16 = torch.float32, torch.float16


def test_nothing_changes_while_fp16_is_off():
    net, x = Net(), torch.randn(2, 4)
    assert net.plain(x).dtype == F32
    assert net.seen == [F32]
    assert net.full(x.half().float())[0].dtype == F32
    assert net.back(x.half()).dtype == F16
    assert Net.plain.__name__ == "plain"
    assert Net.plain.__doc__ == "Doc."


def test_auto_fp16():
    net, x = Net(), torch.randn(2, 4)
    net.fp16_enabled = True
    out = net.plain(x, x, scale=2)
    assert net.seen == [F16, F32]  # arguments without a name of their own are not cast
    assert out.dtype == F16
    with torch.autocast("cpu", dtype=F16):
        expected = net.fc(x.half()) * 2
    assert torch.equal(out, expected)

    out = net.chosen(y=x, x=x)
    assert net.seen == [F16, F32]
    assert dtypes(out["out"][0], out["out"][1].a) == [F32, F32]
    assert out["out"][1].b == "text"
    assert isinstance(out["out"][1], Pair)


def test_other_dtypes_are_not_cast():
    class Index(nn.Module):
        fp16_enabled = True

        @auto_fp16()
        def forward(self, x):
            return x

    assert Index()(torch.arange(3)).dtype == torch.int64
    assert Index()(torch.ones(3, dtype=torch.float64)).dtype == torch.float64


def test_force_fp32():
    net, x = Net(), torch.randn(2, 4).half()
    net.fp16_enabled = True
    with torch.autocast("cpu", dtype=F16):
        out, y = net.full(x, x, nested=[x, x])
    assert net.seen == [F32, F32, F32]
    assert dtypes(out, y) == [F32, F16]
    assert torch.equal(out, net.fc(x.float()))
    assert net.back(x).dtype == F16


def test_only_methods_of_supported_types():
    class NotAModule:
        @auto_fp16()
        def forward(self, x):
            return x

    with pytest.raises(TypeError, match="methods of Module, not of NotAModule"):
        NotAModule().forward(torch.ones(1))

    class Allowed:
        fp16_enabled = True

        @auto_fp16(supported_types=(nn.Module, object))
        def forward(self, x):
            return x

    assert Allowed().forward(torch.ones(1)).dtype == F16
