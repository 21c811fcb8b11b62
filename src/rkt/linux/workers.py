"""Child processes that do work for this one: forked, so they start at once and share its memory.

A request and its answer are bytes; descriptors go along with a request.  A worker dies with its
parent, and must be forked while that has a single thread.

Work that is system calls more than Python goes several times as fast in processes as in threads:
those wait for each other after every call.
"""

from __future__ import annotations

import os
import select
import socket

from rkt.linux import libc, sig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

_LENGTH = 8
_MAX_FDS = 4
_SAID, _DONE, _FAILED = b"s", b"d", b"f"


class Gone(Exception):
    """The worker died before it answered."""


class Worker:
    """One child process that answers requests with a function, one after the other."""

    def __init__(self, serve: Callable[[bytes, Sequence[int]], bytes]) -> None:
        """Fork.  The function must not raise; the descriptors it gets are closed after it."""
        self._child = _Child(lambda stream: _answer_all(stream, serve))

    def call(self, request: bytes, fds: Sequence[int] = ()) -> bytes:
        """Send a request and wait for the answer.  Raises Gone."""
        self._child.send(request, fds)
        return self._child.receive()

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        self._child.close()


def spread(
    items: Sequence[str], work: Callable[[str], Iterator[str]], count: int
) -> Generator[str, None, None]:
    """Have child processes go through items, as many at a time; yield what `work` yields of each.

    Where the system lets have fewer children there are fewer, and without any this process works.
    What one item yields keeps its order and comes at once.  Raises Gone, and RuntimeError with the
    traceback of what `work` raised; all children have ended then.
    """
    todo = iter(items)
    children: dict[int, _Child] = {}
    poll = select.poll()
    try:
        for _ in range(min(count, len(items))):
            try:
                child = _Child(lambda stream: _work_off(stream, work))
            except OSError:  # too many processes, or open files
                break
            children[child.fd] = child
            poll.register(child.fd, select.POLLIN)
            child.send(os.fsencode(next(todo)))
        if not children:
            for item in todo:
                yield from work(item)
        while children:
            for fd, _ in poll.poll():
                said = children[fd].receive()
                kind, text = said[:1], os.fsdecode(said[1:])
                if kind == _SAID:
                    yield text
                elif kind == _FAILED:
                    raise RuntimeError(text)
                elif (following := next(todo, None)) is not None:
                    children[fd].send(os.fsencode(following))
                else:
                    poll.unregister(fd)
                    children.pop(fd).close()
    finally:
        for child in children.values():
            child.close()


class _Child:
    """A forked process and the stream to it."""

    def __init__(self, body: Callable[[socket.socket], None]) -> None:
        self._stream, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.fd = self._stream.fileno()
        parent = os.getpid()
        try:
            self.pid = os.fork()
        except OSError:
            self._stream.close()
            theirs.close()
            raise
        if self.pid == 0:
            status = 1
            try:
                self._stream.close()
                _prepare(parent)
                body(theirs)
                status = 0
            finally:
                os._exit(status)  # noqa: TID251
        theirs.close()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a frame, and descriptors with it.  Raises Gone."""
        try:
            socket.send_fds(self._stream, [_head(data)], list(fds))
            self._stream.sendall(data)
        except OSError:
            raise Gone("a worker process died") from None

    def receive(self) -> bytes:
        """Wait for a frame.  Raises Gone."""
        try:
            return _receive_frame(self._stream)
        except (OSError, EOFError):
            raise Gone("a worker process died") from None

    def close(self) -> None:
        """End it, whatever it is doing."""
        try:
            os.kill(self.pid, sig.SIGKILL)
        except ProcessLookupError:
            pass
        self._stream.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass


def _prepare(parent: int) -> None:
    libc.prctl(libc.PR_SET_PDEATHSIG, sig.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # noqa: TID251
    # Ctrl-C and the end of a terminal go to the whole group: the parent decides what they mean,
    # and ends its workers.
    for number in (sig.SIGINT, sig.SIGTERM, sig.SIGHUP):
        sig.signal(number, sig.SIG_IGN)


def _answer_all(stream: socket.socket, serve: Callable[[bytes, Sequence[int]], bytes]) -> None:
    while True:
        head, fds, _, _ = socket.recv_fds(stream, _LENGTH, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        if not head:
            return
        try:
            head += _receive(stream, _LENGTH - len(head))
            answer = serve(_receive(stream, int.from_bytes(head, "little")), fds)
        finally:
            for fd in fds:
                os.close(fd)
        _send_frame(stream, answer)


def _work_off(stream: socket.socket, work: Callable[[str], Iterator[str]]) -> None:
    while True:
        item = os.fsdecode(_receive_frame(stream))
        try:
            for text in work(item):
                _send_frame(stream, _SAID + os.fsencode(text))
        except Exception:  # noqa: BLE001 - raised again by the parent
            import traceback

            _send_frame(stream, _FAILED + os.fsencode(traceback.format_exc()))
            return
        _send_frame(stream, _DONE)


def _send_frame(stream: socket.socket, data: bytes) -> None:
    stream.sendall(_head(data) + data)


def _head(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH, "little")


def _receive_frame(stream: socket.socket) -> bytes:
    return _receive(stream, int.from_bytes(_receive(stream, _LENGTH), "little"))


def _receive(stream: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        data = stream.recv(min(count, 1 << 20))
        if not data:
            raise EOFError
        parts.append(data)
        count -= len(data)
    return b"".join(parts)
