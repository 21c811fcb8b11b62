"""The record of an archive's bytes that are not in the unpacked tree.

A record and the tree give back the archive byte by byte, so the store need not keep both.  It is a
zstd frame: a magic line, then operations: R(aw) length bytes | P(ayload) length path, offset,
length in that file | E(nd) total size, SHA-512.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from rkt.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from rkt.image.tar import Entry

MAGIC = b"rkt-split 1\n"
_RAW = struct.Struct("<cI")
_PAYLOAD = struct.Struct("<cHQQ")
_END = struct.Struct("<cQ64s")
_FLUSH = 256 << 10
_CHUNK = 1 << 20


class Writer:
    """Write a record while an archive is read; call `end()` last."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._out = zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False)
        self._out.write(MAGIC)
        self._pending = bytearray()  # raw bytes since the last payload
        self._done = bytearray()  # whole operations
        self._size = 0

    def raw(self, data: bytes) -> None:
        """Note bytes that the tree does not hold."""
        self._pending += data
        if len(self._pending) >= _FLUSH:
            self._close_raw()

    def payload(self, entry: Entry) -> None:
        """Note that the payload of a file comes next."""
        if not entry.stored:
            return
        self._close_raw()
        pieces = [(0, entry.size)] if entry.sparse is None else entry.sparse
        path = entry.name
        for offset, length in pieces:
            self._done += _PAYLOAD.pack(b"P", len(path), offset, length) + path
            self._size += length

    def end(self, digest: bytes) -> int:
        """Finish with the archive's SHA-512; give the archive's size."""
        self._close_raw()
        self._out.write(self._done + _END.pack(b"E", self._size, digest))
        self._out.close()  # type: ignore[no-untyped-call]
        return self._size

    def _close_raw(self) -> None:
        pending = self._pending
        if pending:
            self._size += len(pending)
            self._done += _RAW.pack(b"R", len(pending)) + pending
            pending.clear()
        if len(self._done) >= _FLUSH:
            self._out.write(self._done)
            self._done.clear()


def reassemble(record: BinaryIO, tree_fd: int, *, expect: str) -> Iterator[bytes]:
    """Give the bytes of the archive in chunks, and check at the end that `expect` is their hash.

    Raises StoreError when the record or the tree is not what it was.
    """
    import hashlib

    import zstandard

    digest = hashlib.sha512()
    size = 0
    try:
        with zstandard.ZstdDecompressor().stream_reader(record, closefd=False) as reader:
            for chunk in _operations(_Buffered(reader), tree_fd):
                if isinstance(chunk, tuple):
                    if size != chunk[0] or digest.hexdigest() != expect:
                        raise StoreError(
                            "image hash does not match expected "
                            f"(sha512-{digest.hexdigest()} != sha512-{expect})"
                        )
                    return
                digest.update(chunk)
                size += len(chunk)
                yield chunk
    except zstandard.ZstdError as err:
        raise StoreError(f"record of the archive is damaged: {err}") from err


def skeleton(record: BinaryIO) -> Iterator[bytes]:
    """Give the bytes of the archive in chunks with zeros in the place of its files' content.

    Needs no tree: for whoever wants to know what is in the archive.  Raises StoreError.
    """
    import zstandard

    zeros = bytes(_CHUNK)
    try:
        with zstandard.ZstdDecompressor().stream_reader(record, closefd=False) as reader:
            source = _Buffered(reader)
            if source.take(len(MAGIC)) != MAGIC:
                raise StoreError("record of the archive has an unknown format")
            while (kind := source.take(1)) != b"E":
                if kind == b"R":
                    yield source.take(int.from_bytes(source.take(4), "little"))
                    continue
                _, length, _, count = _PAYLOAD.unpack(kind + source.take(_PAYLOAD.size - 1))
                source.take(length)
                while count:
                    step = min(count, _CHUNK)
                    yield zeros[:step]
                    count -= step
    except (zstandard.ZstdError, struct.error) as err:
        raise StoreError(f"record of the archive is damaged: {err}") from err


class _Buffered:
    """Exact reads from a decompressor."""

    def __init__(self, reader: BinaryIO) -> None:
        self._reader = reader
        self._data = b""
        self._pos = 0

    def take(self, count: int) -> bytes:
        while len(self._data) - self._pos < count:
            more = self._reader.read(_CHUNK)
            if not more:
                raise StoreError("record of the archive is damaged: unexpected end")
            self._data = self._data[self._pos :] + more
            self._pos = 0
        data = self._data[self._pos : self._pos + count]
        self._pos += count
        return data


def _operations(source: _Buffered, tree_fd: int) -> Iterator[bytes | tuple[int, bytes]]:
    if source.take(len(MAGIC)) != MAGIC:
        raise StoreError("record of the archive has an unknown format")
    files = _Files(tree_fd)
    try:
        while True:
            kind = source.take(1)
            if kind == b"R":
                yield source.take(int.from_bytes(source.take(4), "little"))
            elif kind == b"P":
                _, length, offset, count = _PAYLOAD.unpack(kind + source.take(_PAYLOAD.size - 1))
                yield from files.read(source.take(length), offset, count)
            elif kind == b"E":
                _, size, digest = _END.unpack(kind + source.take(_END.size - 1))
                yield size, digest
                return
            else:
                raise StoreError("record of the archive is damaged: unknown operation")
    finally:
        files.close()


class _Files:
    """Read payload out of the tree; keeps the last directory and the last file open."""

    def __init__(self, tree_fd: int) -> None:
        self._tree = tree_fd
        self._parent = b""
        self._parent_fd = -1
        self._path = b""
        self._fd = -1

    def close(self) -> None:
        for fd in (self._fd, self._parent_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._parent_fd = -1

    def read(self, path: bytes, offset: int, count: int) -> Iterator[bytes]:
        try:
            if path != self._path:
                self._open(path)
            while count:
                data = os.pread(self._fd, min(count, _CHUNK), offset)
                if not data:
                    raise StoreError(f'stored file "{os.fsdecode(path)}" is shorter than it was')
                yield data
                offset += len(data)
                count -= len(data)
        except OSError as err:
            text = f'stored file "{os.fsdecode(path)}" cannot be read: {err.strerror}'
            raise StoreError(text) from err

    def _open(self, path: bytes) -> None:
        from rkt.linux.tree import open_below

        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        parent, _, base = path.rpartition(b"/")
        if parent != self._parent or self._parent_fd < 0:
            if self._parent_fd >= 0:
                os.close(self._parent_fd)
                self._parent_fd = -1
            self._parent_fd = open_below(self._tree, os.fsdecode(parent or b"."))
            self._parent = parent
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(base, flags, dir_fd=self._parent_fd)
        self._path = path
