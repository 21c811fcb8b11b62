"""Decompress zstd data (RFC 8878) a block at a time, in bounded memory.

A block gives 128 KiB at most, but a few bytes can stand for one: whoever feeds the decoder by
size gets any amount at once, and its reader object takes a truncated frame for a whole one.  So
frames are taken apart here, which needs their headers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rkt.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WINDOW = 64 << 20
"""Enough for what tools for images write (32 MiB), for all levels of zstd(1) up to 21, and for
`--long=26`: with more, a process would take more than 100 MB."""
_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A5
_BLOCK = 128 << 10
_OUT = 256 << 10
_RAW, _RLE, _COMPRESSED = range(3)


def is_zstd(head: bytes) -> bool:
    """Tell whether data begins with a frame, which may be one to be skipped."""
    magic = int.from_bytes(head[:4], "little")
    return len(head) >= 4 and (magic == _MAGIC or magic >> 4 == _SKIPPABLE)


def decompress(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Give the content of all frames in chunks of some hundred KiB.

    Raises ArchiveError for damaged data and for a frame that needs too large a window.
    """
    source = _Source(read)
    out: list[bytes] = []
    ready = 0
    for block in _blocks(source):
        out.append(block)
        ready += len(block)
        if ready >= _OUT:
            yield b"".join(out)
            out, ready = [], 0
    if ready:
        yield b"".join(out)


def _blocks(source: _Source) -> Iterator[bytes]:
    import zstandard

    context = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    while not source.at_end():
        magic = source.take(4)
        number = int.from_bytes(magic, "little")
        if number >> 4 == _SKIPPABLE:
            source.skip(int.from_bytes(source.take(4), "little"))
            continue
        if number != _MAGIC:
            raise _damaged("what follows a frame is none")
        header = _header(source)
        decoder = context.decompressobj()
        data = magic + header.data
        last = False
        try:
            while not last:
                start = source.take(3)
                value = int.from_bytes(start, "little")
                last, kind, size = bool(value & 1), value >> 1 & 3, value >> 3
                if kind > _COMPRESSED or size > _BLOCK:
                    raise _damaged("a block that cannot be")
                data += start + source.take(1 if kind == _RLE else size)
                if last and header.checksum:
                    data += source.take(4)
                yield decoder.decompress(data)
                data = b""
        except zstandard.ZstdError as err:
            raise _damaged(str(err)) from err
        if not decoder.eof:
            raise _damaged("a frame without an end")


class _Header(NamedTuple):
    data: bytes
    checksum: bool


def _header(source: _Source) -> _Header:
    data = source.take(1)
    flags = data[0]
    single, checksum = bool(flags & 0x20), bool(flags & 4)
    window = 0
    if not single:
        descriptor = source.take(1)
        data += descriptor
        base = 1 << (10 + (descriptor[0] >> 3))
        window = base + base // 8 * (descriptor[0] & 7)
    data += source.take((0, 1, 2, 4)[flags & 3])  # the number of a dictionary
    size = source.take((1 if single else 0, 2, 4, 8)[flags >> 6])
    if single:
        window = int.from_bytes(size, "little") + (256 if len(size) == 2 else 0)
    if window > WINDOW:
        raise ArchiveError(
            f"zstd data of the archive needs a window of {-(-window >> 20)} MiB: "
            f"at most {WINDOW >> 20} MiB are allowed",
            hint='compress it again with "zstd -19" or less, without "--long"',
        )
    return _Header(data + size, checksum)


class _Source:
    """Exact amounts out of whatever a file gives."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._data = b""
        self._at = 0

    def at_end(self) -> bool:
        if self._at == len(self._data):
            self._data, self._at = self._read(), 0
        return not self._data

    def take(self, size: int) -> bytes:
        end = self._at + size
        while end > len(self._data):
            more = self._read()
            if not more:
                raise _damaged("unexpected end of file")
            self._data, self._at = self._data[self._at :] + more, 0
            end = size
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def skip(self, size: int) -> None:
        while size:
            if self.at_end():
                raise _damaged("unexpected end of file")
            step = min(size, len(self._data) - self._at)
            self._at += step
            size -= step


def _damaged(cause: str) -> ArchiveError:
    return ArchiveError(f"zstd data of the archive is damaged: {cause}")
