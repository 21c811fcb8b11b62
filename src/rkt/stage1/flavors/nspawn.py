"""The `run` entrypoint of stage1-nspawn: systemd-nspawn, with the host's own systemd in the pod.

Apps are units of that systemd.  All else is as in stage1-oci: supervision, logs, statuses,
restarts, handlers, networks, the machine that machined knows.  Two processes stand for the pod: an
anchor, which has its network and nothing else, and the pod's systemd.  The end of either is the
end of both, and both end with the supervisor.
"""

from __future__ import annotations

import os

from rkt.const import SELINUX_ENFORCE
from rkt.errors import RktError
from rkt.linux import libc, sig
from rkt.stage1 import launch, run
from rkt.stage1.app import capabilities, resources, spec
from rkt.stage1.flavors import machine, unitproperties
from rkt.stage1.host import cgroup, runtime
from rkt.stage1.supervision import children, supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.app import manifest, policy
    from rkt.stage1.app.rootfs import Root
    from rkt.stage1.supervision.apprun import AppRun
    from rkt.stage1.supervision.children import Ended

_PROGRAM = "unit"
_INCOMING = ("run", "run/systemd", "run/systemd/incoming")
_MKNOD = "CAP_MKNOD"
_SELINUX = "os/linux/selinux-context"
_BLOCK = ("resource/block-bandwidth", "resource/block-iops")


def main(argv: list[str]) -> int:
    """Run a pod and give its exit status."""
    return launch.guarded(_main, argv)


def _main(argv: list[str]) -> int:
    return run.run_pod(argv, NspawnPod)


class UnitChildren(children.Children):
    """Children, and processes of units: those are systemd's, and its reaper tells of their end."""

    __slots__ = ("_ends", "_units", "key")

    def __init__(self) -> None:
        super().__init__()
        self.key = ""
        """The unit that the next process to be adopted is of, if it is of one."""
        self._ends: dict[str, int] = {}
        self._units: dict[str, tuple[int, Ended]] = {}

    def adopt(self, pid: int, ended: Ended) -> None:
        """Have the end of a process reported, which may have come already."""
        key, self.key = self.key, ""
        if not key:
            super().adopt(pid, ended)
        elif key in self._ends:
            ended(self._ends.pop(key))
        else:
            children.know(pid)
            self._units[key] = (pid, ended)

    def reap(self) -> None:
        """Collect all that have ended."""
        super().reap()
        if not self.busy:
            self._ends.clear()

    def report(self, key: str, code: int) -> None:
        """Tell of the end of a unit."""
        if key in self._units:
            pid, ended = self._units.pop(key)
            children.forget(pid)
            ended(code)
        elif self.busy:
            self._ends[key] = code

    def report_all(self) -> None:
        """Tell that all units were killed: there is no systemd any more."""
        for key in list(self._units):
            self.report(key, -sig.SIGKILL)


class NspawnSupervisor(supervisor.Supervisor):
    """A supervisor whose apps are units."""

    __slots__ = ("machine",)
    children_type = UnitChildren

    def __init__(
        self, pod_dir: str, chosen: runtime.Runtime, init_pid: int, *,
        rules: policy.PodPolicy, layout: cgroup.Layout | None = None, quiet: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(pod_dir, chosen, init_pid, rules=rules, layout=layout, quiet=quiet)
        self.machine: machine.Machine | None = None

    def kill_all(self) -> None:
        """Kill the pod's first processes, and so all of the pod."""
        if self.machine:
            self.machine.kill()
        super().kill_all()

    def _init_ended(self, code: int) -> None:
        super()._init_ended(code)
        if self.machine:
            self.machine.kill()

    def _started(self, app: AppRun, code: int) -> None:
        if code == 0 and isinstance(self.children, UnitChildren):
            with open(f"{app.bundle}/unit", encoding="ascii") as file:
                self.children.key = file.read()
        super()._started(app, code)

    def unit_ended(self, key: str, code: int) -> None:
        """Take note of the end of a unit, or without a key of that of the pod's systemd."""
        if not isinstance(self.children, UnitChildren):
            return
        if key:
            self.children.report(key, code)
            return
        super().kill_all()
        self.children.report_all()

    def teardown(self, *, drain: bool) -> None:
        """Kill what is left of the pod; the pod's systemd goes before its control groups do."""
        self._ending = True
        self.kill_all()
        while self.machine and self.machine.alive:
            if not self.loop.step(limit=0.2):
                self.children.reap()
        super().teardown(drain=drain)
        if self.machine:
            self.machine.close()


class NspawnPod(run.Pod):
    """A pod whose apps are units of a systemd of its own."""

    flavor = "nspawn"
    kills_rest = True
    supervisor_type = NspawnSupervisor
    listens = "receive"

    def set_up(self) -> None:
        """Do all that comes before the apps.  Raises RktError for what this flavour has not."""
        self.tools = machine.Tools()
        if self.users is not None:
            raise RktError("nspawn has no user namespaces yet: --private-users cannot be had")
        self.machine = machine.Machine(f"{self.rootfs}/machine")
        self.plans: list[spec.AppPlan] = []
        super().set_up()
        if isinstance(self.supervisor, NspawnSupervisor):
            self.supervisor.machine = self.machine
            self.machine.on_end = self.supervisor.unit_ended

    def flags(self) -> int:
        """Give the namespaces of the anchor; systemd-nspawn makes the others."""
        flags = libc.CLONE_NEWUTS
        if "host" not in self.options.net:
            flags |= libc.CLONE_NEWNET
        return flags

    def joined(self) -> set[str]:
        """No kernel parameter is set in the pod: systemd-nspawn mounts them read-only."""
        return set()

    def choose_runtime(self, layout: cgroup.Layout) -> runtime.Runtime:
        """Give our own program, which is called as an OCI runtime and asks the pod's systemd."""
        del layout
        return runtime.Runtime(f"{self.rootfs}/{_PROGRAM}", self.dir)

    def shared_memory(self) -> None:
        """Make the root of the pod's systemd; /dev/shm is in the /dev that it gets."""
        self.machine.make_root(f"{self.rootfs}/etc/os-release", self.options.uuid)

    def limit_pod(self, layout: cgroup.Layout) -> None:
        """Make the pod's control group, in which systemd-nspawn then makes all others."""
        if not layout.unified:
            for name in sorted({
                name
                for some in (self.manifest.isolators, *(a.isolators for a in self.manifest.apps))
                for name, _ in some
                if resources.is_limit(name)
            }):  # fmt: skip
                self.unenforced.other("pod", name, "nspawn limits by cgroup version 2 only")
            self.manifest.isolators = _without_limits(self.manifest.isolators)
            for app in self.manifest.apps:
                app.isolators = _without_limits(app.isolators)
        super().limit_pod(layout)

    def place(self, app: manifest.App, plan: spec.AppPlan, root: Root) -> None:
        """Note the app: files that apps share are still replaced by the plans of the others."""
        super().place(app, plan, root)
        for name in _INCOMING:  # where systemd mounts; it would follow links of the image
            root.make_real_dir(name)
        self.plans.append(plan)

    def restrict(self, app: manifest.App, plan: spec.AppPlan) -> None:
        """Resolve what an app may not do or use."""
        super().restrict(app, plan)
        if not plan.unprotected_paths and _MKNOD in plan.capabilities:
            # The pod's systemd may not load the program that would limit devices.
            plan.capabilities = [name for name in plan.capabilities if name != _MKNOD]
            if any(name == capabilities.RETAIN for name, _ in app.isolators):
                self.unenforced.other(f'app "{app.name}"', _MKNOD, "nspawn does not give it")
        for name, _ in app.isolators:
            if name in _BLOCK:
                self.unenforced.other(f'app "{app.name}"', name, "nspawn limits it for pods only")
            elif name == _SELINUX and os.path.exists(SELINUX_ENFORCE):
                self.unenforced.other(f'app "{app.name}"', name, "nspawn gives no contexts")

    def config_of(self, plan: spec.AppPlan) -> dict[str, object]:
        """Give what our program has to know of an app."""
        if self.layout is None:
            raise RktError("the pod is not set up")
        payload = f"{self.layout.pod_path(self.options.uuid)}/machine/payload"
        plan.cgroup = f"{payload}/{unitproperties.slice_of(plan.name)}"
        top = cgroup.ROOT
        if not self.layout.unified:
            top = next((t for t in self.layout.hierarchies if t.endswith("/systemd")), top)
        return {
            "process": spec.process(plan),
            "unit": unitproperties.of_plan(
                plan, list(spec.MASKED_PATHS), list(spec.READ_ONLY_PATHS)
            ),
            "machine": {"init": self._init_pid(), "cgroup": f"{top}{payload}"},
            "linux": {},
        }  # fmt: skip

    def _init_pid(self) -> int:
        """Give the pod's systemd, and before it runs the anchor."""
        return self.machine.pid or super()._init_pid()

    def _record(self) -> None:
        """Start the pod's systemd: all that it is to see has been mounted.  Then as others."""
        if self.supervisor is None or self.layout is None:
            raise RktError("the pod is not set up")
        network = "" if "host" in self.options.net else f"/proc/{super()._init_pid()}/ns/net"
        caps = {name for plan in self.plans for name in plan.capabilities}
        for plan in self.plans:
            self.machine.add_app(plan)
        self.machine.write_users(self.plans)
        argv = machine.nspawn_argv(
            self.tools, self.machine.root, self.options.uuid, self.hostname,
            network=network, caps=caps, debug=self.options.debug,
        )  # fmt: skip
        env = {"SYSTEMD_LOG_LEVEL": "err"}
        if self.options.disable_paths:
            env["SYSTEMD_NSPAWN_API_VFS_WRITABLE"] = "yes"
        if self.options.ipc == "parent":
            env["SYSTEMD_NSPAWN_SHARE_NS_IPC"] = "yes"
        path = self.layout.pod_path(self.options.uuid)
        groups = machine.groups_of(self.layout, path)
        kids = self.supervisor.children
        self.machine.start(argv, env, groups, kids, f"{self.dir}/nspawn.log")
        self.machine.wait_ready(self.supervisor, kids, self.policy.stop_timeout)
        super()._record()


def _without_limits(isolators: list[tuple[str, object]]) -> list[tuple[str, object]]:
    return [item for item in isolators if not resources.is_limit(item[0])]
