"""Ports of the host for a pod: taken before anything starts, so that a busy one is an error."""

from __future__ import annotations

import _socket
import errno

from rkt.errors import NetworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rkt.network.firewall import Forward

PROTOCOLS = ("tcp", "udp", "sctp")
SCTP = 132
_BACKLOG = 128
_NO_SUCH = (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT)


class Reservation:
    """Sockets that hold the host's ports as long as the pod lives.

    The packet filter turns connections away before they get here.  Only what it cannot turn, to
    ::1 and to a pod without an IPv6 address, arrives: `relayed` are the sockets for that.
    """

    __slots__ = ("_held", "relayed")

    def __init__(self) -> None:
        self._held: list[_socket.socket] = []
        self.relayed: list[tuple[_socket.socket, Forward]] = []

    def take(self, forwards: Sequence[Forward]) -> None:
        """Take all ports.  Raises NetworkError naming the one that is busy."""
        for forward in forwards:
            if forward.protocol not in PROTOCOLS:
                raise NetworkError(f'port "{forward.name}": unknown protocol "{forward.protocol}"')
            wide = ":" in forward.host_ip
            if not wide:
                self._take(forward, _socket.AF_INET, forward.host_ip or "0.0.0.0")
            if wide or not forward.host_ip:
                sock = self._take(forward, _socket.AF_INET6, forward.host_ip or "::")
                if sock is not None:
                    self.relayed.append((sock, forward))

    def _take(self, forward: Forward, family: int, ip: str) -> _socket.socket | None:
        kind = _socket.SOCK_DGRAM if forward.protocol == "udp" else _socket.SOCK_STREAM
        number = SCTP if forward.protocol == "sctp" else 0
        where = f"{forward.protocol} port {forward.host_port}"
        try:
            sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, number)
        except OSError as err:
            if err.errno in _NO_SUCH:
                return None
            raise NetworkError(f"cannot take {where} of the host: {err.strerror}") from err
        try:
            if family == _socket.AF_INET6:
                sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
                if forward.protocol == "udp":
                    sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_RECVPKTINFO, 1)
            if forward.protocol == "tcp":  # connections that ended lately are no obstacle
                sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            sock.bind((ip, forward.host_port))
            if forward.protocol != "udp":
                sock.listen(_BACKLOG)
            sock.setblocking(False)
        except OSError as err:
            sock.close()
            if err.errno == errno.EADDRNOTAVAIL and ip == "::":  # IPv6 is switched off
                return None
            reason = {
                errno.EADDRINUSE: "it is already in use",
                errno.EADDRNOTAVAIL: f'"{ip}" is no address of this host',
            }.get(err.errno or 0, err.strerror)
            raise NetworkError(
                f'port "{forward.name}": cannot take {where} of the host: {reason}'
            ) from None
        self._held.append(sock)
        return sock

    def close(self) -> None:
        """Give the ports back."""
        for sock in self._held:
            sock.close()
        self._held.clear()
        self.relayed.clear()


def check(forwards: Sequence[Forward]) -> None:
    """Refuse two uses of one port of the host (rkt-config 4)."""
    taken: dict[tuple[str, int], list[Forward]] = {}
    for forward in forwards:
        others = taken.setdefault((forward.protocol, forward.host_port), [])
        for other in others:
            if other.host_ip == forward.host_ip or not (other.host_ip and forward.host_ip):
                where = other.host_ip or "0.0.0.0"
                raise NetworkError(f"port {forward.protocol}-{where}:{forward.host_port} already "
                                   f"mapped to pod port {other.pod_port}")  # fmt: skip
        others.append(forward)
