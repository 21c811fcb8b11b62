"""flock(2) on files and directories.

Not fcntl locks: those vanish when any descriptor of the file is closed and are not inherited.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager

from rkt.errors import LockedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def acquire(fd: int, *, exclusive: bool = True, blocking: bool = True, what: str = "") -> None:
    """Lock an open file or directory.  Raises LockedError when it is held and `blocking` is off."""
    mode = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if blocking else fcntl.LOCK_NB)
    try:
        fcntl.flock(fd, mode)
    except BlockingIOError:
        raise LockedError(f'"{what or fd}" is locked by another process') from None


def release(fd: int) -> None:
    """Unlock an open file or directory."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def open_dir(path: str, *, dir_fd: int | None = None) -> int:
    """Open a directory for locking and *at calls; never through a symbolic link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, dir_fd=dir_fd)


def is_locked(fd: int) -> bool:
    """Say whether another open file holds an exclusive lock; leaves fd unlocked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


@contextmanager
def held(path: str, *, exclusive: bool = True, blocking: bool = True) -> Iterator[int]:
    """Hold a lock on a file that is created when missing and removed when nobody waits for it.

    After locking, the inode at the path must still be the one that was locked: whoever released it
    before may have unlinked it (rkt-internals: lock, then check).
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o660)
        try:
            info = os.fstat(fd)
            if info.st_uid == os.geteuid() and info.st_nlink == 1:
                os.fchmod(fd, 0o660)  # whatever the umask: the group may wait for this lock
            acquire(fd, exclusive=exclusive, blocking=blocking, what=path)
            try:
                same = os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
            except FileNotFoundError:
                same = False
            if not same:
                continue
            try:
                yield fd
            finally:
                _unlink_if_alone(fd, path)
            return
        finally:
            os.close(fd)


def _unlink_if_alone(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # other shared holders
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
