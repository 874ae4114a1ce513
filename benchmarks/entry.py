"""What an entry of the table is: inputs, who computes it, how much work it is.

Every file of a folder of the table declares one :class:`Entry` named ``ENTRY``, made of the pieces
of this module.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import fastdet

__all__ = ["DTYPES", "KINDS", "MODES", "Entry", "Inputs", "Provider", "Shape", "Work",
           "against_reference", "by_reference", "differentiate", "flatten", "leaves", "normal",
           "upcast"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

#: Kinds of entries, each with its folder.
KINDS = {"operator": "operators", "component": "components", "detector": "detectors",
         "model": "models"}

Inputs = dict[str, Any]
Shape = Mapping[str, Any]


@contextmanager
def _tf32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    try:
        yield
    finally:
        matmul.allow_tf32 = before


@contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


#: Settings of torch that choose other kernels, by what a case of the ledger appends to its type.
MODES: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "": nullcontext, "tf32": _tf32, "deterministic": _deterministic}


def unchanged(inputs: Inputs) -> Inputs:
    """The inputs as ``make`` made them."""
    return inputs


@dataclass(frozen=True)
class Provider:
    """One way to compute an entry.

    Attributes:
        run: inputs to a tensor, or nested lists of tensors.
        prepare: the inputs as this provider wants them, once and untimed; a copy of a module
            shares the parameters.
        context: what has to be in force around every call.
        compiled: run it through ``torch.compile``.
        capturable: whether a CUDA graph can hold it (no copy from pageable memory, no sync).
    """

    run: Callable[[Inputs], Any]
    prepare: Callable[[Inputs], Inputs] = unchanged
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    compiled: bool = False
    capturable: bool = True


@dataclass(frozen=True)
class Work:
    """The fewest bytes an algorithm must move and the operations it must do."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class Entry:
    """One operator, component, detector, or model of another package.

    Attributes:
        name: the entry's name, and its file's.
        shapes: named real shapes, each the keyword arguments of ``make``.
        tiny: a shape for a CPU and a second.
        make: ``make(dtype=, device=, **shape)``, everything the providers need. Components take
            half types as autocast.
        providers: who computes it; ``'eager'`` is MMDetection's algorithm and the yardstick,
            ``'fastdet'`` is ours.
        kind: one of :data:`KINDS`.
        cpu: real shapes at a size that a CPU can do, which is measured there.
        dtypes: names from :data:`DTYPES`.
        trains: whether it has gradients.
        exact: whether fastdet's results must equal eager's bit for bit.
        work: ``work(dtype=, backward=, **shape)``, for the roofline; ``None`` where not counted.
        kernels: prefixes of the kernels that fastdet must launch on a GPU.
        ledger: cases ``'shape/dtype'`` or ``'shape/dtype+mode'`` (of :data:`MODES`) that the ledger
            compiles.
        compiled: shapes that nobody measures, for cases of ``ledger``.
        exceptions: ``{(kernel, 'f64' | 'spills'): reason}`` that the ledger grants.
        folder: the operator's folder below ``kernels/``, where it is not ``name``.
        absent: peers that cannot run here, and why.
    """

    name: str
    shapes: Mapping[str, Shape]
    tiny: Shape
    make: Callable[..., Inputs]
    providers: Mapping[str, Provider]
    kind: str = "operator"
    cpu: Mapping[str, Shape] = field(default_factory=dict)
    dtypes: Sequence[str] = ("fp32", "fp16", "bf16")
    trains: bool = True
    exact: bool = False
    work: Callable[..., Work] | None = None
    kernels: Sequence[str] = ()
    ledger: Sequence[str] = ()
    compiled: Mapping[str, Shape] = field(default_factory=dict)
    exceptions: Mapping[tuple[str, str], str] = field(default_factory=dict)
    folder: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def operator(self) -> str:
        """The operator's folder, whose ledger the entry belongs to."""
        return self.folder or self.name

    def case(self, case: str
             ) -> tuple[Shape, torch.dtype, Callable[[], AbstractContextManager[Any]]]:
        """What a case of ``ledger`` names: its shape, its data type, and the settings around it."""
        shape, _, dtype = case.rpartition("/")
        dtype, _, mode = dtype.partition("+")
        return {**self.compiled, **self.shapes}[shape], DTYPES[dtype], MODES[mode]

    def sizes(self, shape: str) -> Shape:
        """The shape of that name: ``'tiny'``, one of ``cpu`` or one of ``shapes``."""
        return {"tiny": self.tiny, **self.cpu, **self.shapes}[shape]


def by_reference() -> AbstractContextManager[Any]:
    """Every operator by its reference, where that is MMDetection's algorithm."""
    return fastdet.backend("torch")


def against_reference(run: Callable[[Inputs], Any]) -> dict[str, Provider]:
    """fastdet beside its own reference, eager and compiled."""
    return {"eager": Provider(run, context=by_reference),
            "compile": Provider(run, context=by_reference, compiled=True),
            "fastdet": Provider(run)}


def normal(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Standard normal values that want a gradient."""
    return torch.randn(*shape, dtype=dtype, device=device).requires_grad_()


def flatten(result: Any) -> list[Tensor]:
    """Every tensor of nested lists and tuples, in order."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in flatten(part)]


def leaves(inputs: Inputs) -> dict[str, Tensor]:
    """What gradients are taken for: inputs that require them, and parameters of modules."""
    found: dict[str, Tensor] = {}
    for name, value in inputs.items():
        if isinstance(value, nn.Module):
            found.update((f"{name}.{k}", p) for k, p in value.named_parameters()
                         if p.requires_grad)
        elif isinstance(value, Tensor) and value.requires_grad:
            found[name] = value
    return found


def differentiate(run: Callable[[Inputs], Any], inputs: Inputs) -> list[Tensor | None]:
    """Forward and backward of ``run``: the gradients of :func:`leaves`.

    The cotangents are drawn at the first call and kept in ``inputs``, in a list that prepared
    copies share, so that every provider, and the truth in float64, sees the same ones.
    """
    outputs = flatten(run(inputs))
    cotangents = inputs.setdefault("cotangents", [])
    if not cotangents:
        cotangents += [torch.randn_like(out) for out in outputs]
    pull = [c.to(out.dtype) for c, out in zip(cotangents, outputs)]
    return list(torch.autograd.grad(outputs, list(leaves(inputs).values()), pull,
                                    allow_unused=True))


def upcast(inputs: Inputs) -> Inputs:
    """The same inputs in float64, autocast off."""
    def up(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().double().requires_grad_(value.requires_grad)
        if isinstance(value, nn.Module):
            return copy.deepcopy(value).double()
        if isinstance(value, list):
            return [up(v) for v in value]
        return value

    return {name: None if name == "amp" else up(value) for name, value in inputs.items()}
