"""Custom operators that cost what they compute: called directly where nothing traces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .dispatch import tracing

__all__ = ["Operator", "operator"]

#: Classes without a ``__torch_dispatch__`` of their own; others go through the dispatcher.
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
#: What a call without lists may be made of.
_FLAT = _PLAIN | {type(None), bool, int, float, str, torch.dtype}
_grad_enabled = torch.is_grad_enabled


class Operator:
    """An operator of ``torch.library`` whose body is called directly where nothing traces.

    The dispatcher and the autograd of nested custom operators take longer than most launches. So
    a compiler, a dispatch mode, a transform of ``torch.func`` and a tensor subclass meet the
    custom operator; a plain call is the body itself, or where a gradient is asked for, one
    :class:`torch.autograd.Function` around it. Both run the same functions.

    ``register_fake`` and ``register_autograd`` are those of ``torch.library``, lists of tensors
    among the arguments too (a list of tensors as a result goes through the dispatcher where a
    gradient is asked for). Operators that write to an argument are none of these: nobody would
    count the write.
    """

    def __init__(self, name: str, schema: str, body: Callable[..., Any]) -> None:
        self._name, self._body, self._schema = name, body, schema
        types = schema.partition(") ->")[0].split(",")
        self._tensors = tuple(i for i, kind in enumerate(types) if "Tensor" in kind)
        self._lists = any("Tensor[" in kind for kind in types)
        self.traced = torch.library.custom_op(f"fastdet::{name}", body, mutates_args=(),
                                               schema=schema)
        self._apply: Callable[..., Any] | None = None
        self.register_fake = self.traced.register_fake

    def register_autograd(self, backward: Callable[..., Any], *,
                          setup_context: Callable[..., None], results: int | None = None) -> None:
        """Make it differentiable; twice where what ``backward`` calls is.

        Args:
            backward: ``(ctx, *grads)`` to a gradient or ``None`` for each argument.
            setup_context: ``(ctx, inputs, output)``, saves what ``backward`` needs.
            results: so many of several results, the first, are for the caller, who gets the others
                or not: they are for ``backward``, to which their gradients come or not. What
                autograd does not hear of costs nothing.
        """
        self.traced.register_autograd(backward, setup_context=setup_context)
        if "[]" not in self._schema.rpartition("->")[2]:
            function = (_list_function if self._lists else _function)(
                self._name, self._body, backward, setup_context, results)
            # Function.apply looks for transforms of torch.func first, which tracing() did.
            self._apply = super(Function, function).apply  # type: ignore[misc]

    def __call__(self, *args: Any) -> Any:
        if tracing():
            return self.traced(*args)
        if not _FLAT.issuperset(map(type, args)):
            return self._unusual(args)
        if _grad_enabled():
            for i in self._tensors:
                arg = args[i]
                if arg is not None and arg.requires_grad:
                    # Without a gradient the dispatcher says so.
                    return (self._apply or self.traced)(*args)
        return self._body(*args)

    def _unusual(self, args: tuple[Any, ...]) -> Any:
        """A call with lists, or classes that are not known here."""
        tensors = [one for i in self._tensors if args[i] is not None for one in
                   (args[i] if isinstance(args[i], (list, tuple)) else args[i:i + 1])]
        if not _PLAIN.issuperset(map(type, tensors)):
            return self.traced(*args)
        if not (_grad_enabled() and any(t.requires_grad for t in tensors)):
            return self._body(*args)
        if self._apply is None:
            return self.traced(*args)
        if not self._lists:
            return self._apply(*args)
        sizes = [len(arg) if i in self._tensors and isinstance(arg, (list, tuple)) else _ALONE
                 for i, arg in enumerate(args)]
        return self._apply(sizes, *_flat(args, sizes))


#: How many tensors each argument is a list of, or :data:`_ALONE` where it is none.
_Sizes = list[int]
_ALONE = -1


def _flat(args: Iterable[Any], sizes: _Sizes) -> list[Any]:
    """The tensors of lists one by one: :class:`torch.autograd.Function` sees no others."""
    return [value for arg, size in zip(args, sizes, strict=True)
            for value in ((arg,) if size == _ALONE else arg)]


def _nest(flat: Iterable[Any], sizes: _Sizes) -> tuple[Any, ...]:
    values = iter(flat)
    return tuple(next(values) if size == _ALONE else [next(values) for _ in range(size)]
                 for size in sizes)


def _function(name: str, body: Callable[..., Any], backward: Callable[..., Any],
              setup_context: Callable[..., None], results: int | None) -> type[Function]:
    """``body`` with its gradient."""
    def forward(ctx: Any, *args: Any) -> Any:
        output = body(*args)
        setup_context(ctx, args, output)
        return output if results is None else output[:results]

    return type(name, (Function,), {
        "forward": staticmethod(forward), "backward": staticmethod(backward)})


def _list_function(name: str, body: Callable[..., Any], backward: Callable[..., Any],
                   setup_context: Callable[..., None], results: int | None) -> type[Function]:
    """The same behind an argument of its own: the sizes of lists."""
    def forward(ctx: Any, sizes: _Sizes, *flat: Any) -> Any:
        ctx.list_sizes, args = sizes, _nest(flat, sizes)
        output = body(*args)
        setup_context(ctx, args, output)
        return output if results is None else output[:results]

    def back(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        needs, sizes = ctx.needs_input_grad, ctx.list_sizes
        ctx.needs_input_grad = _nest(needs[1:], sizes)
        try:
            found = backward(ctx, *grads)
        finally:
            ctx.needs_input_grad = needs
        return None, *_flat((found,) if isinstance(found, Tensor) else found, sizes)

    return type(name, (Function,), {
        "forward": staticmethod(forward), "backward": staticmethod(back)})


def operator(name: str, schema: str) -> Callable[[Callable[..., Any]], Operator]:
    """Register a function as ``fastdet::<name>``.

    The schema is given, not read off the annotations: older torch reads fewer of them.

    Args:
        name: the operator's name.
        schema: arguments and results, as ``(Tensor x, SymInt[] sizes) -> Tensor``.
    """
    return lambda body: Operator(name, schema, body)
