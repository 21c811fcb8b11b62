"""What the supervisor carries between sockets, and programs that take too long."""

from __future__ import annotations

import _socket
import fcntl
import os
import socket
from typing import TYPE_CHECKING

import pytest

from rkt.errors import NetworkError
from rkt.network import plugin, relay
from rkt.network.ports import Reservation
from rkt.stage1.streams.pump import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.loopback
_SPARE = 128


def until(loop: Loop, done: Callable[[], bool]) -> None:
    """Run the loop until something holds."""
    for _ in range(10_000):
        if done():
            return
        loop.step(0.05)
    raise AssertionError("it did not come to be")


def receiver(family: int = socket.AF_INET, ip: str = "127.0.0.1") -> socket.socket:
    """Give a bound socket for datagrams that never blocks."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((ip, 0))
    sock.setblocking(False)
    return sock


def taken(sock: socket.socket) -> bytes:
    """Give a datagram if there is one."""
    try:
        return sock.recv(100)
    except BlockingIOError:
        return b""


class Datagrams:
    """A relay from a port of ::1 to an echo server of the test's."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.clients: list[socket.socket] = []
        self.server = receiver()
        self.listener = _socket.socket(_socket.AF_INET6, _socket.SOCK_DGRAM)
        self.listener.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_RECVPKTINFO, 1)
        self.listener.bind(("::", 0))
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self.relay = relay.Datagrams(self.loop, self.listener, self.server.getsockname())
        self.loop.watch(self.server.fileno(), self._echo)

    def _echo(self) -> None:
        data, peer = self.server.recvfrom(100)
        self.server.sendto(b"echo " + data, peer)

    def client(self) -> socket.socket:
        """Give a client that hears only whom it asked."""
        sock = receiver(socket.AF_INET6, "::1")
        sock.connect(("::1", self.port))
        self.clients.append(sock)
        return sock

    def close(self) -> None:
        """Close all sockets."""
        for key in list(self.relay._flows):
            self.relay._close(key)
        for sock in (self.server, self.listener, *self.clients):
            sock.close()


@pytest.fixture
def relayed() -> Iterator[Datagrams]:
    """Give a relay."""
    found = Datagrams()
    yield found
    found.close()


def test_datagrams_find_back_to_their_senders(relayed: Datagrams) -> None:
    clients = [relayed.client() for _ in range(20)]
    for round_ in (b"a", b"b"):
        for number, client in enumerate(clients):
            client.send(b"%s%d" % (round_, number))
        for number, client in enumerate(clients):
            found: list[bytes] = []

            def heard(found: list[bytes] = found, client: socket.socket = client) -> bool:
                found.append(taken(client))
                return bool(found[-1])

            until(relayed.loop, heard)
            assert found[-1] == b"echo %s%d" % (round_, number)
    assert len(relayed.relay._flows) == 20


def test_no_more_than_a_number_of_senders_are_remembered(
    monkeypatch: pytest.MonkeyPatch, relayed: Datagrams
) -> None:  # fmt: skip
    monkeypatch.setattr(relay, "_MAX_CONNECTIONS", 4)
    before = len(os.listdir("/proc/self/fd"))
    clients = [relayed.client() for _ in range(12)]
    for client in clients:
        client.send(b"x")
        until(relayed.loop, lambda client=client: taken(client) == b"echo x")  # type: ignore[misc]
    assert len(relayed.relay._flows) == 4
    clients[0].send(b"x")  # forgotten, and welcome again
    until(relayed.loop, lambda: taken(clients[0]) == b"echo x")
    monkeypatch.setattr(relay, "_IDLE", 0.0)
    relayed.relay._expire()
    assert relayed.relay._flows == {}
    for client in clients:
        client.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_nobody_there_to_take_datagrams(relayed: Datagrams) -> None:
    relayed.loop.forget(relayed.server.fileno())
    relayed.server.close()
    client = relayed.client()
    for _ in range(3):
        client.send(b"x")
        relayed.loop.step(0.2)
    assert taken(client) == b""
    assert len(relayed.relay._flows) == 1


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a relay have about 32 descriptors; gives the highest one that it may come to."""
    taken = set(map(int, os.listdir("/proc/self/fd")))
    free = [number for number in range(len(taken) + 40) if number not in taken]
    monkeypatch.setattr(os, "sysconf", lambda _: free[32] + _SPARE)
    return free[36]  # a connection takes four


def aside(sock: socket.socket, most: int) -> socket.socket:
    """Move a socket of a client's out of the way of those of the relay."""
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, most + 100))


def lowest() -> int:
    """Give the descriptor that the next thing to be opened gets."""
    fd = os.dup(0)
    os.close(fd)
    return fd


def test_connections_leave_the_supervisor_what_it_needs(most: int) -> None:
    loop = Loop()
    carrier = relay.Carrier(loop)
    far, near = socket.create_server(("127.0.0.1", 0)), _socket.socket()
    near.bind(("127.0.0.1", 0))
    near.listen(100)
    near.setblocking(False)
    target = far.getsockname()
    loop.watch(near.fileno(), lambda: carrier.accept(near, target))
    clients = []
    for _ in range(60):
        clients.append(aside(socket.create_connection(near.getsockname()), most))
        loop.step(5)
    assert 4 <= carrier._count < 60
    assert lowest() <= most
    clients[-1].settimeout(20)
    assert clients[-1].recv(1) == b""  # it was turned away
    for sock in (far, *clients):
        sock.close()
    until(loop, lambda: carrier._count == 0)
    near.close()


def test_senders_leave_the_supervisor_what_it_needs(most: int, relayed: Datagrams) -> None:
    for _ in range(60):
        client = aside(receiver(socket.AF_INET6, "::1"), most)
        client.sendto(b"x", ("::1", relayed.port))
        relayed.clients.append(client)
        relayed.loop.step(5)
    assert 10 <= len(relayed.relay._flows) < 60
    assert lowest() <= most


def test_a_carried_connection_begins_with_what_is_to_be_told() -> None:
    loop = Loop()
    far, near = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    listener = _socket.socket(fileno=os.dup(near.fileno()))
    listener.setblocking(False)
    carrier = relay.Carrier(loop)
    target = far.getsockname()
    loop.watch(listener.fileno(), lambda: carrier.accept(listener, target, b"told\n"))
    client = socket.create_connection(near.getsockname())
    client.sendall(b"asked\n")
    loop.step(5)
    server, _ = far.accept()
    server.setblocking(False)
    found = bytearray()

    def heard() -> bool:
        try:
            found.extend(server.recv(100))
        except BlockingIOError:
            pass
        return found.endswith(b"asked\n")

    until(loop, heard)
    assert found == b"told\nasked\n"
    server.close()
    client.close()
    until(loop, lambda: carrier._count == 0)
    for sock in (far, near, listener):
        sock.close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_of_one_ipv6_address_is_held(protocol: str) -> None:
    from rkt.network.firewall import Forward

    one, two = Reservation(), Reservation()
    with socket.socket(socket.AF_INET6) as free:
        free.bind(("::1", 0))
        port = free.getsockname()[1]
    wanted = Forward("x", protocol, port, 1, "::1")
    one.take([wanted])
    assert [forward.host_ip for _, forward in one.relayed] == ["::1"]
    with pytest.raises(NetworkError, match="it is already in use"):
        two.take([wanted])
    one.close()
    two.take([wanted])
    two.close()


def test_a_program_that_does_not_answer_is_killed_with_its_children() -> None:
    argv = ["/bin/sh", "-c", "sleep 1000 & echo $! >&2; wait"]
    child = plugin.Child(argv, b"", {"PATH": "/bin:/usr/bin"}, timeout=0.3)
    err = os.dup(child._err)
    with pytest.raises(NetworkError, match=r'^"sh": no answer in 0\.3 s$'):
        child.wait()
    grandchild = int(os.pread(err, 100, 0))
    os.close(err)
    try:
        pidfd = os.pidfd_open(grandchild)
    except ProcessLookupError:
        return
    import select

    assert select.select([pidfd], [], [], 30)[0]  # it ends
    os.close(pidfd)
