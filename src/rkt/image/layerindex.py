"""What a layer says, without content: kept packed, since a layer may hold a million names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

RawEntry = tuple[int, bytes, bytes]
"""Kind, path below the root, target of a link."""
Meta = tuple[int, int, int, int, int]
"""Mode, owner, group, mtime and atime (ns) of a directory."""

_CHUNK = 4096
"""Entries that are packed together: they lie side by side, so a path takes a few bytes."""


class Entries(msgspec.Struct, array_like=True):
    """The entries of a layer in their order; to add to at the end and to read from the start."""

    packed: list[bytes] = []
    """Compressed msgpack of `_CHUNK` entries each."""
    last: list[RawEntry] = []
    """Those that are not packed yet."""

    def append(self, entry: RawEntry) -> None:
        """Add an entry."""
        self.last.append(entry)
        if len(self.last) >= _CHUNK:
            import zstandard

            packer = zstandard.ZstdCompressor(level=1)
            self.packed.append(packer.compress(msgspec.msgpack.encode(self.last)))
            self.last = []

    def __len__(self) -> int:
        """Count the entries."""
        return len(self.packed) * _CHUNK + len(self.last)

    def __iter__(self) -> Iterator[RawEntry]:
        """Give one entry after the other."""
        decoder = msgspec.msgpack.Decoder(list[RawEntry])
        for chunk in self.packed:
            yield from decoder.decode(_decompressed(chunk))
        yield from self.last


class Paths:
    """Paths as msgpack has them in a list, but for the list's head: without an object for each."""

    __slots__ = ("_count", "_data")

    def __init__(self, data: bytes | memoryview = b"", count: int = 0) -> None:
        self._data = bytearray(data)
        self._count = count

    @classmethod
    def of(cls, packed: msgspec.Raw) -> Paths:
        """Take a whole list.  Raises ValueError."""
        view = memoryview(packed)
        if view[0] >> 4 == 9:
            return cls(view[1:], view[0] & 15)
        size = {0xDC: 2, 0xDD: 4}[view[0]]
        return cls(view[1 + size :], int.from_bytes(view[1 : 1 + size], "big"))

    def packed(self) -> msgspec.Raw:
        """Give the whole list."""
        return msgspec.Raw(b"\xdd" + self._count.to_bytes(4, "big") + self._data)

    def append(self, path: bytes) -> None:
        """Add a path."""
        self._data += msgspec.msgpack.encode(path)
        self._count += 1

    @property
    def size(self) -> int:
        """Give about how many bytes all of them have, not more."""
        return len(self._data) - 2 * self._count

    def __len__(self) -> int:
        """Count the paths."""
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        """Give one path after the other."""
        data, at = self._data, 0
        while at < len(data):
            size = 1 << (data[at] - 0xC4)  # bin 8, bin 16, bin 32
            start = at + 1 + size
            at = start + int.from_bytes(data[at + 1 : start], "big")
            yield bytes(data[start:at])


class LayerIndex:
    """What a layer says, without content; paths are below the root, without a leading slash."""

    __slots__ = ("entries", "opaques", "root", "whiteouts")

    def __init__(
        self,
        entries: Entries | None = None,
        whiteouts: Paths | None = None,
        opaques: Paths | None = None,
        root: Meta | None = None,
    ) -> None:
        self.entries = Entries() if entries is None else entries
        self.whiteouts = Paths() if whiteouts is None else whiteouts
        """Paths that the layer deletes from those below it."""
        self.opaques = Paths() if opaques is None else opaques
        """Directories whose content in the layers below it deletes."""
        self.root = root

    def paths(self) -> Iterator[bytes]:
        """Give the path of each entry but the root's."""
        return (path for _, path, _ in self.entries if path)


class _Packed(msgspec.Struct, array_like=True):
    entries: Entries
    whiteouts: msgspec.Raw
    opaques: msgspec.Raw
    root: Meta | None


def pack(index: LayerIndex) -> bytes:
    """Give an index as a string of bytes."""
    import zstandard

    packed = _Packed(index.entries, index.whiteouts.packed(), index.opaques.packed(), index.root)
    packer = zstandard.ZstdCompressor(level=3, write_checksum=True)
    return packer.compress(msgspec.msgpack.encode(packed))


def unpack(data: bytes) -> LayerIndex:
    """Give the index that a string of bytes stands for.  Raises ValueError."""
    found = msgspec.msgpack.decode(_decompressed(data), type=_Packed)
    try:
        whiteouts, opaques = Paths.of(found.whiteouts), Paths.of(found.opaques)
    except KeyError as err:
        raise ValueError("not a list") from err
    return LayerIndex(found.entries, whiteouts, opaques, found.root)


def write(path: str, index: LayerIndex) -> None:
    """Write a layer's index to a new file."""
    with open(path, "xb") as file:
        file.write(pack(index))


def read(path: str) -> LayerIndex | None:
    """Read a layer's index; None if there is none, or only a damaged one."""
    try:
        with open(path, "rb") as file:
            return unpack(file.read())
    except (OSError, ValueError):
        return None


def _decompressed(data: bytes) -> bytes:
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as err:
        raise ValueError(str(err)) from err
