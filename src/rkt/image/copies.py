"""Files of layers that are in the store, for images that need them once more."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from rkt.errors import ArchiveError
from rkt.image import tar
from rkt.image.export import archive_chunks
from rkt.image.ingest import can_own_files
from rkt.image.tar import show
from rkt.image.unpack import Twin
from rkt.linux.spill import Table, marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rkt.linux.spill import Scratch, Value
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

_CHUNK = 1 << 20
_ROOM = 4 << 20
_ROOTFS = b"rootfs/"


class _Found(msgspec.Struct, array_like=True):
    """An entry, and where its payload lies."""

    start: int
    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    stored: int
    mtime: int
    atime: int
    link: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes] | None
    sparse: list[tuple[int, int]] | None

    def entry(self) -> tar.Entry:
        entry = tar.Entry()
        for field in tar.Entry.__slots__:
            setattr(entry, field, getattr(self, field))
        return entry


class Copies:
    """Reads files of stored layers, each layer once; a context manager.

    `wanted` are the files that will be asked for: numbers of layers, and paths in them.
    """

    def __init__(
        self,
        store: Store,
        staging: str,
        stored: Sequence[ImageRecord],
        wanted: Iterable[tuple[int, bytes]],
        scratch: Scratch,
    ) -> None:
        self._store = store
        self._staging = staging
        self._layers = stored
        self._wanted: Table[bytes, bool] = marks(scratch, room=_ROOM)
        for layer, path in wanted:
            self._wanted[_key(layer, path)] = True
        self._found: Table[bytes, _Found] = Table(
            scratch, msgspec.msgpack.encode, _found, room=_ROOM
        )
        self._read: set[int] = set()
        self._spool = -1
        self._size = 0
        self._tree = (-1, -1)
        """Number of a layer, descriptor of its tree."""

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (self._spool, self._tree[1]):
            if fd >= 0:
                os.close(fd)
        self._spool, self._tree = -1, (-1, -1)

    def __call__(
        self, layer: int, path: bytes
    ) -> tuple[tar.Entry, Iterator[memoryview], Twin | None]:
        """Give an entry, its payload, and where the file lies if the layer is unpacked."""
        if layer not in self._read:
            self._scan(layer)
        found = self._found.get(_key(layer, path))
        if found is None:
            raise ArchiveError(f"layer has no file {show(path)}")
        return found.entry(), self._payload(found.start, found.stored), self._twin(layer, path)

    def _scan(self, layer: int) -> None:
        self._read.add(layer)
        if self._spool < 0:
            flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
            self._spool = os.open(self._staging, flags, 0o600)
        reader = tar.TarReader(archive_chunks(self._store, self._layers[layer].key))
        while (entry := reader.next()) is not None:
            path = entry.name.removeprefix(_ROOTFS)
            if _key(layer, path) not in self._wanted:
                continue
            if entry.kind == tar.HARDLINK:
                raise ArchiveError(f"{show(path)}: a further name of a file cannot be kept here")
            fields = {field: getattr(entry, field) for field in tar.Entry.__slots__}
            self._found[_key(layer, path)] = _Found(start=self._size, **fields)
            for piece in reader.payload():
                self._size += os.pwrite(self._spool, piece, self._size)

    def _payload(self, start: int, count: int) -> Iterator[memoryview]:
        while count:
            data = os.pread(self._spool, min(count, _CHUNK), start)
            yield memoryview(data)
            start += len(data)
            count -= len(data)

    def _twin(self, layer: int, path: bytes) -> Twin | None:
        record = self._layers[layer]
        if not record.unpacked or not can_own_files():
            return None
        if layer != self._tree[0]:
            if self._tree[1] >= 0:
                os.close(self._tree[1])
            self._tree = (layer, os.open(self._store.tree_path(record.key), _DIR))
        return Twin(self._tree[1], _ROOTFS + path)


_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def archive_tree(store: Store, record: ImageRecord) -> Iterator[int]:
    """Open the tree of an image whose files this process may link to; -1 if there is none."""
    if not record.unpacked or not can_own_files():
        yield -1
        return
    fd = os.open(store.tree_path(record.key), _DIR)
    try:
        yield fd
    finally:
        os.close(fd)


def _key(layer: int, path: bytes) -> bytes:
    return layer.to_bytes(4, "big") + path


def _found(value: Value) -> _Found:
    assert isinstance(value, bytes)
    return msgspec.msgpack.decode(value, type=_Found)
