"""Files of the store: staging directories, renames into place, reads that trust nobody.

Members of the group `rkt` may write most of the store's directories, so whoever reads there, root
above all, must expect links, pipes, huge files and names that change from one moment to the next.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager

from rkt import log
from rkt.errors import KernelError, LockedError, StoreError
from rkt.linux import libc, lock, tree, treecopy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAX_SMALL = 16 << 20
MAX_ARCHIVE = 64 << 30
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def make_locked(tmp: str) -> tuple[str, int]:
    """Make a locked directory; take away those whose owner is gone."""
    stale: list[tuple[str, int]] = []
    gate = lock.open_dir(tmp)
    try:
        # Between making a directory and locking it nobody may take it for an abandoned one.
        lock.acquire(gate)
        for name in os.listdir(tmp):
            try:
                fd = lock.open_dir(name, dir_fd=gate)
            except OSError:
                continue  # gone, or of a kind or an owner that is not ours to judge
            try:
                lock.acquire(fd, blocking=False)
            except LockedError:
                os.close(fd)
            else:
                stale.append((name, fd))
        path = f"{tmp}/{os.getpid()}-{os.urandom(6).hex()}"
        os.mkdir(path, 0o700)
        mine = lock.open_dir(path)
        lock.acquire(mine)
    finally:
        os.close(gate)
    for name, fd in stale:
        try:
            tree.remove(f"{tmp}/{name}")
        except OSError:
            pass  # the next one tries again
        finally:
            os.close(fd)
    return path, mine


@contextmanager
def guard(path: str, *, exclusive: bool) -> Iterator[int]:
    """Hold the lock of a directory, which is made if root finds none; says when that takes time."""
    if os.geteuid() == 0:
        os.makedirs(path, mode=0o750, exist_ok=True)
    try:
        fd = lock.open_dir(path)
    except FileNotFoundError:
        yield -1  # nobody prepares pods here
        return
    except OSError as err:
        raise KernelError("cannot open", err, path) from err
    try:
        try:
            lock.acquire(fd, exclusive=exclusive, blocking=False, what=path)
        except LockedError:
            log.info("waiting for another rkt, which takes images into use or removes some...")
            lock.acquire(fd, exclusive=exclusive, what=path)
        yield fd
    finally:
        os.close(fd)


def sync(path: str) -> None:
    """Write a staged image to disk, all its files at once."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc.syncfs(fd)
    finally:
        os.close(fd)


def move(source: str, target: str, *, replace: bool) -> None:
    """Rename something into place and make the name durable."""
    if not replace and os.path.lexists(target):
        return
    os.rename(source, target)
    fd = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unlink(path: str) -> None:
    """Remove a file; nothing there is success.  A directory can only be somebody's bad joke."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        tree.remove(path)


def write(path: str, data: bytes, *, mode: int = 0o640) -> None:
    """Write a new file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        os.fchmod(fd, mode)


def read(path: str, *, limit: int = MAX_SMALL) -> bytes | None:
    """Read a regular file of bounded size, never through a link; None if it is missing."""
    try:
        fd = os.open(path, _READ)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StoreError(f'"{path}" is not a regular file')
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise KernelError("cannot read", err, path) from err
    if len(data) > limit:
        raise StoreError(f'"{path}" is larger than {limit} bytes')
    return data


def open_stable(path: str, private: str) -> BinaryIO | None:
    """Open an archive whose bytes nobody else can change while it is open; None if it is missing.

    If others might, it is a nameless copy in the directory `private`.  Raises StoreError for what
    is no archive at all, KernelError.
    """
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise KernelError("cannot open", err, path) from err
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise StoreError(f'"{path}" is not a regular file')
        if info.st_uid == os.geteuid() and not info.st_mode & 0o022:
            return os.fdopen(os.dup(fd), "rb", buffering=0)
        if info.st_size > MAX_ARCHIVE:
            raise StoreError(f'"{path}" is larger than {MAX_ARCHIVE} bytes')
        copy = os.open(private, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        file = os.fdopen(copy, "rb", buffering=0)
        try:
            treecopy.copy_data(fd, copy, info.st_size)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file
    except OSError as err:
        raise KernelError("cannot copy", err, path) from err
    finally:
        os.close(fd)
