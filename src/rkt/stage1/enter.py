"""The `enter` entrypoint: run a command inside an app."""

from __future__ import annotations

import os
import stat

from rkt import quickjson
from rkt.errors import KernelError, NotFound, PodStateError, RktError, SchemaError, UsageError
from rkt.linux import libc, regular
from rkt.stage1 import contract, launch
from rkt.stage1.app import manifest, rootfs
from rkt.stage1.host import identity, runtime

_FALLBACK_TERM = "vt100"
_LONGEST = 64  # of a file with two numbers


def main(argv: list[str]) -> int:
    """Run a command on a terminal, or become the OCI runtime's `exec`; gives its exit status."""
    return launch.guarded(_main, argv)


def _main(argv: list[str]) -> int:
    pid, app, command = _arguments(argv[1:])
    pod_dir = os.getcwd()
    state = identity.read(pod_dir)
    if state is None or state.init != pid:
        raise PodStateError("the pod is not running")
    join_mounts(state, pod_dir)
    config = _config(pod_dir, app)
    app_pid = _app_pid(pod_dir, app)
    process = _process(config, app, app_pid, command)
    _adopt_score(process)
    os.chdir(pod_dir)
    chosen = runtime.Runtime(state.runtime, pod_dir)
    if process["terminal"]:
        from rkt.stage1.supervision import session

        return session.Session("enter").run(chosen, app, process)
    _lend(config, app, 0, 1, 2)
    fd = os.memfd_create("process")
    os.write(fd, quickjson.dumps(process).encode())
    os.set_inheritable(fd, True)
    path = f"/proc/self/fd/{fd}"
    argv = [*chosen.base(), "exec", "--process", path, app]
    taken = _not_for_apps(confined="mountLabel" in manifest.mapping(config, "linux", app))
    pid_file = ""
    if chosen.name == "runc" and not any(map(os.isatty, (0, 1, 2))):
        # Of a terminal it would change the owner.
        pid_file = f"/proc/{os.getpid()}/cwd/bundle/enter{os.getpid()}.pid"
        argv = chosen.exec_argv(app, path, pid_file)
    if taken or pid_file:
        from rkt.stage1.supervision import piped

        return piped.run(argv, taken, lambda *fds: _lend(config, app, *fds), pid_file=pid_file)
    try:
        os.execve(chosen.path, argv, runtime.environment())
    except OSError as err:
        raise KernelError("cannot execute OCI runtime", err, chosen.path) from err


def _arguments(argv: list[str]) -> tuple[int, str, list[str]]:
    flags_end = argv.index("--") if "--" in argv else len(argv)
    rest, flags = contract.split_flags(argv[:flags_end], ("pid", "appname", "debug"), ("debug",))
    values = dict(flags)
    command = rest + argv[flags_end + 1 :]
    if not values.get("pid", "").isdigit() or not values.get("appname") or not command:
        raise UsageError("enter: usage: enter --pid=PID --appname=APP -- CMD [ARGS...]")
    return int(values["pid"]), values["appname"], command


def join_mounts(state: identity.State, pod_dir: str) -> None:
    """See the pod as its supervisor does: its overlays are mounted nowhere else."""
    pidfd = identity.open_process(state.supervisor, state.supervisor_start, "the pod")
    try:
        libc.setns(pidfd, libc.CLONE_NEWNS)
        os.chdir(pod_dir)
    except OSError as err:
        raise KernelError("cannot join the pod's mount namespace", err) from err
    finally:
        os.close(pidfd)


def _config(pod_dir: str, app: str) -> dict[str, object]:
    path = f"{pod_dir}/bundle/{app}/config.json"
    if "/" in app or not os.path.isdir(f"{pod_dir}/appsinfo/{app}"):
        raise NotFound(f'no app "{app}" in the pod')
    if not os.path.exists(path):
        raise PodStateError(f'app "{app}" is not running')
    return manifest.read_json(path, f'configuration of app "{app}"')


def _app_pid(pod_dir: str, app: str) -> int:
    path = f"{pod_dir}/stage1/rootfs/rkt/status/{app}.pid"
    try:
        pid, started = (int(word) for word in regular.read(path, _LONGEST).split())
    except (FileNotFoundError, ValueError):
        raise PodStateError(f'app "{app}" is not running') from None
    except OSError as err:
        raise KernelError(f'process of app "{app}": cannot read', err, path) from err
    os.close(identity.open_process(pid, started, f'app "{app}"'))
    return pid


def _process(
    config: dict[str, object], app: str, app_pid: int, command: list[str]
) -> dict[str, object]:
    """Change the app's `process` into that of the command: root, in /, with what the app may."""
    process = manifest.mapping(config, "process", f'configuration of app "{app}"')
    env = {name: value for name, _, value in (v.partition("=") for v in _env(process, app))}
    term = os.environ.get("TERM") or _FALLBACK_TERM
    env["TERM"] = term
    root = rootfs.Root(f"/proc/{app_pid}/root", follow=True)
    try:
        path = rootfs.find_executable(root, command[0], env.get("PATH", ""), "/")
        interpreter = rootfs.missing_interpreter(root, path)
    finally:
        root.close()
    if interpreter:
        raise RktError(f'"{path}": its interpreter "{interpreter}" is not in the app')
    capabilities = manifest.mapping(process, "capabilities", app)
    bounding = capabilities.get("bounding", [])
    process.update(
        terminal=os.isatty(0) and os.isatty(1),
        user={"uid": 0, "gid": 0},
        args=[path, *command[1:]],
        env=[f"{name}={value}" for name, value in env.items()],
        cwd="/",
        capabilities={"bounding": bounding, "effective": bounding, "permitted": bounding},
    )
    process.pop("consoleSize", None)
    return process


def _adopt_score(process: dict[str, object]) -> None:
    """Have the app's oom-score-adj, for the command to inherit: crun's exec does not set it."""
    score = process.get("oomScoreAdj")
    if isinstance(score, int):
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(score))
        except PermissionError:  # lower than this process may have
            pass


def _not_for_apps(*, confined: bool) -> list[int]:
    """Give those of the caller's streams that the command must not get itself.

    Those are files, disks and devices of the host but for terminals: root in an app may change the
    mode even of /dev/null, which is everybody's.  For a command that SELinux confines what it
    writes to a terminal too, which would go nowhere.
    """
    found = []
    for fd in (0, 1, 2):
        mode = os.fstat(fd).st_mode
        special = stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISCHR(mode)
        if special and (not os.isatty(fd) or (confined and fd > 0)):
            found.append(fd)
    return found


def _lend(config: dict[str, object], app: str, *fds: int) -> None:
    """Let the command open pipes that are its streams anew, as /dev/stderr."""
    where = f'configuration of app "{app}"'
    linux = manifest.mapping(config, "linux", where)
    for ids in manifest.mappings(linux, "uidMappings", where):  # the command is not the host's root
        owner = manifest.integer(ids, "hostID", where)
        for fd in fds:  # runc does it too, crun does not
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.fchown(fd, owner, owner)
    context = linux.get("mountLabel")
    if isinstance(context, str):
        from rkt.linux import selinux

        selinux.lend(context, *fds)


def _env(process: dict[str, object], app: str) -> list[str]:
    values = manifest.strings(process, "env", f'configuration of app "{app}"')
    if not all("=" in value for value in values):
        raise SchemaError(f'configuration of app "{app}": malformed environment')
    return values
