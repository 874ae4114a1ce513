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
            function = _function(self._name, self._body, backward, setup_context)
            # Function.apply looks for transforms of torch.func first, which tracing() did.
            self._apply = super(Function, function).apply  # type: ignore[misc]

    def __call__(self, *args: Any) -> Any:
        if tracing():
            return self.traced(*args)
        grad = lists = False
        for i in self._tensors:
            arg = args[i]
            if arg is None:
                continue
            if type(arg) in _PLAIN:
                grad = grad or arg.requires_grad
            elif isinstance(arg, (list, tuple)):
                lists = True
                for one in arg:
                    if type(one) not in _PLAIN:
                        return self.traced(*args)
                    grad = grad or one.requires_grad
            else:
                return self.traced(*args)
        if not (grad and torch.is_grad_enabled()):
            return self._body(*args)
        if self._apply is None:
            return self.traced(*args)  # which says that there is no gradient
        if not lists:
            return self._apply(None, *args)
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
              setup_context: Callable[..., None]) -> type[Function]:
    """``body`` with its gradient, behind an argument of its own: the sizes of lists, if any."""
    def forward(ctx: Any, sizes: _Sizes | None, *flat: Any) -> Any:
        ctx.list_sizes, args = sizes, flat if sizes is None else _nest(flat, sizes)
        output = body(*args)
        setup_context(ctx, args, output)
        return output

    def back(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        needs, sizes = ctx.needs_input_grad, ctx.list_sizes
        ctx.needs_input_grad = needs[1:] if sizes is None else _nest(needs[1:], sizes)
        try:
            found = backward(ctx, *grads)
        finally:
            ctx.needs_input_grad = needs
        if isinstance(found, Tensor):
            return None, found
        if sizes is None:
            return None, *found
        return None, *_flat(found, sizes)

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
