"""What is found out about apps when they end, and left where `rkt status` looks for it."""

from __future__ import annotations

import errno
import os

from rkt.linux import atomic, sig
from rkt.stage1.app import seccomp
from rkt.stage1.host import identity, runtime
from rkt.stage1.supervision import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.stage1.host.cgroup import Layout
    from rkt.stage1.supervision.apprun import AppRun

# What crun and runc say of a process of theirs that was killed before the app's program.
_KILLED_EARLY = ("read from the init process", "container process is already dead")


class Findings:
    """Explains and records the ends of a pod's apps; `patience` is that of a stop, in seconds."""

    __slots__ = ("_init_pid", "_layout", "_patience", "_rkt_dir", "_runtime", "_say")

    def __init__(
        self, rkt_dir: str, chosen: runtime.Runtime, init_pid: int, layout: Layout | None, *,
        patience: float, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._rkt_dir = rkt_dir
        self._runtime = chosen
        self._init_pid = init_pid
        self._layout = layout
        self._patience = patience
        self._say = say

    # Finding out

    def look(self, app: AppRun) -> None:
        """Note what is so before a step of an app: only the difference tells something."""
        app.oom_kills = self._oom_kills(app)

    def _oom_kills(self, app: AppRun) -> int:
        return reason.oom_kills(self._layout, app.plan.cgroup) if self._layout else 0

    def of_runtime(self, app: AppRun) -> str:
        """Say why the runtime did not start a step of an app, whose streams end here."""
        output = b""
        for source in app.sources:
            try:
                output += os.read(source.fd, 1 << 16)
            except OSError:
                continue
            source.close()
        text = f"{self._runtime.name}: {runtime.failure_text(app.bundle, output)}"
        full = os.strerror(errno.ENOSPC)
        if full not in text and atomic.is_full(app.bundle):  # crun does not always say so
            text += f": {full}"
        if text.endswith(_KILLED_EARLY) and seccomp.is_own(
            app.plan.seccomp, app.plan.capabilities, os.uname().machine
        ):
            text += ": its seccomp filter may forbid a system call that the runtime makes"
        return text

    def of_main(self, app: AppRun, code: int, stopped: str) -> reason.End:
        """Explain the end of the main process; `stopped` says why the pod ends, if it does."""
        app.hear_out()
        memory = app.plan.resources.get("memory")
        limit = memory.get("limit") if isinstance(memory, dict) else 0
        oom = self._oom_kills(app) > app.oom_kills
        end = reason.of_main(
            code, oom=oom, memory=int(limit or 0), filtered=app.plan.seccomp is not None,
            tail=app.tail, announced=bool(app.plan.sockets), program=app.plan.args[0],
        )  # fmt: skip
        if app.unhealthy:
            return reason.End(end.status or 1, "health", app.unhealthy, number=end.signal)
        if code == -sig.SIGKILL and not oom and identity.is_ending(self._init_pid):
            return reason.of_stop(end, "the pod was killed")
        why = app.stopping or stopped
        if app.overdue and code == -sig.SIGKILL:
            why = f"it did not end within {self._patience:g} s after {why}"
        return reason.of_stop(end, why) if why else end

    def of_handler(self, app: AppRun, code: int, stopped: str) -> reason.End:
        """Explain the end of a handler that failed, as `of_main` does."""
        app.hear_out()
        program = app.plan.handlers[app.step][0]
        end = reason.of_handler(app.step, code, tail=app.tail, program=program)
        why = app.stopping or stopped
        return reason.of_stop(end, why) if why and app.step == "pre-start" else end

    # Recording

    def record_start(self, app: AppRun) -> None:
        """Write which process is the app's."""
        path = f"{self._rkt_dir}/status/{app.name}.pid"
        text = f"{app.pid} {identity.start_time(app.pid)}\n"
        try:
            atomic.write_file(path, text.encode(), durable=False)
        except OSError as err:
            self._say(f'warning: cannot write "{path}": {err.strerror}')

    def record_end(self, app: AppRun) -> None:
        """Write exit code and reason."""
        if app.end is None:
            return
        path = f"{self._rkt_dir}/status/{app.name}"
        data = app.end.encode(restarts=app.restart_count, again=app.between)
        try:
            if app.between:
                atomic.write_file(f"{path}.reason", data, durable=False)
            else:
                app.slots[0].commit(data)
                app.slots[1].commit(f"{app.end.status}\n".encode())
        except OSError as err:
            self._say(f'warning: app "{app.name}": cannot record how it ended: {err.strerror}')
