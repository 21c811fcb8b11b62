"""Files that appear whole or not at all."""

from __future__ import annotations

import os


def fsync_dir(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: str, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace a file: temporary name, fsync, rename, fsync of the directory.

    With `durable` off the file is still whole for every reader, but may be lost in a power cut.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(temporary, flags, 0o600)
    except FileExistsError:  # a process that had our PID was killed
        os.unlink(temporary)
        fd = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException as err:
        os.unlink(temporary)
        if isinstance(err, OSError) and err.filename is None:
            err.filename = path  # a failed write knows only a descriptor
        raise
    if durable:
        fsync_dir(os.path.dirname(path) or ".")


def is_full(directory: str, *, room: int = 16 << 10) -> bool:
    """Say whether a file system has less than so many bytes left for us, or no inode."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    root = os.geteuid() == 0
    blocks, names = (found.f_bfree, found.f_ffree) if root else (found.f_bavail, found.f_favail)
    return blocks * found.f_frsize < room or (found.f_files > 0 and names == 0)
