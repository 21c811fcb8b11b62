"""Beginning the steps of an app: its bundle, its streams, the runtime's command."""

from __future__ import annotations

import os

from rkt.const import LOG_DIR
from rkt.stage1.app import files, spec
from rkt.stage1.host import filters, runtime
from rkt.stage1.streams import applog, pump
from rkt.stage1.supervision import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.supervision.apprun import AppRun
    from rkt.stage1.supervision.children import Children, Ended
    from rkt.stage1.supervision.console import Console


class Starter:
    """Starts containers for the steps of apps: a handler, or the main process."""

    __slots__ = ("_children", "_console", "_log_size", "_pod_dir", "_runtime", "stdin")

    def __init__(
        self, pod_dir: str, chosen: runtime.Runtime, children: Children, console: Console, *,
        log_size: int,
    ) -> None:  # fmt: skip
        self._pod_dir = pod_dir
        self._runtime = chosen
        self._children = children
        self._console = console
        self._log_size = log_size
        self.stdin = -1
        """What apps read, if not nothing."""

    def prepare(self, app: AppRun) -> None:
        """Open what the end of the app needs, while there is room on the disk."""
        self.reserve(app)
        if self._log_size:
            directory = f"{self._pod_dir}/{LOG_DIR}/{app.name}"
            app.log = applog.AppLog(directory, app.name, self._log_size, self._console.say)

    def reserve(self, app: AppRun) -> None:
        """Make sure that it can be recorded how the app ends.  Raises OSError."""
        status = f"{self._pod_dir}/stage1/rootfs/rkt/status/{app.name}"
        for slot in app.slots:
            slot.discard()
        app.slots = []
        for path in (f"{status}.reason", status):
            app.slots.append(reason.Slot(path))

    def begin(self, app: AppRun, started: Ended) -> None:
        """Begin the step that is the app's turn; `started` is told how the runtime ended.

        Raises OSError.
        """
        step = app.step
        app.ident = app.name if step == "main" else f"{app.name}.{step}"
        app.idents.append(app.ident)
        app.bundle = f"{self._pod_dir}/bundle/{app.ident}"
        app.sources = [source for source in app.sources if not source.closed]
        config = app.config
        if step != "main":
            config = spec.handler(app.config, app.plan, app.plan.handlers[step])
        files.remove_tree(app.bundle)
        app.uncompiled = filters.insert(config, self._runtime)
        runtime.write_bundle(app.bundle, config)
        null = os.open(app.plan.null, os.O_RDWR | os.O_CLOEXEC)
        try:
            if step == "main" and app.plan.terminal:
                self._spawn_with_terminal(app, null, started)
            else:
                self._spawn_with_pipes(app, null, started)
        finally:
            os.close(null)

    def _spawn(
        self, app: AppRun, stdio: tuple[int, int, int], started: Ended, console: str = ""
    ) -> None:
        passed = [sock.fd for sock in app.plan.sockets] if app.step == "main" else []
        argv = self._runtime.run_argv(app.ident, app.bundle, console, passed=len(passed))
        app.starter = self._children.spawn(argv, stdio, started, passed)

    def _spawn_with_pipes(self, app: AppRun, null: int, started: Ended) -> None:
        io = app.io if app.step == "main" else None
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        app.plan.give(out_w, err_w)
        own = io.stdin() if io else -1
        stdin = own if own >= 0 else self.stdin if self.stdin >= 0 else null
        stdout, stderr = (null if io and io.drops(1) else out_w,
                          null if io and io.drops(2) else err_w)  # fmt: skip
        if stdin != null:
            app.plan.lend(stdin)
        try:
            self._spawn(app, (stdin, stdout, stderr), started)
        except OSError:
            os.close(out_r)
            os.close(err_r)
            raise
        finally:
            os.close(out_w)
            os.close(err_w)
            if own >= 0:
                os.close(own)
        for fd, stream in ((out_r, 1), (err_r, 2)):
            lines = pump.Lines(b"") if app.prefixed else None
            clients = io.output(stream) if io else None
            source = self._console.carry(app, fd, stream, lines, clients)
            source.ends = own < 0 <= self.stdin

    def _spawn_with_terminal(self, app: AppRun, null: int, started: Ended) -> None:
        socket = self._console.wait_for_terminal(app)
        err_r, err_w = os.pipe()
        try:
            self._spawn(app, (null, null, err_w), started, socket)
        finally:
            os.close(err_w)
        self._console.carry(app, err_r, 2)
