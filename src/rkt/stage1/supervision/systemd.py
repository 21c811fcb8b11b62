"""What ties a pod to the host's systemd; imported only where there is something to do.

Nothing here is needed to run a pod: what does not answer is a line of --debug.
"""

from __future__ import annotations

import os

from rkt import log
from rkt.stage1.app import volumes
from rkt.stage1.host import notify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.app.manifest import App
    from rkt.stage1.app.spec import AppPlan
    from rkt.stage1.host.cgroup import Layout
    from rkt.stage1.host.journal import Journal
    from rkt.stage1.host.machined import Leader
    from rkt.stage1.supervision.apprun import AppRun
    from rkt.stage1.supervision.supervisor import Supervisor

_BOOTED = "/run/systemd/system"
_BUS = "/run/dbus/system_bus_socket"


class Host:
    """The host's systemd, as a pod sees it."""

    def __init__(self, rootfs: str, uuid: str, hostname: str) -> None:
        self._rootfs = rootfs
        self._uuid = uuid
        self._hostname = hostname
        self._manager = notify.Manager(os.environ.pop(notify.ENV, ""))
        self._readiness: notify.Readiness | None = None
        self._journal: Journal | None = None
        self._journal_dir = ""
        self._leader: Leader | None = None
        self._supervisor: Supervisor | None = None

    @property
    def leaves_journal(self) -> bool:
        """Whether something stays on the host until the pod is collected."""
        return bool(self._journal_dir)

    def register(self, init_pid: int, layout: Layout, stop_timeout: float) -> None:
        """Make the pod a machine of machined's, if there is one, with its journal.

        Comes before the pod's cgroups are made: they may have to lie in the machine's scope.
        """
        if not os.path.isdir(_BOOTED) or not os.path.exists(_BUS):
            return
        from rkt.stage1.host import machined

        main = os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
        inside = layout.unified and machined.in_unit(layout.own, main=main)
        if inside and not machined.delegates(layout.own):
            unit = layout.own.rpartition("/")[2]
            log.warning(f'unit "{unit}" has no Delegate=yes: the control groups of the pod\'s apps '
                        "are not safe from systemd")  # fmt: skip
        try:
            leader = machined.Leader(self._rootfs, init_pid, self._begin_journal())
        except OSError as err:
            log.debug(f"the pod cannot be a machine: {err}")
            return
        scope, pid = not inside, leader.pid
        if not machined.register(self._uuid, pid, scope=scope, stop_timeout=stop_timeout):
            leader.end()
            return
        log.debug(f"registered as machine rkt-{self._uuid}")
        self._leader = leader
        if scope:
            machined.use_scope(layout, pid)

    def _begin_journal(self) -> dict[str, str]:
        """Begin the journal; gives where the leader has to have it."""
        from rkt.stage1.host import journal

        identity = journal.identity(self._uuid)
        with open(f"{self._rootfs}/etc/machine-id", "w", encoding="ascii") as file:
            file.write(f"{identity}\n")
        self._journal_dir = journal.make(self._uuid)
        if not self._journal_dir:
            return {}
        self._journal = journal.Journal(self._journal_dir, self._uuid, self._hostname)
        place = f"var/log/journal/{identity}"
        os.makedirs(f"{self._rootfs}/{place}", 0o755, exist_ok=True)
        return {place: self._journal_dir}

    def watch(self, supervisor: Supervisor) -> None:
        """Follow the life of the pod."""
        self._supervisor = supervisor
        self._readiness = notify.Readiness(
            self._manager, supervisor.loop, f"{self._rootfs}/rkt/notify"
        )
        supervisor.on_stop = self._readiness.stopping
        if self._leader:
            supervisor.children.adopt(self._leader.pid, self._leader.ended)
            supervisor.loop.watch(self._leader.pipe, self._asked)

    def _asked(self) -> None:
        """Do what machinectl asks of the leader."""
        from rkt.stage1.host import machined

        if self._leader is None or self._supervisor is None:
            return
        numbers = os.read(self._leader.pipe, 64)
        if not numbers:  # it was killed; the pod goes on
            self._supervisor.loop.forget(self._leader.pipe)
        elif not self._supervisor.stopping:
            why = machined.REQUESTS.get(numbers[0], f"signal {numbers[0]}")
            self._supervisor.stop(machined.STOP, f"the pod was stopped by {why}")

    def let_announce(self, app: App, plan: AppPlan, env: dict[str, str]) -> None:
        """Give an app that announces its readiness the socket for it."""
        if self._readiness is None or not notify.is_wanted(app.image_annotations):
            return
        path = self._readiness.socket_for(app.name)
        env[notify.ENV] = notify.TARGET
        plan.binds.append(volumes.Bind(path, notify.TARGET, read_only=False, recursive=False))

    def keep_journal(self, run: AppRun) -> None:
        """Have what an app writes in the journal."""
        if self._journal:
            from rkt.stage1.host.journal import AppJournal

            run.journal = AppJournal(self._journal, run.name)

    def apps_run(self) -> None:
        """Take note that the main process of every app has been started."""
        if self._readiness:
            self._readiness.apps_run()

    def stopping(self) -> None:
        """Take note that the pod begins to end."""
        if self._readiness:
            self._readiness.stopping()

    def close(self) -> None:
        """Let go of everything, after the last output of the apps."""
        self.stopping()
        if self._supervisor:
            for run in self._supervisor.apps:
                if run.journal:
                    run.journal.close()
        if self._journal:
            self._journal.close()
            self._journal = None
        if self._readiness:
            self._readiness.close()
            self._readiness = None
        if self._leader:
            from rkt.stage1.host import machined

            leader, self._leader = self._leader, None
            if self._supervisor:
                self._supervisor.loop.forget(leader.pipe)
            leader.end()
            machined.unregister(self._uuid)
