"""The log of an app: chunks as they came from its pipes, in numbered files of bounded size.

docs/devel/on-disk-format.md describes the files; `rkt.pod.logs` reads them.  Nothing here looks at
lines: what is written is what was read from a pipe, with the time and the stream in front.
"""

from __future__ import annotations

import os
import struct
import time

from rkt import log
from rkt.const import LOG_MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NOTE, STDOUT, STDERR = 0, 1, 2
DEFAULT_SIZE = 32 << 20
LEAST_SIZE = 256 << 10  # each half must hold a chunk
MID_LINE = 1  # the chunk goes on with a line that an earlier one began
GAP = 2  # output was lost before this chunk
_RECORD = struct.Struct("<IHHQ")  # length, stream, flags, time in ns
_NEWLINE = 10


class AppLog:
    """Writes the log of one app; never raises and never waits for anything but the disk.

    The first file comes with the first output.  Two files at most are kept, each of half the size.
    What cannot be written is counted and dropped, and the log says so once it can be written again.
    """

    __slots__ = ("_directory", "_fd", "_gap", "_half", "_lost", "_middle", "_name", "_number",
                 "_say", "_size", "_told")  # fmt: skip

    def __init__(
        self, directory: str, name: str, size: int = DEFAULT_SIZE,
        say: Callable[[str], None] = log.info,
    ) -> None:  # fmt: skip
        self._say = say
        self._directory = directory
        self._name = name
        self._half = max(size, LEAST_SIZE) // 2
        self._fd = -1
        self._size = 0
        self._lost = 0
        self._told = False
        self._gap = [False, False, False]
        self._middle = [False, False, False]
        self._number = _last(directory)

    def write(self, stream: int, data: bytes) -> None:
        """Append what an app wrote to a stream."""
        if not data:
            return
        parts = [*self._account(), self._head(stream, len(data)), data]
        if not self._append(parts):
            self._lost += len(data)
            self._gap[stream] = True
        else:
            self._lost = 0
            self._gap[stream] = False
        self._middle[stream] = data[-1] != _NEWLINE

    def note(self, text: str) -> None:
        """Append a line of rkt's own."""
        self.write(NOTE, f"{text}\n".encode("utf-8", "replace"))

    def close(self) -> None:
        """Finish; a loss at the end is recorded if there is room by now."""
        account = self._account()
        if account:
            self._append(account)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _head(self, stream: int, length: int) -> bytes:
        flags = MID_LINE if self._middle[stream] else 0
        if self._gap[stream]:
            flags |= GAP
        return _RECORD.pack(length, stream, flags, time.time_ns())

    def _account(self) -> list[bytes]:
        """Give the record of what was lost.

        It is written together with what comes after the loss, or not at all: on a disk that is
        almost full it alone would fit again and again.
        """
        if not self._lost:
            return []
        text = f"{self._lost} bytes of output were lost: no room for them\n".encode()
        return [_RECORD.pack(len(text), NOTE, 0, time.time_ns()), text]

    def _append(self, parts: list[bytes]) -> bool:
        """Write records, all of them or none; False if there is no room."""
        total = sum(map(len, parts))
        if (self._fd < 0 or self._size + total > self._half) and not self._begin():
            return self._fail("No space left on device")
        try:
            written = os.writev(self._fd, parts)
        except OSError as err:
            return self._fail(err.strerror or str(err))
        if written == total:
            self._size += total
            return True
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._size += written  # a short record: the reader goes on at the next file
        return self._fail("No space left on device")

    def _fail(self, reason: str) -> bool:
        if not self._told:
            self._told = True
            self._say(f'warning: app "{self._name}": its log cannot be written ({reason}); '
                      "the app goes on, output is lost")  # fmt: skip
        return False

    def _begin(self) -> bool:
        """Begin the next file and drop the one before the last; False if there is no room."""
        number = self._number + 1
        path = f"{self._directory}/{number:08d}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = -1
        try:
            _remove(f"{self._directory}/{number - 2:08d}")
            fd = os.open(path, flags, 0o600)
            if os.write(fd, LOG_MAGIC) != len(LOG_MAGIC):
                raise OSError(28, "No space left on device")
        except OSError as err:
            if fd >= 0:
                os.close(fd)
                _remove(path)
            log.debug(f'"{path}": {err.strerror}')
            return False
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._number, self._size = fd, number, len(LOG_MAGIC)
        return True


def _last(directory: str) -> int:
    """Make the directory; give the number of its last file: an app may come again to a pod."""
    os.makedirs(directory, 0o700, exist_ok=True)
    return max((int(name) for name in os.listdir(directory) if name.isdigit()), default=0)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
