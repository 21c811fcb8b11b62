"""What an app is to its pod's systemd: properties of a transient unit, by their D-Bus types.

They travel as typed values, not as the text of a unit file: no character of an image's or a user's
is a specifier, a quote or the end of a line there.
"""

from __future__ import annotations

from rkt.errors import RktError
from rkt.linux.caps import NAMES
from rkt.stage1.app import manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.app.spec import AppPlan

    Property = tuple[str, str, object]

ENDS = "/rkt/ends"
"""In the machine: the FIFO on which its reaper tells how units ended."""
VOLUMES = "/rkt/volumes"
_ROOTS = "/opt/stage2"
_FOREVER = (1 << 64) - 1
_CONSOLE = "/dev/console"
_SYSTEM = ("/proc", "/sys", "/dev")
# systemd adds these by itself; an app gets what it was given, as with other flavours.
_ADDED = ("HOME", "INVOCATION_ID", "LANG", "LOGNAME", "PATH", "SHELL", "SYSTEMD_EXEC_PID", "USER")
_REAPER = f'echo "$0 $EXIT_CODE $EXIT_STATUS" >{ENDS}'
_ALLOW = "SCMP_ACT_ALLOW"


def slice_of(app: str) -> str:
    """Give the slice of an app's units; a dash would make it one slice inside another."""
    return f"app_{app}".replace("-", "\\x2d") + ".slice"


def of_plan(plan: AppPlan, masked: list[str], read_only: list[str]) -> list[Property]:
    """Give what holds for all units of an app: its place, its limits and its file system."""
    found: list[Property] = [
        ("Slice", "s", slice_of(plan.name)),
        ("RootDirectory", "s", f"{_ROOTS}/{plan.name}"),
        ("MountAPIVFS", "b", 0),
        ("BindPaths", "a(ssbt)", _binds(plan, read_only=False)),
        ("BindReadOnlyPaths", "a(ssbt)", _binds(plan, read_only=True)),
    ]
    if not plan.unprotected_paths:
        found += [
            ("InaccessiblePaths", "as", [f"-+{path}" for path in masked]),
            ("ReadOnlyPaths", "as", [f"-+{path}" for path in read_only]),
            ("DevicePolicy", "s", "closed"),
            ("DeviceAllow", "a(ss)", _devices(plan)),
        ]
    if plan.oom_score_adj is not None:
        found.append(("OOMScoreAdjust", "i", plan.oom_score_adj))
    if plan.open_files is not None:
        found.append(("LimitNOFILESoft", "t", plan.open_files[0]))
        found.append(("LimitNOFILE", "t", plan.open_files[1]))
    return found + _limits(plan.resources) + _filter(plan.seccomp)


def _binds(plan: AppPlan, *, read_only: bool) -> list[tuple[str, str, int, int]]:
    taken = {bind.target for bind in plan.binds}
    recursive = 1 << 14  # MS_REC
    found: list[tuple[str, str, int, int]] = []
    if not read_only:
        found = [(path, path, 0, recursive) for path in _SYSTEM if path not in taken]
        if not plan.terminal and "/dev" not in taken and _CONSOLE not in taken:
            found.append(("/dev/null", _CONSOLE, 0, 0))  # as elsewhere: it swallows what comes
    for number, bind in enumerate(plan.binds):
        if bind.read_only == read_only:
            found.append((f"{VOLUMES}/{plan.name}/{number}", bind.target, 0, recursive))
    return found


def _devices(plan: AppPlan) -> list[tuple[str, str]]:
    found = []
    for bind in plan.binds:
        if bind.device is not None:
            kind, major, minor = bind.device
            where = "block" if kind == "b" else "char"
            found.append((f"/dev/{where}/{major}:{minor}", "r" if bind.read_only else "rw"))
    return found


def _limits(resources: dict[str, object]) -> list[Property]:
    """Translate OCI resources; those on disks are not among what a unit's own can limit here."""
    found: list[Property] = []
    memory, cpu = resources.get("memory"), resources.get("cpu")
    if isinstance(memory, dict):
        found.append(("MemoryMax", "t", memory["limit"]))
    if isinstance(cpu, dict) and "quota" in cpu:
        found.append(("CPUQuotaPerSecUSec", "t", cpu["quota"] * 1_000_000 // cpu["period"]))
    if isinstance(cpu, dict) and "shares" in cpu:
        found.append(("CPUWeight", "t", 1 + (cpu["shares"] - 2) * 9999 // 262142))
    return found


def _filter(profile: dict[str, object] | None) -> list[Property]:
    """Translate an OCI filter.  A rule on arguments allows the call; of clone it means namespaces.

    Raises RktError for what has no translation.
    """
    if profile is None:
        return []
    where = "seccomp"
    otherwise = manifest.string(profile, "defaultAction", where)
    listed: list[str] = []
    absent: list[str] = []
    number = manifest.integer(profile, "defaultErrnoRet", where) if (
        "defaultErrnoRet" in profile) else 0  # fmt: skip
    namespaces = False
    for rule in manifest.sequence(profile, "syscalls", where):
        if not isinstance(rule, dict):
            raise RktError("seccomp: a rule is no object")
        names = [n for n in rule["names"] if _is_call(n)]
        if (rule["action"] == _ALLOW) == (otherwise == _ALLOW):
            continue
        if otherwise == _ALLOW:
            number = int(rule.get("errnoRet", 0))
        if rule.get("args") and "clone" in names:
            namespaces = True
        listed += names
    for rule in manifest.sequence(profile, "syscalls", where):
        if isinstance(rule, dict) and otherwise != _ALLOW and rule["action"] != _ALLOW:
            errno = int(rule.get("errnoRet", 0))
            absent += [f"{n}:{errno}" for n in rule["names"]
                       if errno and n not in listed and _is_call(n)]  # fmt: skip
    found: list[Property] = [("SystemCallFilter", "(bas)", (int(otherwise != _ALLOW), listed))]
    if absent:
        found.append(("SystemCallFilter", "(bas)", (0, absent)))
    if number:
        found.append(("SystemCallErrorNumber", "i", number))
    if namespaces:
        found.append(("RestrictNamespaces", "t", 0))
    return found


def _is_call(name: object) -> bool:
    """Leave out what systemd would take for a group or for more than a name."""
    return isinstance(name, str) and name.replace("_", "").isalnum() and name.isascii()


def of_process(process: dict[str, object], key: str) -> list[Property]:
    """Give what one unit executes, and as whom; `key` is what its reaper reports it by."""
    where = "process"
    user = manifest.mapping(process, "user", where)
    args = manifest.strings(process, "args", where)
    env = manifest.strings(process, "env", where)
    given = {text.partition("=")[0] for text in env}
    caps = manifest.mapping(process, "capabilities", where)
    keep = set(manifest.strings(caps, "bounding", where))
    mask = sum(1 << n for n, name in enumerate(NAMES) if name in keep)
    reaper = ("/bin/sh", ["/bin/sh", "-c", _REAPER, key], ["privileged", "no-env-expand"])
    return [
        ("Type", "s", "exec"),
        ("ExecStartEx", "a(sasas)", [(args[0], args, ["no-env-expand"])]),
        ("ExecStopPostEx", "a(sasas)", [reaper]),
        ("RootDirectoryStartOnly", "b", 1),
        ("DefaultDependencies", "b", 0),
        ("CollectMode", "s", "inactive"),
        ("KillMode", "s", "process"),
        ("TimeoutStartUSec", "t", _FOREVER),
        ("TimeoutStopUSec", "t", _FOREVER),
        ("Environment", "as", env),
        ("UnsetEnvironment", "as", [name for name in _ADDED if name not in given]),
        ("WorkingDirectory", "s", manifest.string(process, "cwd", where) or "/"),
        ("User", "s", str(manifest.integer(user, "uid", where))),
        ("Group", "s", str(manifest.integer(user, "gid", where))),
        ("SupplementaryGroups", "as",
         [str(gid) for gid in manifest.sequence(user, "additionalGids", where)]),
        ("CapabilityBoundingSet", "t", mask),
        ("NoNewPrivileges", "b", int(bool(manifest.flag(process, "noNewPrivileges", where)))),
        ("UMask", "u", 0o022),
        ("IgnoreSIGPIPE", "b", 0),
        ("KeyringMode", "s", "private"),
    ]  # fmt: skip
