"""Launches without Triton's binder: the one place that knows private names of Triton.

``kernel[grid](*args, **options)`` binds arguments to names, makes a string of them and looks the
compiled kernel up, which costs more than many kernels take. :func:`bound_launch` asks the same
function of Triton's what an argument is specialised on (its type, alignment, whether it is 1 …) and
goes from there to the compiled kernel, and to the same call of it. It steps aside for
``kernel[grid]`` where

* this version of Triton launches in any other way than those that are known (3.6 to 3.9 are; the
  specialisation of 3.5 and before is Python and gains nothing),
* a specialisation is new: Triton compiles it, and is asked whether its own binder sees the
  arguments as this module does,
* somebody watches or changes launches: hooks of the kernel or of ``triton.knobs``, debugging,
  instrumentation, another ``JITFunction.run``, another driver, a kernel that is not a plain
  ``JITFunction``.
"""

from __future__ import annotations

from functools import cache
from itertools import repeat
from typing import Any

__all__ = ["Forms", "Repeated", "bound_launch"]

#: All that ``JITFunction.run`` reads and calls, 3.6 to 3.9. A version that looks at anything else
#: may choose a kernel by it, and is left alone.
_KNOWN = frozenset((
    "RuntimeError", "_do_compile", "_pack_args", "active", "add_stages_inspection_hook", "append",
    "callable", "compilation", "compute_cache_key", "debug", "device_caches", "driver",
    "fpsan_homomorphic_casts", "function", "get", "get_current_device", "get_current_stream",
    "hasattr", "instrumentation_mode", "items", "knobs", "launch_enter_hook", "launch_exit_hook",
    "launch_metadata", "len", "object", "packed_metadata", "pre_run_hooks", "result", "run",
    "runtime", "used_global_vals", "values"))
#: And what it must read to launch as :meth:`_Bound.launch` does.
_NEEDED = frozenset((
    "active", "compute_cache_key", "device_caches", "driver", "function", "get_current_device",
    "get_current_stream", "launch_enter_hook", "launch_exit_hook", "launch_metadata",
    "packed_metadata", "pre_run_hooks", "run", "used_global_vals", "values"))


class _Triton:
    """What is used of the installed Triton."""

    def __init__(self, jit: Any, run: Any, driver: Any, knobs: Any, specialize: Any) -> None:
        self.jit, self.run, self.driver, self.specialize = jit, run, driver, specialize
        self.runtime, self.compilation = knobs.runtime, knobs.compilation
        # Read from the environment each time where it exists, as Triton does.
        self.casts = hasattr(knobs.compilation, "fpsan_homomorphic_casts")

    def plain(self, kernel: Any) -> bool:
        """Whether nobody wants to see launches of ``kernel``, or others than the usual ones."""
        runtime, compilation = self.runtime, self.compilation
        enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
        return not (
            self.jit.run is not self.run or kernel.pre_run_hooks or kernel.debug or runtime.debug
            or runtime.add_stages_inspection_hook is not None
            or compilation.instrumentation_mode
            or (self.casts and compilation.fpsan_homomorphic_casts)
            # A hook, or a chain of them that may be empty.
            or (enter is not None and getattr(enter, "calls", True))
            or (leave is not None and getattr(leave, "calls", True)))


@cache
def _triton() -> _Triton | None:
    """The installed Triton, or ``None`` where it launches in a way that is not known here."""
    try:
        from triton import knobs
        from triton._C.libtriton import native_specialize_impl
        from triton.runtime import driver
        from triton.runtime.jit import JITFunction
    except ImportError:
        return None
    code = getattr(JITFunction.run, "__code__", None)
    if code is None or not _NEEDED <= set(code.co_names) <= _KNOWN:
        return None
    return _Triton(JITFunction, JITFunction.run, driver, knobs, native_specialize_impl)


class _Bound:
    """A kernel with its constants and options on a device: its compiled forms."""

    def __init__(self, triton: _Triton, kernel: Any, device: int, options: dict[str, Any]) -> None:
        self.kernel, self.device, self.options = kernel, device, options
        self.caches = kernel.device_caches[device]
        self.specialize, self.driver = triton.specialize, triton.driver.active
        backend, self.binder = self.caches[-2:]
        self.backends = repeat(backend)
        params = kernel.params
        self.count = sum(not p.is_constexpr for p in params)
        given, rest = params[:self.count], params[self.count:]
        self.usable = not any(p.is_constexpr or p.annotation_type for p in given) and all(
            p.name in options for p in rest)
        self.constants = tuple(options.get(p.name) for p in rest)
        self.const = tuple(p.is_const for p in given)
        self.specialized = tuple(not p.do_not_specialize for p in given)
        self.aligned = tuple(not p.do_not_specialize_on_alignment for p in given)
        self.globals: tuple[tuple[str, Any, dict[str, Any]], ...] = ()
        self.compiled: dict[_Key, Any] = {}

    def key(self, args: tuple[Any, ...]) -> _Key:
        """What the first arguments, or all of them, are specialised on."""
        return tuple(map(self.specialize, self.backends, args, self.const, self.specialized,
                         self.aligned))

    def launch(self, compiled: Any, grid: tuple[int, ...], args: tuple[Any, ...]) -> None:
        """Start what was compiled for such arguments, the constants among them."""
        for name, value, scope in self.globals:
            if scope.get(name) is not value:  # as it was when this was compiled; Triton's error
                self.kernel[grid](*args[:self.count], **self.options)
                return
        x, y, z = (*grid, 1, 1)[:3]
        compiled.run(x, y, z, self.driver.get_current_stream(self.device), compiled.function,
                     compiled.packed_metadata, None, None, None, *args)

    def learn(self, key: _Key, grid: tuple[int, ...], args: tuple[Any, ...]) -> None:
        """Launch through Triton, and remember what it launched if it sees the arguments alike."""
        compiled = self.kernel[grid](*args, **self.options)
        params, specialization, _ = self.binder(*args, **self.options)
        values = (*args, *self.constants)
        alike = (len(params) == len(values)
                 and all(a is b for a, b in zip(params.values(), values))
                 and list(specialization) == [*key, *(("constexpr", c) for c in self.constants)]
                 and any(compiled is known for known in self.caches[0].values())
                 and "result" not in dir(type(compiled)))  # one that is still being compiled
        if alike:
            # Triton keeps copies and has just compared them: the objects themselves are enough.
            self.globals = tuple((name, scope.get(name), scope) for (name, _), (_, scope)
                                 in self.kernel.used_global_vals.items())
            self.compiled[key] = compiled


#: What arguments are specialised on.
_Key = tuple[Any, ...]
#: A kernel with its constants and options by device.
Forms = dict[int, _Bound]
#: By kernel, and names and values of the constants and options. A kernel's number stays its own:
#: the forms keep the kernel.
_known: dict[tuple[Any, ...], Forms] = {}


def _bound(kernel: Any, options: dict[str, Any], forms: Forms) -> _Bound | None:
    """``kernel`` on the current device, or ``None`` where Triton has to launch it."""
    triton = _triton()
    if triton is None or type(kernel) is not triton.jit or not triton.plain(kernel):
        return None
    driver = triton.driver.active
    device = driver.get_current_device()
    bound = forms.get(device)
    if bound is None or bound.driver is not driver or \
            bound.caches is not kernel.device_caches[device]:
        bound = forms[device] = _Bound(triton, kernel, device, options)
    return bound if bound.usable else None


def bound_launch(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...],
                 options: dict[str, Any], forms: Forms | None = None) -> None:
    """``kernel[grid](*args, **options)`` on the current device.

    Args:
        kernel: a ``@triton.jit`` function.
        grid: programs along each axis.
        args: the kernel's run-time arguments in order.
        options: ``constexpr`` arguments and launch options by name.
        forms: what is remembered of this kernel with these options, where the caller keeps it.
    """
    if forms is None:
        forms = _known.setdefault((id(kernel), *options, *options.values()), {})
    bound = _bound(kernel, options, forms)
    if bound is None or len(args) != bound.count:
        kernel[grid](*args, **options)
        return
    key = bound.key(args)
    compiled = bound.compiled.get(key)
    if compiled is None:
        bound.learn(key, grid, args)
    else:
        bound.launch(compiled, grid, args + bound.constants)


class Repeated:
    """``kernel[grid](*tensors, *numbers, **options)``, of which only the tensors change.

    Of the numbers nothing is asked again once such tensors were launched.

    Args:
        kernel: a ``@triton.jit`` function.
        grid: programs along each axis.
        numbers: the last of the kernel's run-time arguments, all behind its tensors.
        options: ``constexpr`` arguments and launch options by name.
        forms: as for :func:`bound_launch`.
    """

    __slots__ = ("_forms", "_known", "_rest", "grid", "kernel", "numbers", "options")

    def __init__(self, kernel: Any, grid: tuple[int, ...], numbers: tuple[Any, ...],
                 options: dict[str, Any], forms: Forms) -> None:
        self.kernel, self.grid, self.numbers = kernel, grid, numbers
        self.options, self._forms = options, forms
        self._known: dict[_Bound, dict[_Key, Any]] = {}
        self._rest = numbers

    def start(self, grid: tuple[int, ...], tensors: tuple[Any, ...]) -> None:
        """Launch on the current device."""
        bound = _bound(self.kernel, self.options, self._forms)
        if bound is None:
            self.kernel[grid](*tensors, *self.numbers, **self.options)
            return
        key, known = bound.key(tensors), self._known.get(bound)
        compiled = None if known is None else known.get(key)
        if compiled is not None:
            bound.launch(compiled, grid, tensors + self._rest)
            return
        args = tensors + self.numbers
        bound_launch(self.kernel, grid, args, self.options, self._forms)
        compiled = bound.compiled.get(bound.key(args))
        if compiled is not None:
            self._known.setdefault(bound, {})[key] = compiled
            self._rest = self.numbers + bound.constants
