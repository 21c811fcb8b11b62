"""The pod's control socket: how the programs of stage1 ask the supervisor to do something.

It is the file `control` of the pod directory.  A connection carries one request and its answer,
each a JSON object led by its length in four bytes.  Nobody but root is heard, and nobody can make
the supervisor wait, nor keep more in its memory than a few requests.
"""

from __future__ import annotations

import _socket
import os

from rkt import quickjson
from rkt.errors import KernelError, PodStateError, RktError, describe, internal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.stage1.streams.pump import Loop

    Message = dict[str, object]
    Reply = Callable[[Message], None]

NAME = "control"
LIMIT = 64 << 10
_HEAD = 4
_PEERS = 64
_PATIENCE = 10.0
_SO_PEERCRED = 17
_GONE = "the pod's supervisor ended before it answered"


def listen(path: str) -> _socket.socket:
    """Make a listening unix socket for root only; whatever was at that path goes.

    The path is relative or by way of /proc/self/fd: a socket's may have 107 bytes at most.
    """
    sock = _socket.socket(
        _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
    )
    try:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(_PEERS)
    except OSError as err:
        sock.close()
        raise KernelError("cannot listen on socket", err, path) from err
    return sock


def accept(listener: _socket.socket) -> _socket.socket | None:
    """Take a connection that waits; None if there is none or if it is not root's."""
    try:
        fd, _ = listener._accept()  # type: ignore[attr-defined]  # the C base of socket.accept
    except (BlockingIOError, ConnectionAbortedError):
        return None
    sock = _socket.socket(fileno=fd)
    sock.setblocking(False)
    credentials = sock.getsockopt(_socket.SOL_SOCKET, _SO_PEERCRED, 12)
    if credentials[4:8] != bytes(4):  # struct ucred: pid, uid, gid
        sock.close()
        return None
    return sock


class Server:
    """The supervisor's side.  `handle(request, reply)` may reply at once or later, once."""

    __slots__ = ("_handle", "_loop", "_peers", "_sock")

    def __init__(self, loop: Loop, handle: Callable[[Message, Reply], None]) -> None:
        self._loop = loop
        self._handle = handle
        self._peers: set[_Peer] = set()
        self._sock = listen(NAME)
        loop.watch(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        sock = accept(self._sock)
        if sock is not None:
            self._peers.add(_Peer(self, sock))
            if len(self._peers) >= _PEERS:
                self._loop.forget(self._sock.fileno())

    def close(self) -> None:
        """Hear nobody any more; who waits for an answer gets none."""
        self._loop.forget(self._sock.fileno())
        self._sock.close()
        for peer in list(self._peers):
            peer.close()
        try:
            os.unlink(NAME)
        except FileNotFoundError:
            pass


class _Peer:
    """One connection: it is read, handled, answered, closed."""

    __slots__ = ("_answer", "_asked", "_data", "_server", "_sock")

    def __init__(self, server: Server, sock: _socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._asked = False
        self._data = b""
        self._answer = b""
        server._loop.watch(sock.fileno(), self._read)
        server._loop.after(_PATIENCE, self._expire)

    def _read(self) -> None:
        try:
            data = self._sock.recv(LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._data += data
        size = int.from_bytes(self._data[:_HEAD], "little") if len(self._data) >= _HEAD else 0
        if not data or size > LIMIT or len(self._data) > _HEAD + LIMIT:
            self.close()
        elif len(self._data) >= _HEAD and len(self._data) >= _HEAD + size:
            self._server._loop.forget(self._sock.fileno())
            self._asked = True
            self._dispatch(self._data[_HEAD : _HEAD + size])

    def _dispatch(self, raw: bytes) -> None:
        try:
            request = quickjson.loads(raw)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            self._reply({"error": "malformed request"})
            return
        try:
            self._server._handle(request, self._reply)
        except RktError as err:
            answer: Message = {"error": describe(err)}
            if err.hint:
                answer["hint"] = err.hint
            self._reply(answer)
        except Exception as err:  # noqa: BLE001 - a service loop: no request may end the pod
            self._reply({"error": internal(err)})

    def _reply(self, message: Message) -> None:
        if self._sock.fileno() < 0 or self._answer:
            return
        data = quickjson.dumps(message).encode()
        self._answer = len(data).to_bytes(_HEAD, "little") + data
        self._write()

    def _write(self) -> None:
        try:
            count = self._sock.send(self._answer)
        except BlockingIOError:
            count = 0
        except OSError:  # nobody wants to know
            self.close()
            return
        self._answer = self._answer[count:]
        if self._answer:
            self._server._loop.watch(self._sock.fileno(), self._write, write=True)
        else:
            self.close()

    def _expire(self) -> None:
        if not self._asked or self._answer:
            self.close()

    def close(self) -> None:
        if self._sock.fileno() < 0:
            return
        loop = self._server._loop
        loop.forget(self._sock.fileno())
        self._sock.close()
        self._server._peers.discard(self)
        listener = self._server._sock
        if listener.fileno() >= 0:
            loop.watch(listener.fileno(), self._server._accept)


def call(request: Message, *, directory: str = ".", timeout: float | None = None) -> Message:
    """Send a request to the supervisor of the pod in a directory and wait for its answer.

    Raises PodStateError if there is no supervisor, RktError with what it answered instead.
    """
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(timeout)
        try:
            sock.connect(f"/proc/self/fd/{fd}/{NAME}")
        except OSError as err:
            raise PodStateError("the pod's supervisor does not listen") from err
        answer = _exchange(sock, quickjson.dumps(request).encode())
    finally:
        sock.close()
        os.close(fd)
    if not isinstance(answer, dict):
        raise RktError("the pod's supervisor gave a malformed answer")
    text = answer.get("error")
    if text is not None:
        hint = answer.get("hint")
        raise RktError(str(text), hint=str(hint) if hint else None)
    return answer


def _exchange(sock: _socket.socket, data: bytes) -> object:
    try:
        sock.sendall(len(data).to_bytes(_HEAD, "little") + data)
        size = int.from_bytes(_receive(sock, _HEAD), "little")
        if size > LIMIT:
            raise RktError("the pod's supervisor gave an answer that is too long")
        return quickjson.loads(_receive(sock, size))
    except TimeoutError:
        raise RktError("the pod's supervisor does not answer") from None
    except (OSError, EOFError) as err:
        raise RktError(_GONE) from err
    except ValueError as err:
        raise RktError("the pod's supervisor gave a malformed answer") from err


def _receive(sock: _socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
