"""What the packet filter cannot forward, carried by the supervisor.

The kernel never sends from ::1 into a network, and nothing translates IPv6 to IPv4.
"""

from __future__ import annotations

import _socket
import errno
import os
import time

from rkt import log
from rkt.network.ports import SCTP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    Peer = tuple[str, int, int, int]  # an address of IPv6, as the socket module has it

    from rkt.network.ports import Reservation
    from rkt.network.result import Address

    class Loop(Protocol):
        """What is needed of the supervisor's loop."""

        def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> None:
            """Call back when a descriptor is ready."""

        def forget(self, fd: int) -> None:
            """Stop watching."""

        def after(self, seconds: float, callback: Callable[[], None]) -> object:
            """Call back once."""


_CHUNK = 64 << 10
_MAX_CONNECTIONS = 256
_SPARE = 128  # descriptors that are left to the supervisor for all else
_MAX_DATAGRAM = 65535
_BURST = 64  # datagrams until others get their turn
_IDLE = 180.0  # as the kernel's connection tracking has it for a flow with answers
_CONTROL = _socket.CMSG_SPACE(64)


def _is_scarce(fd: int) -> bool:
    """Say whether a descriptor that was just opened shows that there are not many more.

    Whoever connects must not take those that the supervisor needs to go on.
    """
    return fd >= os.sysconf("SC_OPEN_MAX") - _SPARE


class Carrier:
    """Carries accepted connections somewhere else."""

    __slots__ = ("_count", "_loop")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._count = 0

    def accept(
        self, listener: _socket.socket, target: tuple[str, int], first: bytes = b"",
        protocol: int = 0,
    ) -> None:  # fmt: skip
        """Take a connection and carry it to `target`, which is told `first` before."""
        try:
            fd: int = listener._accept()[0]  # type: ignore[attr-defined]
        except OSError:
            return
        os.set_inheritable(fd, False)
        if self._count >= _MAX_CONNECTIONS or _is_scarce(fd):
            os.close(fd)
            return
        family = _socket.AF_INET6 if ":" in target[0] else _socket.AF_INET
        try:
            far = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, protocol)
            far.setblocking(False)
            try:
                far.connect(target)
            except BlockingIOError:
                pass
        except OSError as err:
            log.debug(f"cannot reach {target[0]}:{target[1]}: {err.strerror}")
            os.close(fd)
            return
        os.set_blocking(fd, False)
        self._count += 1
        _Pair(self._loop, fd, far.detach(), self._ended, first)

    def _ended(self) -> None:
        self._count -= 1


class Relay:
    """Carries what comes to the host's ports to the pod."""

    __slots__ = ("_addresses", "_carrier", "_datagrams")

    def __init__(self, loop: Loop, reservation: Reservation, addresses: list[Address]) -> None:
        self._carrier = Carrier(loop)
        self._datagrams: list[Datagrams] = []
        # A pod with IPv6 gets IPv6.
        self._addresses = sorted(addresses, key=lambda address: -address.version)
        if not self._addresses:
            return
        ip = self._addresses[0].ip
        for sock, forward in reservation.relayed:
            target = ip, forward.pod_port
            if forward.protocol == "udp":
                self._datagrams.append(Datagrams(loop, sock, target))
                continue
            number = SCTP if forward.protocol == "sctp" else 0
            loop.watch(sock.fileno(), lambda s=sock, t=target, n=number: self._accept(s, t, n))  # type: ignore[misc]

    def _accept(self, listener: _socket.socket, target: tuple[str, int], protocol: int) -> None:
        self._carrier.accept(listener, target, protocol=protocol)


class Datagrams:
    """Carries datagrams that come to a socket, and the answers back.

    Each sender gets a socket of its own towards the pod.  One that nothing came through for a
    while is closed, and the one that was idle for longest if there are too many.
    """

    __slots__ = ("_flows", "_listener", "_loop", "_target", "_timing")

    def __init__(self, loop: Loop, listener: _socket.socket, target: tuple[str, int]) -> None:
        self._loop = loop
        self._listener = listener
        self._target = target
        self._flows: dict[object, _Flow] = {}  # the one used last is the last
        self._timing = False
        loop.watch(listener.fileno(), self._inbound)

    def _inbound(self) -> None:
        for _ in range(_BURST):
            try:
                data, control, _flags, peer = self._listener.recvmsg(_MAX_DATAGRAM, _CONTROL)
            except OSError:  # nothing more, or the error that an earlier answer met
                return
            # An answer comes from the address that was asked.
            here = [item for item in control if item[1] == _socket.IPV6_PKTINFO]
            key = peer, here[0][2] if here else b""
            flow = self._flows.pop(key, None) or self._open(peer, here)
            if flow is None:
                continue
            self._flows[key] = flow
            flow.used = time.monotonic()
            try:
                flow.far.send(data)
            except OSError as err:
                log.debug(f"cannot reach {self._target[0]}: {err.strerror}")

    def _open(self, peer: Peer, here: list[tuple[int, int, bytes]]) -> _Flow | None:
        if len(self._flows) >= _MAX_CONNECTIONS:
            self._close(next(iter(self._flows)))
        family = _socket.AF_INET6 if ":" in self._target[0] else _socket.AF_INET
        try:
            far = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
            if self._flows and _is_scarce(far.fileno()):
                self._close(next(iter(self._flows)))
            far.setblocking(False)
            far.connect(self._target)
        except OSError as err:
            log.debug(f"cannot reach {self._target[0]}: {err.strerror}")
            return None
        flow = _Flow(far, peer, here)
        self._loop.watch(far.fileno(), lambda: self._outbound(flow))
        if not self._timing:
            self._timing = True
            self._loop.after(_IDLE, self._expire)
        return flow

    def _outbound(self, flow: _Flow) -> None:
        for _ in range(_BURST):
            try:
                data = flow.far.recv(_MAX_DATAGRAM)
                flow.used = time.monotonic()
                self._listener.sendmsg([data], flow.here, 0, flow.peer)
            except OSError:  # nothing more, or nobody listens in the pod, or the sender has gone
                return

    def _expire(self) -> None:
        now = time.monotonic()
        for key in [key for key, flow in self._flows.items() if now - flow.used >= _IDLE]:
            self._close(key)
        self._timing = bool(self._flows)
        if self._timing:
            self._loop.after(_IDLE, self._expire)

    def _close(self, key: object) -> None:
        flow = self._flows.pop(key)
        self._loop.forget(flow.far.fileno())
        flow.far.close()


class _Flow:
    __slots__ = ("far", "here", "peer", "used")

    def __init__(self, far: _socket.socket, peer: Peer, here: list[tuple[int, int, bytes]]) -> None:
        self.far = far
        self.peer = peer
        self.here = here
        self.used = time.monotonic()


class _Pair:
    """Two sockets; each has a second descriptor, since the loop has one callback for each."""

    def __init__(
        self, loop: Loop, near: int, far: int, ended: Callable[[], None], head: bytes
    ) -> None:
        self.loop = loop
        self.ended = ended
        self.sockets = [near, far]
        self.open = 2
        first = _Way(self, near, os.dup(far))
        second = _Way(self, far, os.dup(near))
        first.pending = head
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
