"""Child processes that do work for this one: forked, so they start at once and share its memory.

A request and its answer are bytes; descriptors go along with a request.  A worker dies with its
parent, and must be forked while that has a single thread.
"""

from __future__ import annotations

import os
import socket

from rkt.linux import libc, sig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LENGTH = 8
_MAX_FDS = 4


class Gone(Exception):
    """The worker died before it answered."""


class Worker:
    """One child process that answers requests with a function, one after the other."""

    def __init__(self, serve: Callable[[bytes, Sequence[int]], bytes]) -> None:
        """Fork.  The function must not raise; the descriptors it gets are closed after it."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                mine.close()
                _prepare(parent)
                _loop(theirs, serve)
                status = 0
            finally:
                os._exit(status)  # noqa: TID251
        theirs.close()
        self._socket = mine

    def call(self, request: bytes, fds: Sequence[int] = ()) -> bytes:
        """Send a request and wait for the answer.  Raises Gone."""
        try:
            head = len(request).to_bytes(_LENGTH, "little")
            socket.send_fds(self._socket, [head], list(fds))
            self._socket.sendall(request)
            return _receive(self._socket, int.from_bytes(_receive(self._socket, _LENGTH), "little"))
        except (OSError, EOFError) as err:
            raise Gone("a worker process died") from err

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        try:
            os.kill(self.pid, sig.SIGKILL)
        except ProcessLookupError:
            pass
        self._socket.close()
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


def _loop(stream: socket.socket, serve: Callable[[bytes, Sequence[int]], bytes]) -> None:
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
        stream.sendall(len(answer).to_bytes(_LENGTH, "little"))
        stream.sendall(answer)


def _receive(stream: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        data = stream.recv(min(count, 1 << 20))
        if not data:
            raise EOFError
        parts.append(data)
        count -= len(data)
    return b"".join(parts)
