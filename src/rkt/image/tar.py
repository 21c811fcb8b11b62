"""A strict streaming reader of tar archives: ustar, pax, GNU long names, base-256, sparse files.

Everything that is not payload of a regular file (headers, extension records, sparse maps, padding)
is handed to a sink as it goes by, so that the archive can be put together again byte by byte.
Whatever two readers could understand differently is an error.
"""

from __future__ import annotations

import stat
import struct
from functools import lru_cache
from typing import TYPE_CHECKING
from zlib import adler32

from rkt.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 512
FILE = stat.S_IFREG
DIRECTORY = stat.S_IFDIR
SYMLINK = stat.S_IFLNK
CHAR = stat.S_IFCHR
BLOCKDEV = stat.S_IFBLK
FIFO = stat.S_IFIFO
HARDLINK = 1

MAX_EXTENSION = 1 << 20
"""Bytes of one pax record set, one GNU long name or one sparse map."""
MAX_NAME = 4095
MAX_XATTRS = 64
MAX_SPARSE_PIECES = 65536

_ZERO = bytes(BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s64s8s8s155s12x")
_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"S": FILE,
    b"1": HARDLINK,
    b"2": SYMLINK,
    b"3": CHAR,
    b"4": BLOCKDEV,
    b"5": DIRECTORY,
    b"6": FIFO,
}
_EXTENSIONS = b"xgLK"
_NANO = 1_000_000_000


class Entry:
    """One member: what its header and its extension records say."""

    __slots__ = (
        "atime", "gid", "kind", "link", "major", "minor", "mode", "mtime", "name", "size", "sparse",
        "stored", "uid", "xattrs",
    )  # fmt: skip

    def __init__(self) -> None:
        self.name = b""
        self.kind = FILE
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.size = 0
        """Bytes of the file when unpacked."""
        self.stored = 0
        """Bytes of payload that follow in the archive."""
        self.mtime = 0
        self.atime = 0
        self.link = b""
        self.major = 0
        self.minor = 0
        self.xattrs: dict[bytes, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None


def show(name: bytes) -> str:
    """Quote a member's name for a message."""
    text = name.decode("utf-8", "surrogateescape")
    return f'"{text}"' if len(text) <= 200 else f'"{text[:200]}…"'


class TarReader:
    """Give the entries of an archive one after the other.

    `chunks` is the uncompressed archive; `raw` is called with every byte that is no payload, in
    order.  `payload()` must be used up, or left alone, before the next `next()`.
    """

    def __init__(
        self, chunks: Iterator[bytes], *, raw: Callable[[bytes], object] | None = None
    ) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._pos = 0
        self._raw = raw
        self._left = 0
        self._pad = 0
        self._pax: dict[bytes, bytes] = {}
        self._long: dict[bytes, bytes] = {}

    def next(self) -> Entry | None:
        """Give the next entry, or None at the end of the archive.  Raises ArchiveError."""
        if self._left:
            self._skip(self._left)
        extended = False
        while True:
            header = self._next_header()
            if header == _ZERO:
                if extended:
                    raise ArchiveError("malformed archive: an extended header has no entry")
                self._drain()
                return None
            fields = _fields(header)
            flag = fields[7]
            if flag in _KINDS:
                return self._entry(header, fields)
            if flag not in _EXTENSIONS:
                raise ArchiveError(f"{show(_text(fields[0]))}: unsupported type: {flag[0]}")
            self._extension(flag, fields[4])
            extended = extended or flag != b"g"

    def payload(self) -> Iterator[memoryview]:
        """Give the payload of the current entry in pieces that are valid until the next one."""
        while self._left:
            if self._pos == len(self._chunk):
                self._fill()
            piece = memoryview(self._chunk)[self._pos : self._pos + self._left]
            self._pos += len(piece)
            self._left -= len(piece)
            yield piece

    def _fill(self) -> None:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise ArchiveError("malformed archive: unexpected end of file")
        self._chunk = chunk
        self._pos = 0

    def _skip(self, count: int) -> None:
        while count:
            if self._pos == len(self._chunk):
                self._fill()
            step = min(count, len(self._chunk) - self._pos)
            self._pos += step
            count -= step
        self._left = 0

    def _take(self, count: int) -> bytes:
        """Give exactly `count` bytes."""
        end = self._pos + count
        if end <= len(self._chunk):
            data = self._chunk[self._pos : end]
            self._pos = end
            return data
        data = self._chunk[self._pos :]
        while len(data) < count:
            chunk = next(self._chunks, b"")
            if not chunk:
                raise ArchiveError("malformed archive: unexpected end of file")
            self._pos = min(count - len(data), len(chunk))
            self._chunk = chunk
            data += chunk[: self._pos]
        return data

    def _next_header(self) -> bytes:
        # An archive without an end marker may be the first part of a longer one: an error here.
        pad = self._pad
        self._pad = 0
        data = self._take(pad + BLOCK)
        self._note(data)
        return data[pad:] if pad else data

    def _note(self, data: bytes) -> None:
        if self._raw is not None and data:
            self._raw(data)

    def _drain(self) -> None:
        """Read what follows the end marker: zero bytes, else something is hidden there."""
        rest = self._chunk[self._pos :]
        while True:
            if rest.count(0) != len(rest):
                raise ArchiveError("malformed archive: data after the end of the archive")
            self._note(rest)
            rest = next(self._chunks, b"")
            if not rest:
                break
        self._chunk, self._pos = b"", 0

    def _extension(self, flag: bytes, size_field: bytes) -> None:
        size = _number(size_field, "size")
        if size > MAX_EXTENSION:
            raise ArchiveError(f"malformed archive: extended header of {size} bytes")
        padded = self._take(size + -size % BLOCK)
        self._note(padded)
        data = padded[:size]
        if flag == b"x":
            if self._pax:
                raise ArchiveError("malformed archive: two extended headers for one entry")
            self._pax = _parse_pax(data)
        elif flag in b"LK":
            if flag in self._long:
                raise ArchiveError("malformed archive: two extended headers for one entry")
            self._long[flag] = data.rstrip(b"\0")

    def _entry(self, header: bytes, fields: tuple[bytes, ...]) -> Entry:
        name, mode, uid, gid, size, mtime, _, flag, link, magic, _, major, minor, prefix = fields
        entry = Entry()
        name = _text(name)
        if magic == b"ustar\x0000" and prefix[0]:
            name = _text(prefix) + b"/" + name
        entry.name = name
        entry.kind = _KINDS[flag]
        entry.mode = _number(mode, "mode") & 0o7777
        entry.uid = _number(uid, "uid")
        entry.gid = _number(gid, "gid")
        entry.stored = entry.size = _number(size, "size")
        entry.mtime = _number(mtime, "mtime", signed=True) * _NANO
        if flag in b"12":
            entry.link = _text(link)
        elif flag in b"34":
            entry.major = _number(major, "devmajor")
            entry.minor = _number(minor, "devminor")
        long, pax = self._long, self._pax
        if long:
            entry.name = long.get(b"L", entry.name)
            entry.link = long.get(b"K", entry.link)
            self._long = {}
        entry.atime = entry.mtime
        if pax:
            _apply_pax(entry, pax)
            self._pax = {}
        if entry.kind == FILE and entry.name.endswith(b"/"):
            if flag != b"\0":
                raise ArchiveError(f'{show(entry.name)}: name of a file ends in "/"')
            entry.kind = DIRECTORY
        self._finish(entry, flag, header, pax)
        return entry

    def _finish(self, entry: Entry, flag: bytes, header: bytes, pax: dict[bytes, bytes]) -> None:
        """Set up the payload and check the values that extension records may have changed."""
        if entry.kind != FILE:
            # The size of anything but a file is decoration: no payload follows (as in Go's reader).
            entry.stored = entry.size = 0
        elif flag == b"S":
            self._old_sparse(entry, header)
        elif pax and any(key.startswith(b"GNU.sparse.") for key in pax):
            self._pax_sparse(entry, pax)
        if not 0 < len(entry.name) <= MAX_NAME or b"\0" in entry.name:
            raise ArchiveError(f"malformed archive: bad entry name {show(entry.name)}")
        if len(entry.link) > MAX_NAME or b"\0" in entry.link:
            raise ArchiveError(f"{show(entry.name)}: bad link target")
        if entry.uid > 0xFFFFFFFE or entry.gid > 0xFFFFFFFE:
            raise ArchiveError(f"{show(entry.name)}: owner {entry.uid}:{entry.gid} is out of range")
        if not -(1 << 62) < entry.mtime < 1 << 62 or not -(1 << 62) < entry.atime < 1 << 62:
            raise ArchiveError(f"{show(entry.name)}: time is out of range")
        if entry.size >= 1 << 62:
            raise ArchiveError(f"{show(entry.name)}: size is out of range")
        self._left = entry.stored
        self._pad = -(entry.stored) % BLOCK

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        table = header[386 : 386 + 96]
        more = header[482]
        entry.size = _number(header[483:495], "real size")
        pieces: list[tuple[int, int]] = []
        while True:
            for at in range(0, len(table), 24):
                if table[at] == 0:
                    break
                pieces.append(
                    (_number(table[at : at + 12], "map"), _number(table[at + 12 : at + 24], "map"))
                )
            if len(pieces) > MAX_SPARSE_PIECES:
                raise ArchiveError(f"{show(entry.name)}: too many sparse pieces")
            if not more:
                break
            block = self._take(BLOCK)
            self._note(block)
            table, more = block[:504], block[504]
        _check_sparse(entry, pieces)

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes]) -> None:
        name = pax.get(b"GNU.sparse.name")
        if name is not None:
            entry.name = name
        real = pax.get(b"GNU.sparse.realsize", pax.get(b"GNU.sparse.size"))
        if real is None:
            raise ArchiveError(f"{show(entry.name)}: sparse file without a size")
        entry.size = _decimal(real, "size")
        if pax.get(b"GNU.sparse.major") == b"1":
            numbers = self._sparse_map(entry)
        else:
            text = pax.get(b"GNU.sparse.map")
            if text is None:
                raise ArchiveError(f"{show(entry.name)}: unsupported form of sparse file")
            numbers = [_decimal(n, "map") for n in text.split(b",")] if text else []
        if len(numbers) % 2 or len(numbers) > 2 * MAX_SPARSE_PIECES:
            raise ArchiveError(f"{show(entry.name)}: bad sparse map")
        _check_sparse(entry, list(zip(numbers[::2], numbers[1::2], strict=True)))

    def _sparse_map(self, entry: Entry) -> list[int]:
        """Read the map of format 1.0, which stands before the data in blocks of its own."""
        text = b""
        wanted = 1
        while text.count(b"\n") < wanted:
            if len(text) >= MAX_EXTENSION or len(text) + BLOCK > entry.stored:
                raise ArchiveError(f"{show(entry.name)}: bad sparse map")
            block = self._take(BLOCK)
            self._note(block)
            text += block
            if wanted == 1 and b"\n" in text:
                wanted += 2 * _decimal(text.split(b"\n", 1)[0], "map")
        entry.stored -= len(text)
        return [_decimal(n, "map") for n in text.split(b"\n")[1:wanted]]


def _fields(header: bytes) -> tuple[bytes, ...]:
    fields = _HEADER.unpack(header)
    # The low half of Adler-32 is 1 + the sum of the bytes, exact as long as that fits 65520.
    total = (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) - 2
    total += 256 - sum(fields[6])
    if _number(fields[6], "checksum") != total:
        signed = total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
        if _number(fields[6], "checksum") != signed:
            raise ArchiveError("malformed archive: bad header checksum")
    return fields


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


@lru_cache(2048)
def _number(field: bytes, what: str, *, signed: bool = False) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:  # two's complement over the bits after the marker
            value -= 1 << (8 * len(field) - 1)
        if value < 0 and not signed:
            raise ArchiveError(f"malformed archive: negative {what} in a header")
        return value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError:
            pass
    raise ArchiveError(f"malformed archive: bad {what} in a header")


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 19:
        raise ArchiveError(f"malformed archive: bad {what} in an extended header")
    return int(text)


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        length = data[at:space] if space > 0 else b""
        if not length.isdigit():
            raise ArchiveError("malformed archive: bad pax record")
        end = at + int(length)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1] != 10 or not equals or not key:
            raise ArchiveError("malformed archive: bad pax record")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            piece = records.get(b"GNU.sparse.map")  # format 0.0 repeats the two keys
            value = value if piece is None else piece + b"," + value
            key = b"GNU.sparse.map"
        records[key] = value
        at = end
    return records


def _seconds(text: bytes) -> int:
    whole, _, fraction = text.partition(b".")
    negative = whole.startswith(b"-")
    digits = whole[1:] if negative else whole
    if not digits.isdigit() or len(digits) > 19 or (fraction and not fraction.isdigit()):
        raise ArchiveError("malformed archive: bad time in an extended header")
    value = int(digits) * _NANO + int(fraction[:9].ljust(9, b"0"))
    return -value if negative else value


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    for key, value in pax.items():
        if key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.link = value
        elif key == b"size":
            entry.stored = entry.size = _decimal(value, "size")
        elif key == b"uid":
            entry.uid = _decimal(value, "uid")
        elif key == b"gid":
            entry.gid = _decimal(value, "gid")
        elif key == b"mtime":
            entry.mtime = _seconds(value)
            if b"atime" not in pax:
                entry.atime = entry.mtime
        elif key == b"atime":
            entry.atime = _seconds(value)
        elif key.startswith(b"SCHILY.xattr."):
            entry.xattrs = entry.xattrs or {}
            entry.xattrs[key[13:]] = value
        elif key.startswith(b"LIBARCHIVE.xattr."):
            entry.xattrs = entry.xattrs or {}
            entry.xattrs.setdefault(*_libarchive_xattr(key, value))
    if entry.xattrs is not None and len(entry.xattrs) > MAX_XATTRS:
        raise ArchiveError(f"{show(entry.name)}: too many extended attributes")


def _libarchive_xattr(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    from binascii import Error, a2b_base64
    from urllib.parse import unquote_to_bytes

    try:
        # libarchive leaves the padding out
        return unquote_to_bytes(key[17:]), a2b_base64(value + b"=" * (-len(value) % 4))
    except Error as err:
        raise ArchiveError("malformed archive: bad extended attribute") from err


def _check_sparse(entry: Entry, pieces: list[tuple[int, int]]) -> None:
    at = total = 0
    kept = []
    for offset, length in pieces:
        if offset < at or offset + length > entry.size:
            raise ArchiveError(f"{show(entry.name)}: bad sparse map")
        at = offset + length
        total += length
        if length:
            kept.append((offset, length))
    if total != entry.stored:
        raise ArchiveError(f"{show(entry.name)}: sparse map does not fit the payload")
    entry.sparse = kept
