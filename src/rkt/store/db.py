"""The store's SQLite database: opening, schema, migrations, transactions.

Write-ahead logging lets readers and one writer work at the same time; writers wait for each other.
Members of the group may write all its files, and a file forged as SQLite's rollback journal makes
whoever opens the database delete any file of its forger's choice: root works on it as nobody.
"""

from __future__ import annotations

import errno
import os

# The package around it has nothing that is used here, and loads `datetime`.
from _sqlite3 import SQLITE_CORRUPT, SQLITE_NOTADB, Error, OperationalError, connect
from contextlib import contextmanager

from rkt.errors import StoreError
from rkt.linux import atomic, libc, lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from sqlite3 import Connection

BUSY_SECONDS = 60
_NOBODY = 65534
_LOG_PAGES = 64
_ROOM = 128 << 10  # what SQLite needs beside the database: its shared memory and a short log

_VERSION_1 = """
CREATE TABLE images(
  key TEXT PRIMARY KEY,
  digest TEXT NOT NULL,
  name TEXT NOT NULL,
  labels TEXT NOT NULL,
  import_time INTEGER NOT NULL,
  last_used INTEGER NOT NULL,
  latest INTEGER NOT NULL,
  size INTEGER NOT NULL,
  tree_size INTEGER NOT NULL,
  unpacked INTEGER NOT NULL,
  source TEXT NOT NULL,
  status TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  identity TEXT NOT NULL,
  prefix TEXT NOT NULL,
  verified_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX images_name ON images(name);
CREATE TABLE remotes(
  url TEXT PRIMARY KEY,
  etag TEXT NOT NULL,
  max_age INTEGER NOT NULL,
  download_time INTEGER NOT NULL,
  key TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX remotes_key ON remotes(key);
"""


def _create(db: Connection) -> None:
    for statement in _VERSION_1.split(";"):
        db.execute(statement)


_MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_create,)
VERSION = len(_MIGRATIONS)


class Database:
    """One connection; opened on first use."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._db: Connection | None = None

    def close(self) -> None:
        """Close the connection; a later use opens it again."""
        if self._db is not None:
            with self._identity():
                self._db.close()
            self._db = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection for queries; a store that does not exist yet reads as empty."""
        with self._failures(), self._identity():
            if self._db is None and not self._exists():
                with _memory() as empty:
                    yield empty
            else:
                yield self._open()

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """Give a connection inside a transaction, committed at the end, rolled back on error.

        With `durable` off a power cut may lose the last transactions, never damage the database.
        """
        with self._failures():
            if self._db is None:
                _create_file(self.path)
            with self._identity(), self._transaction(durable=durable) as db:
                yield db

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[Connection]:
        db = self._open()
        db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    @contextmanager
    def _identity(self) -> Iterator[None]:
        """Let root touch the files of the database with the rights of the group only."""
        gid = 0
        if os.geteuid() == 0:
            try:
                gid = os.stat(os.path.dirname(self.path)).st_gid
            except FileNotFoundError:
                pass  # no store yet
        if gid == 0:
            yield
            return
        with libc.FsIds(_NOBODY, gid):
            # Where nobody cannot come, neither can members whom root has to fear.
            if _reaches(os.path.dirname(self.path)):
                yield
                return
        yield

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Error as err:
            if isinstance(err, OperationalError) and atomic.is_full(
                os.path.dirname(self.path), room=_ROOM
            ):
                # SQLite says "disk I/O error" or "unable to open", and means this.
                raise StoreError(f'image store "{self.path}": {os.strerror(errno.ENOSPC)}',
                                 hint="make room, for example by rkt gc") from None  # fmt: skip
            code = getattr(err, "sqlite_errorcode", 0) & 0xFF
            hint = None
            if code in (SQLITE_CORRUPT, SQLITE_NOTADB):
                hint = "move it away, run rkt image gc, and fetch the images again"
            raise StoreError(f'image store "{self.path}": {err}', hint=hint) from err

    def _exists(self) -> bool:
        try:
            os.lstat(self.path)
        except FileNotFoundError:
            return False
        except OSError as err:
            raise StoreError(f'image store "{self.path}": {err.strerror}') from err
        return True

    def _open(self) -> Connection:
        if self._db is None:
            db = _connect(self.path)
            try:
                db.execute("PRAGMA trusted_schema=OFF")
                # Whoever comes first reads the whole log, which commands leave as it is.
                db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
                self._migrate(db)
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def _migrate(self, db: Connection) -> None:
        found = _version(db)
        if found == VERSION:
            return
        if found > VERSION:
            raise StoreError(
                f"current store db version: {found} "
                f"(greater than the current rkt expected version: {VERSION})"
            )
        if found and os.geteuid() != 0:
            raise StoreError(
                "database schema needs to be updated, re-run as root to perform the update"
            )
        # Switching to WAL does not wait for other connections by itself: one at a time.
        fd = lock.open_dir(os.path.dirname(self.path))
        try:
            lock.acquire(fd)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("BEGIN IMMEDIATE")
            try:
                for migrate in _MIGRATIONS[_version(db) :]:
                    migrate(db)
                db.execute(f"PRAGMA user_version={VERSION}")
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        finally:
            os.close(fd)


def _version(db: Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _connect(path: str) -> Connection:
    return connect(path, timeout=BUSY_SECONDS, isolation_level=None)


def _reaches(path: str) -> bool:
    try:
        os.stat(path)
    except PermissionError:
        return False
    return True


def _create_file(path: str) -> None:
    # SQLite gives its side files the mode of the main one, so that the group can write them too.
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o660)
    except FileExistsError:
        return
    except OSError as err:
        raise StoreError(f'cannot open image store "{path}": {err.strerror}') from err
    try:
        os.fchmod(fd, 0o660)
    finally:
        os.close(fd)


@contextmanager
def _memory() -> Iterator[Connection]:
    db = connect(":memory:", isolation_level=None)
    try:
        _create(db)
        yield db
    finally:
        db.close()
