"""Readiness: what rkt tells the service manager that started it, and what apps tell rkt.

The protocol is sd_notify(3): datagrams of `NAME=value` lines on the socket in NOTIFY_SOCKET.  An
app whose image has the annotation `appc.io/executor/supports-systemd-notify` = `true` gets a socket
of its own, and the pod is ready when all of those have said so.
"""

from __future__ import annotations

import _socket
import os

from rkt import log
from rkt.const import SYSTEMD_NOTIFY
from rkt.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.stage1.streams.pump import Loop

ENV = "NOTIFY_SOCKET"
TARGET = "/run/rkt/notify"
"""Where an app finds its socket."""
_LONGEST = 4096
_FLAGS = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK


class Manager:
    """The service manager, if there is one that waits to hear from this process."""

    __slots__ = ("_address",)

    def __init__(self, address: str) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def tell(self, text: str) -> None:
        """Send a message; nobody there is nothing to complain of."""
        if not self._address:
            return
        sock = _socket.socket(_socket.AF_UNIX, _FLAGS)
        try:
            sock.sendto(text.encode("utf-8", "replace"), self._address)
        except OSError as err:
            log.debug(f'cannot notify the service manager at "{self._address}": {err.strerror}')
        finally:
            sock.close()


class Readiness:
    """Tells the manager once that the pod is ready: when its apps run, or say that they are."""

    def __init__(self, manager: Manager, loop: Loop, directory: str) -> None:
        self._manager = manager
        self._loop = loop
        self._directory = directory
        self._awaited: set[str] = set()
        self._sockets: list[_socket.socket] = []
        self._run = False
        self._told = False
        self._over = False

    def socket_for(self, app: str) -> str:
        """Make the socket of an app that announces itself; gives its path.  Raises KernelError."""
        os.makedirs(self._directory, 0o755, exist_ok=True)
        path = f"{self._directory}/{app}"
        sock = _socket.socket(_socket.AF_UNIX, _FLAGS)
        handle = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            # By way of /proc: a unix socket's path may not be longer than 107 bytes.
            sock.bind(f"/proc/self/fd/{handle}/{app}")
            os.chmod(path, 0o666)  # the app, whoever it runs as: nobody else comes here
        except OSError as err:
            sock.close()
            raise KernelError(f'app "{app}": cannot make its socket for readiness', err) from err
        finally:
            os.close(handle)
        self._sockets.append(sock)
        if not self._told:
            self._awaited.add(app)
        self._loop.watch(sock.fileno(), self._hearer(app, sock))
        return path

    def _hearer(self, app: str, sock: _socket.socket) -> Callable[[], None]:
        def hear() -> None:
            try:
                data = sock.recv(_LONGEST)
            except OSError:
                return
            self.heard(app, data.decode("utf-8", "replace"))

        return hear

    def heard(self, app: str, text: str) -> None:
        """Take a message of an app: readiness and status go on, nothing else is for the manager."""
        for line in text.split("\n"):
            if line == "READY=1":
                self._awaited.discard(app)
                self._tell_if_ready()
            elif line.startswith("STATUS="):
                status = "".join(char if char.isprintable() else "?" for char in line[7:])
                self._manager.tell(f"STATUS=app {app}: {status}")

    def apps_run(self) -> None:
        """Take note that the main process of every app has been started."""
        self._run = True
        self._tell_if_ready()

    def _tell_if_ready(self) -> None:
        if self._run and not self._awaited and not self._told:
            self._told = True
            self._manager.tell("READY=1\nSTATUS=all apps run")

    def stopping(self) -> None:
        """Tell that the pod is on its way down."""
        if not self._over:
            self._over = True
            self._manager.tell("STOPPING=1\nSTATUS=the pod ends")

    def close(self) -> None:
        """Hear no more."""
        for sock in self._sockets:
            self._loop.forget(sock.fileno())
            sock.close()
        self._sockets.clear()


def is_wanted(annotations: dict[str, str]) -> bool:
    """Say whether an app announces its readiness."""
    return annotations.get(SYSTEMD_NOTIFY) == "true"
