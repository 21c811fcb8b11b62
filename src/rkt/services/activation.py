"""How a service gets its sockets, and what it gives up before it serves."""

from __future__ import annotations

import errno
import grp
import os
import signal
import socket

from rkt import const
from rkt.errors import KernelError, RktError
from rkt.linux import libc

_FIRST_FD = 3
SERVICE_UID = 0x7FFFFF9A  # in no range that useradd, containers or systemd hand out


def inherited() -> list[socket.socket]:
    """Give the sockets that systemd passed, none if it did not.  Raises KernelError."""
    count, pid = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID", "")
    if not count.isdigit() or (pid and pid != str(os.getpid())):
        return []
    found = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        try:
            os.set_inheritable(fd, False)
            found.append(socket.socket(fileno=fd))
        except OSError as err:
            raise KernelError(f"LISTEN_FDS={count}: cannot use descriptor {fd}", err) from err
    return found


def listen_tcp(port: int, host: str = "") -> socket.socket:
    """Listen on a TCP port of all IPv4 addresses.  Raises RktError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(1024)
    except (OSError, OverflowError) as err:
        sock.close()
        reason = err.strerror if isinstance(err, OSError) else str(err)
        raise RktError(f"cannot listen on TCP port {port}: {reason}") from err
    return sock


def listen_unix(path: str) -> socket.socket:
    """Listen on a unix socket that root and the group `rkt` may open.  Raises RktError.

    A socket that nobody listens on any more is replaced.
    """
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(path)
        except OSError as err:
            if err.errno != errno.EADDRINUSE or _is_served(path):
                raise
            os.unlink(path)
            sock.bind(path)
        os.chmod(path, 0o660)
        try:
            os.chown(path, -1, grp.getgrnam(const.GROUP).gr_gid)
        except (KeyError, PermissionError):
            pass
        sock.listen(128)
    except OSError as err:
        sock.close()
        raise RktError(f'cannot listen on "{path}": {err.strerror}') from err
    return sock


def _is_served(path: str) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


def state_directory(path: str) -> None:
    """Make the directory that the service will own alone.  Raises RktError."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        if os.geteuid() == 0:
            for place, directories, files in os.walk(path):
                os.chown(place, SERVICE_UID, SERVICE_UID)
                for name in (*directories, *files):
                    os.chown(f"{place}/{name}", SERVICE_UID, SERVICE_UID, follow_symlinks=False)
        os.chmod(path, 0o700)
    except OSError as err:
        raise KernelError("cannot make the state directory", err, path) from err


def drop_privileges() -> None:
    """Become a user that owns nothing else, without capabilities.  Only root can, others stay.

    The process ends with the one that started it.
    """
    if os.geteuid() != 0:
        return
    try:
        libc.drop_bounding_capabilities()
        os.setgroups([])
        os.setresgid(SERVICE_UID, SERVICE_UID, SERVICE_UID)
        os.setresuid(SERVICE_UID, SERVICE_UID, SERVICE_UID)
        libc.clear_capabilities()
        libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGTERM)  # a change of user would clear it
    except OSError as err:
        raise KernelError("cannot drop privileges", err) from err
