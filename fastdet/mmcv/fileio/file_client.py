"""Files on disks and in object stores behind one interface, as in ``mmcv.fileio.file_client``."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from abc import ABCMeta, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

from ..utils.misc import optional_import
from ..utils.path import mkdir_or_exist

__all__ = ["BaseStorageBackend", "CephBackend", "FileClient", "HTTPBackend", "HardDiskBackend",
           "LmdbBackend", "MemcachedBackend", "PetrelBackend"]

PathLike = str | Path


class BaseStorageBackend(metaclass=ABCMeta):
    """What a backend must have: ``get`` (bytes) and ``get_text`` (a string)."""

    _allow_symlink = False

    @property
    def name(self) -> str:
        """The backend's class name."""
        return type(self).__name__

    @property
    def allow_symlink(self) -> bool:
        """Whether files can be linked to."""
        return self._allow_symlink

    @abstractmethod
    def get(self, filepath: Any) -> Any:
        """The bytes of a file."""

    @abstractmethod
    def get_text(self, filepath: Any) -> Any:
        """The text of a file."""


@contextmanager
def _local_copy(content: Any) -> Generator[str, None, None]:
    """The path of a temporary file with this content."""
    handle, path = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
        yield path
    finally:
        os.remove(path)


def _check_listing(list_dir: bool, suffix: str | tuple[str, ...] | None) -> None:
    if list_dir and suffix is not None:
        raise TypeError("`list_dir` should be False when `suffix` is not None")
    if suffix is not None and not isinstance(suffix, str | tuple):
        raise TypeError("`suffix` must be a string or tuple of strings")


class HardDiskBackend(BaseStorageBackend):
    """Local files."""

    _allow_symlink = True

    def get(self, filepath: PathLike) -> bytes:
        """The bytes of a file."""
        with open(filepath, "rb") as f:
            return f.read()

    def get_text(self, filepath: PathLike, encoding: str = "utf-8") -> str:
        """The text of a file."""
        with open(filepath, encoding=encoding) as f:
            return f.read()

    def put(self, obj: bytes, filepath: PathLike) -> None:
        """Write bytes to a file, whole or not at all; its folder is made."""
        self._write(filepath, "wb", obj)

    def put_text(self, obj: str, filepath: PathLike, encoding: str = "utf-8") -> None:
        """Write text to a file, whole or not at all; its folder is made."""
        self._write(filepath, "w", obj, encoding)

    @staticmethod
    def _write(filepath: PathLike, mode: str, obj: Any, encoding: str | None = None) -> None:
        target = os.path.realpath(filepath)  # a link keeps pointing to what it points to
        mkdir_or_exist(os.path.dirname(target))
        if os.path.exists(target) and not os.path.isfile(target):  # a device or a pipe
            with open(target, mode, encoding=encoding) as f:
                f.write(obj)
            return
        partial = f"{target}.{os.getpid()}.partial"
        try:
            with open(partial, mode, encoding=encoding) as f:
                f.write(obj)
            os.replace(partial, target)
        finally:
            if os.path.exists(partial):
                os.remove(partial)

    def remove(self, filepath: PathLike) -> None:
        """Remove a file."""
        os.remove(filepath)

    def exists(self, filepath: PathLike) -> bool:
        """Whether there is a file or folder."""
        return os.path.exists(filepath)

    def isdir(self, filepath: PathLike) -> bool:
        """Whether it is a folder."""
        return os.path.isdir(filepath)

    def isfile(self, filepath: PathLike) -> bool:
        """Whether it is a file."""
        return os.path.isfile(filepath)

    def join_path(self, filepath: PathLike, *filepaths: PathLike) -> str:
        """``os.path.join``."""
        return os.path.join(filepath, *filepaths)

    @contextmanager
    def get_local_path(self, filepath: PathLike) -> Generator[PathLike, None, None]:
        """The path itself, as a context."""
        yield filepath

    def list_dir_or_file(self, dir_path: PathLike, list_dir: bool = True, list_file: bool = True,
                         suffix: str | tuple[str, ...] | None = None,
                         recursive: bool = False) -> Iterator[str]:
        """Paths, relative to ``dir_path``, of what is in it; hidden entries are left out.

        Args:
            dir_path: the folder.
            list_dir: give folders.
            list_file: give files.
            suffix: only files that end so; then ``list_dir`` must be false.
            recursive: descend into folders.
        """
        _check_listing(list_dir, suffix)
        root = os.fspath(dir_path)

        def walk(folder: str) -> Iterator[str]:
            for entry in os.scandir(folder):
                path = os.path.relpath(entry.path, root)
                if entry.name.startswith("."):
                    continue
                if entry.is_file():
                    if list_file and (suffix is None or path.endswith(suffix)):
                        yield path
                elif os.path.isdir(entry.path):
                    if list_dir:
                        yield path
                    if recursive:
                        yield from walk(entry.path)

        return walk(root)


class HTTPBackend(BaseStorageBackend):
    """Files behind a URL: read-only."""

    def get(self, filepath: str) -> bytes:
        """The bytes at a URL."""
        with urlopen(filepath) as response:
            return response.read()

    def get_text(self, filepath: str, encoding: str = "utf-8") -> str:
        """The text at a URL."""
        return self.get(filepath).decode(encoding)

    @contextmanager
    def get_local_path(self, filepath: str) -> Generator[str, None, None]:
        """A downloaded copy, which goes with the context."""
        with _local_copy(self.get(filepath)) as path:
            yield path


class LmdbBackend(BaseStorageBackend):
    """Values of an LMDB database by key; needs the package ``lmdb``.

    Args:
        db_path: the database's folder.
        readonly, lock, readahead, kwargs: as for ``lmdb.open``.
    """

    def __init__(self, db_path: PathLike, readonly: bool = True, lock: bool = False,
                 readahead: bool = False, **kwargs: Any) -> None:
        self._lmdb = optional_import("lmdb", "LmdbBackend")
        self.db_path = str(db_path)
        self.readonly, self.lock, self.readahead, self.kwargs = readonly, lock, readahead, kwargs
        self._client: Any = None

    def get(self, filepath: PathLike) -> bytes:
        """The value of a key."""
        if self._client is None:  # opened here, so that each worker has its own
            self._client = self._lmdb.open(self.db_path, readonly=self.readonly, lock=self.lock,
                                           readahead=self.readahead, **self.kwargs)
        with self._client.begin(write=False) as transaction:
            return transaction.get(str(filepath).encode("ascii"))

    def get_text(self, filepath: PathLike, encoding: str | None = None) -> Any:
        """Keys hold bytes alone.

        Raises:
            TypeError: always.
        """
        raise TypeError("LmdbBackend holds bytes; use get")


class MemcachedBackend(BaseStorageBackend):
    """Values of a memcached server by key; needs the package ``mc``.

    Args:
        server_list_cfg, client_cfg: configuration files of the servers and the client.
        sys_path: a folder to find ``mc`` in.
    """

    def __init__(self, server_list_cfg: str, client_cfg: str, sys_path: str | None = None) -> None:
        if sys_path is not None:
            sys.path.append(sys_path)
        self._mc = optional_import("mc", "MemcachedBackend", "pymc (memcached)")
        self.server_list_cfg, self.client_cfg = server_list_cfg, client_cfg
        self._client = self._mc.MemcachedClient.GetInstance(server_list_cfg, client_cfg)
        self._mc_buffer = self._mc.pyvector()

    def get(self, filepath: PathLike) -> Any:
        """The value of a key."""
        self._client.Get(str(filepath), self._mc_buffer)
        return self._mc.ConvertBuffer(self._mc_buffer)

    def get_text(self, filepath: PathLike, encoding: str | None = None) -> Any:
        """Keys hold bytes alone.

        Raises:
            TypeError: always.
        """
        raise TypeError("MemcachedBackend holds bytes; use get")


class _ObjectStore(BaseStorageBackend):
    """What Ceph's and Petrel's clients share."""

    def __init__(self, path_mapping: dict[str, str] | None = None) -> None:
        if not isinstance(path_mapping, dict | None):
            raise TypeError("path_mapping must be a dict or None, "
                            f"got {type(path_mapping).__name__}")
        self.path_mapping = path_mapping or {}
        self._client: Any = None

    def _key(self, filepath: PathLike) -> str:
        path = str(filepath)
        for old, new in self.path_mapping.items():
            path = path.replace(old, new)
        return re.sub(r"\\+", "/", path)  # what os.path.join makes on Windows

    def get(self, filepath: PathLike) -> memoryview:
        """The bytes of an object."""
        return memoryview(self._client.Get(self._key(filepath)))


class CephBackend(_ObjectStore):
    """Objects in Ceph; needs the package ``ceph``.

    Args:
        path_mapping: prefixes of local paths and what they become.
    """

    def __init__(self, path_mapping: dict[str, str] | None = None) -> None:
        super().__init__(path_mapping)
        self._client = optional_import("ceph", "CephBackend").S3Client()

    def get_text(self, filepath: PathLike, encoding: str | None = None) -> Any:
        """Objects hold bytes alone.

        Raises:
            TypeError: always.
        """
        raise TypeError("CephBackend holds bytes; use get")


class PetrelBackend(_ObjectStore):
    """Objects in an S3 store; needs the package ``petrel_client``.

    Args:
        path_mapping: prefixes of local paths and what they become.
        enable_mc: read through memcached.
        conf_path: the client's configuration file.
    """

    def __init__(self, path_mapping: dict[str, str] | None = None, enable_mc: bool = True,
                 conf_path: str | None = None) -> None:
        super().__init__(path_mapping)
        client = optional_import("petrel_client.client", "PetrelBackend", "petrel_client")
        self._client = client.Client(conf_path=conf_path, enable_mc=enable_mc)

    def get_text(self, filepath: PathLike, encoding: str = "utf-8") -> str:
        """The text of an object."""
        return str(self.get(filepath), encoding=encoding)

    def put(self, obj: bytes, filepath: PathLike) -> None:
        """Write an object."""
        self._client.put(self._key(filepath), obj)

    def put_text(self, obj: str, filepath: PathLike, encoding: str = "utf-8") -> None:
        """Write an object that holds text."""
        self.put(bytes(obj, encoding=encoding), filepath)

    def remove(self, filepath: PathLike) -> None:
        """Remove an object."""
        self._client.delete(self._key(filepath))

    def exists(self, filepath: PathLike) -> bool:
        """Whether there is an object or a folder."""
        key = self._key(filepath)
        return self._client.contains(key) or self._client.isdir(key)

    def isdir(self, filepath: PathLike) -> bool:
        """Whether it is a folder."""
        return self._client.isdir(self._key(filepath))

    def isfile(self, filepath: PathLike) -> bool:
        """Whether it is an object."""
        return self._client.contains(self._key(filepath))

    def join_path(self, filepath: PathLike, *filepaths: PathLike) -> str:
        """The paths joined by ``/``."""
        first = self._key(filepath).removesuffix("/")
        return "/".join([first, *(self._key(p).lstrip("/") for p in filepaths)])

    @contextmanager
    def get_local_path(self, filepath: PathLike) -> Generator[str, None, None]:
        """A local copy, which goes with the context."""
        with _local_copy(self.get(filepath)) as path:
            yield path

    def list_dir_or_file(self, dir_path: PathLike, list_dir: bool = True, list_file: bool = True,
                         suffix: str | tuple[str, ...] | None = None,
                         recursive: bool = False) -> Iterator[str]:
        """See :meth:`HardDiskBackend.list_dir_or_file`."""
        _check_listing(list_dir, suffix)
        root = self._key(dir_path).removesuffix("/") + "/"

        def walk(folder: str) -> Iterator[str]:
            for name in self._client.list(folder):
                path = folder[len(root):] + name.removesuffix("/")
                if name.endswith("/"):  # the client marks folders so
                    if list_dir:
                        yield path
                    if recursive:
                        yield from walk(folder + name)
                elif list_file and (suffix is None or path.endswith(suffix)):
                    yield path

        return walk(root)


class FileClient:
    """Files of one backend.

    ``FileClient('disk')`` and ``FileClient(prefix='s3')`` give the same object each time for the
    same arguments. :meth:`infer_client` finds the backend from a URI.

    Args:
        backend: ``'disk'``, ``'ceph'``, ``'memcached'``, ``'lmdb'``, ``'petrel'``, ``'http'`` or
            one that was registered; ``'disk'`` if neither this nor ``prefix`` is given.
        prefix: what stands before ``://`` in a URI, instead of ``backend``.
        kwargs: the backend's arguments.

    Raises:
        ValueError: an unknown backend or prefix.
        ImportError: the backend's package is not installed.
    """

    _backends: ClassVar[dict[str, type[BaseStorageBackend]]] = {
        "disk": HardDiskBackend, "ceph": CephBackend, "memcached": MemcachedBackend,
        "lmdb": LmdbBackend, "petrel": PetrelBackend, "http": HTTPBackend,
    }
    _prefix_to_backends: ClassVar[dict[str, type[BaseStorageBackend]]] = {
        "s3": PetrelBackend, "http": HTTPBackend, "https": HTTPBackend,
    }
    _instances: ClassVar[dict[str, FileClient]] = {}

    client: Any

    def __new__(cls, backend: str | None = None, prefix: str | None = None,
                **kwargs: Any) -> FileClient:
        if backend is None and prefix is None:
            backend = "disk"
        if backend is not None and backend not in cls._backends:
            raise ValueError(f"Backend {backend} is not supported. Currently supported ones are "
                             f"{list(cls._backends)}")
        if prefix is not None and prefix not in cls._prefix_to_backends:
            raise ValueError(f"prefix {prefix} is not supported. Currently supported ones are "
                             f"{list(cls._prefix_to_backends)}")
        key = ":".join([str(backend), str(prefix), *(f"{k}:{v}" for k, v in kwargs.items())])
        if key not in cls._instances:
            self = super().__new__(cls)
            kind = cls._prefix_to_backends[prefix] if backend is None else cls._backends[backend]  # type: ignore[index]
            self.client = kind(**kwargs)
            cls._instances[key] = self
        return cls._instances[key]

    @property
    def name(self) -> str:
        """The backend's class name."""
        return self.client.name

    @property
    def allow_symlink(self) -> bool:
        """Whether files can be linked to."""
        return self.client.allow_symlink

    @staticmethod
    def parse_uri_prefix(uri: PathLike) -> str | None:
        """What stands before ``://``, less a cluster's name (``cluster:s3``); ``None`` if none."""
        prefix, found, _ = str(uri).partition("://")
        return prefix.rpartition(":")[2] if found else None

    @classmethod
    def infer_client(cls, file_client_args: dict[str, Any] | None = None,
                     uri: PathLike | None = None) -> FileClient:
        """The client that ``file_client_args`` or, without them, the URI's prefix asks for."""
        if file_client_args is not None:
            return cls(**file_client_args)
        if uri is None:
            raise ValueError("infer_client needs file_client_args or uri, got neither")
        return cls(prefix=cls.parse_uri_prefix(uri))

    @classmethod
    def _register(cls, name: str, backend: Any, force: bool,
                  prefixes: str | Iterable[str] | None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the backend name should be a string, but got {type(name)}")
        if not isinstance(backend, type):
            raise TypeError(f"backend should be a class but got {type(backend)}")
        if not issubclass(backend, BaseStorageBackend):
            raise TypeError(f"backend {backend} is not a subclass of BaseStorageBackend")
        heads = [prefixes] if isinstance(prefixes, str) else list(prefixes or ())
        if not force:
            if name in cls._backends:
                raise KeyError(f"{name} is already registered as a storage backend, "
                               'add "force=True" if you want to override it')
            for head in heads:
                if head in cls._prefix_to_backends:
                    raise KeyError(f"{head} is already registered as a storage backend, "
                                   'add "force=True" if you want to override it')
        cls._backends[name] = backend
        cls._prefix_to_backends.update(dict.fromkeys(heads, backend))
        for key in [k for k in cls._instances
                    if k.split(":")[0] == name or k.split(":")[1] in heads]:
            del cls._instances[key]

    @classmethod
    def register_backend(cls, name: str, backend: type | None = None, force: bool = False,
                         prefixes: str | Iterable[str] | None = None) -> Any:
        """Register a backend, at once or, without ``backend``, as a decorator.

        Args:
            name: its name.
            backend: a subclass of :class:`BaseStorageBackend`.
            force: replace one of that name or prefix.
            prefixes: prefixes of URIs that it serves.

        Raises:
            KeyError: the name or a prefix is taken and ``force`` is false.
            TypeError: ``backend`` is no such class.
        """
        if backend is not None:
            cls._register(name, backend, force, prefixes)
            return None

        def decorate(backend_cls: type) -> type:
            cls._register(name, backend_cls, force, prefixes)
            return backend_cls

        return decorate

    def get(self, filepath: PathLike) -> Any:
        """The bytes of a file, or a view of them."""
        return self.client.get(filepath)

    def get_text(self, filepath: PathLike, encoding: str = "utf-8") -> str:
        """The text of a file."""
        return self.client.get_text(filepath, encoding)

    def put(self, obj: bytes, filepath: PathLike) -> None:
        """Write bytes to a file."""
        self.client.put(obj, filepath)

    def put_text(self, obj: str, filepath: PathLike) -> None:
        """Write text to a file."""
        self.client.put_text(obj, filepath)

    def remove(self, filepath: PathLike) -> None:
        """Remove a file."""
        self.client.remove(filepath)

    def exists(self, filepath: PathLike) -> bool:
        """Whether there is a file or folder."""
        return self.client.exists(filepath)

    def isdir(self, filepath: PathLike) -> bool:
        """Whether it is a folder."""
        return self.client.isdir(filepath)

    def isfile(self, filepath: PathLike) -> bool:
        """Whether it is a file."""
        return self.client.isfile(filepath)

    def join_path(self, filepath: PathLike, *filepaths: PathLike) -> str:
        """Paths joined as the backend does."""
        return self.client.join_path(filepath, *filepaths)

    @contextmanager
    def get_local_path(self, filepath: PathLike) -> Generator[PathLike, None, None]:
        """A local path of the file, valid within the context."""
        with self.client.get_local_path(str(filepath)) as local_path:
            yield local_path

    def list_dir_or_file(self, dir_path: PathLike, list_dir: bool = True, list_file: bool = True,
                         suffix: str | tuple[str, ...] | None = None,
                         recursive: bool = False) -> Iterator[str]:
        """See :meth:`HardDiskBackend.list_dir_or_file`."""
        yield from self.client.list_dir_or_file(dir_path, list_dir, list_file, suffix, recursive)


