"""What ties a pod to the host's systemd; imported only where there is something to do.

Nothing here is needed to run a pod: what does not answer is a line of --debug.
"""

from __future__ import annotations

import os

from rkt.stage1 import notify, volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.manifest import App
    from rkt.stage1.spec import AppPlan
    from rkt.stage1.supervisor import Supervisor


class Host:
    """The host's systemd, as a pod sees it."""

    def __init__(self, rootfs: str) -> None:
        self._rootfs = rootfs
        self._manager = notify.Manager(os.environ.pop(notify.ENV, ""))
        self._readiness: notify.Readiness | None = None

    def watch(self, supervisor: Supervisor) -> None:
        """Follow the life of the pod."""
        self._readiness = notify.Readiness(
            self._manager, supervisor.loop, f"{self._rootfs}/rkt/notify"
        )
        supervisor.on_stop = self._readiness.stopping

    def let_announce(self, app: App, plan: AppPlan, env: dict[str, str]) -> None:
        """Give an app that announces its readiness the socket for it."""
        if self._readiness is None or not notify.is_wanted(app.image_annotations):
            return
        path = self._readiness.socket_for(app.name)
        env[notify.ENV] = notify.TARGET
        plan.binds.append(volumes.Bind(path, notify.TARGET, read_only=False, recursive=False))

    def apps_run(self) -> None:
        """Take note that the main process of every app has been started."""
        if self._readiness:
            self._readiness.apps_run()

    def close(self) -> None:
        """Let go of everything."""
        if self._readiness:
            self._readiness.stopping()
            self._readiness.close()
            self._readiness = None
