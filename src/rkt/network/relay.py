"""TCP connections that the packet filter cannot forward, carried by the supervisor.

The kernel never sends from ::1 into a network, and nothing translates IPv6 to IPv4.
"""

from __future__ import annotations

import _socket
import errno
import os

from rkt import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from rkt.network.ports import Reservation
    from rkt.network.result import Address

    class Loop(Protocol):
        """What is needed of the supervisor's loop."""

        def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> None:
            """Call back when a descriptor is ready."""

        def forget(self, fd: int) -> None:
            """Stop watching."""


_CHUNK = 64 << 10
_MAX_CONNECTIONS = 256


class Relay:
    """Accepts connections and carries them to the pod."""

    __slots__ = ("_addresses", "_count", "_loop")

    def __init__(self, loop: Loop, reservation: Reservation, addresses: list[Address]) -> None:
        self._loop = loop
        # A pod with IPv6 gets IPv6.
        self._addresses = sorted(addresses, key=lambda address: -address.version)
        self._count = 0
        for sock, forward in reservation.relayed:
            loop.watch(sock.fileno(), lambda s=sock, f=forward: self._accept(s, f.pod_port))  # type: ignore[misc]

    def _accept(self, listener: _socket.socket, port: int) -> None:
        try:
            fd: int = listener._accept()[0]  # type: ignore[attr-defined]
        except OSError:
            return
        os.set_inheritable(fd, False)
        if self._count >= _MAX_CONNECTIONS or not self._addresses:
            os.close(fd)
            return
        address = self._addresses[0]
        family = _socket.AF_INET if address.version == 4 else _socket.AF_INET6
        try:
            far = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
            far.setblocking(False)
            try:
                far.connect((address.ip, port))
            except BlockingIOError:
                pass
        except OSError as err:
            log.debug(f"cannot reach {address.ip}:{port}: {err.strerror}")
            os.close(fd)
            return
        os.set_blocking(fd, False)
        self._count += 1
        _Pair(self._loop, fd, far.detach(), self._ended)

    def _ended(self) -> None:
        self._count -= 1


class _Pair:
    """Two sockets; each has a second descriptor, since the loop has one callback for each."""

    def __init__(self, loop: Loop, near: int, far: int, ended: Callable[[], None]) -> None:
        self.loop = loop
        self.ended = ended
        self.sockets = [near, far]
        self.open = 2
        first = _Way(self, near, os.dup(far))
        second = _Way(self, far, os.dup(near))
        self.ways = (first, second)
        # Not before the connection to the pod stands: until then its side is not writable.
        first.wait_to_write()
        second.wait_to_read()

    def end(self, *, failed: bool) -> None:
        """One way has ended; with the second one, or on a failure, all ends."""
        self.open = 0 if failed else self.open - 1
        if self.open > 0 or not self.sockets:
            return
        for way in self.ways:
            way.close()
        for fd in self.sockets:
            os.close(fd)
        self.sockets.clear()
        self.ended()


class _Way:
    __slots__ = ("done", "pair", "pending", "source", "target")

    def __init__(self, pair: _Pair, source: int, target: int) -> None:
        self.pair = pair
        self.source = source
        self.target = target
        self.pending = b""
        self.done = False

    def wait_to_read(self) -> None:
        self.pair.loop.forget(self.target)
        self.pair.loop.watch(self.source, self._read)

    def wait_to_write(self) -> None:
        self.pair.loop.forget(self.source)
        self.pair.loop.watch(self.target, self._write, write=True)

    def _read(self) -> None:
        try:
            self.pending = os.read(self.source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._end(failed=True)
            return
        if self.pending:
            self._write()
            return
        # The end of one way is carried on; the other way goes on.
        sock = _socket.socket(fileno=os.dup(self.target))
        try:
            sock.shutdown(_socket.SHUT_WR)
        except OSError:
            pass
        sock.close()
        self._end(failed=False)

    def _write(self) -> None:
        if self.pending:
            try:
                count = os.write(self.target, self.pending)
            except BlockingIOError:
                count = 0
            except OSError as err:
                if err.errno not in (errno.EPIPE, errno.ECONNRESET):
                    log.debug(f"a forwarded connection failed: {err.strerror}")
                self._end(failed=True)
                return
            self.pending = self.pending[count:]
        self.wait_to_write() if self.pending else self.wait_to_read()

    def _end(self, *, failed: bool) -> None:
        self.done = True
        self.pair.loop.forget(self.source)
        self.pair.loop.forget(self.target)
        self.pair.end(failed=failed)

    def close(self) -> None:
        self.pair.loop.forget(self.source)
        self.pair.loop.forget(self.target)
        os.close(self.target)
