"""A file for the user that appears whole or not at all; what writes it may take its time.

Not in `atomic`, which stage1 loads: contextlib would come with it.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


@contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
    """Give a file to write that takes the place of `path` at the end; nothing is left of a failure.

    It has no name until then, where the file system can do that: nothing is left of a SIGKILL
    either.  Raises OSError with the name of `path`.
    """
    parent = os.path.dirname(path) or "."
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        fd, is_nameless = _open(parent, temporary)
        try:
            with os.fdopen(fd, "wb") as file:
                yield file
                file.flush()
                os.fsync(fd)
                if is_nameless:
                    _link(fd, temporary)
            os.rename(temporary, path)
        except BaseException:
            _unlink(temporary)
            raise
    except OSError as err:
        if err.filename in (None, temporary, parent):
            err.filename = path
        raise


def _open(parent: str, temporary: str) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(parent, flags | os.O_TMPFILE, 0o666), True
    except OSError as err:
        if err.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    _unlink(temporary)  # of a dead process that had our PID
    return os.open(temporary, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), False


def _link(fd: int, path: str) -> None:
    _unlink(path)
    # With a directory given, and only then, os.link follows the link that stands for the file.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
