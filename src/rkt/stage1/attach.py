"""The `attach` entrypoint: connect the caller to the streams of an app (rkt-internals 9)."""

from __future__ import annotations

import _socket
import os
import sys

from rkt import log
from rkt.errors import KernelError, NotFound, PodStateError, RktError, SchemaError, UsageError
from rkt.linux import sig
from rkt.stage1 import contract, launch
from rkt.stage1.app import manifest
from rkt.stage1.enter import join_mounts
from rkt.stage1.host import identity
from rkt.stage1.streams import control, pump
from rkt.stage1.supervision import iomux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.streams.terminal import Keyboard, Terminal

_FLAGS = ("stdin", "stdout", "stderr", "tty-in", "tty-out")
_ACTIONS = ("list", "auto-attach", "custom-attach")
_ENDS = (sig.SIGINT, sig.SIGTERM, sig.SIGHUP)


def main(argv: list[str]) -> int:
    """Print an app's endpoints, or attach to them until the app ends or the caller goes."""
    return launch.guarded(_main, argv)


def _main(argv: list[str]) -> int:
    switches = ("debug", *_FLAGS)
    rest, flags = contract.split_flags(argv[1:], ("action", "app", *switches), switches)
    values = dict(flags)
    action, app = values.get("action", ""), values.get("app", "")
    if rest or action not in _ACTIONS or not app or "/" in app:
        raise UsageError("attach: usage: attach --action=ACTION --app=NAME [--ENDPOINT ...]")
    log.configure(debug=values.get("debug") == "true")
    pod_dir = os.getcwd()
    state = identity.read(pod_dir)
    if state is None:
        raise PodStateError("the pod is not running")
    join_mounts(state, pod_dir)
    endpoints = _endpoints(app)
    if action == "list":
        sys.stdout.write("".join(f"{name}\n" for name in endpoints))
        return 0
    wanted = {name for name in _FLAGS if values.get(name) == "true"}
    if action == "auto-attach":
        wanted = {"tty-in", "tty-out"} if iomux.TTY in endpoints else set(endpoints)
    for name in wanted:
        stream = iomux.TTY if name.startswith(iomux.TTY) else name
        if stream not in endpoints:
            raise NotFound(f'app "{app}" has no endpoint "{stream}"',
                           hint=f"it has: {', '.join(endpoints) or 'none'}")  # fmt: skip
    if not wanted:
        raise UsageError("attach: no endpoint is given")
    return Attachment(app, endpoints).run(wanted)


def _endpoints(app: str) -> dict[str, str]:
    """Give the sockets of an app by name."""
    base = f"stage1/rootfs/{iomux.DIRECTORY}/{app}"
    if not os.path.exists(f"{base}/endpoints"):
        raise NotFound(
            f'app "{app}" has no streams to attach to',
            hint="run or add it with --stdin=stream, --stdout=stream, --stderr=stream, or =tty",
        )
    raw = manifest.read_json(f"{base}/endpoints", f'endpoints of app "{app}"')
    found = {}
    for target in manifest.mappings(raw, "targets", "endpoints"):
        name = manifest.string(target, "name", "endpoints")
        address = manifest.string(target, "address", "endpoints")
        if ".." in address.split("/"):
            raise SchemaError(f'endpoints of app "{app}": bad address "{address}"')
        found[name] = f"stage1/rootfs/{address.lstrip('/')}"
    return found


def _connect(path: str) -> int:
    directory, _, name = path.rpartition("/")
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # The path may be longer than a socket's may be.
        sock.connect(f"/proc/self/fd/{fd}/{name}")
        sock.setblocking(False)
    except OSError as err:
        sock.close()
        raise KernelError("cannot attach to", err, name) from err
    finally:
        os.close(fd)
    return sock.detach()


class Attachment:
    """The caller's streams and an app's, connected."""

    def __init__(self, app: str, endpoints: dict[str, str]) -> None:
        self._app = app
        self._endpoints = endpoints
        self._loop = pump.Loop()
        self._sinks: list[pump.Sink] = []
        self._sources: list[pump.Source] = []
        self._keyboard: Keyboard | None = None
        self._terminal: Terminal | None = None
        self._over = False

    def run(self, wanted: set[str]) -> int:
        """Carry bytes until the app's streams end, or the caller's."""
        before = self._ask()
        if before.get("state") == "exited":
            raise PodStateError(f'app "{self._app}" is not running')
        try:
            self._open(wanted)
            self._carry(has_output=bool(wanted & {"stdout", "stderr", "tty-out"}))
        finally:
            if self._keyboard:
                self._keyboard.close()
            if self._terminal:
                self._terminal.restore()
        if not self._over and all(source.closed for source in self._sources):
            self._check_end(before)
        return 0

    def _open(self, wanted: set[str]) -> None:
        self._wake()
        streams = {iomux.TTY if name.startswith(iomux.TTY) else name for name in wanted}
        for name in sorted(streams):
            fd = _connect(self._endpoints[name])
            shown = name != "stdin" and (name != iomux.TTY or "tty-out" in wanted)
            sink = self._sink((2 if name == "stderr" else 1) if shown else -1)
            source = pump.Source(self._loop, fd, sink, None)
            source.resume()
            self._sources.append(source)
            typed = "tty-in" if name == iomux.TTY else name
            if typed in wanted and typed in ("stdin", "tty-in"):
                self._type_into(fd, tty=name == iomux.TTY)

    def _sink(self, fd: int) -> pump.Sink:
        target = fd
        if fd < 0:
            target = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        sink = pump.Sink(self._loop, target)
        if fd < 0:
            os.close(target)
        else:
            self._sinks.append(sink)
        return sink

    def _type_into(self, fd: int, *, tty: bool) -> None:
        from rkt.stage1.streams import terminal

        if tty and os.isatty(0):
            self._terminal = terminal.Terminal(0)
            self._terminal.raw()
            self._resize()
        self._keyboard = terminal.Keyboard(self._loop, 0, fd)

    def _resize(self) -> None:
        if self._terminal is None:
            return
        rows, columns = self._terminal.size()
        try:
            control.call({"op": "resize", "app": self._app, "rows": rows, "columns": columns})
        except RktError as err:
            log.debug(f"cannot resize the terminal: {err.message}")

    def _wake(self) -> None:
        """Handle signals in the loop: one that ends us has to leave the terminal as it was."""
        wake_r, wake_w = os.pipe()
        for fd in (wake_r, wake_w):
            os.set_blocking(fd, False)
        sig.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        for number in (*_ENDS, sig.SIGWINCH):
            if sig.getsignal(number) != sig.SIG_IGN:
                sig.signal(number, lambda *_: None)
        self._loop.watch(wake_r, lambda: self._signals(wake_r))

    def _signals(self, wake: int) -> None:
        numbers = os.read(wake, 512)
        if any(number in _ENDS for number in numbers):
            self._over = True
        if sig.SIGWINCH in numbers:
            self._resize()

    def _carry(self, *, has_output: bool) -> None:
        while not self._over and not all(source.closed for source in self._sources):
            self._loop.step()
            if has_output:
                self._over |= all(sink.dead for sink in self._sinks)
            elif self._keyboard:
                self._over |= self._keyboard.done
        while not self._over and any(sink.pending for sink in self._sinks):
            self._loop.step()

    def _ask(self) -> dict[str, object]:
        return control.call({"op": "streams", "app": self._app}, timeout=60)

    def _check_end(self, before: dict[str, object]) -> None:
        """Tell the end of the app from that of a client which the supervisor gave up."""
        try:
            now = self._ask()
        except RktError:  # the pod has ended
            return
        rounds = now.get("round"), before.get("round")
        if now.get("state") == "running" and (
            rounds[0] == rounds[1] or before["state"] != "running"
        ):
            raise RktError(f'detached from app "{self._app}": its output was not read fast enough',
                           hint="attach again; what was written meanwhile is lost")  # fmt: skip
