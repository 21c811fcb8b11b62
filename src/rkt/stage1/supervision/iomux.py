"""Streams of an app that clients attach to (rkt-internals 9).

Below `rkt/iottymux/<app>` each attachable stream has a unix socket that carries bare bytes:
`sock-stdin`, `sock-stdout`, `sock-stderr`, or `sock-tty` for the app's terminal.  Everybody who is
connected gets the output; what nobody listens to goes nowhere.  A client that reads too slowly is
dropped, so that it costs neither the app's time nor the supervisor's memory.
"""

from __future__ import annotations

import _socket
import os
import sys

from rkt import quickjson
from rkt.const import STAGE2_PREFIX
from rkt.errors import KernelError, RktError
from rkt.linux import atomic
from rkt.stage1.app import files
from rkt.stage1.streams import control
from rkt.stage1.streams.pump import Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rkt.stage1.streams.pump import Loop, Source

DIRECTORY = "rkt/iottymux"
STREAMS = ("stdin", "stdout", "stderr")
TTY = "tty"
_MODES = {
    "stdin": ("null", "stream", "tty", "interactive"),
    "stdout": ("log", "null", "stream", "tty", "interactive"),
    "stderr": ("log", "null", "stream", "tty", "interactive"),
}
_BEHIND = 1 << 20  # bytes that a client may be behind with
_CLIENTS = 64
_CHUNK = 16 << 10
_PIECE = 64 << 10


def modes(annotations: Mapping[str, str]) -> dict[str, str]:
    """Give what an app's annotations want of its streams; raises RktError for an unknown mode.

    A terminal is one: an app that has it for one stream has it for all of them.
    """
    found: dict[str, str] = {}
    for stream in STREAMS:
        mode = annotations.get(STAGE2_PREFIX + stream, _MODES[stream][0])
        if mode not in _MODES[stream]:
            raise RktError(f'invalid {stream} mode "{mode}"')
        found[stream] = mode
    return found


def is_plain(wanted: Mapping[str, str]) -> bool:
    """Say whether nothing of an app's streams is out of the ordinary."""
    return all(wanted[s] in (_MODES[s][0], "interactive") for s in STREAMS)


class Client:
    """Whoever is connected to an endpoint: takes output, gives input, and may leave at any time."""

    __slots__ = ("_ending", "_hub", "_in", "_out", "_pending", "_sock")

    def __init__(self, hub: Endpoint, sock: _socket.socket) -> None:
        self._hub = hub
        self._sock = sock
        self._in = sock.fileno()
        self._out = os.dup(self._in)  # the loop watches a descriptor for one thing
        self._pending = bytearray()
        self._ending = False

    @property
    def behind(self) -> bool:
        """Whether it has not yet read all."""
        return bool(self._pending)

    def resume(self) -> None:
        """Hear what the client sends, or that it leaves."""
        self._hub.loop.watch(self._in, self._read)

    def pause(self) -> None:
        """Let the client wait."""
        self._hub.loop.forget(self._in)

    def _read(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._hub.take(data)
        else:
            self.close()

    def write(self, data: bytes) -> None:
        """Send bytes now or when the client can take them; drop it when it is too far behind."""
        if self._ending or self._in < 0:
            return
        if len(self._pending) + len(data) > _BEHIND:
            self.close()
            return
        self._pending += data
        self._flush()

    def _flush(self) -> None:
        loop = self._hub.loop
        try:
            while self._pending:
                del self._pending[: self._sock.send(self._pending[:_PIECE])]
        except BlockingIOError:
            loop.watch(self._out, self._flush, write=True)
            return
        except OSError:
            self.close()
            return
        loop.forget(self._out)
        if self._ending:
            self.close()

    def finish(self) -> None:
        """Let the client read what it has not yet, and then the end."""
        self._ending = True
        self.pause()
        self._flush()

    def close_if_gone(self) -> None:
        """Notice the end of a client that is not heard at present."""
        try:
            gone = not self._sock.recv(1, _socket.MSG_PEEK)
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            self.close()

    def close(self) -> None:
        """Cut the client off."""
        if self._in < 0:
            return
        for fd in (self._in, self._out):
            self._hub.loop.forget(fd)
        os.close(self._out)
        self._sock.close()
        self._in = self._out = -1
        self._hub.clients.discard(self)


class Caller(Client):
    """Whoever started the pod, with a pipe or a file as its standard input.

    Unlike that of the others, the end of its input is the end of the app's.
    """

    __slots__ = ()

    def __init__(self, hub: Endpoint, fd: int) -> None:
        self._hub = hub
        self._in = os.dup(fd)
        self._out = -1
        self._pending = bytearray()
        self._ending = False

    def _read(self) -> None:
        try:
            data = os.read(self._in, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # what is a socket there was reset
            data = b""
        if data:
            self._hub.take(data)
        else:
            self.close()
            self._hub.end_input()

    def write(self, data: bytes) -> None:
        """Do nothing: it hears the app elsewhere."""

    def finish(self) -> None:
        """Let the next run of the app go on where this one stopped."""
        self.pause()

    def close_if_gone(self) -> None:
        """Do nothing: its end is noticed when it is read."""

    def close(self) -> None:
        """Let go of the input."""
        if self._in >= 0:
            self._hub.loop.forget(self._in)
            os.close(self._in)
            self._in = -1
            self._hub.clients.discard(self)


class Endpoint(Sink):
    """A stream of an app: its socket, its clients, the app's end of the input.

    Output is written to it as to any sink, but nobody can make the app wait.
    """

    __slots__ = ("_fed", "_listener", "_over", "_target", "_waiting", "clients", "name", "path")

    def __init__(self, loop: Loop, name: str, path: str) -> None:
        # Without Sink's own: there is not one descriptor but one for each client.
        self.loop = loop
        self.pending = bytearray()
        self.dead = False
        self.name = name
        self.path = path
        self.clients: set[Client] = set()
        self._target = -1  # where input goes while the app runs
        self._waiting = b""  # input that the app has not taken yet
        self._fed = False  # whether the caller is among the clients, or was
        self._over = False  # whether nothing comes after that, in later runs neither
        self._listener = control.listen(path)
        loop.watch(self._listener.fileno(), self._accept)

    @property
    def _takes_input(self) -> bool:
        return self.name in ("stdin", TTY)

    def _accept(self) -> None:
        sock = control.accept(self._listener)
        if sock is None:
            return
        if len(self.clients) >= _CLIENTS:
            for client in list(self.clients):
                client.close_if_gone()
        if len(self.clients) >= _CLIENTS:
            sock.close()
            return
        client = Client(self, sock)
        self.clients.add(client)
        if not self._takes_input or (self._target >= 0 and not self._waiting):
            client.resume()

    # Output

    @property
    def full(self) -> bool:
        """Never: a client that does not read is dropped."""
        return False

    def write(self, data: bytes) -> None:
        """Give bytes to all clients."""
        for client in list(self.clients):
            client.write(data)

    def wait_for(self, source: Source) -> None:
        """Do nothing: there is always room."""

    def flush(self) -> None:
        """Do nothing: each client is written to when it can take something."""

    def abandon(self) -> None:
        """Do nothing: see `flush`."""

    # Input

    def open(self, target: int) -> None:
        """Let input go to a descriptor, which belongs to this object from now on."""
        waiting = self._waiting if self._target < 0 else b""
        self._shut()
        os.set_blocking(target, False)
        self._target = target
        self._waiting = waiting
        self._pass_on()

    def take(self, data: bytes) -> None:
        """Pass input on; no client is heard until the app has taken it."""
        if self._target < 0 or not self._takes_input:
            return
        self._waiting += data
        for client in self.clients:
            client.pause()
        self._pass_on()

    def feed(self, fd: int) -> None:
        """Take input from a descriptor of the caller's too, to its end."""
        self._fed = True
        self.clients.add(Caller(self, fd))

    def rest(self) -> None:
        """Keep what comes for the next run of the app, which has just ended.

        Somebody else may still have the pipe that it read: what it left behind, or the runtime.
        """
        if self._takes_input:
            self._close_target()
            for client in self.clients:
                client.pause()

    def end_input(self) -> None:
        """Let the app come to the end of its input, once it has taken what there is."""
        self._over = True
        if not self._waiting:
            self._shut()

    def _pass_on(self) -> None:
        try:
            count = os.write(self._target, self._waiting)
        except BlockingIOError:
            count = 0
        except OSError:  # the app reads no more
            if self._fed:  # its next run does
                self._close_target()
                return
            count = len(self._waiting)
        self._waiting = self._waiting[count:]
        if self._waiting:
            self.loop.watch(self._target, self._pass_on, write=True)
            return
        self.loop.forget(self._target)
        if self._over:
            self._shut()
        for client in self.clients:
            client.resume()

    def _shut(self) -> None:
        self._waiting = b""
        self._close_target()

    def _close_target(self) -> None:
        if self._target >= 0:
            self.loop.forget(self._target)
            os.close(self._target)
            self._target = -1

    def resize(self, rows: int, columns: int) -> None:
        """Give the app's terminal a size."""
        import fcntl
        import termios

        if self._target >= 0:
            raw = b"".join(n.to_bytes(2, sys.byteorder) for n in (rows, columns, 0, 0))
            try:
                fcntl.ioctl(self._target, termios.TIOCSWINSZ, raw)
            except OSError:  # its other side has gone
                pass

    # Ending

    def end(self) -> None:
        """Forget a run of the app: its clients come to the end of the stream."""
        self._shut()
        for client in list(self.clients):
            client.finish()

    def close(self) -> None:
        """Take the endpoint away."""
        self._shut()
        for client in list(self.clients):
            client.close()
        if self._listener.fileno() >= 0:
            self.loop.forget(self._listener.fileno())
            self._listener.close()


class Streams:
    """The streams of one app, over all of its runs."""

    __slots__ = ("_directory", "_endpoints", "_fd", "_size", "modes", "name")

    def __init__(self, loop: Loop, name: str, wanted: dict[str, str], rootfs: str) -> None:
        """Make the directory and its sockets; raises KernelError."""
        self.name = name
        self.modes = wanted
        self._size: tuple[int, int] | None = None
        self._directory = f"{rootfs}/{DIRECTORY}/{name}"
        self._endpoints: dict[str, Endpoint] = {}
        self._fd = -1
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            self._fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            for stream in self._names():
                # The whole path may be longer than a socket's may be.
                path = f"/proc/self/fd/{self._fd}/sock-{stream}"
                self._endpoints[stream] = Endpoint(loop, stream, path)
            self._describe()
        except OSError as err:
            self.close()
            raise KernelError("cannot make the streams of the app", err, self._directory) from err
        except RktError:
            self.close()
            raise

    def _names(self) -> list[str]:
        if self.tty:
            return [TTY]
        return [stream for stream in STREAMS if self.modes[stream] == "stream"]

    @property
    def tty(self) -> bool:
        """Whether the app gets a terminal."""
        return TTY in self.modes.values()

    def _describe(self) -> None:
        """Write `endpoints` and `env` in the form of rkt-internals 9."""
        targets = [
            {"name": name, "domain": "unix", "address": f"/{DIRECTORY}/{self.name}/sock-{name}"}
            for name in self._endpoints
        ]
        data = quickjson.dumps({"version": 1, "targets": targets}, compact=True).encode()
        atomic.write_file(f"{self._directory}/endpoints", data, durable=False)
        attachable = {s.upper(): self.modes[s] in ("stream", TTY) for s in STREAMS}
        env = {"TTY": self.tty, **attachable}
        text = "".join(f"STAGE2_{name}={str(is_so).lower()}\n" for name, is_so in env.items())
        atomic.write_file(f"{self._directory}/env", text.encode(), durable=False)

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal a size, that of the next run too."""
        self._size = rows, columns
        if self.tty:
            self._endpoints[TTY].resize(rows, columns)

    def stdin(self) -> int:
        """Give what a run of the app reads from, the caller's to close; -1 for nothing."""
        endpoint = self._endpoints.get("stdin")
        if endpoint is None:
            return -1
        read_end, write_end = os.pipe()
        endpoint.open(write_end)
        return read_end

    def feed(self, fd: int) -> None:
        """Let the app read what comes from a descriptor, to its end, besides what clients send."""
        self._endpoints["stdin"].feed(fd)

    def output(self, stream: int) -> Endpoint | None:
        """Give where stdout (1) or stderr (2) of the app goes; None where that is not here."""
        return self._endpoints.get(STREAMS[stream])

    def drops(self, stream: int) -> bool:
        """Say whether nobody wants what the app writes to stdout (1) or stderr (2)."""
        return self.modes[STREAMS[stream]] == "null"

    def connect(self, master: int) -> Endpoint | None:
        """Let the clients type into the terminal of a run; the caller keeps its descriptor.

        Gives where the output goes, None if that is not here but in the log.
        """
        terminal = self._endpoints[TTY]
        terminal.open(os.dup(master))
        if self._size is not None:
            terminal.resize(*self._size)
        wanted = {self.modes["stdout"], self.modes["stderr"]}
        return None if "log" in wanted and TTY not in wanted else terminal

    @property
    def pending(self) -> bool:
        """Whether a client has still to read something."""
        return any(client.behind for e in self._endpoints.values() for client in e.clients)

    def rest(self) -> None:
        """Let input wait for the next run."""
        for endpoint in self._endpoints.values():
            endpoint.rest()

    def end(self) -> None:
        """Let the clients of a run come to the end of the streams."""
        for endpoint in self._endpoints.values():
            endpoint.end()

    def close(self) -> None:
        """Take the endpoints and their directory away."""
        for endpoint in self._endpoints.values():
            endpoint.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            files.remove_tree(self._directory)
