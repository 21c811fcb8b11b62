"""The OCI configuration of an app: pure functions from what was resolved to config.json."""

from __future__ import annotations

import os

from rkt.const import SELINUX_MOUNT_CONTEXT_ENV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.linux.userns import Range
    from rkt.stage1.app.policy import HealthPlan
    from rkt.stage1.app.sockets import Socket
    from rkt.stage1.app.volumes import Bind

# rkt-config 8.3, and what other container engines protect.  Most of what is below /proc/sys is the
# host's: its kernel asks for no capability there, only for user 0, which root in an app is.
READ_ONLY_PATHS = (
    "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
    "/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/devices", "/sys/kernel",
)  # fmt: skip
MASKED_PATHS = (
    "/sys/firmware", "/sys/fs", "/sys/hypervisor", "/sys/module", "/sys/power",
    "/proc/acpi", "/proc/config.gz", "/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/kmem",
    "/proc/latency_stats", "/proc/mem", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
)  # fmt: skip

_KINDS = ("pid", "ipc", "uts", "network")
_FILES = {"pid": "pid", "ipc": "ipc", "uts": "uts", "network": "net"}
_SAFE = ["nosuid", "noexec", "nodev"]
_DEVPTS = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
_CGROUP = "/sys/fs/cgroup"
_SHM = "/dev/shm"  # noqa: S108 - a path inside the app


def in_context(options: str) -> str:
    """Have all files of a mount in the SELinux context of the pod's files, if there is one."""
    context = os.environ.get(SELINUX_MOUNT_CONTEXT_ENV)
    return f'{options},context="{context}"' if context else options


class AppPlan:
    """All that was resolved about an app before its configuration is written."""

    __slots__ = (
        "args", "binds", "capabilities", "cgroup", "console_size", "cwd", "env", "gid", "groups",
        "handlers", "health", "name", "no_new_privileges", "null", "oom_score_adj", "open_files",
        "read_only_root", "resources", "root", "seccomp", "selinux_label", "selinux_mount_label",
        "sockets", "sysctl", "terminal", "uid", "unprotected_paths", "users",
    )  # fmt: skip

    def __init__(self, name: str, root: str) -> None:
        self.name = name
        self.root = root
        self.args: list[str] = []
        self.handlers: dict[str, list[str]] = {}
        self.health: HealthPlan | None = None
        self.env: list[str] = []
        self.cwd = "/"
        self.uid = 0
        self.gid = 0
        self.groups: list[int] = []
        self.terminal = False
        self.console_size: tuple[int, int] | None = None
        self.capabilities: list[str] = []
        self.no_new_privileges = False
        self.oom_score_adj: int | None = None
        self.open_files: tuple[int, int] | None = None
        self.seccomp: dict[str, object] | None = None
        self.resources: dict[str, object] = {}
        self.sysctl: dict[str, str] = {}
        self.unprotected_paths = False
        self.read_only_root = False
        self.selinux_label = ""
        self.selinux_mount_label = ""
        self.cgroup = ""
        self.users: Range | None = None
        self.null = "/dev/null"  # what an app gets instead of a stream: runtimes change its owner
        self.binds: list[Bind] = []
        self.sockets: list[Socket] = []
        """What it gets of the sockets that the service manager passed."""

    def lend(self, *fds: int) -> None:
        """Let the app use pipes that are not its own, as far as SELinux is concerned."""
        if self.selinux_mount_label:
            from rkt.linux import selinux

            selinux.lend(self.selinux_mount_label, *fds)

    def give(self, *fds: int) -> None:
        """Give pipes to the app's user: in a user namespace nobody else may open them anew."""
        self.lend(*fds)
        if self.users is not None:
            for fd in fds:
                os.fchown(fd, self.users.shift + self.uid, self.users.shift + self.gid)


def build(plan: AppPlan, *, init_pid: int, joined: set[str], shm: str) -> dict[str, object]:
    """Give config.json of an app that joins the namespaces in `joined` of the pod's PID 1."""
    spaces: list[dict[str, str]] = [
        {"type": kind, "path": f"/proc/{init_pid}/ns/{_FILES[kind]}"}
        for kind in _KINDS
        if kind in joined
    ]
    spaces += [{"type": "mount"}, {"type": "cgroup"}]
    if plan.users is not None:
        spaces.append({"type": "user", "path": f"/proc/{init_pid}/ns/user"})
    linux: dict[str, object] = {
        "namespaces": spaces,
        "cgroupsPath": plan.cgroup,
        "resources": {**plan.resources, "devices": _device_rules(plan)},
        "devices": _devices(plan),
        "maskedPaths": [] if plan.unprotected_paths else _uncovered(MASKED_PATHS, plan.binds),
        "readonlyPaths": [] if plan.unprotected_paths else _uncovered(READ_ONLY_PATHS, plan.binds),
    }
    if plan.users is not None:
        ids = [{"containerID": 0, "hostID": plan.users.shift, "size": plan.users.count}]
        linux["uidMappings"] = linux["gidMappings"] = ids
    if plan.seccomp is not None:
        linux["seccomp"] = plan.seccomp
    if plan.sysctl:
        linux["sysctl"] = plan.sysctl
    if plan.selinux_mount_label:
        linux["mountLabel"] = plan.selinux_mount_label
    return {
        "ociVersion": "1.0.2",
        "process": process(plan),
        "root": {"path": plan.root, "readonly": plan.read_only_root},
        "mounts": _mounts(plan, shm, joined),
        "linux": linux,
    }


def process(plan: AppPlan) -> dict[str, object]:
    """Give the `process` object of an app."""
    caps = plan.capabilities
    # rkt limits only the bounding set: root gains all of it at exec, others nothing.
    held = caps if plan.uid == 0 else []
    result: dict[str, object] = {
        "terminal": plan.terminal,
        "user": {"uid": plan.uid, "gid": plan.gid, "additionalGids": plan.groups},
        "args": plan.args,
        "env": plan.env,
        "cwd": plan.cwd,
        "capabilities": {"bounding": caps, "effective": held, "permitted": held},
        "noNewPrivileges": plan.no_new_privileges,
    }
    if plan.terminal and plan.console_size:
        result["consoleSize"] = {"height": plan.console_size[0], "width": plan.console_size[1]}
    if plan.selinux_label:
        result["selinuxLabel"] = plan.selinux_label
    if plan.oom_score_adj is not None:
        result["oomScoreAdj"] = plan.oom_score_adj
    if plan.open_files is not None:
        # Programs in Go raise their own soft limit at the start, and runc 1.1 hands that on.
        soft, hard = plan.open_files
        result["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}]
    return result


def handler(config: dict[str, object], plan: AppPlan, args: list[str]) -> dict[str, object]:
    """Give the configuration of an event handler: the same app, but run as root."""
    changed = process(plan)
    caps = plan.capabilities
    changed.update(
        terminal=False,
        args=args,
        user={"uid": 0, "gid": 0, "additionalGids": []},
        capabilities={"bounding": caps, "effective": caps, "permitted": caps},
    )
    changed.pop("consoleSize", None)
    return {**config, "process": changed}


def _mounts(plan: AppPlan, shm: str, joined: set[str]) -> list[dict[str, object]]:
    taken = {bind.target for bind in plan.binds}
    system: list[dict[str, object]] = [
        _mount("/proc", "proc", "proc", list(_SAFE)),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", list(_DEVPTS)),
        _mount(_SHM, "bind", shm, ["bind", "rw", *_SAFE]),
        _mount("/dev/mqueue", "mqueue", "mqueue", list(_SAFE)),
        _mount("/sys", "sysfs", "sysfs", [*_SAFE, "rw" if plan.unprotected_paths else "ro"]),
    ]
    if plan.unprotected_paths:  # else /sys/fs is masked
        system.append(_mount(_CGROUP, "cgroup", "cgroup", [*_SAFE, "relatime", "ro"]))
    if plan.users is not None:
        system = _within_users(system, plan, joined)
    result = [mount for mount in system if mount["destination"] not in taken]
    for bind in plan.binds:
        options = ["rbind" if bind.recursive else "bind", "rslave" if bind.recursive else "slave"]
        if bind.read_only:
            options += ["ro", "rro"] if bind.recursive else ["ro"]
        result.append(_mount(bind.target, "bind", bind.source, options))
    return result


def _within_users(
    system: list[dict[str, object]], plan: AppPlan, joined: set[str]
) -> list[dict[str, object]]:
    """Replace what may not be mounted in a user namespace by binds of what the host has.

    The kernel wants the namespace that sysfs or mqueue show to belong to the user namespace.
    """
    access = "rw" if plan.unprotected_paths else "ro"
    binds = {
        "/dev/mqueue": [] if "ipc" in joined else ["rbind", *_SAFE],
        "/sys": [] if "network" in joined else ["rbind", "rslave", *_SAFE, access],
    }
    changed = []
    for mount in system:
        target = str(mount["destination"])
        options = binds.get(target)
        if not options:
            changed.append(mount)
        elif os.path.isdir(target):  # else the host has none
            changed.append(_mount(target, "bind", target, options))
    if not plan.terminal and not any(b.target in ("/dev", "/dev/console") for b in plan.binds):
        changed.append(_mount("/dev/console", "bind", "/dev/null", ["bind"]))
    return changed


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, object]:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _device_rules(plan: AppPlan) -> list[dict[str, object]]:
    if plan.unprotected_paths:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, object]] = [{"allow": False, "access": "rwm"}]
    for bind in plan.binds:
        if bind.device is not None:
            kind, major, minor = bind.device
            access = "r" if bind.read_only else "rw"
            rules.append(
                {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}
            )
    return rules


def _devices(plan: AppPlan) -> list[dict[str, object]]:
    # appc wants a /dev/console.  With a terminal the runtime binds it; without one it swallows
    # what is written (never the host's console).
    if (
        plan.terminal
        or plan.users is not None
        or any(bind.target in ("/dev", "/dev/console") for bind in plan.binds)
    ):
        return []
    return [
        {"path": "/dev/console", "type": "c", "major": 1, "minor": 3, "fileMode": 0o620,
         "uid": 0, "gid": 0}
    ]  # fmt: skip


def _uncovered(paths: tuple[str, ...], binds: list[Bind]) -> list[str]:
    """Leave out what is a user's own mount, or lies below one at /proc or /sys."""
    own = {bind.target for bind in binds}
    return [path for path in paths if path not in own and f"/{path.split('/')[1]}" not in own]


def hidden(plan: AppPlan) -> list[tuple[str, str]]:
    """Give each mount that the app cannot see, with the masked directory that it lies in."""
    if plan.unprotected_paths:
        return []
    masked = _uncovered(MASKED_PATHS, plan.binds)
    return [
        (bind.target, path)
        for bind in plan.binds
        for path in masked
        if bind.target.startswith(f"{path}/")
    ]
