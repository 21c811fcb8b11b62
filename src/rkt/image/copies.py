"""Files of layers that are in the store, for images that need them once more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from rkt.errors import ArchiveError
from rkt.image import tar
from rkt.image.export import archive_chunks
from rkt.image.tar import show
from rkt.linux.spill import Table, marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rkt.linux.spill import Scratch, Value
    from rkt.store.images import ImageRecord, Store

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

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        if self._spool >= 0:
            os.close(self._spool)

    def __call__(self, layer: int, path: bytes) -> tuple[tar.Entry, Iterator[memoryview]]:
        """Give an entry and its payload."""
        if layer not in self._read:
            self._scan(layer)
        found = self._found.get(_key(layer, path))
        if found is None:
            raise ArchiveError(f"layer has no file {show(path)}")
        return found.entry(), self._payload(found.start, found.stored)

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


def _key(layer: int, path: bytes) -> bytes:
    return layer.to_bytes(4, "big") + path


def _found(value: Value) -> _Found:
    assert isinstance(value, bytes)
    return msgspec.msgpack.decode(value, type=_Found)
