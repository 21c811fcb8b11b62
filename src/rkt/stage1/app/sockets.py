"""Sockets that the service manager passed to rkt (sd_listen_fds(3)), and the apps they are for.

A socket goes to the app that has a socket-activated port of its protocol and of its port on the
host.  This process keeps it open as long as the pod runs: an app that starts again gets it again,
and who connects meanwhile waits.  Nobody else gets it.
"""

from __future__ import annotations

import _socket
import os
from fcntl import F_DUPFD_CLOEXEC, fcntl

from rkt import log
from rkt.errors import RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from rkt.stage1.app.manifest import App, ExposedPort, Pod, Port

FIRST = 3
_MOST = 252  # in listen.c as well: a message carries 253
_PROTOCOLS = {_socket.SOCK_STREAM: "tcp", _socket.SOCK_DGRAM: "udp"}
_FAMILIES = (_socket.AF_INET, _socket.AF_INET6)


class Socket:
    """A descriptor that was passed; protocol and port are of sockets of the Internet only."""

    __slots__ = ("fd", "name", "owner", "port", "protocol", "where")

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.owner = ""  # the app that it is for
        self.protocol = ""
        self.port = 0
        self.where = "no socket"
        try:
            sock = _socket.socket(fileno=fd)
        except OSError:
            return
        address = sock.getsockname()
        self.where = f"address {address!r}"
        if sock.family in _FAMILIES and sock.type in _PROTOCOLS:
            self.protocol, self.port = _PROTOCOLS[sock.type], address[1]
            self.where = f"{self.protocol} port {self.port}"
        sock.detach()

    def is_of(self, port: Port, number: int) -> bool:
        """Say whether it serves a port of an app that begins at `number` on the host."""
        return self.protocol == port.protocol and number <= self.port < number + port.count


def take(environ: MutableMapping[str, str]) -> list[Socket]:
    """Take what was passed to this process, and the variables that tell of it.

    Afterwards no program that is started gets it by itself.  Raises RktError.
    """
    count, pid, names = (
        environ.pop(f"LISTEN_{name}", "") for name in ("FDS", "PID", "FDNAMES")
    )  # fmt: skip
    if pid != str(os.getpid()) or not count:
        return []
    number = int(count) if count.isascii() and count.isdigit() and len(count) < 6 else -1
    if not 0 <= number <= _MOST:
        raise RktError(f'LISTEN_FDS="{count}" is not a number from 0 to {_MOST}')
    listed = names.split(":")
    if len(listed) != number:
        listed = [""] * number
    found = []
    for fd, name in enumerate(listed, FIRST):
        try:
            # Out of the way of the numbers that they have in an app.
            copy = fcntl(fd, F_DUPFD_CLOEXEC, FIRST + number)
        except OSError:
            raise RktError(f"LISTEN_FDS={count}, but descriptor {fd} is not open") from None
        os.close(fd)
        found.append(Socket(copy, name))
    return found


class Sockets:
    """All that were passed, and who has which."""

    __slots__ = ("_all",)

    def __init__(self, found: list[Socket]) -> None:
        self._all = found

    def serve(self, exposed: ExposedPort, pod: Pod) -> bool:
        """Say whether a port of the host is served by a socket, so that nothing is forwarded.

        Before an app is added (`--port` of a sandbox) that the socket exists has to do.
        """
        ports = [port for app in pod.apps for port in app.ports if port.name == exposed.name]
        if exposed.pod_port is not None and not ports:
            ports = [exposed.pod_port]
        elif not any(port.socket_activated for port in ports):
            return False
        return any(
            sock.is_of(port, exposed.host_port or port.port) for port in ports for sock in self._all
        )

    def of_app(self, app: App, pod: Pod) -> list[Socket]:
        """Give an app its sockets, in the order in which they came."""
        apps = {other.name for other in pod.apps}
        for sock in self._all:
            if sock.owner == app.name or sock.owner not in apps:
                sock.owner = ""
        for port in app.ports:
            if port.socket_activated:
                self._claim(app, port, pod)
        return [sock for sock in self._all if sock.owner == app.name]

    def _claim(self, app: App, port: Port, pod: Pod) -> None:
        given = next((exposed for exposed in pod.ports if exposed.name == port.name), None)
        number = given.host_port if given and given.host_port else port.port
        if self._all and given is None:
            log.warning(
                f'no --port option for socket-activated port "{port.name}", assuming port '
                f"{number} as specified in the manifest"
            )
        fitting = [sock for sock in self._all if sock.is_of(port, number)]
        mine = [sock for sock in fitting if sock.owner in ("", app.name)]
        for sock in mine:
            sock.owner = app.name
        if not mine:
            other = f'app "{fitting[0].owner}" has it' if fitting else "none was passed to rkt"
            log.warning(
                f'app "{app.name}" has no socket for its socket-activated port "{port.name}" '
                f"({port.protocol} port {number} of the host): {other}; it has to listen itself"
            )

    def close_rest(self) -> None:
        """Let go of those that no app wants."""
        for sock in [sock for sock in self._all if not sock.owner]:
            named = f' "{sock.name}"' if sock.name else ""
            log.warning(
                f"socket{named} ({sock.where}) is not used: no app has a socket-activated port"
                " for it"
            )
            os.close(sock.fd)
            self._all.remove(sock)


def names(sockets: list[Socket]) -> str:
    """Give the value of LISTEN_FDNAMES, "" if the manager gave no names."""
    return ":".join(sock.name for sock in sockets) if any(s.name for s in sockets) else ""
