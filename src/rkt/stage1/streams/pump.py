"""Carrying the apps' output to the caller: lines, back-pressure, one poll loop."""

from __future__ import annotations

import errno
import os
import select
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Timer = tuple[float, Callable[[], None]]

LINE_CAP = 64 << 10
_CHUNK = 64 << 10
_NEWLINE = 10
_FULL = 256 << 10
# The last holder of the pty's other side has gone; the socket's has, with unread input.
_ENDS = (errno.EIO, errno.ECONNRESET)
_SAFE_WRITE = 4096  # a pipe that polls writable takes this much without blocking


class Lines:
    """Cuts a byte stream into lines and puts a prefix before each."""

    __slots__ = ("_cap", "_partial", "prefix")

    def __init__(self, prefix: bytes, cap: int = LINE_CAP) -> None:
        self.prefix = prefix
        self._partial = b""
        self._cap = cap

    def feed(self, data: bytes) -> bytes:
        """Take bytes, give the finished lines; a line beyond the cap is cut into several."""
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        out: list[bytes] = []
        for line in lines:
            self._emit(out, line)
        while len(self._partial) > self._cap:
            out += (self.prefix, self._partial[: self._cap], b"\n")
            self._partial = self._partial[self._cap :]
        return b"".join(out)

    def _emit(self, out: list[bytes], line: bytes) -> None:
        while len(line) > self._cap:
            out += (self.prefix, line[: self._cap], b"\n")
            line = line[self._cap :]
        out += (self.prefix, line, b"\n")

    def finish(self) -> bytes:
        """Give the last line, with a newline, when the stream ended without one."""
        last, self._partial = self._partial, b""
        return self.prefix + last + b"\n" if last else b""


class Loop:
    """A poll loop with callbacks and timers."""

    __slots__ = ("_callbacks", "_poll", "_timers")

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: list[Timer] = []

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> None:
        """Call back whenever a descriptor is readable (or writable), or is at its end."""
        self._callbacks[fd] = callback
        self._poll.register(fd, select.POLLOUT if write else select.POLLIN)

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once, after a time; gives what `cancel` takes."""
        timer = (time.monotonic() + seconds, callback)
        self._timers.append(timer)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Let a call not happen; None, or one that has happened, is all right."""
        self._timers = [other for other in self._timers if other is not timer]

    def step(self, limit: float | None = None) -> bool:
        """Wait for something (at most `limit` seconds) and handle it; False if nothing came."""
        now = time.monotonic()
        wait = limit
        for deadline, _ in self._timers:
            left = max(deadline - now, 0.0)
            wait = left if wait is None else min(wait, left)
        events = self._poll.poll(None if wait is None else int(wait * 1000) + 1)
        for fd, _ in events:
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()
        now = time.monotonic()
        due = [timer for timer in self._timers if timer[0] <= now]
        for timer in due:
            if timer in self._timers:  # one before it may have cancelled it
                self._timers.remove(timer)
                timer[1]()
        return bool(events or due)


class Sink:
    """A descriptor of the caller: never blocks the loop, bounded, and may break at any time."""

    __slots__ = (
        "_own", "_paused", "_watched", "broken", "dead", "fd", "in_a_line", "loop", "pending",
    )  # fmt: skip

    def __init__(self, loop: Loop, fd: int) -> None:
        self.loop = loop
        self.pending = bytearray()
        self.dead = False
        self.broken = False
        """Whether nobody reads any more: the other side has closed it."""
        self.in_a_line = False
        """Whether what was written last had no newline at its end."""
        self._paused: list[Source] = []
        self._watched = False
        self.fd, self._own = _private(fd)
        if _swallows(fd):
            self.close()
            self.dead = True

    @property
    def full(self) -> bool:
        """Whether sources have to wait."""
        return len(self.pending) >= _FULL

    def write(self, data: bytes) -> None:
        """Take bytes to write; what cannot be written now is kept."""
        if self.dead or not data:
            return
        self.pending += data
        self.in_a_line = data[-1] != _NEWLINE
        self.flush()

    def flush(self) -> None:
        """Write as much as goes without blocking."""
        while self.pending and not self.dead:
            piece = self.pending[: _CHUNK if self._own else _SAFE_WRITE]
            if not self._own and not _writable(self.fd):
                break
            try:
                count = os.write(self.fd, piece)
            except BlockingIOError:
                break
            except OSError as err:  # the reader has gone: most apps go on, unheard
                self.dead = True
                self.broken = err.errno == errno.EPIPE
                self.pending.clear()
                break
            del self.pending[:count]
        self._watch(bool(self.pending))
        if self._paused and not self.full:
            paused, self._paused = self._paused, []
            for source in paused:
                source.resume()

    def wait_for(self, source: Source) -> None:
        """Remember a source that is to go on when there is room."""
        self._paused.append(source)

    def abandon(self) -> None:
        """Drop what is pending and all that comes."""
        self.dead = True
        self.pending.clear()
        self.flush()

    def close(self) -> None:
        """Forget the descriptor; closes only what was opened here."""
        self._watch(False)
        if self._own:
            os.close(self.fd)
            self._own = False
            self.dead = True

    def _watch(self, wanted: bool) -> None:
        if wanted and not self._watched:
            self.loop.watch(self.fd, self.flush, write=True)
        elif not wanted and self._watched:
            self.loop.forget(self.fd)
        self._watched = wanted


class Source:
    """A descriptor that an app writes to.  `taps` get each chunk as it came, before the sink."""

    __slots__ = ("_paused", "closed", "ends", "fd", "lines", "loop", "sink", "taps")

    def __init__(self, loop: Loop, fd: int, sink: Sink, lines: Lines | None) -> None:
        self.loop = loop
        self.fd = fd
        self.sink = sink
        self.lines = lines
        self.taps: list[Callable[[bytes], None]] = []
        self.closed = False
        self.ends = False
        """Whether it ends with its reader, so that the app gets SIGPIPE as in a pipeline."""
        self._paused = False
        os.set_blocking(fd, False)

    def resume(self) -> None:
        """Begin or go on to read."""
        if not self.closed:
            self._paused = False
            self.loop.watch(self.fd, self.read)

    def read(self) -> None:
        """Carry one chunk, or notice the end."""
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError as err:
            if err.errno not in _ENDS:
                raise
            data = b""
        if not data:
            self.close()
            return
        for tap in self.taps:
            tap(data)
        if self.sink.dead:
            if self.ends and self.sink.broken:
                self.close()
            return
        self.sink.write(self.lines.feed(data) if self.lines else data)
        if self.sink.full:
            self.loop.forget(self.fd)
            self._paused = True
            self.sink.wait_for(self)

    def close(self) -> None:
        """End the stream; a line without its newline gets one."""
        if self.closed:
            return
        self.closed = True
        self.loop.forget(self.fd)
        os.close(self.fd)
        if self.lines:
            self.sink.write(self.lines.finish())


def _private(fd: int) -> tuple[int, bool]:
    """Open a pipe or terminal anew, so that O_NONBLOCK does not change the caller's own.

    A regular file never blocks for long and has a position to share: it is used as it is.
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags), True
    except OSError:
        pass
    return fd, False


def _swallows(fd: int) -> bool:
    """Say whether what is written there is of no interest: /dev/null."""
    try:
        info = os.fstat(fd)
    except OSError:
        return False
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(1, 3)


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))
