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


class LayerIndex(msgspec.Struct, array_like=True):
    """What a layer says, without content; paths are below the root, without a leading slash."""

    entries: Entries = msgspec.field(default_factory=Entries)
    whiteouts: list[bytes] = []
    """Paths that the layer deletes from those below it."""
    opaques: list[bytes] = []
    """Directories whose content in the layers below it deletes."""
    root: Meta | None = None

    def paths(self) -> Iterator[bytes]:
        """Give the path of each entry but the root's."""
        return (path for _, path, _ in self.entries if path)


def write(path: str, index: LayerIndex) -> None:
    """Write a layer's index to a new file."""
    import zstandard

    with open(path, "xb") as file:
        packer = zstandard.ZstdCompressor(level=3, write_checksum=True)
        file.write(packer.compress(msgspec.msgpack.encode(index)))


def read(path: str) -> LayerIndex | None:
    """Read a layer's index; None if there is none, or only a damaged one."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    try:
        return msgspec.msgpack.decode(_decompressed(data), type=LayerIndex)
    except ValueError:
        return None


def _decompressed(data: bytes) -> bytes:
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as err:
        raise ValueError(str(err)) from err
