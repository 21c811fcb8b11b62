"""Write an image archive entry by entry, hashing it and unpacking it at the same time.

The archive itself goes nowhere when it is unpacked: the tree and the record of its other bytes are
what the store keeps.  Equal entries give equal bytes, whoever writes them, whenever.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from zlib import adler32

from rkt.errors import ArchiveError, StoreError
from rkt.image import tar
from rkt.image.archive import LIMITS, Layout, Limits
from rkt.linux.spill import Scratch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from rkt.image.split import Writer
    from rkt.image.unpack import Twin, Unpacker

_NANO = 1_000_000_000
_OCTAL_8 = 0o7777777
_OCTAL_12 = 0o77777777777
_PIECE = 256 << 10
_QUEUE = 8
_FLAGS = {
    tar.FILE: b"0", tar.HARDLINK: b"1", tar.SYMLINK: b"2", tar.CHAR: b"3", tar.BLOCKDEV: b"4",
    tar.DIRECTORY: b"5", tar.FIFO: b"6",
}  # fmt: skip
_PADDING = bytes(tar.BLOCK)
_TAIL = bytes(155 + 12)


class Written:
    """What was written."""

    __slots__ = ("digest", "manifest", "size", "tree_size")

    def __init__(self, digest: str, size: int, tree_size: int, manifest: bytes) -> None:
        self.digest = digest
        self.size = size
        self.tree_size = tree_size
        self.manifest = manifest


class AciWriter:
    """Writes `tree` and `split` into a staging directory or, without `unpack`, `blob`.

    A context manager; entries have names below `rootfs`.
    """

    def __init__(self, staging: str, *, unpack: bool, limits: Limits = LIMITS) -> None:
        self._scratch = Scratch.within(staging)
        self.layout = Layout(self._scratch, limits)
        self._staging = staging
        self._unpack = unpack
        self._hash = _Hash()
        self._buffer = bytearray()
        self._root = -1
        self._unpacker: Unpacker | None = None
        self._record: Writer | None = None
        self._file: Any = None
        self._blob: Any = None
        self._manifest = b""

    def __enter__(self) -> AciWriter:
        if self._unpack:
            self._open_tree()
        else:
            self._open_blob()
        return self

    def __exit__(self, *_: object) -> None:
        self._hash.close()
        self._scratch.close()
        if self._unpacker is not None:
            self._unpacker.__exit__()
        if self._file is not None:
            self._file.close()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _open_tree(self) -> None:
        from rkt.image.split import Writer
        from rkt.image.unpack import Unpacker

        top = f"{self._staging}/tree"
        os.mkdir(top, 0o700)
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(top, 0, 0)  # the store's directories hand their group down
            os.chmod(top, 0o700)
        self._root = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._file = open(f"{self._staging}/split", "xb")  # noqa: SIM115
        self._record = Writer(self._file)
        self._unpacker = Unpacker(self._root, self.layout, owners=is_root)

    def _open_blob(self) -> None:
        import zstandard

        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.fdopen(os.open(f"{self._staging}/blob", flags, 0o640), "wb")
        os.fchmod(self._file.fileno(), 0o640)
        self._blob = zstandard.ZstdCompressor(level=1).stream_writer(self._file, closefd=False)

    def add(
        self, entry: tar.Entry, payload: Iterable[memoryview] = (), twin: Twin | None = None
    ) -> None:
        """Write an entry; its name and that of a hard link's target begin with `rootfs`.

        `twin` is a file that is just like it, which need not be stored again.
        """
        if not self.layout.admit(entry):
            return
        self._raw(header(entry))
        stored = entry.stored
        if self._unpacker is not None and self._record is not None:
            self._record.payload(entry)
            self._unpacker.add(entry, self._tee(payload), twin)
        else:
            self.layout.missing_parents(entry.name)
        if stored:
            for _ in self._tee(payload):
                pass  # what the unpacker had no use for
            if stored % tar.BLOCK:
                self._raw(_PADDING[stored % tar.BLOCK :])
        self.layout.record(entry)

    def manifest(self, data: bytes) -> None:
        """Write the image manifest."""
        entry = tar.Entry()
        entry.name, entry.mode, entry.size, entry.stored = b"manifest", 0o644, len(data), len(data)
        whole = memoryview(data)
        self.add(entry, (whole[at : at + _PIECE] for at in range(0, len(data), _PIECE)))
        self._manifest = data

    def finish(self) -> Written:
        """Write the end.  Raises ArchiveError when manifest or rootfs are missing."""
        self.layout.finish()
        self._raw(bytes(2 * tar.BLOCK))
        self._flush()
        tree_size = 0
        if self._unpacker is not None:
            self._unpacker.finish()
            tree_size = self._unpacker.size
        digest = self._hash.close()
        if self._record is not None and self._record.end(digest) != self._hash.size:
            raise StoreError("record of the archive is incomplete")
        if self._blob is not None:
            self._blob.close()
        self._file.close()
        if self._unpack:
            self.layout.write_implied(f"{self._staging}/tree/implied")
        return Written(digest.hex(), self._hash.size, tree_size, self._manifest)

    def _tee(self, payload: Iterable[memoryview]) -> Iterator[memoryview]:
        for piece in payload:
            self._emit(piece)
            yield piece

    def _raw(self, data: bytes) -> None:
        if self._record is not None:
            self._record.raw(data)
        self._emit(data)

    def _emit(self, data: bytes | memoryview) -> None:
        self._buffer += data
        if len(self._buffer) >= _PIECE:
            self._flush()

    def _flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        if data:
            self._hash.feed(data)
            if self._blob is not None:
                self._blob.write(data)


class _Hash:
    """SHA-512 in a thread of its own, fed through a short queue."""

    def __init__(self) -> None:
        import hashlib
        from queue import Queue
        from threading import Thread

        self._queue: Queue[bytearray] = Queue(_QUEUE)
        self._digest = hashlib.sha512()
        self._thread = Thread(target=self._work, name="sha512", daemon=True)
        self._thread.start()
        self.size = 0

    def _work(self) -> None:
        while data := self._queue.get():
            self._digest.update(data)

    def feed(self, data: bytearray) -> None:
        """Hand over bytes that nobody changes any more."""
        self.size += len(data)
        self._queue.put(data)

    def close(self) -> bytes:
        """Wait for the thread and give the digest; may be called again."""
        if self._thread.is_alive():
            self._queue.put(bytearray())
            self._thread.join()
        return self._digest.digest()


def header(entry: tar.Entry) -> bytes:
    """Give the header blocks of an entry: ustar, with pax records for what ustar cannot say."""
    name, link, stored = entry.name, entry.link, entry.stored
    seconds, nano = divmod(entry.mtime, _NANO)
    if entry.major > _OCTAL_8 or entry.minor > _OCTAL_8:
        raise ArchiveError(f"{tar.show(name)}: bad device {entry.major}:{entry.minor}")
    records: list[tuple[bytes, bytes]] = []
    table = b""
    if entry.sparse is not None:
        table = _sparse_map(entry.sparse)
        records += [
            (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", name),
            (b"GNU.sparse.realsize", b"%d" % entry.size),
        ]  # fmt: skip
        name = b"GNUSparseFile.0/" + name[-80:]
        stored += len(table)
    elif len(name) > 100:
        records.append((b"path", name))
    if len(link) > 100:
        records.append((b"linkpath", link))
    if stored > _OCTAL_12:
        records.append((b"size", b"%d" % stored))
    if entry.uid > _OCTAL_8:
        records.append((b"uid", b"%d" % entry.uid))
    if entry.gid > _OCTAL_8:
        records.append((b"gid", b"%d" % entry.gid))
    if nano or not 0 <= seconds <= _OCTAL_12:
        records.append((b"mtime", _pax_time(entry.mtime)))
    if entry.atime != entry.mtime:
        records.append((b"atime", _pax_time(entry.atime)))
    if entry.xattrs:
        for key in sorted(entry.xattrs):
            records.append((b"SCHILY.xattr." + key, entry.xattrs[key]))
    block = _ustar(entry, name, link, stored, seconds)
    if not records:
        return block
    data = b"".join(_pax_record(key, value) for key, value in records)
    if len(data) > tar.MAX_EXTENSION:
        raise ArchiveError(f"{tar.show(entry.name)}: extended attributes are too large")
    extension = tar.Entry()
    extension.mode = 0o644
    before = _ustar(extension, b"PaxHeaders/" + name[-80:], b"", len(data), 0, b"x")
    return before + data + bytes(-len(data) % tar.BLOCK) + block + table


def _ustar(
    entry: tar.Entry, name: bytes, link: bytes, size: int, seconds: int, flag: bytes = b""
) -> bytes:
    block = b"".join((
        name[:100].ljust(100, b"\0"),
        b"%07o\0%07o\0%07o\0%011o\0%011o\0        " % (
            entry.mode, entry.uid if entry.uid <= _OCTAL_8 else 0,
            entry.gid if entry.gid <= _OCTAL_8 else 0, size if size <= _OCTAL_12 else 0,
            min(max(seconds, 0), _OCTAL_12),
        ),
        flag or _FLAGS[entry.kind],
        link[:100].ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        b"%07o\0%07o\0" % (entry.major, entry.minor),
        _TAIL,
    ))  # fmt: skip
    # The low half of Adler-32 is 1 + the sum of the bytes, exact as long as that fits 65520.
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    return block[:148] + b"%06o\0 " % total + block[156:]


def _sparse_map(pieces: list[tuple[int, int]]) -> bytes:
    numbers = [len(pieces), *(number for piece in pieces for number in piece)]
    data = b"".join(b"%d\n" % number for number in numbers)
    return data + bytes(-len(data) % tar.BLOCK)


def _pax_record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return b"%d" % length + body


def _pax_time(nanoseconds: int) -> bytes:
    whole, nano = divmod(abs(nanoseconds), _NANO)
    sign = "-" if nanoseconds < 0 else ""
    return f"{sign}{whole}.{nano:09d}".rstrip("0").rstrip(".").encode()
