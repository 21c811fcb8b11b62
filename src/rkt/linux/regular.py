"""Reading files in whose place there may be something else: a FIFO, a link, a device."""

from __future__ import annotations

import errno
import os
import stat

_CHUNK = 1 << 16


def read(path: str, limit: int, *, dir_fd: int | None = None, follow: bool = False) -> bytes:
    """Read a regular file of at most so many bytes, without ever waiting for somebody.

    A link at the last step is followed only with `follow`.  Raises OSError.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        pieces: list[bytes] = []
        room = limit
        while info.st_size <= limit and room >= 0:
            piece = os.read(fd, _CHUNK)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            room -= len(piece)
    finally:
        os.close(fd)
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)


def reopen(path_fd: int) -> int:
    """Open to read what an O_PATH descriptor, which is closed, is of.

    Raises OSError, EACCES for anything but a regular file: a device of an image is not touched, as
    opening one can do things (a watchdog resets the host, a tape is rewound), and an app may put
    one in the place of a file at any time.
    """
    try:
        if not stat.S_ISREG(os.fstat(path_fd).st_mode):
            raise OSError(errno.EACCES, "not a regular file")
        return os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(path_fd)
