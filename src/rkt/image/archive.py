"""What an image archive is made of: compression, its bounds, and the layout of an ACI."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rkt.errors import ArchiveError
from rkt.image import tar, zstd
from rkt.image.tar import show
from rkt.linux.spill import marks, numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from rkt.linux.spill import Scratch, Table

    class Readable(Protocol):
        """A file as far as it is needed here."""

        def read(self, size: int = -1, /) -> bytes: ...
        def seek(self, offset: int, /) -> int: ...

    class _Decompressor(Protocol):
        """The common face of bz2's and lzma's decompressors."""

        @property
        def eof(self) -> bool: ...
        @property
        def needs_input(self) -> bool: ...
        @property
        def unused_data(self) -> bytes: ...
        def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...

    class _GzipDecompressor(Protocol):
        """The common face of zlib's and isal's decompressors."""

        @property
        def eof(self) -> bool: ...
        @property
        def unconsumed_tail(self) -> bytes: ...
        @property
        def unused_data(self) -> bytes: ...
        def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


CHUNK = 1 << 20
_INPUT = 256 << 10
_XZ_MEMORY = 72 << 20
"""Enough for `xz -9`, whose dictionary has 64 MiB: with more, a process would take over 100 MB."""
MAX_MANIFEST = 16 << 20
_ROOM = 4 << 20


class Limits(NamedTuple):
    """How much an archive may ask of the machine."""

    size: int = 64 << 30
    """Bytes of the uncompressed archive, and of the files in it with their holes."""
    ratio: int = 250
    """Growth by decompression, looked at from `ratio_from` bytes on."""
    ratio_from: int = 1 << 30
    entries: int = 2_000_000
    depth: int = 256


LIMITS = Limits()


def detect(head: bytes) -> str:
    """Name the compression of an archive from its first 512 bytes.

    Gives "gzip", "bzip2", "xz", "zstd" or "none"; raises ArchiveError for anything else.
    """
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    if zstd.is_zstd(head):
        return "zstd"
    if len(head) > 262 and head[257:262] == b"ustar":
        return "none"
    raise ArchiveError("error: unknown image filetype")


def decompress(file: Readable, *, limits: Limits = LIMITS) -> Iterator[bytes]:
    """Give the uncompressed bytes of an archive in chunks, none of them empty.

    Raises ArchiveError for damaged data and for a decompression bomb.
    """
    head = file.read(512)
    file.seek(0)
    kind = detect(head)
    consumed = 0

    def read() -> bytes:
        nonlocal consumed
        data = file.read(_INPUT)
        consumed += len(data)
        return data

    chunks: Iterator[bytes]
    if kind == "gzip":
        chunks = _gunzip(read)
    elif kind == "none":
        chunks = iter(lambda: file.read(CHUNK), b"")
    elif kind == "zstd":
        chunks = zstd.decompress(read)
    else:
        chunks = _stream(read, kind)
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limits.size:
            raise ArchiveError(f"archive is larger than {limits.size} bytes when uncompressed")
        if kind != "none" and total > limits.ratio_from and total > limits.ratio * consumed:
            raise ArchiveError(
                f"archive grows more than {limits.ratio} times by decompression: refused as a bomb"
            )
        yield chunk


def _damaged(kind: str, cause: str) -> ArchiveError:
    return ArchiveError(f"{kind} data of the archive is damaged: {cause}")


def _gunzip(read: Callable[[], bytes]) -> Iterator[bytes]:
    import zlib

    new: Callable[[int], _GzipDecompressor] = zlib.decompressobj
    failures: tuple[type[Exception], ...] = (zlib.error,)
    try:
        from isal import isal_zlib
    except ImportError:
        pass
    else:
        new = isal_zlib.decompressobj
        failures = (zlib.error, isal_zlib.IsalError)  # type: ignore[assignment]
    member = new(31)
    fresh = False  # between two members
    while data := read():
        while data:
            if fresh:
                data = data.lstrip(b"\0")  # padding, as gzip(1) allows
                if not data:
                    break
                member, fresh = new(31), False
            try:
                out = member.decompress(data, CHUNK)
                if out:
                    yield out
                data = member.unconsumed_tail
                while not member.eof and len(out) == CHUNK and not data:
                    out = member.decompress(b"", CHUNK)
                    if out:
                        yield out
            except failures as err:
                raise _damaged("gzip", str(err)) from err
            if member.eof:
                data, fresh = member.unused_data, True
    if not fresh:
        raise _damaged("gzip", "unexpected end of file")


def _stream(read: Callable[[], bytes], kind: str) -> Iterator[bytes]:
    new, failures = _bzip2() if kind == "bzip2" else _xz()
    member = new()
    while True:
        data = b""
        if member.eof:
            data = member.unused_data.lstrip(b"\0")  # padding between two streams
            while not data:
                data = read()
                if not data:
                    return
                data = data.lstrip(b"\0")
            member = new()
        elif member.needs_input:
            data = read()
            if not data:
                raise _damaged(kind, "unexpected end of file")
        try:
            out = member.decompress(data, CHUNK)
        except failures as err:
            if kind == "xz" and "limit exceeded" in str(err):
                raise ArchiveError(
                    "xz data of the archive needs more memory than the "
                    f"{_XZ_MEMORY >> 20} MiB that are allowed",
                    hint='compress it again with "xz -9" or less',
                ) from err
            raise _damaged(kind, str(err)) from err
        if out:
            yield out


def _bzip2() -> tuple[Callable[[], _Decompressor], tuple[type[Exception], ...]]:
    import bz2

    return bz2.BZ2Decompressor, (OSError, ValueError)


def _xz() -> tuple[Callable[[], _Decompressor], tuple[type[Exception], ...]]:
    import lzma

    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), (lzma.LZMAError,)


class Layout:
    """Judge the entries of an ACI one by one, and the whole at the end."""

    def __init__(self, scratch: Scratch, limits: Limits = LIMITS) -> None:
        self.scratch = scratch
        self.kinds: Table[bytes, int] = numbers(scratch)
        self.implied: Table[bytes, bool] = marks(scratch, room=_ROOM)
        """Directories that no entry names, only the paths of others."""
        self._count = 0
        self._limits = limits
        self._size = 0

    def admit(self, entry: tar.Entry) -> bool:
        """Check an entry and clean its name; false if there is nothing to do for it.

        Raises ArchiveError with the texts of the appc validator where it has one.
        """
        name = clean(entry.name)
        if not name:
            if entry.kind != tar.DIRECTORY:
                raise ArchiveError(f"unrecognized file path in layout: {show(entry.name)}")
            return False
        if name != b"manifest" and name != b"rootfs" and not name.startswith(b"rootfs/"):
            raise ArchiveError(f"unrecognized file path in layout: {show(name)}")
        if name.count(b"/") >= self._limits.depth:
            raise ArchiveError(f"{show(name)}: more than {self._limits.depth} directories deep")
        entry.name = name
        if name in self.kinds and (name not in self.implied or entry.kind != tar.DIRECTORY):
            raise ArchiveError(f"duplicate file entry in archive: {show(name)[1:-1]}")
        if self._count >= self._limits.entries:
            raise ArchiveError(f"archive has more than {self._limits.entries} entries")
        self._size += entry.size
        if self._size > self._limits.size:
            raise ArchiveError(f"files of the archive are larger than {self._limits.size} bytes")
        if name == b"rootfs":
            if entry.kind != tar.DIRECTORY:
                raise ArchiveError("rootfs is not a directory")
        elif name == b"manifest":
            if entry.kind != tar.FILE or entry.sparse is not None:
                raise ArchiveError("manifest is not a regular file")
            if entry.size > MAX_MANIFEST:
                raise ArchiveError(f"manifest is larger than {MAX_MANIFEST} bytes")
        else:
            self._check_parents(name)
        if entry.kind == tar.HARDLINK:
            self._check_hard_link(entry)
        elif entry.kind == tar.SYMLINK and not entry.link:
            raise ArchiveError(f"{show(name)}: symbolic link without a target")
        return True

    def record(self, entry: tar.Entry) -> None:
        """Take note of an admitted entry, after its implied parents were made."""
        kind = entry.kind
        if kind == tar.DIRECTORY and self.implied.pop(entry.name):
            return
        if kind == tar.HARDLINK:
            kind = self.kinds.get(entry.link) or tar.FILE  # it is there, as was checked
        self.kinds[entry.name] = kind
        self._count += 1

    def missing_parents(self, name: bytes) -> list[bytes]:
        """Name the parents that no entry has made yet, outermost first, and note them as made."""
        missing = []
        parent = name.rpartition(b"/")[0]
        while parent and parent not in self.kinds:
            missing.append(parent)
            parent = parent.rpartition(b"/")[0]
        missing.reverse()
        for path in missing:
            self.kinds[path] = tar.DIRECTORY
            self.implied[path] = True
        self._count += len(missing)
        return missing

    def write_implied(self, path: str) -> None:
        """Write the implied directories, if there are any, to a new file."""
        if self.implied:
            with open(path, "xb") as file:
                file.writelines(name + b"\0" for name, _ in self.implied.items())

    def finish(self) -> None:
        """Check that manifest and rootfs were there."""
        if b"manifest" not in self.kinds:
            raise ArchiveError("no image manifest found in layout")
        if b"rootfs" not in self.kinds or b"rootfs" in self.implied:
            raise ArchiveError("no rootfs found in layout")

    def _check_parents(self, name: bytes) -> None:
        parent = name.rpartition(b"/")[0]
        while parent:
            kind = self.kinds.get(parent)
            if kind == tar.DIRECTORY:
                return
            if kind is not None:
                what = "a symbolic link" if kind == tar.SYMLINK else "not a directory"
                raise ArchiveError(f"{show(name)}: its parent {show(parent)} is {what}")
            parent = parent.rpartition(b"/")[0]

    def _check_hard_link(self, entry: tar.Entry) -> None:
        target = clean(entry.link)
        if not target.startswith(b"rootfs/"):
            raise ArchiveError(f"{show(entry.name)}: hard link to {show(entry.link)} leads outside")
        kind = self.kinds.get(target)
        if kind is None or kind == tar.DIRECTORY:
            raise ArchiveError(
                f"{show(entry.name)}: hard link to {show(target)}, which is no earlier file"
            )
        entry.link = target


def clean(name: bytes) -> bytes:
    """Make a member's name canonical; empty for the archive's own root.

    Raises ArchiveError for a name that is absolute or contains `..`.
    """
    if name[:1] == b"/":
        raise ArchiveError(f"unrecognized file path in layout: {show(name)}")
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise ArchiveError(f'entry {show(name)}: path contains ".."')
    return b"/".join(parts)
