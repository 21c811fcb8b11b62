"""The supervisor of a pod: starts apps, carries output and signals, collects statuses."""

from __future__ import annotations

import os
import signal

from rkt import log
from rkt.errors import RktError
from rkt.linux import atomic, proc
from rkt.stage1 import identity, pump, runtime, spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1 import terminal

GRACE = 10.0
_DRAIN_IDLE = 1.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_URGENT = (signal.SIGINT, signal.SIGTERM)


class AppRun:
    """One app: the containers it still has to run and how it ended."""

    __slots__ = (
        "bundle", "config", "console", "ident", "pid", "plan", "sources", "starter", "status",
        "step", "steps",
    )  # fmt: skip

    def __init__(self, plan: spec.AppPlan, config: dict[str, object]) -> None:
        self.plan = plan
        self.config = config
        self.steps = [step for step in ("pre-start", "main", "post-stop") if self._has(step)]
        self.step = ""
        self.ident = ""
        self.bundle = ""
        self.starter = 0  # PID of the runtime while it starts a container
        self.pid = 0  # PID of the container's process
        self.status: int | None = None  # of the main process (or of a failed pre-start)
        self.sources: list[pump.Source] = []
        self.console: terminal.ConsoleSocket | None = None

    @property
    def name(self) -> str:
        """Give the app's name."""
        return self.plan.name

    @property
    def ended(self) -> bool:
        """Whether nothing is left to run or to wait for."""
        return not self.steps and not self.starter and not self.pid

    def _has(self, step: str) -> bool:
        return step == "main" or bool(self.plan.handlers.get(step))


class Supervisor:
    """The life of a pod after its set-up."""

    __slots__ = (
        "_ending",
        "_failure",
        "_first_failing",
        "_forwarding",
        "_init_pid",
        "_keyboard",
        "_loop",
        "_pod_dir",
        "_reaped",
        "_rkt_dir",
        "_runtime",
        "_sinks",
        "_starters",
        "_stdin",
        "_stopping",
        "_terminal",
        "_wake",
        "apps",
        "init_alive",
    )  # fmt: skip

    def __init__(self, pod_dir: str, chosen: runtime.Runtime, init_pid: int) -> None:
        self.apps: list[AppRun] = []
        self.init_alive = True
        self._pod_dir = pod_dir
        self._rkt_dir = f"{pod_dir}/stage1/rootfs/rkt"
        self._runtime = chosen
        self._init_pid = init_pid
        self._loop = pump.Loop()
        self._sinks = (pump.Sink(self._loop, 1), pump.Sink(self._loop, 2))
        self._starters: dict[int, AppRun] = {}
        self._reaped: dict[int, int] = {}
        self._stopping = 0  # signal that ends the pod
        self._forwarding = False
        self._ending = False
        self._first_failing = 0
        self._failure: RktError | None = None
        self._terminal: terminal.Terminal | None = None
        self._keyboard: terminal.Keyboard | None = None
        self._stdin = -1
        self._wake = -1

    # Signals

    def watch_signals(self, wake: int) -> None:
        """Handle signals that arrive as bytes on a descriptor (see `catch_signals`)."""
        self._wake = wake
        self._loop.watch(wake, self._signals)

    def _signals(self) -> None:
        try:
            numbers = os.read(self._wake, 512)
        except BlockingIOError:
            return
        if signal.SIGCHLD in numbers:
            self._reap()
        for number in numbers:
            if number in _FORWARDED:
                self._forward(number)
            elif number == signal.SIGWINCH and self._terminal:
                for source in self._terminal_sources():
                    self._terminal.copy_size(source.fd)

    def _terminal_sources(self) -> list[pump.Source]:
        return [s for app in self.apps if app.plan.terminal for s in app.sources if not s.closed]

    def _forward(self, number: int) -> None:
        if self._ending:  # only the last output is left, and its reader is slow: let it go
            for sink in self._sinks:
                sink.abandon()
            return
        if self._forwarding and number in _URGENT:
            self.kill_all()
            return
        self._forwarding = True
        self.stop(number)

    def stop(self, number: int) -> None:
        """Send a signal to every app, and SIGKILL when the grace is over.

        A post-stop handler runs undisturbed: nothing but `kill_all` ends it.
        """
        first = not self._stopping
        self._stopping = number
        for app in self.apps:
            ran = app.status is not None or app.step == "main"
            app.steps = [step for step in app.steps if step == "post-stop" and ran]
            if app.pid and app.step != "post-stop":
                _kill(app.pid, number)
        if first:
            self._loop.after(GRACE, self._grace_over)

    def _grace_over(self) -> None:
        for app in self.apps:
            if app.step != "post-stop":
                for pid in (app.pid, app.starter):
                    if pid:
                        _kill(pid, signal.SIGKILL)
        self._stopping = signal.SIGKILL

    def kill_all(self) -> None:
        """Kill the pod's first process, and so all of the pod."""
        for app in self.apps:
            app.steps = []
            if app.starter:
                _kill(app.starter, signal.SIGKILL)
        if self.init_alive:
            _kill(self._init_pid, signal.SIGKILL)

    # Starting

    @property
    def loop(self) -> pump.Loop:
        """The loop that everything of the pod runs in."""
        return self._loop

    def start(self, app: AppRun, stdin: int, *, prefixed: bool) -> None:
        """Begin an app: its pre-start handler, else its main process."""
        self.apps.append(app)
        self._stdin = stdin
        self._next(app, prefixed=prefixed)

    def _next(self, app: AppRun, *, prefixed: bool) -> None:
        step = app.step = app.steps.pop(0)
        app.ident = app.name if step == "main" else f"{app.name}.{step}"
        app.bundle = f"{self._pod_dir}/bundle/{app.ident}"
        config = app.config
        if step != "main":
            config = spec.handler(app.config, app.plan, app.plan.handlers[step])
        runtime.write_bundle(app.bundle, config)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            if step == "main" and app.plan.terminal:
                self._spawn_with_terminal(app, null)
            else:
                self._spawn_with_pipes(app, null, prefixed=prefixed)
        finally:
            os.close(null)

    def _spawn_with_pipes(self, app: AppRun, null: int, *, prefixed: bool) -> None:
        stdin = self._stdin if self._stdin >= 0 else null
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        try:
            argv = self._runtime.run_argv(app.ident, app.bundle)
            app.starter = _spawn(argv, (stdin, out_w, err_w))
        except OSError:
            os.close(out_r)
            os.close(err_r)
            raise
        finally:
            os.close(out_w)
            os.close(err_w)
        self._starters[app.starter] = app
        for fd, sink in ((out_r, self._sinks[0]), (err_r, self._sinks[1])):
            lines = pump.Lines(b"") if prefixed else None
            app.sources.append(pump.Source(self._loop, fd, sink, lines))

    def _spawn_with_terminal(self, app: AppRun, null: int) -> None:
        from rkt.stage1 import terminal

        # By way of /proc: a unix socket's path may not be longer than 107 bytes.
        app.console = terminal.ConsoleSocket(f"/proc/{os.getpid()}/cwd")
        err_r, err_w = os.pipe()
        argv = self._runtime.run_argv(app.ident, app.bundle, app.console.path)
        try:
            app.starter = _spawn(argv, (null, null, err_w))
        finally:
            os.close(err_w)
        self._starters[app.starter] = app
        app.sources.append(pump.Source(self._loop, err_r, self._sinks[1], None))
        self._loop.watch(app.console.fileno(), lambda: self._connect_terminal(app))

    def _connect_terminal(self, app: AppRun) -> None:
        from rkt.stage1 import terminal

        console = app.console
        if console is None:
            return
        self._loop.forget(console.fileno())
        master = console.receive()
        console.close()
        app.console = None
        source = pump.Source(self._loop, master, self._sinks[0], None)
        app.sources.append(source)
        self._terminal = terminal.Terminal(0)
        self._terminal.copy_size(master)
        self._terminal.raw()
        self._keyboard = terminal.Keyboard(self._loop, 0, master)
        source.resume()

    def _started(self, app: AppRun, status: int) -> None:
        """Handle the end of the runtime's command: the container runs, or could not start."""
        app.starter = 0
        if status != 0:
            if self._ending:
                return
            if self._stopping or not self.init_alive:
                app.steps = []
                self._finish(app, 128 + signal.SIGKILL)
                return
            self._fail(app)
            return
        with open(f"{app.bundle}/pid", encoding="ascii") as file:
            app.pid = int(file.read())
        for source in app.sources:
            if source.lines:
                source.lines.prefix = f"{app.name}[{app.pid}]: ".encode()
            source.resume()
        if app.step == "main":
            text = f"{app.pid} {identity.start_time(app.pid)}\n".encode()
            atomic.write_file(f"{self._rkt_dir}/pids/{app.name}", text, durable=False)
        if app.pid in self._reaped:
            self._exited(app, self._reaped.pop(app.pid))
        elif self._stopping and app.step != "post-stop":
            _kill(app.pid, self._stopping)

    def _fail(self, app: AppRun) -> None:
        output = b""
        for source in app.sources:
            try:
                output += os.read(source.fd, 1 << 16)
            except OSError:
                continue
            source.close()
        text = runtime.failure_text(app.bundle, output)
        self._failure = RktError(f'app "{app.name}": {self._runtime.name}: {text}')

    # Ending

    def _reap(self) -> None:
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            status = os.waitstatus_to_exitcode(raw)
            status = status if status >= 0 else 128 - status
            if pid == self._init_pid:
                self.init_alive = False
                continue
            starter = self._starters.pop(pid, None)
            if starter is not None:
                self._started(starter, status)
                continue
            for app in self.apps:
                if app.pid == pid:
                    self._exited(app, status)
                    break
            else:
                if self._starters:  # an app may end before its runtime's command does
                    self._reaped[pid] = status
            if not self._starters:
                self._reaped.clear()

    def _exited(self, app: AppRun, status: int) -> None:
        app.pid = 0
        if app.step == "main":
            self._finish(app, status)
        elif status != 0 and not self._ending:
            log.info(f'app "{app.name}": {app.step} handler exited with status {status}')
            if app.step == "pre-start":
                app.steps = [left for left in app.steps if left == "post-stop"]
                self._finish(app, status)
        if app.steps and self.init_alive:
            self._next(app, prefixed=bool(app.sources and app.sources[0].lines))
        else:
            app.steps = []

    def _finish(self, app: AppRun, status: int) -> None:
        """Record how an app ended; the first failure ends the pod."""
        app.status = status
        text = f"{status}\n".encode()
        atomic.write_file(f"{self._rkt_dir}/status/{app.name}", text, durable=False)
        if status != 0 and not self._ending:
            self._first_failing = self._first_failing or status
            if not self._stopping:
                self.stop(signal.SIGTERM)

    def run(self) -> int:
        """Wait until all apps have ended.  Gives the status of the pod; raises what failed."""
        while not all(app.ended for app in self.apps):
            self._loop.step()
            if self._failure:
                raise self._failure
            if not self.init_alive:
                for app in self.apps:
                    app.steps = []
        return self._first_failing

    def teardown(self, *, drain: bool) -> None:
        """Kill what is left of the pod, carry the last output, restore the terminal."""
        self._ending = True
        self.kill_all()
        while self.init_alive or any(app.pid or app.starter for app in self.apps):
            if not self._loop.step(limit=0.2):
                self._reap()
        if drain:
            self._drain()
        if self._keyboard:
            self._keyboard.close()
        if self._terminal:
            self._terminal.restore()
        for app in self.apps:
            if app.console:
                app.console.close()
        for sink in self._sinks:
            sink.close()

    def _drain(self) -> None:
        """Carry what is still in the pipes; a signal ends this too.

        All of the pod is dead.  Should somebody outside hold a pipe open, silence ends the wait.
        """
        sources = [source for app in self.apps for source in app.sources]
        while any(not s.closed for s in sources) or any(s.pending for s in self._sinks):
            blocked = any(sink.pending for sink in self._sinks)
            if not self._loop.step(limit=_DRAIN_IDLE) and not blocked:
                break
        for source in sources:
            source.close()


def catch_signals(*, resize: bool) -> int:
    """Make signals arrive as bytes on a descriptor; those ignored by the caller stay ignored."""
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    numbers = [*_FORWARDED, signal.SIGCHLD]
    if resize:
        numbers.append(signal.SIGWINCH)
    for number in numbers:
        if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _note)
    return wake_r


_noted: list[int] = []


def _note(number: int, _frame: object) -> None:
    """Remember the first signal that ends the pod; the wake-up byte is for the loop."""
    if not _noted and number in _FORWARDED:
        _noted.append(number)


def asked_to_end() -> int:
    """Give the signal that came while there was no loop to handle it, 0 if none."""
    return _noted[0] if _noted else 0


def _spawn(argv: list[str], stdio: tuple[int, int, int]) -> int:
    return proc.spawn(argv, env=runtime.environment(), stdio=stdio, new_session=True)


def _kill(pid: int, number: int) -> None:
    """Signal a child that was not reaped yet: its number cannot be anyone else's."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
