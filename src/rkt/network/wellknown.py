"""The metadata service at the address that old images know: http://169.254.169.255 (appc 0.3).

Its URL has no token, so something must say which pod asks.  The pod's supervisor does: it listens
in the pod's network namespace, and tells the service of the token before it carries a connection.
Nothing of this is on the host's side: with the namespace it is gone, however the pod ended.
"""

from __future__ import annotations

import _socket
import os
import struct

from rkt.const import METADATA_PORT
from rkt.errors import KernelError, NetworkError
from rkt.linux import libc
from rkt.network import firewall
from rkt.network.relay import Carrier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.network.relay import Loop

ADDRESS = "169.254.169.255"
PREAMBLE = b"rkt-pod-token "
_PORT = 80
_BACKLOG = 64
_RTM_NEWADDR = 20
_NLM_REQUEST_ACK = 0x5
_IFA_LOCAL = 2
_SCOPE_HOST = 254
_LOOPBACK = 1  # the first interface of every namespace
_TIMEOUT = 5.0


class WellKnown:
    """Carries what the pod's apps send to the address; `close` ends that."""

    def __init__(self, netns: int, token: str) -> None:
        """Listen in a network namespace.  Raises NetworkError; what was made goes with it."""
        self._first = PREAMBLE + token.encode() + b"\n"
        self._loop: Loop | None = None
        try:
            own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            libc.setns(netns, libc.CLONE_NEWNET)
        except OSError as err:
            raise NetworkError(f"cannot enter the pod's network: {err.strerror}") from err
        try:
            self._listener = _listen()
        except OSError as err:
            raise NetworkError(f"cannot listen in the pod: {err.strerror}") from err
        finally:
            _back(own)

    def start(self, loop: Loop) -> None:
        """Take connections in the supervisor's loop."""
        self._loop = loop
        self._carrier = Carrier(loop)
        loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        self._carrier.accept(self._listener, ("127.0.0.1", METADATA_PORT), self._first)

    def close(self) -> None:
        """Take no more connections; idempotent."""
        if self._loop is not None:
            self._loop.forget(self._listener.fileno())
            self._loop = None
        self._listener.close()


def _back(own: int) -> None:
    try:
        libc.setns(own, libc.CLONE_NEWNET)
    except OSError as err:  # not a NetworkError: nothing may go on from here
        raise KernelError("cannot return to the host's network namespace", err) from err
    finally:
        os.close(own)


def _listen() -> _socket.socket:
    # Port 80 must stay free for the apps, also for one that listens at all addresses: only
    # what goes to this address is led elsewhere.
    _add_address()
    rule = f"-A OUTPUT -d {ADDRESS}/32 -p tcp --dport {_PORT} -j DNAT --to-destination {ADDRESS}:"
    firewall.apply(4, f"*nat\n{rule}{METADATA_PORT}\nCOMMIT\n")
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.bind((ADDRESS, METADATA_PORT))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _add_address() -> None:
    """Give the loopback interface of this namespace the address, for its own use (rtnetlink(7))."""
    address = _socket.inet_aton(ADDRESS)
    body = struct.pack("=BBBBi", _socket.AF_INET, 32, 0, _SCOPE_HOST, _LOOPBACK)
    body += struct.pack("=HH4s", 8, _IFA_LOCAL, address)
    head = struct.pack("=IHHII", 16 + len(body), _RTM_NEWADDR, _NLM_REQUEST_ACK | 0x400, 1, 0)
    family, kind = _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
    sock = _socket.socket(family, kind, 0)
    try:
        sock.settimeout(_TIMEOUT)
        sock.send(head + body)
        answer = sock.recv(4096)
    finally:
        sock.close()
    (code,) = struct.unpack_from("=i", answer, 16)
    if code != 0:
        raise OSError(-code, os.strerror(-code))
