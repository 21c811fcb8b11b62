"""The `run` entrypoint of stage1-fly: one app in a chroot, with the namespaces of the host.

Everything but the isolation is as in stage1-oci: supervision, logs, statuses, restarts, handlers.
The pod's first process is an anchor: who kills it, or kills the supervisor, ends the pod.  What the
app leaves behind is found by its control group, which limits nothing.
"""

from __future__ import annotations

import os

from rkt import log
from rkt.errors import RktError
from rkt.linux import atomic, libc, sig
from rkt.stage1 import launch, planning, run
from rkt.stage1.app import capabilities, manifest, resources, spec, volumes
from rkt.stage1.flavors import flymounts
from rkt.stage1.host import cgroup, runtime
from rkt.stage1.supervision import supervisor
from rkt.stage1.supervision.children import kill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.stage1.app.rootfs import Root

_PROGRAM = "fly"
_TRACKING = ("freezer", "pids")  # hierarchies of version 1 where being a member costs nothing


def main(argv: list[str]) -> int:
    """Run a pod and give its exit status."""
    return launch.guarded(_main, argv)


def _main(argv: list[str]) -> int:
    return run.run_pod(argv, FlyPod)


class FlySupervisor(supervisor.Supervisor):
    """A supervisor whose apps do not die of the end of the pod's first process by themselves."""

    __slots__ = ("kill_rest",)
    kill_rest: Callable[[], None]

    def _init_ended(self, code: int) -> None:
        super()._init_ended(code)
        for app in self.apps:
            if app.pid:
                kill(app.pid)
        self.kill_rest()


class FlyPod(run.Pod):
    """A pod of one app that shares everything with the host but its root directory."""

    flavor = "fly"
    kills_rest = True
    supervisor_type = FlySupervisor
    listens = ""

    def set_up(self) -> None:
        """Do all that comes before the app.  Raises RktError for what this flavour has not."""
        if len(self.manifest.apps) != 1:
            raise RktError("fly only supports 1 application per Pod for now")
        if self.users is not None:
            raise RktError("fly has no user namespaces: --private-users cannot be had")
        self._say_what_is_ignored()
        if self.ready < 0 and not planning.chooses_streams(self.manifest.apps[0]):
            # As the first fly, which was replaced by its app: what is the caller's is the app's.
            self.options.interactive = not os.isatty(0) or (os.isatty(1) and os.isatty(2))
        super().set_up()
        if isinstance(self.supervisor, FlySupervisor):
            self.supervisor.kill_rest = self._kill_rest

    def _say_what_is_ignored(self) -> None:
        options = self.options
        if set(options.net) - {"host"}:
            log.warning(
                f"fly has the network of the host: --net={','.join(options.net)} is ignored"
            )
        options.net = ["host"]
        if options.hostname:
            log.warning("fly has the hostname of the host: --hostname is ignored")
            options.hostname = ""
        self.hostname = os.uname().nodename
        (app,) = self.manifest.apps
        for owner, isolators, settled in (
            ("pod", self.manifest.isolators, resources.SYSCTL),
            (f'app "{app.name}"', app.isolators, _NO_NEW_PRIVILEGES),
        ):
            for name, _ in isolators:
                if name != settled:
                    self.unenforced.other(owner, name, "fly does not isolate")

    def leave_host(self) -> None:
        """Keep a way to the mounts of the host, then do as others."""
        self.mounts = flymounts.Mounts()
        super().leave_host()

    def choose_runtime(self, layout: cgroup.Layout) -> runtime.Runtime:
        """Give our own program, which is called as an OCI runtime and only changes the root."""
        del layout
        return runtime.Runtime(f"{self.rootfs}/{_PROGRAM}", self.dir)

    def stdin(self) -> int:
        """Give the caller's standard input as it is: nobody changes its owner."""
        return 0

    def flags(self) -> int:
        """Give the namespaces of the anchor; the app is in none of them."""
        return libc.CLONE_NEWUTS

    def joined(self) -> set[str]:
        """The app joins no namespace."""
        return set()

    def limit_pod(self, layout: cgroup.Layout) -> None:
        """Make the control group by which the app's processes are found; it limits nothing."""
        path = layout.pod_path(self.options.uuid)
        self.group = ""
        for place in self._places(layout):
            try:
                os.makedirs(f"{place}{path}/{self.manifest.apps[0].name}", 0o755, exist_ok=True)
            except OSError as err:
                log.debug(f'cannot make a control group below "{place}": {err.strerror}')
                continue
            self.group = place
            break
        atomic.write_file(f"{self.dir}/subcgroup", f"{path}\n".encode(), durable=False)

    def _places(self, layout: cgroup.Layout) -> list[str]:
        if layout.unified:
            return [cgroup.ROOT]
        return [layout.places[name] for name in _TRACKING if name in layout.places]

    def _kill_rest(self) -> None:
        """Kill what the app left in its control group; without one, all that descends from us."""
        if self.group and self.layout is not None:
            cgroup.kill_members(self.layout, self.layout.pod_path(self.options.uuid))
            return
        for pid in _descendants(os.getpid()):
            kill(pid, sig.SIGKILL)

    def limit_network(self) -> None:
        """Nothing is limited: `set_up` has said so."""

    def shared_memory(self) -> None:
        """The app has the host's."""

    def restrict(self, app: manifest.App, plan: spec.AppPlan) -> None:
        """Leave root all its capabilities."""
        plan.capabilities = capabilities.select([], have=self.have, unrestricted=True)
        plan.no_new_privileges = any(
            name == _NO_NEW_PRIVILEGES and value is True for name, value in app.isolators
        )

    def binds(
        self, app: manifest.App, root: Root, fills: list[volumes.Fill] | None
    ) -> list[volumes.Bind]:
        """Give what is mounted because of volumes: only what the user said, nothing implicit."""
        given = {volumes.clean(mount.path) for mount in app.mounts}
        if len(given) < len(app.mounts):
            raise RktError(f'duplicate mount given: "{_twice(app)}"')
        for point in app.mount_points:
            if volumes.clean(point.path) not in given and point.name not in self.manifest.volumes:
                raise RktError(f'missing volume for mountpoint "{point.name}"')
        for volume in (*self.manifest.volumes.values(), *(mount.volume for mount in app.mounts)):
            if volume is not None and volume.recursive is None:
                volume.recursive = False
        return super().binds(app, root, fills)

    def place(self, app: manifest.App, plan: spec.AppPlan, root: Root) -> None:
        """Mount everything: there is no OCI runtime that would."""
        from_host = [bind for bind in plan.binds if not bind.own]
        self.mounts.system(root, plan.binds)
        super().place(app, plan, root)
        for bind in plan.binds:
            self.mounts.attach(root, bind, from_host=bind in from_host)
        if app.read_only_root:
            self.mounts.seal(root)
        self.mounts.close()

    def config_of(self, plan: spec.AppPlan) -> dict[str, object]:
        """Give the parts of a configuration that our program knows."""
        own: dict[str, object] = {"cgroup": f"{self.group}{plan.cgroup}" if self.group else ""}
        if plan.sockets:
            from rkt.stage1.app import sockets

            own |= {"sockets": len(plan.sockets), "socketNames": sockets.names(plan.sockets)}
        return {"process": spec.process(plan), "root": {"path": plan.root}, "fly": own}


_NO_NEW_PRIVILEGES = "os/linux/no-new-privileges"


def _twice(app: manifest.App) -> str:
    seen: set[str] = set()
    for mount in app.mounts:
        path = volumes.clean(mount.path)
        if path in seen:
            return path
        seen.add(path)
    return ""


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return found
    for child in children:
        found += [child, *_descendants(child)]
    return found
