"""Mappings that may grow without bound: in memory while they are small, then in a file.

The file is an SQLite database without a name: it goes with the process, and what SQLite keeps of it
in memory is bounded.
"""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    Value = int | bytes

K = TypeVar("K", bytes, int)
V = TypeVar("V")

ROOM = 16 << 20
"""Bytes, roughly, that a mapping may take in memory."""
_EACH = 150
"""Bytes that Python needs for an item of a dict, beside those of the key and the value."""
_CACHE_KIB = 4 << 10
_BATCH = 500


class Scratch:
    """The file for mappings that have become too large; it is made when the first one has.

    `place` gives a directory that nobody else may write, for as long as it takes to open the file.
    """

    def __init__(self, place: Callable[[], AbstractContextManager[str]]) -> None:
        self._place = place
        self._db: sqlite3.Connection | None = None
        self._count = 0

    @classmethod
    def within(cls, directory: str) -> Scratch:
        """Make one that uses a directory of this process."""
        return cls(lambda: nullcontext(directory))

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the file with all that is in it."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def table(self) -> str:
        """Make a table and give its name.  Raises OSError."""
        self._count += 1
        name = f"t{self._count}"
        self.run(f"CREATE TABLE {name}(k PRIMARY KEY, v) WITHOUT ROWID")
        return name

    def run(self, statement: str, values: tuple[Value, ...] = ()) -> sqlite3.Cursor:
        """Execute a statement.  Raises OSError."""
        import sqlite3

        try:
            return (self._db or self._open()).execute(statement, values)
        except sqlite3.Error as err:
            raise _failure(err) from err

    def fill(self, statement: str, rows: Iterable[tuple[Value, Value]]) -> None:
        """Execute a statement for each row.  Raises OSError."""
        import sqlite3

        try:
            (self._db or self._open()).executemany(statement, rows)
        except sqlite3.Error as err:
            raise _failure(err) from err

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        with self._place() as directory:
            path = f"{directory}/{os.urandom(8).hex()}.spill"
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                # Nothing of it is ever needed again after a failure.
                for setting in (
                    "journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE",
                    f"cache_size = -{_CACHE_KIB}", "temp_store = MEMORY",
                ):  # fmt: skip
                    db.execute(f"PRAGMA {setting}").close()
                db.execute("BEGIN EXCLUSIVE")  # opens the file, and never ends
                os.unlink(path)
            except BaseException:
                db.close()
                raise
        self._db = db
        return db


def _failure(err: sqlite3.Error) -> OSError:
    code = errno.ENOSPC if "full" in str(err) else errno.EIO
    return OSError(code, f"cannot use a temporary file: {err}")


class Table(Generic[K, V]):
    """A mapping from bytes, or from integers, to values that `pack` makes bytes or integers of.

    Methods raise OSError once it is in the file.
    """

    def __init__(
        self,
        scratch: Scratch,
        pack: Callable[[V], Value],
        unpack: Callable[[Value], V],
        *,
        room: int = ROOM,
    ) -> None:
        self._scratch = scratch
        self._pack = pack
        self._unpack = unpack
        self._room = room
        self._held: dict[K, V] = {}
        self._name = ""

    def get(self, key: K) -> V | None:
        """Give a value, None if there is none."""
        if not self._name:
            return self._held.get(key)
        row = self._scratch.run(f"SELECT v FROM {self._name} WHERE k = ?", (key,)).fetchone()
        return None if row is None else self._unpack(row[0])

    def __contains__(self, key: K) -> bool:
        if not self._name:
            return key in self._held
        found = self._scratch.run(f"SELECT 1 FROM {self._name} WHERE k = ?", (key,))
        return found.fetchone() is not None

    def __setitem__(self, key: K, value: V) -> None:
        if self._name:
            self._scratch.run(self._insert(), (key, self._pack(value)))
            return
        held = self._held
        if key not in held:
            self._room -= _size(key) + _size(value) + _EACH
        held[key] = value
        if self._room < 0:
            self._spill()

    def pop(self, key: K) -> V | None:
        """Take a value away; None if there was none."""
        if self._name:
            value = self.get(key)
            if value is not None:
                self._scratch.run(f"DELETE FROM {self._name} WHERE k = ?", (key,))
            return value
        value = self._held.pop(key, None)
        if value is not None:
            self._room += _size(key) + _size(value) + _EACH
        return value

    def drop(self) -> None:
        """Forget everything, and use it no more."""
        self._held = {}
        if self._name:
            self._scratch.run(f"DROP TABLE {self._name}")

    def __bool__(self) -> bool:
        if not self._name:
            return bool(self._held)
        return self._scratch.run(f"SELECT 1 FROM {self._name} LIMIT 1").fetchone() is not None

    def items(self, first: K | None = None, *, reverse: bool = False) -> Iterator[tuple[K, V]]:
        """Give keys and values in the order of keys, from a key on (or, reversed, down from one).

        What is added or taken away meanwhile may be seen or not.
        """
        if self._name:
            yield from self._rows(first, reverse=reverse)
            return
        keys = self._held.keys()
        if first is not None:
            keys = {key for key in keys if (key <= first if reverse else key >= first)}  # type: ignore[assignment]
        for key in sorted(keys, reverse=reverse):
            value = self.get(key)
            if value is not None:
                yield key, value

    def _rows(self, first: K | None, *, reverse: bool) -> Iterator[tuple[K, V]]:
        # A batch at a time: a cursor does not like changes behind its back.
        order, before, after = ("DESC", "<=", "<") if reverse else ("ASC", ">=", ">")
        sign = before
        while True:
            where, values = ("", ()) if first is None else (f"WHERE k {sign} ?", (first,))
            rows = self._scratch.run(
                f"SELECT k, v FROM {self._name} {where} ORDER BY k {order} LIMIT {_BATCH}", values
            ).fetchall()
            for key, value in rows:
                yield key, self._unpack(value)
            if len(rows) < _BATCH:
                return
            first, sign = rows[-1][0], after

    def _insert(self) -> str:
        return f"INSERT OR REPLACE INTO {self._name} VALUES(?, ?)"

    def _spill(self) -> None:
        self._name = self._scratch.table()
        rows = ((key, self._pack(self._held[key])) for key in sorted(self._held))
        self._scratch.fill(self._insert(), rows)
        self._held = {}


def _size(value: object) -> int:
    if isinstance(value, bytes):
        return len(value)
    return 0 if isinstance(value, int) else _EACH


def numbers(scratch: Scratch, *, room: int = ROOM) -> Table[K, int]:
    """Make a mapping to numbers."""
    return Table(scratch, int, _number, room=room)


def texts(scratch: Scratch, *, room: int = ROOM) -> Table[K, bytes]:
    """Make a mapping to bytes."""
    return Table(scratch, bytes, _bytes, room=room)


def marks(scratch: Scratch, *, room: int = ROOM) -> Table[K, bool]:
    """Make a set: a mapping to true."""
    return Table(scratch, int, bool, room=room)


def _number(value: Value) -> int:
    assert isinstance(value, int)
    return value


def _bytes(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return value
