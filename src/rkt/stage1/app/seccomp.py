"""The system call filter of an app (rkt-config 8.2)."""

from __future__ import annotations

import errno
import os

from rkt import log, quickjson
from rkt.errors import RktError
from rkt.linux import libc
from rkt.stage1.app import syscalls

DISTRIBUTION_PROFILES = (
    "/etc/containers/seccomp.json",
    "/usr/share/containers/seccomp.json",
)
# Allowed by the distributions' profile, not by rkt's own list: the keyrings of a user are those of
# the host's user of that number, root's among them.
_KEYS = frozenset(("add_key", "keyctl", "request_key"))
RETAIN = "os/linux/seccomp-retain-set"
REMOVE = "os/linux/seccomp-remove-set"

# uname -m -> (name in profiles, libseccomp's native and compatible architectures).  Without x32,
# which distributions' kernels do not run: it costs libseccomp 8 ms a container, and what is not
# listed is refused.
_MACHINES = {
    "x86_64": ("amd64", ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")),
    "i686": ("x86", ("SCMP_ARCH_X86",)),
    "aarch64": ("arm64", ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")),
    "armv7l": ("arm", ("SCMP_ARCH_ARM",)),
    "armv6l": ("arm", ("SCMP_ARCH_ARM",)),
    "ppc64le": ("ppc64le", ("SCMP_ARCH_PPC64LE",)),
    "s390x": ("s390x", ("SCMP_ARCH_S390X", "SCMP_ARCH_S390")),
}
_TOLD = 10
_KILL = "SCMP_ACT_KILL_PROCESS"
_ALLOW = "SCMP_ACT_ALLOW"
_ERRNO = "SCMP_ACT_ERRNO"


def build(
    isolators: list[tuple[str, object]], *, capabilities: list[str], machine: str
) -> dict[str, object] | None:
    """Give the OCI `linux.seccomp` object of an app; None for no filter at all."""
    chosen = [(name, value) for name, value in isolators if name in (RETAIN, REMOVE)]
    if not chosen:
        return default(capabilities, machine)
    if len(chosen) > 1:
        raise RktError("too many seccomp isolators specified")
    name, value = chosen[0]
    names, refusal = _read(name, value)
    if name == RETAIN:
        if "@appc.io/all" in names:
            return None
        allowed = _expand(names, machine)
        allowed += [n for n in syscalls.IMPLICIT.split() if n not in allowed]
        newer = [n for n in syscalls.NEWER.split() if n not in allowed]
        absent: dict[str, object] = {"action": _ERRNO, "errnoRet": errno.ENOSYS}
        rules = [_rule(allowed, {"action": _ALLOW}), _rule(newer, absent)]
        return _filter(machine, refusal, rules)
    if "@appc.io/empty" in names:
        return default(capabilities, machine)
    return _filter(machine, {"action": _ALLOW}, [_rule(_expand(names, machine), refusal)])


def default(capabilities: list[str], machine: str) -> dict[str, object]:
    """Give the distribution's profile for containers, or rkt's own list where there is none."""
    for path in DISTRIBUTION_PROFILES:
        try:
            with open(path, "rb") as file:
                profile = quickjson.loads(file.read(4 << 20))
            return evaluate(profile, capabilities, machine)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
            log.warning(f'"{path}": cannot be used as seccomp profile ({err}), using rkt\'s own')
    # Not killed but told that there is no such call: this list is older than today's C libraries,
    # which then use the older call.
    names = _expand(["@rkt/default-whitelist"], machine)
    refusal = {"action": _ERRNO, "errnoRet": errno.ENOSYS}
    return _filter(machine, refusal, [_rule(names, {"action": _ALLOW})])


def evaluate(
    profile: dict[str, object], capabilities: list[str], machine: str
) -> dict[str, object]:
    """Resolve the conditions of a containers/common profile for capabilities and architecture.

    The calls for keys are left to its default, which is to refuse.
    """
    arch, arches = _machine(machine)
    rules: list[dict[str, object]] = []
    syscalls = profile["syscalls"]
    if not isinstance(syscalls, list):
        raise TypeError("syscalls: expected an array")
    for entry in syscalls:
        if not _applies(entry, arch, capabilities):
            continue
        names = [name for name in entry["names"] if name not in _KEYS]
        if not names:
            continue
        rule = {"names": names, "action": entry["action"]}
        if entry.get("args"):
            rule["args"] = entry["args"]
        if entry.get("errnoRet") is not None and entry["action"] != _ALLOW:
            rule["errnoRet"] = entry["errnoRet"]
        rules.append(rule)
    result: dict[str, object] = {
        "defaultAction": profile["defaultAction"],
        "architectures": list(arches),
        "syscalls": rules,
    }
    if profile.get("defaultErrnoRet") is not None:
        result["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return result


def _applies(entry: dict[str, object], arch: str, capabilities: list[str]) -> bool:
    includes, excludes = entry.get("includes"), entry.get("excludes")
    have = set(capabilities)
    if isinstance(includes, dict):
        if includes.get("arches") and arch not in includes["arches"]:
            return False
        if includes.get("caps") and not have.issuperset(includes["caps"]):
            return False
        if includes.get("minKernel") and _kernel() < _version(str(includes["minKernel"])):
            return False
    if isinstance(excludes, dict):
        if arch in (excludes.get("arches") or ()):
            return False
        if have.intersection(excludes.get("caps") or ()):
            return False
        if excludes.get("minKernel") and _kernel() >= _version(str(excludes["minKernel"])):
            return False
    return True


def _kernel() -> tuple[int, ...]:
    return _version(os.uname().release)


def _version(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits or 0))
    return tuple(numbers)


def _machine(machine: str) -> tuple[str, tuple[str, ...]]:
    if machine[:1] == "i" and machine.endswith("86"):
        machine = "i686"
    return _MACHINES.get(machine, (machine, ()))


def _read(name: str, value: object) -> tuple[list[str], dict[str, object]]:
    members = value.get("set") if isinstance(value, dict) else None
    if not isinstance(members, list) or not members:
        raise RktError(f'isolator "{name}": set must be non-empty')
    symbol = value.get("errno") if isinstance(value, dict) else None
    if not symbol:
        return [str(member) for member in members], {"action": _KILL}
    number = getattr(errno, str(symbol), None) if str(symbol).isupper() else None
    if not isinstance(number, int):
        raise RktError(f'isolator "{name}": unknown errno "{symbol}"')
    return [str(member) for member in members], {"action": _ERRNO, "errnoRet": number}


def is_own(profile: dict[str, object] | None, capabilities: list[str], machine: str) -> bool:
    """Say whether an app has another filter than those that ask for none."""
    return profile is not None and profile != default(capabilities, machine)


def forbidden(profile: dict[str, object], names: tuple[str, ...]) -> list[str]:
    """Give those of some calls that a filter does not let pass, whatever their arguments."""
    rules = profile["syscalls"]
    assert isinstance(rules, list)
    otherwise = profile["defaultAction"]
    actions = {name: {rule["action"] for rule in rules if name in rule["names"]} for name in names}
    return [name for name in names if _ALLOW not in (actions[name] or {otherwise})]


def _expand(names: list[str], machine: str) -> list[str]:
    result: dict[str, None] = {}
    unknown = libc.unknown_syscalls([name for name in names if not name.startswith("@")])
    for name in unknown[:_TOLD]:
        log.warning(f'seccomp: system call "{name}" is unknown, it is ignored')
    if len(unknown) > _TOLD:
        log.warning(f"seccomp: {len(unknown) - _TOLD} more system calls are unknown")
    for name in names:
        scope, _, group = name.partition("/")
        if not name.startswith("@"):
            result[name] = None
        elif scope in ("@rkt", "@docker") and group == "default-whitelist":
            result.update(dict.fromkeys(syscalls.WHITELIST.split()))
            if scope == "@rkt" and machine.startswith(("arm", "aarch64")):
                result.update(dict.fromkeys(syscalls.WHITELIST_ARM.split()))
        elif scope in ("@rkt", "@docker") and group == "default-blacklist":
            result.update(dict.fromkeys(syscalls.BLACKLIST.split()))
        elif scope == "@systemd" and group in _systemd_groups():
            result.update(dict.fromkeys(_systemd_groups()[group].split()))
        elif scope != "@appc.io":
            log.warning(f'seccomp wildcard "{name}" is unknown, it is ignored')
    return list(result)


def _systemd_groups() -> dict[str, str]:
    from rkt.stage1.app.syscallgroups import GROUPS

    return GROUPS


def _rule(names: list[str], action: dict[str, object]) -> dict[str, object]:
    return {"names": names, **action}


def _filter(
    machine: str, otherwise: dict[str, object], rules: list[dict[str, object]]
) -> dict[str, object]:
    result: dict[str, object] = {"defaultAction": otherwise["action"], "syscalls": []}
    if "errnoRet" in otherwise:
        result["defaultErrnoRet"] = otherwise["errnoRet"]
    arches = _machine(machine)[1]
    if arches:
        result["architectures"] = list(arches)
    result["syscalls"] = [rule for rule in rules if rule["names"]]
    return result
