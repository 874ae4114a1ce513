"""Small helpers on sequences, arguments and imports, as in ``mmcv.utils.misc``."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import itertools
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

from fastdet.utils import import_modules_from_strings

__all__ = [
    "check_prerequisites", "concat_list", "deprecated_api_warning", "has_method",
    "import_modules_from_strings", "is_list_of", "is_method_overridden", "is_seq_of", "is_str",
    "is_tuple_of", "iter_cast", "list_cast", "optional_import", "requires_executable",
    "requires_package", "slice_list", "to_1tuple", "to_2tuple", "to_3tuple", "to_4tuple",
    "to_ntuple", "tuple_cast",
]


def _ntuple(n: int) -> Callable[[Any], tuple[Any, ...]]:
    def parse(x: Any) -> tuple[Any, ...]:
        return x if isinstance(x, Iterable) else (x,) * n  # type: ignore[return-value]
    return parse


to_1tuple = _ntuple(1)
to_2tuple = _ntuple(2)
to_3tuple = _ntuple(3)
to_4tuple = _ntuple(4)
to_ntuple = _ntuple


def optional_import(module: str, needed_by: str, package: str | None = None) -> ModuleType:
    """Import a module that only some users need.

    Raises:
        ImportError: it is not installed; the message says who needs which package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise ImportError(f"{needed_by} needs the package {package or module}, "
                          "which is not installed") from e


def is_str(x: Any) -> bool:
    """Whether ``x`` is a string."""
    return isinstance(x, str)


def iter_cast(inputs: Iterable[Any], dst_type: type,
              return_type: Callable[[Iterable[Any]], Any] | None = None) -> Any:
    """``dst_type`` of each element: an iterator, or what ``return_type`` makes of it."""
    if not isinstance(inputs, Iterable):
        raise TypeError(f"inputs must be iterable, got {type(inputs).__name__}")
    if not isinstance(dst_type, type):
        raise TypeError(f"dst_type must be a type, got {dst_type!r}")
    cast = map(dst_type, inputs)
    return cast if return_type is None else return_type(cast)


def list_cast(inputs: Iterable[Any], dst_type: type) -> list[Any]:
    """``dst_type`` of each element, as a list."""
    return iter_cast(inputs, dst_type, return_type=list)


def tuple_cast(inputs: Iterable[Any], dst_type: type) -> tuple[Any, ...]:
    """``dst_type`` of each element, as a tuple."""
    return iter_cast(inputs, dst_type, return_type=tuple)


def is_seq_of(seq: Any, expected_type: type | tuple[type, ...],
              seq_type: type | None = None) -> bool:
    """Whether ``seq`` is a sequence (a ``seq_type``) whose elements all are ``expected_type``."""
    kind: Any = Sequence if seq_type is None else seq_type
    if not isinstance(seq, kind):
        return False
    return all(isinstance(item, expected_type) for item in seq)


def is_list_of(seq: Any, expected_type: type | tuple[type, ...]) -> bool:
    """Whether ``seq`` is a list whose elements all are ``expected_type``."""
    return is_seq_of(seq, expected_type, seq_type=list)


def is_tuple_of(seq: Any, expected_type: type | tuple[type, ...]) -> bool:
    """Whether ``seq`` is a tuple whose elements all are ``expected_type``."""
    return is_seq_of(seq, expected_type, seq_type=tuple)


def slice_list(in_list: list[Any], lens: int | list[int]) -> list[list[Any]]:
    """Cut a list (or an array) into parts of these lengths; an int is the length of every part.

    Raises:
        ValueError: the lengths do not add up to the list's.
    """
    if isinstance(lens, int):
        if len(in_list) % lens:
            raise ValueError(f"a list of {len(in_list)} cannot be cut into parts of {lens}")
        lens = [lens] * (len(in_list) // lens)
    if not isinstance(lens, list):
        raise TypeError('"indices" must be an integer or a list of integers')
    if sum(lens) != len(in_list):
        raise ValueError("sum of lens and list length does not match: "
                         f"{sum(lens)} != {len(in_list)}")
    ends = list(itertools.accumulate(lens))
    return [in_list[end - n:end] for n, end in zip(lens, ends)]


def concat_list(in_list: Iterable[Iterable[Any]]) -> list[Any]:
    """The elements of all the lists in one list."""
    return list(itertools.chain(*in_list))


def check_prerequisites(
    prerequisites: str | list[str], checker: Callable[[str], bool],
    msg_tmpl: str = 'Prerequisites "{}" are required in method "{}" but not found, please '
                    "install them first.",
) -> Callable[..., Any]:
    """A decorator: raise RuntimeError on a call while ``checker`` misses a prerequisite."""
    names: list[str] = [prerequisites] if isinstance(prerequisites, str) else prerequisites

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if missing := [name for name in names if not checker(name)]:
                raise RuntimeError(msg_tmpl.format(", ".join(missing), func.__name__))
            return func(*args, **kwargs)
        return wrapped

    return decorate


def requires_package(prerequisites: str | list[str]) -> Callable[..., Any]:
    """A decorator: the function needs these Python packages."""
    return check_prerequisites(prerequisites, _is_importable)


def requires_executable(prerequisites: str | list[str]) -> Callable[..., Any]:
    """A decorator: the function needs these programs on the path."""
    return check_prerequisites(prerequisites, lambda name: shutil.which(name) is not None)


def _is_importable(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def deprecated_api_warning(name_dict: dict[str, str],
                           cls_name: str | None = None) -> Callable[..., Any]:
    """A decorator: accept keyword arguments under their old names, with a warning.

    Args:
        name_dict: new name by old name.
        cls_name: class of the function, for the warning.

    Raises:
        AssertionError: (when called) an argument is given under both names.
    """

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        known = inspect.getfullargspec(func)
        shown = func.__name__ if cls_name is None else f"{cls_name}.{func.__name__}"

        @functools.wraps(func)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            given = set(known.args[:len(args)]) | set(kwargs)
            for old, new in name_dict.items():
                if old not in given:
                    continue
                if old in kwargs:
                    if new in given:
                        raise AssertionError(f"{shown} was given both {old!r}, which is "
                                             f"deprecated, and {new!r}; give {new!r} alone")
                    kwargs[new] = kwargs.pop(old)
                warnings.warn(f"{old!r} is deprecated in {shown}, please use {new!r} instead",
                              DeprecationWarning, stacklevel=2)
            return func(*args, **kwargs)

        return wrapped

    return decorate


def is_method_overridden(method: str, base_class: type, derived_class: Any) -> bool:
    """Whether a class, or an instance's class, has its own form of a method of ``base_class``."""
    if not isinstance(base_class, type):
        raise AssertionError("base_class doesn't accept instance, Please pass class instead.")
    if not isinstance(derived_class, type):
        derived_class = type(derived_class)
    return getattr(derived_class, method) != getattr(base_class, method)


def has_method(obj: object, method: str) -> bool:
    """Whether ``obj`` has a callable attribute of that name."""
    return callable(getattr(obj, method, None))
