"""The supervisor of a pod: starts apps, carries output and signals, collects statuses."""

from __future__ import annotations

import os
import time

from rkt.errors import RktError, one_line
from rkt.linux import sig
from rkt.stage1.app import policy
from rkt.stage1.host import cgroup, filters, identity, runtime
from rkt.stage1.streams import pump, signals
from rkt.stage1.supervision import findings, reason, starting
from rkt.stage1.supervision.children import Children, kill
from rkt.stage1.supervision.console import Console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.stage1.supervision.apprun import AppRun

_ATTEMPTS = 100
_PAUSE = 0.02


class Supervisor:
    """The life of a pod after its set-up."""

    __slots__ = (
        "_console", "_culprit", "_ending", "_failure", "_findings", "_first_failing", "_forwarding",
        "_init_pid", "_layout", "_policy", "_starter", "_stopping", "_wake", "_why",
        "apps", "children", "init_alive", "keep", "loop", "on_ready", "on_step", "on_stop",
        "rkt_dir", "runtime",
    )  # fmt: skip

    children_type: type[Children] = Children

    def __init__(
        self, pod_dir: str, chosen: runtime.Runtime, init_pid: int, *,
        rules: policy.PodPolicy, layout: cgroup.Layout | None = None, quiet: bool = False,
    ) -> None:  # fmt: skip
        self.apps: list[AppRun] = []
        self.init_alive = True
        self.runtime = chosen
        self.rkt_dir = f"{pod_dir}/stage1/rootfs/rkt"
        self.on_ready: Callable[[], None] | None = None
        """Called once, when the main process of every app has been started."""
        self.on_step: Callable[[], None] | None = None
        """Called whenever something may have happened."""
        self.on_stop: Callable[[], None] | None = None
        """Called once, when the pod begins to end."""
        self.keep = False
        """Whether the pod goes on without apps, and whatever becomes of them."""
        self._policy = rules
        self._layout = layout
        self._init_pid = init_pid
        self.loop = pump.Loop()
        """The loop that everything of the pod runs in."""
        self.children = self.children_type()
        self.children.adopt(init_pid, self._init_ended)
        self._console = Console(self.loop, quiet=quiet)
        self._findings = findings.Findings(
            self.rkt_dir, chosen, init_pid, layout, patience=rules.stop_timeout, say=self.say
        )
        self._stopping = 0  # signal that ends the pod
        self._why = ""
        self._forwarding = False
        self._ending = False
        self._first_failing = 0
        self._culprit: AppRun | None = None
        self._failure: RktError | None = None
        self._starter = starting.Starter(
            pod_dir, chosen, self.children, self._console, log_size=rules.log_size
        )
        self._wake = -1

    def _init_ended(self, _code: int) -> None:
        self.init_alive = False

    def say(self, text: str) -> None:
        """Write a line for the user without ever waiting for who reads stderr."""
        self._console.say(text)

    # Signals

    def watch_signals(self, wake: int) -> None:
        """Handle signals that arrive as bytes on a descriptor (see `signals.catch`)."""
        self._wake = wake
        self.loop.watch(wake, self._signals)

    def _signals(self) -> None:
        try:
            numbers = os.read(self._wake, 512)
        except BlockingIOError:
            return
        if sig.SIGCHLD in numbers:
            self.children.reap()
        for number in numbers:
            if number in signals.FORWARDED:
                self._forward(number)
            elif number in signals.PASSED:
                self._pass(number)
            elif number == sig.SIGWINCH:
                self._console.resize(self.apps)

    def _forward(self, number: int) -> None:
        if self._ending:  # only the last output is left, and its reader is slow: let it go
            self._console.abandon()
            return
        if self._forwarding and number in signals.URGENT:
            self.kill_all()
            return
        self._forwarding = True
        self.stop(number, f"the pod was stopped by {sig.name(number)}")

    def _pass(self, number: int) -> None:
        for app in self.apps:
            if app.pid and app.step == "main":
                kill(app.pid, number)

    def stop(self, number: int, why: str = "the pod was stopped") -> None:
        """Send a signal to every app, and SIGKILL when the grace is over.

        A post-stop handler runs undisturbed: nothing but `kill_all` ends it.
        """
        first = not self._stopping
        self._stopping = number
        if first:
            self._why = why
            if self.on_stop:
                self.on_stop()
            self.loop.after(self._policy.stop_timeout, self._grace_over)
        for app in self.apps:
            ran = app.end is not None or app.step == "main"
            app.steps = [step for step in app.steps if step == "post-stop" and ran]
            if app.between:
                self._conclude(app)
            if app.health:
                app.health.stop()
            if app.pid and app.step != "post-stop":
                kill(app.pid, number)

    def _grace_over(self) -> None:
        for app in self.apps:
            if app.step != "post-stop":
                app.overdue = bool(app.pid)
                for pid in (app.pid, app.starter):
                    if pid:
                        kill(pid)
        self._stopping = sig.SIGKILL

    def kill_all(self) -> None:
        """Kill the pod's first process, and so all of the pod."""
        for app in self.apps:
            app.steps = []
            if app.health:
                app.health.stop()
            if app.starter:
                kill(app.starter)
        if self.init_alive:
            kill(self._init_pid)

    def unhealthy(self, app: AppRun, text: str) -> None:
        """End an app that failed its health check; that counts as a failure, however it ends."""
        app.unhealthy = text
        pid = app.pid
        self.note(app, text)
        kill(pid, sig.SIGTERM)

        def insist() -> None:
            if app.pid == pid:
                kill(pid)

        self.loop.after(self._policy.stop_timeout, insist)

    @property
    def _stopped(self) -> str:
        """Why the pod was asked to end, if it was."""
        return self._why if self._stopping else ""

    @property
    def stopping(self) -> bool:
        """Whether the pod was asked to end."""
        return bool(self._stopping) or self._ending

    def end_app(self, app: AppRun, why: str) -> None:
        """Ask one app to end, and kill it when the grace is over; the pod goes on.

        As at the end of a pod, a post-stop handler runs undisturbed.
        """
        app.stopping = why
        ran = app.end is not None or app.step == "main"
        app.steps = [step for step in app.steps if step == "post-stop" and ran]
        if app.between:
            self._conclude(app)
        if app.step == "post-stop" or not (app.pid or app.starter):
            return
        if app.health:
            app.health.stop()
        if app.pid:
            kill(app.pid, sig.SIGTERM)
        self.loop.cancel(app.timer)
        app.timer = self.loop.after(self._policy.stop_timeout, lambda: self._insist(app))

    def _insist(self, app: AppRun) -> None:
        app.timer = None
        app.overdue = bool(app.pid)
        for pid in (app.pid, app.starter):
            if pid and app.step != "post-stop":
                kill(pid)

    def revive(self, app: AppRun) -> None:
        """Start an app again that has ended.  Raises OSError."""
        self._starter.reserve(app)
        app.begun = app.overdue = False
        app.status = None
        app.between = True
        self._again(app)

    def forget(self, app: AppRun) -> None:
        """Let go of an app that has ended."""
        self.apps.remove(app)
        for source in app.sources:
            source.close()
        if app.log:
            app.log.close()
        for slot in app.slots:
            slot.discard()

    def note(self, app: AppRun, text: str) -> None:
        """Write a line of rkt's own into the log of an app."""
        text = one_line(text)
        if app.log:
            app.log.note(text)
        if app.journal:
            app.journal.note(text)

    # Starting

    def start(self, app: AppRun, stdin: int, *, prefixed: bool) -> None:
        """Begin an app: its pre-start handler, else its main process."""
        self.apps.append(app)
        self._starter.stdin = stdin
        app.prefixed = prefixed
        app.restarts = policy.Restarts(self._policy)
        self._starter.prepare(app)
        self._next(app)

    def _next(self, app: AppRun) -> None:
        app.step = app.steps.pop(0)
        self._findings.look(app)
        self._starter.begin(app, lambda code: self._started(app, code))

    def _started(self, app: AppRun, code: int) -> None:
        """Handle the end of the runtime's command: the container runs, or could not start."""
        app.starter = 0
        if code != 0:
            if app.console:
                app.console.close()
                app.console = None
            if self._ending:
                return
            if self._stopping or app.stopping or identity.is_ending(self._init_pid):
                app.steps = []
                self._finish(app, self._findings.of_main(app, -sig.SIGKILL, self._stopped))
                return
            self._fail(app)
            return
        filters.keep(app.uncompiled, self.runtime, app.ident)
        with open(f"{app.bundle}/pid", encoding="ascii") as file:
            app.pid = pid = int(file.read())
        for source in app.sources:
            if source.lines:
                source.lines.prefix = f"{app.name}[{pid}]: ".encode()
            source.resume()
        if app.step == "main":
            self._main_began(app)
        self.children.adopt(pid, lambda code: self._exited(app, code))
        ending = self._stopping or (sig.SIGTERM if app.stopping else 0)
        if app.pid == pid and ending and app.step != "post-stop":
            kill(pid, sig.SIGKILL if app.overdue else ending)

    def _main_began(self, app: AppRun) -> None:
        self._findings.record_start(app)
        app.since = time.monotonic()
        app.begun = True
        if app.journal:
            app.journal.pid = app.pid
        if app.health and not (self._stopping or app.stopping):
            app.health.start()

    def _fail(self, app: AppRun) -> None:
        text = self._findings.of_runtime(app)
        if self.keep or app.restart_count:
            self._not_again(app, text)
        else:
            self._failure = RktError(f'app "{app.name}": {text}')

    def _not_again(self, app: AppRun, text: str) -> None:
        app.steps = []
        again = "" if self.keep else " again"
        self._finish(
            app, reason.End(reason.CANNOT_START, "start", f"could not be started{again}: {text}")
        )
        self._round_over(app)

    # Ending

    def _exited(self, app: AppRun, code: int) -> None:
        app.pid = 0
        if app.health:
            app.health.stop()
        if app.step == "main":
            self._finish(app, self._findings.of_main(app, code, self._stopped))
        elif code != 0 and not self._ending:
            self._handler_failed(app, self._findings.of_handler(app, code, self._stopped))
        elif (self._stopping or app.stopping) and app.step == "pre-start":
            text = f"was not started: {app.stopping or self._why}"
            self._finish(app, reason.End(128 + sig.SIGTERM, "stopped", text))
        if not app.steps or not self.init_alive:
            app.steps = []
            self._round_over(app)
            return
        try:
            self._next(app)
        except OSError as err:  # a full disk
            if app.end is None:
                self._not_again(app, err.strerror or str(err))
                return
            app.steps = []
            self.say(f'app "{app.name}": cannot run its {app.step} handler: {err.strerror}')
            self._round_over(app)

    def _handler_failed(self, app: AppRun, end: reason.End) -> None:
        if app.step == "pre-start":
            app.steps = [left for left in app.steps if left == "post-stop"]
            self._finish(app, end)
        elif app.end:
            app.end.text += f"; {end.text}"
            self._findings.record_end(app)
        if app is not self._culprit and not app.between:  # else it is said elsewhere
            self.say(f'app "{app.name}": {end.text}')

    def _finish(self, app: AppRun, end: reason.End) -> None:
        """Take note of how a round of an app ended, and decide whether there is another one."""
        app.end = end
        if app.restarts and self.init_alive and not (self.stopping or app.stopping):
            ran = time.monotonic() - app.since if app.since else 0.0
            delay = app.restarts.after(end.status, ran)
            if delay is not None:
                app.between = True
                if app.io:
                    app.io.rest()
                text = f"{end.text}; it starts again in {delay:g} s"
                self.note(app, text)
                self.say(f'app "{app.name}" {text}')
                self._findings.record_end(app)
                app.timer = self.loop.after(delay, lambda: self._again(app))
                return
        self._conclude(app)

    def _round_over(self, app: AppRun) -> None:
        """Begin the next round if its time came while a post-stop handler ran."""
        if app.between and app.timer is None and not app.starter:
            self._again(app)

    def _again(self, app: AppRun, attempts: int = _ATTEMPTS) -> None:
        """Kill what an app left behind, let the runtime forget its containers, start it again."""
        self.loop.cancel(app.timer)  # that of a stop, if it was stopped before it began
        app.timer = None
        if app.pid or app.starter or app.steps:
            return  # its post-stop handler still runs
        if attempts and app.idents and self._kill_rest(app):
            app.timer = self.loop.after(_PAUSE, lambda: self._again(app, attempts - 1))
            return
        try:
            if app.idents:
                app.step = "delete"
                argv = self.runtime.delete_argv(app.idents[-1])
                null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
                try:
                    app.starter = self.children.spawn(
                        argv, (null, null, null), lambda _: self._forgotten(app)
                    )
                finally:
                    os.close(null)
            else:
                app.rewind()
                self._next(app)
        except OSError as err:
            self._not_again(app, err.strerror or str(err))

    def _kill_rest(self, app: AppRun) -> bool:
        """Kill the processes that an app left in its cgroup; False if there are none."""
        left = cgroup.members(self._layout, app.plan.cgroup) if self._layout else set()
        for pid in left:
            cgroup.kill_if_member(pid, app.plan.cgroup)
        return bool(left)

    def _forgotten(self, app: AppRun) -> None:
        app.starter = 0
        if app.between and self.init_alive and not self._ending:
            app.idents.pop()  # else its bundle is still to be removed
            self._again(app)

    def _conclude(self, app: AppRun) -> None:
        """Record how an app ended for good; the first failure ends the pod."""
        if app.end is None:
            return
        app.between = False
        self.loop.cancel(app.timer)
        app.timer = None
        app.status = app.end.status
        self._findings.record_end(app)
        if app.status != 0 and not self._ending and not self.keep:
            self._first_failing = self._first_failing or app.status
            if app.overdue or not self._stopping:
                self._culprit = self._culprit or app
            if not self._stopping:
                self.stop(sig.SIGTERM, f'the pod was stopped because app "{app.name}" failed')

    def last_words(self) -> str:
        """Say which app failed and why; "" if none did, or if the pod was asked to end."""
        app = self._culprit
        if app is None or app.end is None:
            return ""
        count = app.restart_count
        times = f" (after {count} restart{'s' if count > 1 else ''})" if count else ""
        return f'app "{app.name}" {app.end.text}{times}'

    def _goes_on(self) -> bool:
        if self.keep and self.init_alive and not self._stopping:
            return True
        return not all(app.ended for app in self.apps)

    def run(self) -> int:
        """Wait until all apps have ended.  Gives the status of the pod; raises what failed."""
        while self._goes_on():
            self._look_whether_ready()
            self.loop.step()
            if self.on_step:
                self.on_step()
            if self._failure:
                raise self._failure
            self._look_whether_ready()
            if not self.init_alive:
                for app in self.apps:
                    app.steps = []
                    if app.between:
                        self._conclude(app)
        return self._first_failing

    def _look_whether_ready(self) -> None:
        if self.on_ready and all(app.begun for app in self.apps):
            self.on_ready()
            self.on_ready = None

    def teardown(self, *, drain: bool) -> None:
        """Kill what is left of the pod, carry the last output, restore the terminal."""
        self._ending = True
        self.kill_all()
        while self.init_alive or self.children.busy or any(app.pid for app in self.apps):
            if not self.loop.step(limit=0.2):
                self.children.reap()
        if drain:
            self._console.drain([source for app in self.apps for source in app.sources])
        self._console.restore()
        for app in self.apps:
            if app.console:
                app.console.close()
            if app.log:
                app.log.close()
            for slot in app.slots:
                slot.discard()
        words = self.last_words()
        if drain and words:
            self.say(words)
            self._console.drain([])
        self._console.close()
