"""Telling the metadata service about a pod (appc 9.2, rkt-internals 15).

One request at a time over a unix socket; written by hand, since http.client costs more to import
than all of `rkt run` needs.
"""

from __future__ import annotations

import _socket
import os
import time

from rkt import log
from rkt.const import METADATA_SOCKET
from rkt.errors import RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod
    from rkt.stage0.request import RunRequest

MARKER = "mds-registered"
_ATTEMPTS = 3
_PAUSE = 1.0
_TIMEOUT = 5.0
_HINT = "run the pod with --mds-register=false, or start the service: rkt metadata-service"


class _Unreachable(RktError):
    """Nobody answers."""


def register(pod: Pod, request: RunRequest) -> str:
    """Register a pod and its apps; gives the token of its URL, "" if it is not registered.

    Whoever asked for it gets an error when it fails; otherwise a service that does not run is of
    no interest, and one that does not answer as it should is worth a warning.
    """
    if request.register is False or (request.register is None and not _is_there()):
        return ""
    token = os.urandom(16).hex()
    try:
        _register(pod, token, _ATTEMPTS if request.register else 1)
    except RktError as err:
        if request.register:
            raise
        if not isinstance(err, _Unreachable) or _is_there(listening=True):
            log.warning(f"the pod is not registered with the metadata service: {err.message}")
        return ""
    return token


def unregister(pod: Pod) -> None:
    """Let the service forget a pod that it was told of; a failure is no matter: it forgets by
    itself some time after the pod's end.
    """
    if not pod.exists(MARKER) or not _is_there():
        return
    try:
        _send("DELETE", f"/pods/{pod.uuid}", b"")
    except RktError as err:
        log.debug(f"cannot unregister the pod from the metadata service: {err.message}")


def update(pod: Pod, added: str = "") -> None:
    """Tell the service of a registered pod that an app was added to it, or that one is gone.

    The pod runs, whatever comes of that: a failure is a warning.
    """
    if not pod.exists(MARKER) or not _is_there(listening=True):
        return
    try:
        _expect("PUT", f"/pods/{pod.uuid}", "", pod.read("pod") or b"")
        if added:
            data = pod.read(f"appsinfo/{added}/manifest") or b""
            _expect("PUT", f"/pods/{pod.uuid}/{added}", "", data)
    except RktError as err:
        log.warning(f"the metadata service does not know of the change: {err.message}")


def _register(pod: Pod, token: str, attempts: int) -> None:
    manifest = pod.read("pod") or b""
    for attempt in range(1, attempts + 1):
        try:
            _expect("PUT", f"/pods/{pod.uuid}", f"?token={token}", manifest)
            break
        except _Unreachable:
            if attempt == attempts:
                raise
            time.sleep(_PAUSE)
    os.close(os.open(MARKER, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=pod.fd))
    try:
        for app in sorted(os.listdir(f"{pod.path}/appsinfo")):
            data = pod.read(f"appsinfo/{app}/manifest") or b""
            _expect("PUT", f"/pods/{pod.uuid}/{app}", "", data)
    except RktError:
        unregister(pod)
        raise


def _expect(method: str, path: str, query: str, body: bytes) -> None:
    status, text = _send(method, path + query, body)
    if status != 200:
        # The query holds the token: not in a message.
        raise RktError(f"{method} {path} returned {status}: {text}", hint=_HINT)


def _is_there(*, listening: bool = False) -> bool:
    if not listening:
        return os.path.exists(METADATA_SOCKET)
    try:
        _connect().close()
    except OSError:
        return False
    return True


def _connect() -> _socket.socket:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(_TIMEOUT)
        sock.connect(METADATA_SOCKET)
    except OSError:
        sock.close()
        raise
    return sock


def _send(method: str, path: str, body: bytes) -> tuple[int, str]:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: metadata\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        sock = _connect()
        try:
            sock.sendall(head.encode() + body)
            answer = b""
            while len(answer) < 1 << 16:
                data = sock.recv(1 << 16)
                if not data:
                    break
                answer += data
        finally:
            sock.close()
    except OSError as err:
        reason = "no answer in time" if isinstance(err, TimeoutError) else err.strerror
        text = f'could not reach the metadata service. "{METADATA_SOCKET}": {reason}'
        raise _Unreachable(text, hint=_HINT) from err
    first, _, rest = answer.decode("utf-8", "replace").partition("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise RktError(f'"{METADATA_SOCKET}": the answer is not HTTP', hint=_HINT)
    lines = rest.partition("\r\n\r\n")[2].strip().splitlines()
    return int(words[1]), lines[0][:200] if lines else ""
