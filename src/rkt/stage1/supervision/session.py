"""A command inside an app on a terminal of its own, connected to the caller's.

The runtimes' own `exec` would do, were it not that crun 1.8 does not pass on that the caller's
window changes its size, and that neither gives the terminal back as it was when it is killed.
"""

from __future__ import annotations

import os

from rkt import quickjson
from rkt.errors import RktError
from rkt.linux import libc, sig
from rkt.stage1.host import runtime
from rkt.stage1.streams import pump, terminal
from rkt.stage1.supervision import children

_ENDS = (sig.SIGINT, sig.SIGTERM, sig.SIGHUP, sig.SIGQUIT)
_IDLE = 1.0


class Session:
    """The command, its terminal and the caller's."""

    __slots__ = (
        "_children", "_ended_by", "_errors", "_failure", "_files", "_keyboard", "_loop", "_outer",
        "_pid", "_sink", "_socket", "_source", "_starter", "_status",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        # The pod's end removes this directory with all that a killed session left there.
        self._files = f"/proc/{os.getpid()}/cwd/bundle/{name}{os.getpid()}"
        self._loop = pump.Loop()
        self._children = children.Children()
        self._outer = terminal.Terminal(0)
        self._socket: terminal.ConsoleSocket | None = None
        self._source: pump.Source | None = None
        self._keyboard: terminal.Keyboard | None = None
        self._sink = pump.Sink(self._loop, 1)
        self._errors = -1
        self._starter = 0
        self._pid = 0
        self._status: int | None = None
        self._failure = ""
        self._ended_by = 0

    def run(self, chosen: runtime.Runtime, app: str, process: dict[str, object]) -> int:
        """Run the command to its end and give its exit status.

        A signal that ends this process hangs the command's terminal up.  The caller's terminal is
        left as it was, whatever happens.
        """
        rows, columns = self._outer.size()
        if rows and columns:
            process["consoleSize"] = {"height": rows, "width": columns}
        libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)  # the command becomes a child of this process
        self._watch_signals()
        try:
            self._start(chosen, app, process)
            while self._status is None and not self._ended_by and not self._failure:
                self._loop.step()
                if self._keyboard and self._keyboard.done:  # the caller's terminal has gone
                    self._ended_by = sig.SIGHUP
            self._drain()
        finally:
            self._close()
        if self._failure:
            raise RktError(f"{chosen.name}: {self._failure}")
        return 128 + self._ended_by if self._ended_by else self._status or 0

    def _watch_signals(self) -> None:
        wake_r, wake_w = os.pipe()
        for fd in (wake_r, wake_w):
            os.set_blocking(fd, False)
        sig.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        for number in (*_ENDS, sig.SIGWINCH, sig.SIGCHLD):
            if number == sig.SIGCHLD or sig.getsignal(number) != sig.SIG_IGN:
                sig.signal(number, lambda *_: None)
        self._loop.watch(wake_r, lambda: self._signals(wake_r))

    def _signals(self, wake: int) -> None:
        numbers = os.read(wake, 512)
        if sig.SIGCHLD in numbers:
            self._children.reap()
        if sig.SIGWINCH in numbers and self._source and not self._source.closed:
            self._outer.copy_size(self._source.fd)
        for number in numbers:
            if number in _ENDS:
                self._ended_by = self._ended_by or number

    def _start(self, chosen: runtime.Runtime, app: str, process: dict[str, object]) -> None:
        directory, _, name = self._files.rpartition("/")
        self._socket = terminal.ConsoleSocket(self._loop, directory, name, self._connect)
        fd = os.memfd_create("process")
        os.write(fd, quickjson.dumps(process).encode())
        os.set_inheritable(fd, True)
        argv = chosen.exec_argv(
            app, f"/proc/self/fd/{fd}", f"{self._files}.pid",
            console=self._socket.path, log_file=f"{self._files}.log",
        )  # fmt: skip
        self._errors, errors = os.pipe()
        os.set_blocking(self._errors, False)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._starter = self._children.spawn(argv, (null, null, errors), self._started)
        finally:
            for used in (fd, errors, null):
                os.close(used)

    def _connect(self, master: int) -> None:
        self._source = pump.Source(self._loop, master, self._sink, None)
        self._outer.copy_size(master)
        self._outer.raw()
        self._keyboard = terminal.Keyboard(self._loop, 0, master)
        self._source.resume()

    def _started(self, code: int) -> None:
        self._starter = 0
        if code != 0:
            try:
                output = os.read(self._errors, 1 << 16)
            except BlockingIOError:
                output = b""
            self._failure = runtime.logged(f"{self._files}.log", output)
            return
        try:
            with open(f"{self._files}.pid", encoding="ascii") as file:
                self._pid = int(file.read())
        except FileNotFoundError:  # the pod has ended, and all that was in it
            self._exited(-sig.SIGKILL)
            return
        self._children.adopt(self._pid, self._exited)

    def _exited(self, code: int) -> None:
        self._status = 128 - code if code < 0 else code

    def _drain(self) -> None:
        """Carry the command's last output; its end hangs the terminal up for all who have it."""
        while self._source and not self._source.closed and not self._ended_by:
            if not self._loop.step(limit=_IDLE):
                break
        while self._sink.pending and not self._ended_by:
            self._loop.step()

    def _await_hangup(self) -> None:
        """Collect a command that ends because its terminal was hung up.

        One that outlives that goes on without this process: a dead one would hold up its pod.
        """
        over = False

        def give_up() -> None:
            nonlocal over
            over = True

        self._loop.after(_IDLE, give_up)
        while (self._pid or self._starter) and self._status is None and not over:
            self._loop.step()

    def _close(self) -> None:
        if self._keyboard:
            self._keyboard.close()
        self._outer.restore()
        if self._source:
            self._source.close()
        if self._ended_by:
            self._await_hangup()
        if self._starter:
            children.kill(self._starter)
        if self._socket:
            self._socket.close()
        for ending in ("pid", "log"):
            try:
                os.unlink(f"{self._files}.{ending}")
            except FileNotFoundError:
                pass
