"""The `run` entrypoint: set a pod up, supervise it, tear it down (rkt-internals 2)."""

from __future__ import annotations

import os

from rkt import log
from rkt.const import (
    RELEASED,
    STAGE2_PREFIX,
    SYSTEMD_NOTIFY,
)
from rkt.errors import EXIT_FAILURE, KernelError, RktError, describe
from rkt.linux import atomic, libc
from rkt.stage1 import contract, launch, planning
from rkt.stage1.app import capabilities, files, manifest, policy, resources, spec, volumes
from rkt.stage1.host import cgroup, identity, runtime, sandbox
from rkt.stage1.streams import signals
from rkt.stage1.supervision import apprun, handed, health, reason, supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.linux.userns import Range
    from rkt.network.setup import PodNetwork
    from rkt.stage1.app.rootfs import Root
    from rkt.stage1.app.sockets import Sockets
    from rkt.stage1.app.volumes import Bind, Fill
    from rkt.stage1.supervision.iomux import Streams
    from rkt.stage1.supervision.mutable import Operations
    from rkt.stage1.supervision.systemd import Host

_SHM = "dev/shm"


def main(argv: list[str]) -> int:
    """Run a pod and give its exit status."""
    return launch.guarded(_main, argv)


def _main(argv: list[str]) -> int:
    return run_pod(argv, Pod)


def run_pod(argv: list[str], kind: type[Pod]) -> int:
    """Run a pod of a flavour from its set-up to its end."""
    options = contract.parse_run(argv[1:])
    log.configure(debug=options.debug)
    if options.mds_token:
        handed.blot_out(options.mds_token)
    handed.keep_lock()
    pod = kind(options, os.getcwd())
    try:
        pod.set_up()
        status = pod.supervise()
        if pod.network is not None:
            pod.network.begin_removal()
    except BaseException as err:
        pod.explain(err)
        pod.tear_down(drain=False)
        if isinstance(err, OSError):
            raise RktError(f'pod "{options.uuid}": cannot run it') from err
        raise
    pod.tear_down(drain=True)
    return status


class Pod:
    """A pod on its way up, and down again from wherever it got."""

    flavor = "oci"
    kills_rest = False
    """Whether processes of apps may outlive the pod's first process."""
    supervisor_type: type[supervisor.Supervisor] = supervisor.Supervisor
    listens = "keep"
    """How an app gets its sockets by the program that tells of them; "" if it is told otherwise."""

    def __init__(self, options: contract.RunOptions, pod_dir: str) -> None:
        self.options = options
        self.dir = pod_dir
        self.rootfs = f"{pod_dir}/stage1/rootfs"
        self.manifest = manifest.load(pod_dir, empty=options.mutable)
        self.hostname = options.hostname or f"rkt-{options.uuid}"
        self.terminal = ""
        self.sockets = self._take_sockets()
        self.users = private_users(options.private_users)
        self.ready = handed.take_ready_fd()
        self.policy = policy.pod(self.manifest)
        self.supervisor: supervisor.Supervisor | None = None
        self.runtime: runtime.Runtime | None = None
        self.layout: cgroup.Layout | None = None
        self.init: sandbox.Sandbox | None = None
        self.network: PodNetwork | None = None
        self.operations: Operations | None = None
        self.systemd: Host | None = None
        self.unenforced = resources.Unenforced()
        self.limits = resources.Limits()
        self.sysctl = resources.sysctl(self.manifest.isolators, self.joined(), self.unenforced)
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            self.have = capabilities.available(file.read())

    def set_up(self) -> None:
        """Do all that comes before the first app.  Raises RktError."""
        options = self.options
        if options.interactive and len(self.manifest.apps) != 1:
            raise RktError("interactive option only supports pods with one app")
        if options.interactive and os.isatty(0):
            self.terminal = os.environ.get("TERM") or "vt100"
        if options.net and not set(options.net) & {"host", "none"}:
            from rkt.stage1.host import podnet

            self.network = podnet.plan(
                self.dir, options, self.manifest, self.hostname, self.sockets
            )
        else:
            self._say_that_no_port_is_forwarded()
        libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
        self._meet_systemd()
        self.leave_host()
        wake = signals.catch(resize=bool(self.terminal))
        self._directories()
        self.shared_memory()
        if self.users is not None:
            from rkt.stage1.host import private

            private.prepare(self.users, self._shm)
        self.init = sandbox.start(self.rootfs, self.hostname, self.flags(), self.users)
        if self.network is not None:
            from rkt.stage1.host import podnet

            self.init.wait_ready()
            podnet.begin(self.network, self.init.pid)
        self.layout = cgroup.read_layout()
        if self.systemd:
            self.init.wait_ready()
            self.systemd.register(self.init.pid, self.layout, self.policy.stop_timeout)
        self.runtime = self.choose_runtime(self.layout)
        self.limit_pod(self.layout)
        self.supervisor = self.supervisor_type(
            self.dir, self.runtime, self.init.pid,
            rules=self.policy, layout=self.layout, quiet=self.ready >= 0,
        )  # fmt: skip
        self.supervisor.on_ready = self._apps_run
        if self.systemd:
            self.systemd.watch(self.supervisor)
        self.supervisor.watch_signals(wake)

    def _take_sockets(self) -> Sockets | None:
        """Take the sockets of a service manager; no import where neither they nor a need exist."""
        ports = [port for app in self.manifest.apps for port in app.ports]
        if "LISTEN_FDS" not in os.environ and not any(port.socket_activated for port in ports):
            return None
        from rkt.stage1.app import sockets

        return sockets.Sockets(sockets.take(os.environ))

    def _meet_systemd(self) -> None:
        """Have what ties the pod to the host's systemd; no import where nothing does."""
        apps = self.manifest.apps
        if (
            "NOTIFY_SOCKET" in os.environ
            or os.path.isdir("/run/systemd/system")
            or any(SYSTEMD_NOTIFY in app.image_annotations for app in apps)
        ):
            from rkt.stage1.supervision.systemd import Host

            self.systemd = Host(self.rootfs, self.options.uuid, self.hostname)

    def leave_host(self) -> None:
        """Have a mount namespace of our own, whatever stage0 did: nothing may reach the host."""
        private_mounts()

    def choose_runtime(self, layout: cgroup.Layout) -> runtime.Runtime:
        """Give the program that starts the apps."""
        wanted = os.environ.get(runtime.RUNTIME_ENV, "")
        return runtime.choose(self.dir, layout, wanted, self.have)

    def stdin(self) -> int:
        """Give the caller's standard input to hand to an app."""
        return handed.stdin()

    def supervise(self) -> int:
        """Start the apps and wait for their end."""
        if self.supervisor is None:
            raise RktError("the pod is not set up")
        prefixed = len(self.manifest.apps) > 1
        stdin = self.stdin() if self.options.interactive and not self.terminal else -1
        if self.network is not None and self.options.mds_token:
            self.network.finish()  # the apps' environment says where the service is
        plans = [planning.of_app(self, app) for app in self.manifest.apps]
        if self.sockets and not self.options.mutable:
            self.sockets.close_rest()
        if self.network is not None:
            self._join_network(self.network, plans)
        if self.init is not None:
            self.init.wait_ready()
        self.limit_network()
        self.unenforced.tell()
        self._record()
        runs = [
            self.app_run(plan, self.streams(app))
            for plan, app in zip(plans, self.manifest.apps, strict=True)
        ]
        self._listen(runs)
        for run in runs:
            self.supervisor.start(run, stdin, prefixed=prefixed)
        if self.layout is not None:
            cgroup.hasten(self.layout)
        os.symlink("ready", f"{self.rootfs}/rkt/supervisor-status")
        return self.supervisor.run()

    def app_run(self, plan: spec.AppPlan, io: Streams | None) -> apprun.AppRun:
        """Make what the supervisor starts of an app."""
        run = apprun.AppRun(plan, self.config_of(plan))
        run.io = io
        if self.systemd:
            self.systemd.keep_journal(run)
        if plan.health is not None and self.supervisor is not None:
            run.health = health.Health(self.supervisor, run, plan.health)
        return run

    def config_of(self, plan: spec.AppPlan) -> dict[str, object]:
        """Give the configuration of an app for the program that starts it."""
        return spec.build(plan, init_pid=self._init_pid(), joined=self.joined(), shm=self._shm)

    def streams(self, app: manifest.App) -> Streams | None:
        """Make the endpoints of an app that one can attach to; None for any other."""
        if self.supervisor is None or self.options.interactive:
            return None
        if not planning.chooses_streams(app):
            return None
        from rkt.stage1.supervision import iomux

        wanted = iomux.modes(app.annotations)
        if iomux.is_plain(wanted):
            return None
        streams = iomux.Streams(self.supervisor.loop, app.name, wanted, self.rootfs)
        if not self.options.mutable and wanted["stdin"] == "stream" and handed.is_pipeline(0):
            readers = [one for one in self.manifest.apps if _reads(one)]
            if len(readers) == 1:  # else nobody could say whose it is
                streams.feed(0)
        return streams

    def _listen(self, runs: list[apprun.AppRun]) -> None:
        """Take requests, if there is anything that can be asked of this pod."""
        if self.supervisor is None or not (self.options.mutable or any(run.io for run in runs)):
            return
        from rkt.stage1.supervision.mutable import Operations

        self.supervisor.keep = self.options.mutable
        self.operations = Operations(self, self.supervisor)
        for run in runs:
            self.operations.watch(run)

    def _join_network(self, network: PodNetwork, plans: list[spec.AppPlan]) -> None:
        from rkt.stage1.host import podnet

        if not self.options.mds_token:
            network.finish()
        if self.options.resolv == "default":
            podnet.use_resolver(network, self.rootfs, plans)
        if self.supervisor is not None:
            network.relay(self.supervisor.loop)
            if self.options.mds_token:
                network.serve_metadata(self.supervisor.loop, self.options.mds_token)

    def plan_late(self, app: manifest.App, fills: list[Fill]) -> spec.AppPlan:
        """Resolve all about an app that is added to the running pod."""
        plan = planning.of_app(self, app, fills)
        if self.network is not None and self.options.resolv == "default":
            from rkt.stage1.host import podnet

            podnet.use_resolver(self.network, self.rootfs, [plan])
        self.unenforced.tell()
        self.unenforced = resources.Unenforced()
        return plan

    def _apps_run(self) -> None:
        if self.ready >= 0:
            self._say_ready()
        if self.systemd:
            self.systemd.apps_run()

    def _say_ready(self) -> None:
        """Tell the caller of a detached pod that its apps run, and let go of its stderr."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for target in (0, 1, 2):
            os.dup2(null, target)
        os.close(null)
        try:
            os.write(self.ready, b"1")
        except BrokenPipeError:  # who wanted to know has gone
            pass
        os.close(self.ready)
        self.ready = -1

    def explain(self, err: BaseException) -> None:
        """Leave word for `rkt status` why apps were not started, as far as that is possible."""
        text = f"was not started: {describe(err)}"
        for app in self.manifest.apps:
            path = f"{self.rootfs}/rkt/status/{app.name}"
            try:
                if not os.path.exists(f"{path}.reason"):
                    end = reason.End(EXIT_FAILURE, "start", text)
                    data = end.encode(restarts=0, again=False)
                    atomic.write_file(f"{path}.reason", data, durable=False)
            except OSError:
                return

    def tear_down(self, *, drain: bool) -> None:
        """Undo everything; idempotent, and never fails for what is already gone."""
        if self.systemd:
            self.systemd.stopping()
        if self.supervisor is not None:
            self.supervisor.teardown(drain=drain)
        elif self.init is not None:
            _end(self.init.pid)
        if self.systemd:
            self.systemd.close()
        if self.operations is not None:
            self.operations.close()
            self.operations = None
        if self.network is not None:
            self.network.tear_down()
        if self.runtime is not None and not self.runtime.forgets_by_removal and self.supervisor:
            for app in self.supervisor.apps:
                self.runtime.delete(app.ident)
        left: list[str] = []
        if self.layout is not None:
            path = self.layout.pod_path(self.options.uuid)
            if not drain or self.kills_rest:  # a runtime may have been killed half-way
                cgroup.kill_members(self.layout, path)
            left = cgroup.remove(self.layout, path)
            for directory in left:
                log.warning(f'cannot remove cgroup "{directory}"')
        files.remove_tree(f"{self.dir}/runtime")
        files.remove_tree(f"{self.dir}/bundle")
        if drain and not left and self.network is None and not self._journal:
            self._note_release()

    def _note_release(self) -> None:
        """Say that nothing of the pod is left outside its directory: `rkt gc` need not ask ours."""
        try:
            atomic.write_file(f"{self.dir}/{RELEASED}", b"", durable=False)
        except OSError as err:  # a full disk: then gc asks
            log.debug(f"cannot note that the pod is released: {err}")

    @property
    def _journal(self) -> bool:
        return self.systemd is not None and self.systemd.leaves_journal

    @property
    def _shm(self) -> str:
        if self.users is not None and self.init is not None:
            from rkt.stage1.host.private import SHM

            return SHM
        return f"{self.rootfs}/{_SHM}"

    def _init_pid(self) -> int:
        return self.init.pid if self.init else 0

    def flags(self) -> int:
        """Give the namespaces that the pod has of its own, besides those for PIDs and mounts."""
        flags = libc.CLONE_NEWUTS
        if self.options.ipc != "parent":
            flags |= libc.CLONE_NEWIPC
        if "host" not in self.options.net:
            flags |= libc.CLONE_NEWNET
        return flags

    def joined(self) -> set[str]:
        """Name the namespaces of the pod that its apps join."""
        flags = self.flags()
        joined = {"pid", "uts"}
        if flags & libc.CLONE_NEWIPC:
            joined.add("ipc")
        if flags & libc.CLONE_NEWNET:
            joined.add("network")
        return joined

    def _say_that_no_port_is_forwarded(self) -> None:
        sockets = self.sockets
        names = [
            port.name
            for port in self.manifest.ports
            if not (sockets and sockets.serve(port, self.manifest))
        ]
        if names:
            has = "no network" if "none" in self.options.net else "the network of the host"
            log.warning(f"no ports are forwarded, as the pod has {has}: {', '.join(names)}")

    def limit_pod(self, layout: cgroup.Layout) -> None:
        """Make the pod's cgroup where that is ours to do, and apply the pod's own isolators."""
        uuid = self.options.uuid
        isolated = [self.manifest.isolators, *(app.isolators for app in self.manifest.apps)]
        limited = self.options.mutable or any(
            resources.is_limit(name) for some in isolated for name, _ in some
        )
        if self.runtime is not None and self.runtime.name == "crun":
            limited = True  # crun 1.8 enables all controllers on its way, or fails
        cgroup.claim(layout, uuid, {os.getpid(), self._init_pid()}, limited=limited)
        path = layout.pod_path(uuid)
        atomic.write_file(f"{self.dir}/subcgroup", f"{path}\n".encode(), durable=False)
        resources.misplaced("pod", self.manifest.isolators, self.unenforced)
        self.limits = resources.limits(self.manifest.isolators, layout.controllers, self.unenforced)
        cgroup.limit(layout, path, resources.as_oci(self.limits))

    def limit_network(self) -> None:
        """Apply the isolators of network bandwidth."""
        isolated = [self.manifest.isolators, *(app.isolators for app in self.manifest.apps)]
        if not any(name == resources.NETWORK for some in isolated for name, _ in some):
            return
        from rkt.stage1.host import bandwidth

        if "host" in self.options.net:
            self.unenforced.other("pod", resources.NETWORK, "it has the network of the host")
            return
        rate = bandwidth.pod_rate(self.manifest, self.unenforced)
        if rate is not None:
            bandwidth.limit(self._init_pid(), rate, self.unenforced)

    def _directories(self) -> None:
        for name in ("status", "env"):
            os.makedirs(f"{self.rootfs}/rkt/{name}", 0o755, exist_ok=True)
        for name in ("runtime", "bundle"):
            os.mkdir(f"{self.dir}/{name}", 0o700)

    def shared_memory(self) -> None:
        """Mount the /dev/shm that all apps of the pod share."""
        path = self._shm
        os.makedirs(path, 0o755, exist_ok=True)
        flags = libc.MS_NOSUID | libc.MS_NODEV | 0x8
        try:
            libc.mount("shm", path, "tmpfs", flags, spec.in_context("mode=1777,size=64m"))
        except OSError as err:
            raise KernelError("cannot mount /dev/shm of the pod", err, path) from err

    def _record(self) -> None:
        """Write what other rkt commands look for in the pod directory."""
        # First what the programs need that are called because of the others.
        identity.record(self.dir, self._init_pid(), self.runtime.path if self.runtime else "")
        pid = f"{self._init_pid()}\n".encode()
        atomic.write_file(f"{self.dir}/pid", pid, durable=False)
        try:
            os.symlink(self.flavor, f"{self.dir}/flavor")
        except FileExistsError:
            pass

    def binds(self, app: manifest.App, root: Root, fills: list[Fill] | None) -> list[Bind]:
        """Give what is mounted for an app because of volumes."""
        return volumes.resolve(app, self.manifest, self.dir, root, fills)

    def place(self, app: manifest.App, plan: spec.AppPlan, root: Root) -> None:
        """Put an app's mounts where they belong."""
        del app
        planning.place(self, plan, root)

    def restrict(self, app: manifest.App, plan: spec.AppPlan) -> None:
        """Resolve what an app may not do or use."""
        planning.restrict(self, app, plan)


def _reads(app: manifest.App) -> bool:
    return app.annotations.get(f"{STAGE2_PREFIX}stdin") == "stream"


def private_users(text: str) -> Range | None:
    """Read the range of a pod with a user namespace of its own."""
    if not text:
        return None
    from rkt.linux.userns import Range

    return Range.parse(text)


def private_mounts() -> None:
    """Have a mount namespace of our own, whatever stage0 did: nothing here may reach the host."""
    try:
        libc.unshare(libc.CLONE_NEWNS)
        libc.mount("", "/", flags=libc.MS_REC | libc.MS_SLAVE)
    except OSError as err:
        raise KernelError("cannot make a mount namespace", err) from err


def _end(pid: int) -> None:
    try:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
