"""Custom operators that cost what they compute: called directly where nothing traces."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .dispatch import tracing

__all__ = ["Operator", "operator"]

#: Classes without a ``__torch_dispatch__`` of their own; others go through the dispatcher.
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_PLAIN_OR_NONE = _PLAIN | {type(None)}
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

    What the forward pass makes for the backward pass alone (``saved``) is a result to
    ``setup_context`` and to the dispatcher, which knows of no other way; callers do not see it,
    and a plain call does not make it a result of its :class:`torch.autograd.Function` either.
    """

    def __init__(self, name: str, schema: str, body: Callable[..., Any], saved: int = 0) -> None:
        self._name, self._body, self._schema = name, body, schema
        types = schema.partition(") ->")[0].split(",")
        self._tensors = tuple(i for i, kind in enumerate(types) if "Tensor" in kind)
        # The first twice, since one index alone gives no tuple.
        self._pick: Callable[..., tuple[Any, ...]] = itemgetter(
            *self._tensors, self._tensors[0]) if self._tensors else lambda args: ()
        self._lists = any("Tensor[" in kind for kind in types)
        self._shown = -saved or None
        self.traced = torch.library.custom_op(f"fastdet::{name}", body, mutates_args=(),
                                               schema=schema)
        self._apply: Callable[..., Any] | None = None
        self.register_fake = self.traced.register_fake

    def register_autograd(self, backward: Callable[..., Any], *,
                          setup_context: Callable[..., None]) -> None:
        """Make it differentiable; twice where what ``backward`` calls is.

        Args:
            backward: ``(ctx, *grads)`` to a gradient or ``None`` for each argument.
            setup_context: ``(ctx, inputs, output)``, saves what ``backward`` needs.
        """
        self.traced.register_autograd(backward, setup_context=setup_context)
        if "[]" not in self._schema.rpartition("->")[2]:
            function = _function(self._name, self._body, backward, setup_context, self._shown,
                                 self._lists)
            # Function.apply looks for transforms of torch.func first, which tracing() did.
            self._apply = super(Function, function).apply  # type: ignore[misc]

    def __call__(self, *args: Any) -> Any:
        if tracing():
            return _first(self.traced(*args), self._shown)
        tensors = self._pick(args)
        if not _PLAIN_OR_NONE.issuperset(map(type, tensors)):
            return self._unusual(args)
        if _grad_enabled():
            for tensor in tensors:
                if tensor is not None and tensor.requires_grad:
                    return self._with_gradient(args, [])
        return _first(self._body(*args), self._shown)

    def _unusual(self, args: tuple[Any, ...]) -> Any:
        """A call with lists of tensors, or with classes that are not known here."""
        lists: _Lists = []
        tensors: list[Any] = []
        for i in self._tensors:
            arg = args[i]
            if isinstance(arg, (list, tuple)):
                lists.append((i, len(arg)))
                tensors.extend(arg)
            elif arg is not None:
                tensors.append(arg)
        if not _PLAIN.issuperset(map(type, tensors)):
            return _first(self.traced(*args), self._shown)
        if _grad_enabled() and any(t.requires_grad for t in tensors):
            return self._with_gradient(args, lists)
        return _first(self._body(*args), self._shown)

    def _with_gradient(self, args: tuple[Any, ...], lists: _Lists) -> Any:
        if self._apply is None:
            return _first(self.traced(*args), self._shown)  # which says that there is none
        return self._apply(*_flat(args, lists), lists) if self._lists else self._apply(*args)


def _first(results: Any, shown: int | None) -> Any:
    """What a caller sees: all results, or all but the last ``-shown``."""
    if shown is None:
        return results
    return results[0] if len(results) + shown == 1 else results[:shown]


#: Which arguments are lists of tensors, in order, and of how many.
_Lists = list[tuple[int, int]]


def _flat(args: tuple[Any, ...], lists: _Lists) -> list[Any]:
    """The tensors of lists one by one: :class:`torch.autograd.Function` sees no others."""
    flat = list(args)
    for i, _ in reversed(lists):
        flat[i:i + 1] = args[i]
    return flat


def _nest(flat: tuple[Any, ...], lists: _Lists) -> tuple[Any, ...]:
    args = list(flat)
    for i, size in lists:
        args[i:i + size] = [args[i:i + size]]
    return tuple(args)


def _function(name: str, body: Callable[..., Any], backward: Callable[..., Any],
              setup_context: Callable[..., None], shown: int | None, lists: bool
              ) -> type[Function]:
    """``body`` with its gradient; one of lists takes them flat, and after all else which they are.
    """
    def forward(ctx: Any, *args: Any) -> Any:
        output = body(*args)
        setup_context(ctx, args, output)
        if shown is None:
            return output
        for tensor in output[shown:]:
            # As a result it would: a second derivative is refused by what requires a gradient.
            tensor.requires_grad_(tensor.is_floating_point())
        return _first(output, shown)

    def forward_of_lists(ctx: Any, *flat: Any) -> Any:
        ctx.lists = flat[-1]
        return forward(ctx, *_nest(flat[:-1], ctx.lists))

    def back_to_lists(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad
        ctx.needs_input_grad = _nest(needs[:-1], ctx.lists)
        try:
            found = backward(ctx, *grads)
        finally:
            ctx.needs_input_grad = needs
        return (*_flat((found,) if isinstance(found, Tensor) else found, ctx.lists), None)

    return type(name, (Function,), {
        "forward": staticmethod(forward_of_lists if lists else forward),
        "backward": staticmethod(back_to_lists if lists else backward)})


def operator(name: str, schema: str, saved: int = 0
             ) -> Callable[[Callable[..., Any]], Operator]:
    """Register a function as ``fastdet::<name>``.

    The schema is given, not read off the annotations: older torch reads fewer of them.

    Args:
        name: the operator's name.
        schema: arguments and results, as ``(Tensor x, SymInt[] sizes) -> Tensor``.
        saved: how many of the results, the last ones, are for the backward pass alone.
    """
    return lambda body: Operator(name, schema, body, saved)
