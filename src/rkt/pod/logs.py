"""Reading the logs that a pod's supervisor keeps (docs/devel/on-disk-format.md, "Logs").

A log is a series of chunks; what is given here are blocks of whole lines, also where a line came in
several chunks or goes on in the next file.
"""

from __future__ import annotations

import heapq
import os
import stat
import struct
from collections import deque

from rkt.const import LOG_DIR, LOG_MAGIC
from rkt.errors import RktError
from rkt.linux import lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rkt.pod.lifecycle import Pod

NOTE, STDOUT, STDERR = 0, 1, 2
_RECORD = struct.Struct("<IHHQ")
_MID_LINE, _GAP = 1, 2
_LONGEST = 1 << 20  # of a chunk, and of a line that is held back until its end is there
_READ = 2 << 20
_EACH = 200  # bytes that a block takes beside its data


class TooLong(RktError):
    """The lines that were asked for take more memory than they may."""


class Block:
    """Lines of one stream of an app; only the last one of a stream that ended may lack its end.

    A line that is too long to be held back comes in several; only the first of them `begins`.
    `time` is when the first line began, `order` when the last one was written, both in ns.
    """

    __slots__ = ("app", "begins", "data", "order", "stream", "time")

    def __init__(
        self, app: str, stream: int, time: int, order: int, data: bytes, *, begins: bool = True
    ) -> None:
        self.app = app
        self.stream = stream
        self.time = time
        self.order = order
        self.data = data
        self.begins = begins


class _Stream:
    """A stream on its way from chunks to lines."""

    __slots__ = ("begun", "carry", "known", "number", "time")

    def __init__(self, number: int) -> None:
        self.number = number
        self.carry = bytearray()
        self.time = 0
        self.known = False  # whether the beginning of the present line was seen
        self.begun = False  # whether it was also given


class AppLog:
    """The log of one app, from the oldest line that is left."""

    __slots__ = (
        "_directory", "_fd", "_number", "_offset", "_order", "_pod", "_spoilt", "_streams",
        "app",
    )  # fmt: skip

    def __init__(self, pod: Pod, app: str) -> None:
        """Open it.  Raises FileNotFoundError or NotADirectoryError if the app has no log."""
        self._directory = lock.open_dir(f"{LOG_DIR}/{app}", dir_fd=pod.fd)
        self.app = app
        self._pod = pod.uuid
        self._fd = -1
        self._number = 0
        self._offset = 0
        self._order = 0
        self._spoilt = False
        self._streams = [_Stream(number) for number in (NOTE, STDOUT, STDERR)]

    def fileno(self) -> int:
        """Give the descriptor of the directory."""
        return self._directory

    def is_removed(self) -> bool:
        """Say whether it was deleted: its app was taken from the pod."""
        return os.fstat(self._directory).st_nlink == 0

    def close(self) -> None:
        """Close all files."""
        for fd in (self._fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._fd = self._directory = -1

    def blocks(self, *, final: bool) -> Iterator[Block]:
        """Yield what has been added; `final`: nothing more comes, unfinished lines count."""
        final = final or self.is_removed()
        while True:
            later = [number for number in self._numbers() if number > self._number]
            if self._fd >= 0:
                # When a later file was there before we read, this one was finished.
                yield from self._read(complete=final or bool(later))
            if not later:
                break
            self._open(later[0])
        if final:
            for stream in self._streams:
                yield from self._rest(stream)

    def _numbers(self) -> list[int]:
        names = [name for name in os.listdir(self._directory) if name.isascii() and name.isdigit()]
        return sorted(int(name) for name in names if name == f"{int(name):08d}")

    def _open(self, number: int) -> None:
        try:
            # Not blocking: a FIFO in its place must not hang whoever reads.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(f"{number:08d}", flags, dir_fd=self._directory)
        except FileNotFoundError:  # rotated away meanwhile
            return
        except OSError as err:
            raise self._unreadable(number, str(err.strerror)) from err
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._unreadable(number, "not a regular file")
        if self._fd >= 0:
            os.close(self._fd)
        if number != self._number + 1:
            for stream in self._streams:
                stream.carry, stream.known = bytearray(), False
        self._fd, self._number, self._offset, self._spoilt = fd, number, 0, False

    def _unreadable(self, number: int, why: str) -> RktError:
        return RktError(
            f'pod "{self._pod}": cannot read file {number:08d} of the log of "{self.app}": {why}'
        )

    def _read(self, *, complete: bool) -> Iterator[Block]:
        while not self._spoilt:
            data = os.pread(self._fd, _READ, self._offset)
            at = 0
            if self._offset == 0 and len(data) >= len(LOG_MAGIC):
                at = len(LOG_MAGIC)
                if not data.startswith(LOG_MAGIC):
                    yield from self._spoil()
                    return
            size = len(data)
            while size - at >= _RECORD.size:
                length, number, flags, time = _RECORD.unpack_from(data, at)
                if not 0 < length <= _LONGEST or number > STDERR or not time:
                    yield from self._spoil()
                    return
                begin = at + _RECORD.size
                end = begin + length
                if end > size:
                    if complete and size < _READ:
                        end = size  # its writer was killed in the middle
                    else:
                        break
                at = end
                self._order = time
                yield from self._take(self._streams[number], flags, time, data[begin:end])
            if at == 0:
                return
            self._offset += at

    def _spoil(self) -> Iterator[Block]:
        self._spoilt = True
        for stream in self._streams:
            yield from self._rest(stream, end=b"\n")
            stream.known = False
        text = f"the log is damaged: the rest of file {self._number:08d} cannot be read\n"
        yield Block(self.app, NOTE, self._order, self._order, text.encode())

    def _take(self, stream: _Stream, flags: int, time: int, data: bytes) -> Iterator[Block]:
        if flags & _GAP:
            yield from self._rest(stream, end=b"\n")
            stream.known = False
        if not flags & _MID_LINE:
            yield from self._rest(stream, end=b"\n")
        elif not stream.known:  # the beginning of the line is lost, so the rest of it is no line
            yield from self._rest(stream, end=b"\n")
            cut = data.find(b"\n") + 1
            if cut == 0:
                return
            data = data[cut:]
            if not data:
                stream.known = True
                return
        stream.known = True
        end = data.rfind(b"\n") + 1
        first = 0
        if end and (stream.carry or stream.begun):
            first = data.find(b"\n") + 1
            stream.carry += data[:first]
            yield self._carried(stream, time)
            stream.begun = False
        if first < end:
            yield Block(self.app, stream.number, time, time, data[first:end])
        if end < len(data):
            if not stream.carry and not stream.begun:
                stream.time = time
            stream.carry += data[end:]
            if len(stream.carry) > _LONGEST:
                yield self._carried(stream, time)
                stream.begun = True

    def _carried(self, stream: _Stream, order: int) -> Block:
        """Give what was held back of a line."""
        piece, stream.carry = bytes(stream.carry), bytearray()
        begins = not stream.begun
        return Block(self.app, stream.number, stream.time, order, piece, begins=begins)

    def _rest(self, stream: _Stream, *, end: bytes = b"") -> Iterator[Block]:
        """Yield a line that will not be finished; where others follow it gets an end."""
        if stream.carry or stream.begun:
            stream.carry += end
        if stream.carry:
            yield self._carried(stream, self._order)
        stream.begun = False


class PodLog:
    """The logs of those of a pod's apps that are wanted (none named: all), as they come and go."""

    __slots__ = ("_gone", "_logs", "_pod", "_wanted")

    def __init__(self, pod: Pod, wanted: Sequence[str]) -> None:
        self._pod = pod
        self._wanted = wanted
        self._logs: dict[str, AppLog] = {}
        self._gone: list[AppLog] = []

    def close(self) -> None:
        """Close all files."""
        for log in (*self._gone, *self._logs.values()):
            log.close()

    def look_for_more(self, watch: Callable[[int], None] | None = None) -> None:
        """Open the logs that have come, also of an app that was removed and added again.

        `watch` gets the descriptor of each one's directory.
        """
        while self._gone:
            self._gone.pop().close()
        for name in apps(self._pod):
            old = self._logs.get(name)
            if (old and not old.is_removed()) or (self._wanted and name not in self._wanted):
                continue
            try:
                self._logs[name] = AppLog(self._pod, name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if old:
                self._gone.append(old)  # it may have an end that was not read yet
            if watch:
                watch(self._logs[name].fileno())

    def blocks(self, *, final: bool) -> Iterator[Block]:
        """Yield what was written since the last time, in the order of the times."""
        return merged([*self._gone, *self._logs.values()], final=final)


def apps(pod: Pod) -> list[str]:
    """Give the names of the apps that have a log."""
    try:
        fd = lock.open_dir(LOG_DIR, dir_fd=pod.fd)
    except FileNotFoundError:
        return []
    except OSError as err:
        raise RktError(f'pod "{pod.uuid}": cannot read "{LOG_DIR}": {err.strerror}') from err
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def merged(logs: Sequence[AppLog], *, final: bool) -> Iterator[Block]:
    """Yield the blocks of several logs in the order of their times."""
    if len(logs) == 1:
        return logs[0].blocks(final=final)
    return heapq.merge(*(log.blocks(final=final) for log in logs), key=lambda block: block.order)


def tail(blocks: Iterable[Block], count: int, *, room: int | None = None) -> list[Block]:
    """Give the last `count` lines; fewer if long ones of several streams came at the same time.

    Raises TooLong if they take more than `room` bytes of memory.
    """
    kept: deque[tuple[Block, int]] = deque()
    total = size = 0
    for block in blocks:
        number = block.data.count(b"\n") + (not block.data.endswith(b"\n")) - (not block.begins)
        kept.append((block, number))
        total += number
        size += len(block.data) + _EACH
        while kept and total - kept[0][1] >= count:
            old, number = kept.popleft()
            total -= number
            size -= len(old.data) + _EACH
        if room is not None and size > room:
            kept.clear()  # the traceback may live on for a while
            raise TooLong(f"the last {count} lines take more than {room >> 20} MiB")
    found: list[Block] = []
    whole = set()
    for block, _ in kept:
        if block.begins:
            whole.add((block.app, block.stream))
        if (block.app, block.stream) in whole:  # else its beginning was dropped
            found.append(block)
    if found and total > count:
        found[0].data = b"".join(_lines(found[0].data)[total - count :])
    return found


def _lines(data: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in data.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines
