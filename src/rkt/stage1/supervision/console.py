"""What the caller of `rkt run` sees: the apps' output, rkt's own lines, maybe a terminal."""

from __future__ import annotations

import os

from rkt import log
from rkt.errors import one_line
from rkt.stage1.streams import pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.streams import terminal
    from rkt.stage1.supervision.apprun import AppRun

_TAIL = 2048
_IDLE = 1.0


class Console:
    """stdout and stderr of the caller; nowhere when `quiet`, as in a detached pod."""

    __slots__ = ("_count", "_keyboard", "_loop", "_quiet", "_sinks", "_terminal")

    def __init__(self, loop: pump.Loop, *, quiet: bool) -> None:
        self._loop = loop
        self._count = 0
        self._quiet = quiet
        self._terminal: terminal.Terminal | None = None
        self._keyboard: terminal.Keyboard | None = None
        if quiet:
            null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            self._sinks = (pump.Sink(loop, null), pump.Sink(loop, null))
            os.close(null)
        else:
            self._sinks = (pump.Sink(loop, 1), pump.Sink(loop, 2))

    def say(self, text: str) -> None:
        """Write a line of rkt's own without ever waiting for who reads stderr."""
        if self._quiet:
            log.info(text)
        else:
            end = "\r\n" if self._terminal else "\n"
            begin = end if self._in_a_line() else ""
            line = f"{begin}rkt: {one_line(text)}{end}"
            self._sinks[1].write(line.encode("utf-8", "replace"))

    def _in_a_line(self) -> bool:
        """Say whether an app wrote the beginning of a line there, and not yet its end."""
        out, err = self._sinks
        if err.in_a_line:
            return True
        try:
            return out.in_a_line and os.path.samestat(os.fstat(1), os.fstat(2))
        except OSError:  # one is closed
            return False

    def carry(
        self, app: AppRun, fd: int, stream: int, lines: pump.Lines | None = None,
        clients: pump.Sink | None = None,
    ) -> pump.Source:  # fmt: skip
        """Carry what comes from a descriptor to the caller and into the app's log.

        With `clients` it goes to who is attached instead.
        """
        if clients:
            source = pump.Source(self._loop, fd, clients, None)
        else:
            source = pump.Source(self._loop, fd, self._sinks[stream - 1], lines)
        app.sources.append(source)

        def keep(data: bytes) -> None:
            if stream == 2:
                app.tail = data[-_TAIL:] if len(data) >= _TAIL else (app.tail + data)[-_TAIL:]
            if app.log and not clients:
                app.log.write(stream, data)
            if app.journal and not clients:
                app.journal.write(stream, data)

        source.taps.append(keep)
        return source

    def wait_for_terminal(self, app: AppRun) -> str:
        """Listen for the pty of an app; gives the path of the socket for the runtime."""
        from rkt.stage1.streams import terminal

        # By way of /proc: a unix socket's path may not be longer than 107 bytes.
        self._count += 1
        name = f"console{self._count}"
        app.console = terminal.ConsoleSocket(
            self._loop, f"/proc/{os.getpid()}/cwd", name, lambda master: self._connect(app, master)
        )
        return app.console.path

    def _connect(self, app: AppRun, master: int) -> None:
        from rkt.stage1.streams import terminal

        app.console = None
        if app.io:
            source = self.carry(app, master, 1, clients=app.io.connect(master))
            source.resume()
            return
        source = self.carry(app, master, 1)
        self._terminal = terminal.Terminal(0)
        self._terminal.copy_size(master)
        self._terminal.raw()
        self._keyboard = terminal.Keyboard(self._loop, 0, master)
        source.resume()

    def resize(self, apps: list[AppRun]) -> None:
        """Pass the size of the caller's terminal on."""
        for app in apps:
            for source in app.sources:
                if self._terminal and app.plan.terminal and not source.closed:
                    self._terminal.copy_size(source.fd)

    def restore(self) -> None:
        """Give the caller's terminal back as it was."""
        if self._keyboard:
            self._keyboard.close()
        if self._terminal:
            self._terminal.restore()
        self._keyboard = self._terminal = None

    def drain(self, sources: list[pump.Source]) -> None:
        """Carry what is still in the pipes of a dead pod; `abandon` ends this too.

        Should somebody outside hold a pipe open, silence ends the wait.
        """
        while any(not s.closed for s in sources) or any(s.pending for s in self._sinks):
            blocked = any(sink.pending for sink in self._sinks)
            if not self._loop.step(limit=_IDLE) and not blocked:
                break
        for source in sources:
            source.close()

    def abandon(self) -> None:
        """Drop what the caller does not read."""
        for sink in self._sinks:
            sink.abandon()

    def close(self) -> None:
        """Let go of the caller's descriptors."""
        for sink in self._sinks:
            sink.close()
