"""The metadata service at the address that old images know: http://169.254.169.255 (appc 0.3).

Its URL has no token, so something must say which pod asks.  The pod's supervisor does: it listens
in the pod's network namespace, and tells the service of the token before it carries a connection.
Nothing of this is on the host's side: with the namespace it is gone, however the pod ended.
"""

from __future__ import annotations

import _socket

from rkt.const import METADATA_PORT
from rkt.errors import NetworkError
from rkt.network import firewall, links, netns
from rkt.network.relay import Carrier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.network.relay import Loop

ADDRESS = "169.254.169.255"
PREAMBLE = b"rkt-pod-token "
_PORT = 80
_BACKLOG = 64


class WellKnown:
    """Carries what the pod's apps send to the address; `close` ends that."""

    def __init__(self, namespace: int, token: str) -> None:
        """Listen in a network namespace.  Raises NetworkError; what was made goes with it."""
        self._first = PREAMBLE + token.encode() + b"\n"
        self._loop: Loop | None = None
        with netns.Inside(namespace):
            try:
                self._listener = _listen()
            except OSError as err:
                raise NetworkError(f"cannot listen in the pod: {err.strerror}") from err

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


def _listen() -> _socket.socket:
    # Port 80 must stay free for the apps, also for one that listens at all addresses: only
    # what goes to this address is led elsewhere.
    links.add_local_address(ADDRESS)
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
