"""Health checks: a command run inside an app now and then, by the runtime's `exec`."""

from __future__ import annotations

import os

from rkt import quickjson
from rkt.linux import atomic, sig
from rkt.stage1.host import identity, runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from rkt.stage1.app.policy import HealthPlan
    from rkt.stage1.host.runtime import Runtime
    from rkt.stage1.streams.pump import Loop, Timer
    from rkt.stage1.supervision.apprun import AppRun
    from rkt.stage1.supervision.children import Children

    class Host(Protocol):
        """What is needed of a supervisor."""

        loop: Loop
        children: Children
        runtime: Runtime
        rkt_dir: str

        def say(self, text: str) -> None:
            """Write a line for the user."""

        def unhealthy(self, app: AppRun, text: str) -> None:
            """End an app that is not well."""


_KEPT = 1024


class Health:
    """The checks of one app while its main process runs."""

    __slots__ = (
        "_app", "_failures", "_fresh", "_host", "_limit", "_output", "_pid", "_plan", "_reading",
        "_settling", "_starter", "_state", "_timer",
    )  # fmt: skip

    def __init__(self, host: Host, app: AppRun, plan: HealthPlan) -> None:
        self._host = host
        self._app = app
        self._plan = plan
        self._failures = 0
        self._state = ""
        self._fresh = False
        self._timer: Timer | None = None
        self._limit: Timer | None = None
        self._settling: Timer | None = None
        self._starter = 0
        self._pid = 0
        self._output = b""
        self._reading = -1

    def start(self) -> None:
        """Begin: the main process runs."""
        self._failures = 0
        self._note("starting")
        self._fresh = self._plan.start_period > 0
        if self._fresh:
            self._settling = self._host.loop.after(self._plan.start_period, self._settled)
        self._timer = self._host.loop.after(self._plan.interval, self._check)

    def stop(self) -> None:
        """End: the main process has gone, or is about to."""
        for timer in (self._timer, self._settling):
            self._host.loop.cancel(timer)
        self._timer = self._settling = None
        self._kill()

    def _settled(self) -> None:
        self._settling = None
        self._fresh = False

    def _check(self) -> None:
        self._timer = None
        self._output = b""
        try:
            self._reading = self._start_command()
        except OSError as err:  # a full disk, no descriptors: no reason to end a healthy app
            self._host.say(f'app "{self._app.name}": cannot check its health: {err.strerror}')
            self._timer = self._host.loop.after(self._plan.interval, self._check)
            return
        os.set_blocking(self._reading, False)
        self._host.loop.watch(self._reading, self._read)
        self._limit = self._host.loop.after(self._plan.timeout, self._too_long)

    def _start_command(self) -> int:
        """Let the runtime start the command; gives where its output comes from."""
        path = f"{self._app.bundle}/health.json"
        process = {**self._app.process, "terminal": False, "args": self._plan.command}
        process.pop("consoleSize", None)
        opened: list[int] = []
        try:
            # Nothing to read, but not /dev/null: crun gives what is stdin to the app's user.
            opened += os.pipe()
            opened += os.pipe()
            stdin, _, output, out_w = opened
            self._app.plan.give(out_w, stdin)
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(quickjson.dumps(process))
            with open(f"{path}.log", "w", encoding="utf-8"):  # only of this check
                pass
            argv = self._host.runtime.exec_argv(
                self._app.ident, path, f"{path}.pid", log_file=f"{path}.log"
            )
            self._starter = self._host.children.spawn(argv, (stdin, out_w, out_w), self._started)
            opened.remove(output)
            return output
        finally:
            for fd in opened:
                os.close(fd)

    def _read(self) -> None:
        try:
            data = os.read(self._reading, 65536)
        except BlockingIOError:
            return
        self._output = (self._output + data)[-_KEPT:]
        if not data:
            self._close()

    def _close(self) -> None:
        if self._reading >= 0:
            self._host.loop.forget(self._reading)
            os.close(self._reading)
            self._reading = -1

    def _started(self, code: int) -> None:
        self._starter = 0
        if code != 0:
            if self._reading >= 0:
                self._read()
            self._close()
            text = runtime.logged(f"{self._app.bundle}/health.json.log", self._output)
            self._output = text.encode()
            self._done(code, "could not be run")
            return
        try:
            with open(f"{self._app.bundle}/health.json.pid", encoding="ascii") as file:
                self._pid = int(file.read())
        except (OSError, ValueError):
            self._done(1, "could not be run")
            return
        self._host.children.adopt(self._pid, self._ended)

    def _ended(self, code: int) -> None:
        self._pid = 0
        self._done(code, f"status {code}" if code >= 0 else f"signal {-code}")

    def _too_long(self) -> None:
        self._limit = None
        self._kill()
        self._done(1, f"no answer in {self._plan.timeout:g} s")

    def _kill(self) -> None:
        """End a check under way, with all that it started in its session."""
        self._host.loop.cancel(self._limit)
        self._limit = None
        for pid in (self._pid, self._starter):
            if pid:
                self._host.children.adopt(pid, _ignore)
                try:
                    os.killpg(os.getpgid(pid), sig.SIGKILL)
                    os.kill(pid, sig.SIGKILL)
                except ProcessLookupError:
                    pass
        self._pid = self._starter = 0
        self._close()

    def _done(self, code: int, why: str) -> None:
        if self._reading >= 0:
            self._read()
        self._close()
        self._host.loop.cancel(self._limit)
        self._limit = None
        if self._app.step != "main" or not self._app.pid or self._app.unhealthy:
            return
        if code == 0:
            self._failures = 0
            self._note("healthy")
        elif not (self._fresh or identity.is_ending(self._app.pid)):  # no wonder, at its end
            self._failures += 1
            if self._failures >= self._plan.retries:
                self._note("unhealthy")
                self._host.unhealthy(self._app, self._words(why))
                return
        self._timer = self._host.loop.after(self._plan.interval, self._check)

    def _words(self, why: str) -> str:
        lines = self._output.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        last = "".join(c for c in last if c.isprintable())[:200]
        times = f"{self._failures} times" if self._failures > 1 else "once"
        return f"failed its health check {times} ({why})" + (f": {last}" if last else "")

    def _note(self, state: str) -> None:
        if state == self._state:
            return
        self._state = state
        try:
            path = f"{self._host.rkt_dir}/health/{self._app.name}"
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            atomic.write_file(path, f"{state}\n".encode(), durable=False)
        except OSError as err:
            self._host.say(f'app "{self._app.name}": cannot note its health: {err.strerror}')


def _ignore(_code: int) -> None:
    """Take note of a check that was given up."""
