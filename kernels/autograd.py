"""Custom operators that cost what they compute: called directly where nothing traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .dispatch import tracing

__all__ = ["Operator", "operator"]

#: Classes without a ``__torch_dispatch__`` of their own; others go through the dispatcher.
_PLAIN = (Tensor, torch.nn.Parameter)


class Operator:
    """An operator of ``torch.library`` whose body is called directly where nothing traces.

    The dispatcher and the autograd of nested custom operators take longer than most launches. So
    a compiler, a dispatch mode, a transform of ``torch.func`` and a tensor subclass meet the
    custom operator; a plain call is the body itself, or where a gradient is asked for, one
    :class:`torch.autograd.Function` around it. Both run the same functions.

    ``register_fake`` and ``register_autograd`` are those of ``torch.library``. Operators that
    write to an argument are none of these: nobody would count the write.
    """

    def __init__(self, name: str, schema: str, body: Callable[..., Any]) -> None:
        self._name, self._body = name, body
        self.traced = torch.library.custom_op(f"fastdet::{name}", body, mutates_args=(),
                                               schema=schema)
        self._function: type[Function] | None = None
        self.register_fake = self.traced.register_fake

    def register_autograd(self, backward: Callable[..., Any], *,
                          setup_context: Callable[..., None]) -> None:
        """Make it differentiable; twice where what ``backward`` calls is.

        Args:
            backward: ``(ctx, *grads)`` to a gradient or ``None`` for each argument.
            setup_context: ``(ctx, inputs, output)``, saves what ``backward`` needs.
        """
        self.traced.register_autograd(backward, setup_context=setup_context)
        body = self._body

        def forward(ctx: Any, *args: Any) -> Any:
            output = body(*args)
            setup_context(ctx, args, output)
            return output

        self._function = type(self._name, (Function,), {
            "forward": staticmethod(forward), "backward": staticmethod(backward)})

    def __call__(self, *args: Any) -> Any:
        if tracing():
            return self.traced(*args)
        grad = False
        for arg in args:
            if isinstance(arg, Tensor):
                if type(arg) not in _PLAIN:
                    return self.traced(*args)
                grad |= arg.requires_grad
            elif isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor):
                return self.traced(*args)  # an autograd.Function would not see those
        if grad and torch.is_grad_enabled():
            if self._function is None:
                return self.traced(*args)  # which says that there is no gradient
            return self._function.apply(*args)
        return self._body(*args)


def operator(name: str, schema: str) -> Callable[[Callable[..., Any]], Operator]:
    """Register a function as ``fastdet::<name>``.

    The schema is given, not read off the annotations: older torch reads fewer of them.

    Args:
        name: the operator's name.
        schema: arguments and results, as ``(Tensor x, SymInt[] sizes) -> Tensor``.
    """
    return lambda body: Operator(name, schema, body)
