"""How many forms of each kernel sixty image sizes need, each a compilation that training waits for.

    python -m benchmarks.specialisations [--operators carafe]

Triton compiles a kernel anew for an argument of another type, or that is 1 or a multiple of 16
where it was not. Every operator is called as images of a multi-scale training change, in front of a
GPU that is not there (:mod:`benchmarks.stub`), which counts what Triton asks to be compiled.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from .entry import DTYPES, Entry, Shape, flatten
from .host import host
from .registry import ENTRIES

__all__ = ["SIZES", "forms", "resized", "sized"]

#: What the shapes of the table are for.
HEIGHT, WIDTH = 800, 1344


def _sizes(count: int) -> list[tuple[int, int]]:
    """Distinct padded sizes: a short side of 480 to 800, a long one of at most 1333 pixels."""
    draw, found = random.Random(0), dict[tuple[int, int], None]()
    while len(found) < count:
        short, ratio = draw.choice(range(480, 801, 32)), draw.uniform(0.5, 2.0)
        h, w = (short, short * ratio) if ratio > 1 else (short / ratio, short)
        fit = min(1.0, 1333 / max(h, w))
        found[-(-int(h * fit) // 32) * 32, -(-int(w * fit) // 32) * 32] = None
    return list(found)


SIZES = _sizes(60)


def _map(h: int, w: int, image: tuple[int, int]) -> tuple[int, int]:
    """A map of a pyramid, of another image."""
    stride = round(HEIGHT / h)
    return -(-image[0] // stride), -(-image[1] // stride)


def resized(shape: Shape, image: tuple[int, int]) -> dict[str, Any]:
    """The arguments of a named shape for one image of another size."""
    new = {**shape, "B": 1} if "B" in shape else dict(shape)
    if "H" in shape:
        new["H"], new["W"] = _map(shape["H"], shape["W"], image)
    if "sizes" in shape:
        new["sizes"] = [_map(h, w, image) for h, w in shape["sizes"]]
    for tokens in {"queries", "keys"} & ({"keys"} & shape.keys() and shape.keys()):
        stride = round((HEIGHT * WIDTH / shape[tokens])**0.5)
        new[tokens] = (image[0] // stride) * (image[1] // stride)
    return new


def sized(entry: Entry) -> bool:
    """Whether an entry's first shape changes with the image."""
    return entry.kind == "operator" and bool({"H", "sizes", "keys"} & next(
        iter(entry.shapes.values())).keys())


@contextmanager
def _unfilled() -> Iterator[None]:
    """Random numbers are whatever lies in memory: nobody reads them."""
    def empty(*args: Any, generator: Any = None, **kwargs: Any) -> torch.Tensor:
        return torch.empty(*args, **kwargs)

    with mock.patch.object(torch, "randn", empty), mock.patch.object(torch, "rand", empty):
        yield


def forms(entry: Entry) -> Mapping[str, int]:
    """How many forms of each kernel Triton compiles over :data:`SIZES`, forward and backward."""
    shape = next(iter(entry.shapes.values()))
    dtype = DTYPES["bf16" if "bf16" in entry.dtypes else entry.dtypes[0]]
    run = entry.providers["fastdet"].run
    with host() as stub, _unfilled():
        for image in SIZES:
            inputs = entry.make(dtype=dtype, device=torch.device("cpu"), **resized(shape, image))
            outputs = flatten(run(inputs))
            if entry.trains:
                outputs = [out for out in outputs if out.requires_grad]
                torch.autograd.backward(outputs, [torch.empty_like(out) for out in outputs])
        return Counter(each.source.fn.__name__ for each in stub.compiled)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    known = [name for name, entry in ENTRIES.items() if sized(entry)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.specialisations",
                                     description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--operators", nargs="+", choices=known, default=known, metavar="NAME")
    for name in parser.parse_args(argv).operators:
        for kernel, count in forms(ENTRIES[name]).items():
            print(f"{name:36}{kernel:56}{count:3}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
