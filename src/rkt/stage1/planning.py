"""All about an app before its configuration is written: user, mounts, environment, command."""

from __future__ import annotations

import os
import stat

from rkt import log
from rkt.const import (
    METADATA_PORT,
    SELINUX_CONTEXT_ENV,
    SELINUX_MOUNT_CONTEXT_ENV,
    STAGE2_PREFIX,
)
from rkt.errors import KernelError, RktError
from rkt.linux import atomic
from rkt.stage1.app import (
    capabilities,
    environment,
    files,
    policy,
    resources,
    rootfs,
    seccomp,
    spec,
    users,
    volumes,
)

LISTEN = "/run/rkt/listen"
"""Where an app has the program that tells it of its sockets."""

# What listen.c does on the way.
_CALLS = {
    "keep": ("execve", "getpid"),
    "receive": ("execve", "getpid", "recvmsg", "dup3", "close"),
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from rkt.linux.userns import Range
    from rkt.network.setup import PodNetwork
    from rkt.stage1 import contract
    from rkt.stage1.app import manifest
    from rkt.stage1.app.manifest import App
    from rkt.stage1.app.rootfs import Root
    from rkt.stage1.app.sockets import Sockets
    from rkt.stage1.app.volumes import Bind, Fill
    from rkt.stage1.host import cgroup, runtime
    from rkt.stage1.supervision.systemd import Host

    class Pod(Protocol):
        """What is asked of the pod."""

        options: contract.RunOptions
        dir: str
        rootfs: str
        hostname: str
        terminal: str
        manifest: manifest.Pod
        users: Range | None
        runtime: runtime.Runtime | None
        network: PodNetwork | None
        sockets: Sockets | None
        listens: str
        layout: cgroup.Layout | None
        limits: resources.Limits
        unenforced: resources.Unenforced
        sysctl: dict[str, str]
        have: tuple[str, ...]
        systemd: Host | None

        def binds(self, app: App, root: Root, fills: list[Fill] | None) -> list[Bind]: ...
        def place(self, app: App, plan: spec.AppPlan, root: Root) -> None: ...
        def restrict(self, app: App, plan: spec.AppPlan) -> None: ...


def of_app(
    pod: Pod, app: manifest.App, fills: list[volumes.Fill] | None = None
) -> spec.AppPlan:  # fmt: skip
    """Resolve all about an app; raises RktError that names it.

    With `fills`, copies into new volumes are left to the caller.
    """
    try:
        return _plan(pod, app, fills)
    except RktError as err:
        raise RktError(f'app "{app.name}": {err.message}', hint=err.hint) from err.__cause__
    except OSError as err:
        raise KernelError(f'app "{app.name}": cannot use its files', err) from err


def _plan(pod: Pod, app: manifest.App, fills: list[volumes.Fill] | None) -> spec.AppPlan:
    options = pod.options
    plan = spec.AppPlan(app.name, f"{pod.rootfs}/opt/stage2/{app.name}/rootfs")
    root = rootfs.Root(plan.root, users=pod.users)
    try:
        plan.uid, plan.gid = users.resolve(root, app)
        plan.groups = app.supplementary_gids
        plan.binds = pod.binds(app, root, fills)
        files.prepare_root(root, plan.binds)
        token, host = options.mds_token, "127.0.0.1"
        if token and pod.network is not None:
            from rkt.stage1.host import podnet

            host = podnet.metadata_host(pod.network)
        env = environment.build(
            app.name, app.environment, terminal=terminal_of(pod, app),
            metadata_url=f"http://{host}:{METADATA_PORT}/{token}" if token else "",
        )  # fmt: skip
        if pod.systemd:
            pod.systemd.let_announce(app, plan, env)
        plan.env = environment.as_list(env)
        plan.cwd = app.cwd
        plan.args = _command(root, app.exec, plan, env["PATH"], app.image_name)
        for name, command in app.handlers.items():
            try:
                plan.handlers[name] = _command(root, command, plan, env["PATH"], app.image_name)
            except RktError as err:  # else it would seem to be the app's own program
                raise RktError(f"{name} handler: {err.message}", hint=err.hint) from err.__cause__
        if pod.sockets:
            plan.sockets = pod.sockets.of_app(app, pod.manifest)
            if plan.sockets and pod.listens:
                announce_sockets(plan, pod.listens, pod.rootfs)
        pod.place(app, plan, root)
    finally:
        root.close()
    plan.health = policy.health(app)
    pod.restrict(app, plan)
    for target, path in spec.hidden(plan):
        log.warning(f'app "{app.name}" cannot see what is mounted at "{target}": {path} is hidden '
                    "(--insecure-options=paths shows it)")  # fmt: skip
    if plan.sockets and pod.listens and plan.seccomp is not None:
        missing = seccomp.forbidden(plan.seccomp, _CALLS[pod.listens])
        if missing:
            raise RktError(f'its seccomp filter forbids "{missing[0]}", without which it cannot be '
                           "given its sockets")  # fmt: skip
    plan.read_only_root = app.read_only_root
    plan.terminal = bool(terminal_of(pod, app))
    if pod.terminal:
        from rkt.stage1.streams import terminal

        plan.console_size = terminal.Terminal(0).size()
    plan.cgroup = f"{pod.layout.pod_path(options.uuid)}/{app.name}" if pod.layout else ""
    if pod.users is not None:
        from rkt.stage1.host import private

        # crun 1.8 opens the sources of a user namespace without what is mounted below them.
        is_crun = pod.runtime is not None and pod.runtime.name == "crun"
        private.adopt(pod.users, plan, shallow=is_crun)
    path = f"{pod.rootfs}/rkt/env/{app.name}"
    atomic.write_file(path, environment.as_file(env), durable=False)
    return plan


def announce_sockets(plan: spec.AppPlan, mode: str, rootfs: str) -> None:
    """Have a program in the app tell of its sockets (listen.c), and then become the app's.

    `mode` is its first argument: how it gets them.
    """
    from rkt.stage1.app import sockets

    named = sockets.names(plan.sockets)
    plan.args = [LISTEN, mode, str(len(plan.sockets)), named, *plan.args]
    source = f"{rootfs}/usr/libexec/listen"
    plan.binds.append(volumes.Bind(source, LISTEN, read_only=True, recursive=False))


def place(pod: Pod, plan: spec.AppPlan, root: Root) -> None:
    """Add the files that say who and where the pod is; make the targets of all mounts."""
    options, own = pod.options, (pod.rootfs, pod.hostname)
    plan.binds += files.network_files(options.resolv, options.hosts, root, plan.binds, own)
    plan.binds = volumes.place(plan.binds, root)


def terminal_of(pod: Pod, app: manifest.App) -> str:
    """Give the type of the app's terminal: the caller's, or one that clients attach to."""
    if pod.options.interactive or not chooses_streams(app):
        return pod.terminal
    from rkt.stage1.supervision import iomux

    tty = iomux.TTY in iomux.modes(app.annotations).values()
    return os.environ.get("TERM") or "vt100" if tty else ""


def restrict(pod: Pod, app: manifest.App, plan: spec.AppPlan) -> None:
    """Resolve what an app may not do or use."""
    options = pod.options
    plan.capabilities = capabilities.select(
        app.isolators, have=pod.have, unrestricted=options.disable_capabilities
    )
    if not options.disable_seccomp:
        plan.seccomp = seccomp.build(
            app.isolators, capabilities=plan.capabilities, machine=os.uname().machine
        )
    asked = any(n == "os/linux/no-new-privileges" and v is True for n, v in app.isolators)
    plan.no_new_privileges = asked or (plan.seccomp is not None and plan.uid != 0)
    plan.unprotected_paths = options.disable_paths
    plan.selinux_label = resources.selinux_label(
        app.name, [*app.isolators, *pod.manifest.isolators], pod.unenforced
    ) or os.environ.get(SELINUX_CONTEXT_ENV, "")  # fmt: skip
    plan.selinux_mount_label = os.environ.get(SELINUX_MOUNT_CONTEXT_ENV, "")
    resources.misplaced(f'app "{app.name}"', app.isolators, pod.unenforced)
    known = pod.layout.controllers if pod.layout else set()
    own = resources.limits(app.isolators, known, pod.unenforced)
    plan.resources = resources.as_oci(own.within(pod.limits))
    plan.oom_score_adj = resources.oom_score_adj(app.name, app.isolators, pod.have, pod.unenforced)
    plan.open_files = resources.open_files()
    plan.sysctl = pod.sysctl


def _command(
    root: rootfs.Root, command: list[str], plan: spec.AppPlan, search: str, image: str
) -> list[str]:
    if not command or not command[0]:
        raise RktError(f'image "{image}" has an empty "exec" (try --exec=BINARY)')
    if not plan.cwd.startswith("/"):
        raise RktError(f'working directory "{plan.cwd}" must be an absolute path')
    if any(_is_volume(bind) for bind in plan.binds):
        return _in_volumes(root, command, plan, search)
    return _found(root, command, plan, search)


def _in_volumes(
    root: rootfs.Root, command: list[str], plan: spec.AppPlan, search: str
) -> list[str]:
    """Look up a program that may lie in a volume."""
    from rkt.stage1.app import view

    seen = view.View(root, plan.binds)
    try:
        directory = seen.resolve(plan.cwd)
        if directory.startswith("/proc/"):
            # Runtimes change to it with all their privileges: no way into another process.
            raise RktError(f'working directory "{plan.cwd}": /proc belongs to the pod')
        return _found(seen, command, plan, search)
    except view.Unknown:
        return command  # only the running pod puts it there: the runtime looks it up


def _found(root: rootfs.Files, command: list[str], plan: spec.AppPlan, search: str) -> list[str]:
    info = root.stat(plan.cwd)
    if info is None or not stat.S_ISDIR(info.st_mode):
        raise RktError(f'working directory "{plan.cwd}": no such directory')
    path = rootfs.find_executable(root, command[0], search, plan.cwd)
    interpreter = rootfs.missing_interpreter(root, path)
    if interpreter:
        raise RktError(f'"{path}": its interpreter "{interpreter}" is not in the image')
    return [path, *command[1:]]


def chooses_streams(app: manifest.App) -> bool:
    """Say whether an app has a say in where its streams go."""
    return any(
        f"{STAGE2_PREFIX}{name}" in app.annotations for name in ("stdin", "stdout", "stderr")
    )


def _is_volume(bind: volumes.Bind) -> bool:
    return os.path.isdir(bind.source)
