"""Objects from and to files by format, as in ``mmcv.fileio.io``."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO, Any

from ..utils.misc import is_list_of
from .file_client import FileClient
from .handlers import BaseFileHandler, JsonHandler, PickleHandler, YamlHandler

__all__ = ["dump", "file_handlers", "load", "register_handler"]

#: The formats by the ending of a file's name.
file_handlers: dict[str, BaseFileHandler] = {
    "json": JsonHandler(), "yaml": YamlHandler(), "yml": YamlHandler(),
    "pickle": PickleHandler(), "pkl": PickleHandler(),
}


def _handler(file: Any, file_format: str | None) -> BaseFileHandler:
    if file_format is None and isinstance(file, str):
        file_format = file.split(".")[-1]
    if file_format not in file_handlers:
        raise TypeError(f"Unsupported format: {file_format}; supported are "
                        f"{', '.join(file_handlers)}")
    return file_handlers[file_format]


def load(file: str | Path | IO[Any], file_format: str | None = None,
         file_client_args: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """Read JSON, YAML or a pickle, or another format that was registered.

    A pickle runs whatever its author put in: read only those that you trust.

    Args:
        file: a path, a URI or an open file.
        file_format: ``'json'``, ``'yaml'``, ``'pkl'`` …; by the name's ending if not given.
        file_client_args: arguments of :class:`FileClient`; found from the URI's prefix by default.
        kwargs: passed to the format's reader.

    Raises:
        TypeError: the format is unknown, or ``file`` is neither a path nor a file.
        ValueError: the content is damaged; the file is named.
    """
    if isinstance(file, Path):
        file = str(file)
    handler = _handler(file, file_format)
    if isinstance(file, str):
        client = FileClient.infer_client(file_client_args, file)
        buffer: Any = StringIO(client.get_text(file)) if handler.str_like \
            else BytesIO(client.get(file))
        try:
            return handler.load_from_fileobj(buffer, **kwargs)
        except (ValueError, EOFError) as e:
            raise ValueError(f"cannot read {file}: {type(e).__name__}: {e}") from e
    if hasattr(file, "read"):
        return handler.load_from_fileobj(file, **kwargs)
    raise TypeError('"file" must be a filepath str or a file-object')


def dump(obj: Any, file: str | Path | IO[Any] | None = None, file_format: str | None = None,
         file_client_args: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """Write an object, or give it as a string if ``file`` is ``None``.

    Args:
        obj: what to write.
        file: a path, a URI, an open file or ``None``.
        file_format, file_client_args: see :func:`load`.
        kwargs: passed to the format's writer.

    Returns:
        The string (bytes, for a pickle) if ``file`` is ``None``.
    """
    if isinstance(file, Path):
        file = str(file)
    if file is None and file_format is None:
        raise ValueError("file_format must be specified since file is None")
    handler = _handler(file, file_format)
    if file is None:
        return handler.dump_to_str(obj, **kwargs)
    if isinstance(file, str):
        client = FileClient.infer_client(file_client_args, file)
        buffer: Any = StringIO() if handler.str_like else BytesIO()
        handler.dump_to_fileobj(obj, buffer, **kwargs)
        (client.put_text if handler.str_like else client.put)(buffer.getvalue(), file)
        return None
    if hasattr(file, "write"):
        handler.dump_to_fileobj(obj, file, **kwargs)
        return None
    raise TypeError('"file" must be a filename str or a file-object')


def register_handler(file_formats: str | list[str],
                     **kwargs: Any) -> Callable[[type], type]:
    """A decorator: an instance of the class, made with ``kwargs``, serves these formats.

    Raises:
        TypeError: the class is no :class:`BaseFileHandler`, or a format no string.
    """

    def decorate(cls: type) -> type:
        handler = cls(**kwargs)
        formats = [file_formats] if isinstance(file_formats, str) else file_formats
        if not isinstance(handler, BaseFileHandler):
            raise TypeError(f"handler must be a child of BaseFileHandler, not {type(handler)}")
        if not is_list_of(formats, str):
            raise TypeError("file_formats must be a str or a list of str")
        file_handlers.update(dict.fromkeys(formats, handler))
        return cls

    return decorate
