"""Writing a file that journalctl reads (systemd.io/JOURNAL_FILE_FORMAT): append only, one writer.

What the format leaves to the writer is chosen for little work: no compression, no keyed hashes; a
message is looked up among the last ones only, so an equal one far back is stored twice.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

_HEADER = 240
_STATE, _ARENA, _TAIL_OBJECT = 16, 96, 136
_OBJECTS, _ENTRIES, _ENTRY_ARRAY = 144, 152, 176
_N_DATA, _N_FIELDS, _N_ARRAYS = 208, 216, 232
_OFFLINE, _ONLINE, _ARCHIVED = 0, 1, 2
_DATA, _FIELD, _ENTRY, _DATA_TABLE, _FIELD_TABLE, _ARRAY = 1, 2, 3, 4, 5, 6
_DATA_BUCKETS, _FIELD_BUCKETS = 2047, 333
_CHUNK = 256 << 10
_REMEMBERED = 1024
_LARGEST_ARRAY = 4096
_MASK = 0xFFFFFFFF
_Q = struct.Struct("<Q")


def jenkins(data: bytes) -> int:
    """Give the hash that the format wants: Bob Jenkins' lookup3, both halves."""
    length = len(data)
    a = b = c = (0xDEADBEEF + length) & _MASK
    if not length:
        return c << 32 | b
    words: tuple[int, ...] = struct.unpack(
        f"<{(length + 11) // 12 * 3}I", data + bytes(-length % 12)
    )
    last = len(words) - 3
    for i in range(0, last, 3):
        a = (a + words[i]) & _MASK
        b = (b + words[i + 1]) & _MASK
        c = (c + words[i + 2]) & _MASK
        a = ((a - c) & _MASK) ^ ((c << 4 | c >> 28) & _MASK)
        c = (c + b) & _MASK
        b = ((b - a) & _MASK) ^ ((a << 6 | a >> 26) & _MASK)
        a = (a + c) & _MASK
        c = ((c - b) & _MASK) ^ ((b << 8 | b >> 24) & _MASK)
        b = (b + a) & _MASK
        a = ((a - c) & _MASK) ^ ((c << 16 | c >> 16) & _MASK)
        c = (c + b) & _MASK
        b = ((b - a) & _MASK) ^ ((a << 19 | a >> 13) & _MASK)
        a = (a + c) & _MASK
        c = ((c - b) & _MASK) ^ ((b << 4 | b >> 28) & _MASK)
        b = (b + a) & _MASK
    a = (a + words[last]) & _MASK
    b = (b + words[last + 1]) & _MASK
    c = (c + words[last + 2]) & _MASK
    c = ((c ^ b) - (b << 14 | b >> 18)) & _MASK
    a = ((a ^ c) - (c << 11 | c >> 21)) & _MASK
    b = ((b ^ a) - (a << 25 | a >> 7)) & _MASK
    c = ((c ^ b) - (b << 16 | b >> 16)) & _MASK
    a = ((a ^ c) - (c << 4 | c >> 28)) & _MASK
    b = ((b ^ a) - (a << 14 | a >> 18)) & _MASK
    c = ((c ^ b) - (b << 24 | b >> 8)) & _MASK
    return c << 32 | b


class _Chain:
    """An entry array that grows: where it is anchored, and its last piece."""

    __slots__ = ("anchor", "offset", "room", "used")

    def __init__(self, anchor: int) -> None:
        self.anchor = anchor  # where the offset of the next piece is to be written
        self.offset = self.room = self.used = 0


class _Data:
    """A field with its value, as it stands in the file."""

    __slots__ = ("chain", "hash", "offset", "uses")

    def __init__(self, offset: int, hashed: int) -> None:
        self.offset = offset
        self.hash = hashed
        self.uses = 0
        self.chain = _Chain(offset + 48)


class JournalFile:
    """One file, from its creation to its end.  Methods raise OSError: a full disk."""

    def __init__(
        self, path: str, *, machine: bytes, boot: bytes, series: bytes, seqnum: int
    ) -> None:
        """Create it.  `series` and `seqnum` go on over the files of one journal."""
        self.path = path
        self.seqnum = seqnum
        self.series = series
        self.first = (seqnum, 0)  # sequence number and time of the first entry
        self._boot = boot
        self._data: dict[bytes, _Data] = {}
        self._messages: dict[bytes, _Data] = {}
        self._fields: dict[bytes, int] = {}
        self._size = self._end = 0
        self._entries = _Chain(_ENTRY_ARRAY)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(self._fd, 0, _CHUNK)
            self._map = mmap.mmap(self._fd, _CHUNK)
        except OSError:
            os.close(self._fd)
            os.unlink(path)
            raise
        self._size, self._end = _CHUNK, _HEADER
        head = struct.pack("<8sIIB7x16s16s16s16sQQ", b"LPKSHHRH", 0, 0, _ONLINE, os.urandom(16),
                           machine, boot, series, _HEADER, _CHUNK - _HEADER)  # fmt: skip
        self._map[: len(head)] = head
        fields = self._object(_FIELD_TABLE, 16 + 16 * _FIELD_BUCKETS) + 16
        data = self._object(_DATA_TABLE, 16 + 16 * _DATA_BUCKETS) + 16
        struct.pack_into("<QQQQ", self._map, 104, data, 16 * _DATA_BUCKETS,
                         fields, 16 * _FIELD_BUCKETS)  # fmt: skip
        self._data_table, self._field_table = data, fields

    @property
    def size(self) -> int:
        """How much of the file is used."""
        return self._end

    def append(self, constant: tuple[bytes, ...], message: bytes, when: int) -> None:
        """Add an entry of some `NAME=value` fields; the time is in microseconds."""
        found = [self._constant(field) for field in constant]
        found.append(self._message(message))
        items = sorted({one.offset: one for one in found}.values(), key=lambda one: one.offset)
        mixed = 0
        for one in items:
            mixed ^= one.hash
        monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        numbers = [number for one in items for number in (one.offset, one.hash)]
        at = self._object(_ENTRY, 64 + 16 * len(items))
        struct.pack_into(f"<QQQ16sQ{2 * len(items)}Q", self._map, at + 16, self.seqnum, when,
                         monotonic, self._boot, mixed, *numbers)  # fmt: skip
        count = self._read(_ENTRIES)
        self._link(self._entries, at)
        if count == 0:
            self.first = (self.seqnum, when)
            struct.pack_into("<Q", self._map, 168, self.seqnum)
            struct.pack_into("<Q", self._map, 184, when)
        struct.pack_into("<Q", self._map, 160, self.seqnum)
        struct.pack_into("<QQ", self._map, 192, when, monotonic)
        _Q.pack_into(self._map, _ENTRIES, count + 1)
        for one in items:
            if one.uses == 0:
                _Q.pack_into(self._map, one.offset + 40, at)
            else:
                self._link(one.chain, at)
            one.uses += 1
            _Q.pack_into(self._map, one.offset + 56, one.uses)
        self.seqnum += 1

    def publish(self) -> None:
        """Wake up who follows: writes to a mapped file are not noticed by themselves."""
        os.ftruncate(self._fd, self._size)

    def close(self, *, archive: bool = False) -> None:
        """Finish."""
        self._map[_STATE] = _ARCHIVED if archive else _OFFLINE
        self._map.close()
        try:
            os.ftruncate(self._fd, self._size)
        finally:
            os.close(self._fd)

    # Objects

    def _read(self, at: int) -> int:
        number: int = _Q.unpack_from(self._map, at)[0]
        return number

    def _count(self, at: int) -> None:
        _Q.pack_into(self._map, at, self._read(at) + 1)

    def _object(self, kind: int, size: int) -> int:
        """Make an object at the end of the file; gives its offset."""
        at = self._end
        end = at + size + (-size % 8)
        if end > self._size:
            grown = -(-end // _CHUNK) * _CHUNK
            os.posix_fallocate(self._fd, self._size, grown - self._size)
            self._map.resize(grown)
            self._size = grown
            _Q.pack_into(self._map, _ARENA, grown - _HEADER)
        struct.pack_into("<BB6xQ", self._map, at, kind, 0, size)
        self._end = end
        _Q.pack_into(self._map, _TAIL_OBJECT, at)
        self._count(_OBJECTS)
        return at

    def _constant(self, field: bytes) -> _Data:
        known = self._data.get(field)
        if known is None:
            known = self._data[field] = self._store(field)
        return known

    def _message(self, field: bytes) -> _Data:
        known = self._messages.get(field)
        if known is None:
            if len(self._messages) >= _REMEMBERED:
                self._messages.clear()
            known = self._messages[field] = self._store(field)
        return known

    def _store(self, field: bytes) -> _Data:
        name = field.partition(b"=")[0]
        head = self._fields.get(name)
        if head is None:
            head = self._fields[name] = self._field(name)
        hashed = jenkins(field)
        at = self._object(_DATA, 64 + len(field))
        following = self._read(head + 32)
        struct.pack_into("<QQQQQQ", self._map, at + 16, hashed, 0, following, 0, 0, 0)
        self._map[at + 64 : at + 64 + len(field)] = field
        self._hang(self._data_table + 16 * (hashed % _DATA_BUCKETS), at)
        _Q.pack_into(self._map, head + 32, at)
        self._count(_N_DATA)
        return _Data(at, hashed)

    def _field(self, name: bytes) -> int:
        hashed = jenkins(name)
        at = self._object(_FIELD, 40 + len(name))
        struct.pack_into("<QQQ", self._map, at + 16, hashed, 0, 0)
        self._map[at + 40 : at + 40 + len(name)] = name
        self._hang(self._field_table + 16 * (hashed % _FIELD_BUCKETS), at)
        self._count(_N_FIELDS)
        return at

    def _hang(self, bucket: int, at: int) -> None:
        """Put an object at the end of the list of its hash bucket."""
        tail = self._read(bucket + 8)
        _Q.pack_into(self._map, tail + 24 if tail else bucket, at)
        _Q.pack_into(self._map, bucket + 8, at)

    def _link(self, chain: _Chain, entry: int) -> None:
        """Add an entry to an array, in a new piece when the last one is full."""
        if chain.used == chain.room:
            room = min(max(4, 2 * chain.room), _LARGEST_ARRAY)
            piece = self._object(_ARRAY, 24 + 8 * room)
            self._map[piece + 16 : piece + 24 + 8 * room] = bytes(8 + 8 * room)
            _Q.pack_into(self._map, piece + 24, entry)
            _Q.pack_into(self._map, chain.anchor, piece)
            self._count(_N_ARRAYS)
            chain.anchor, chain.offset, chain.room, chain.used = piece + 16, piece, room, 1
            return
        _Q.pack_into(self._map, chain.offset + 24 + 8 * chain.used, entry)
        chain.used += 1
