"""A file for the user that appears whole or not at all; what writes it may take its time.

Not in `atomic`, which stage1 loads: contextlib would come with it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


@contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
    """Give a file to write that takes the place of `path` at the end; nothing is left of a failure.

    Raises OSError with the name of `path`.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(temporary, flags, 0o666)
        try:
            with os.fdopen(fd, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as err:
        if err.filename in (None, temporary):
            err.filename = path
        raise
