"""Resource isolators of an app (rkt-config 9) as OCI resources."""

from __future__ import annotations

import os

from rkt import log
from rkt.const import SELINUX_ENFORCE
from rkt.errors import RktError

_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_CONTROLLERS = {
    "resource/memory": ("memory",),
    "resource/cpu": ("cpu",),
    "os/linux/cpu-shares": ("cpu",),
    "resource/block-bandwidth": ("blkio", "io"),
    "resource/block-iops": ("blkio", "io"),
}
NETWORK = "resource/network-bandwidth"
SYSCTL = "os/unix/sysctl"
_FOR_PODS = {*_CONTROLLERS, NETWORK, SYSCTL, "os/linux/selinux-context"}
_PERIOD = 100000
_MOST_CPU = 1 << 30  # thousandths: the kernel refuses a quota above 2^44 microseconds
_MOST_BYTES = (1 << 63) - 1
_MOST_OPS = (1 << 32) - 1  # version 1 keeps the lower half of more


def quantity(text: str, scale: int = 1) -> int:
    """Read a resource quantity times `scale`, rounded up.  Raises RktError."""
    digits = text.lstrip("+-")
    number = digits[: len(digits) - len(digits.lstrip("0123456789."))]
    suffix = digits[len(number) :]
    whole, _, fraction = number.partition(".")
    if not (whole + fraction).isdigit():
        raise RktError(f'unable to parse numeric part of quantity "{text}"')
    top, bottom = int(whole + fraction) * scale, int(f"1{'0' * len(fraction)}")
    if suffix in _BINARY:
        top <<= _BINARY[suffix]
    else:
        power = _power(suffix, text)
        top *= int(f"1{'0' * power}")
        bottom *= int(f"1{'0' * -power}")
    value = -(-top // bottom)
    return -value if text.startswith("-") else value


def _power(suffix: str, text: str) -> int:
    power = _DECIMAL.get(suffix)
    if power is None and suffix[:1] in ("e", "E") and suffix[1:].lstrip("+-").isdigit():
        power = int(suffix[1:]) if len(suffix) < 5 else None
    if power is None or abs(power) > 30:
        raise RktError(f'unable to parse quantity\'s suffix "{text}"')
    return power


class Unenforced:
    """Isolators that cannot be enforced on this host: one warning tells them all."""

    __slots__ = ("_disabled", "_others")

    def __init__(self) -> None:
        self._disabled: list[str] = []
        self._others: list[str] = []

    def disabled(self, name: str) -> None:
        """Note an isolator whose controller the kernel has not, or not for this pod."""
        if name not in self._disabled:
            self._disabled.append(name)

    def other(self, owner: str, name: str, why: str) -> None:
        """Note an isolator that cannot be enforced for another reason."""
        self._others.append(f"{owner}: {name} ({why})")

    def tell(self) -> None:
        """Write the warning, if there is anything to warn about."""
        parts = []
        if self._disabled:
            names = ", ".join(self._disabled)
            parts.append(f"{names} isolator set but support disabled in the kernel, skipping")
        if self._others:
            parts.append(
                f"isolators that cannot be enforced are ignored: {'; '.join(self._others)}"
            )
        if parts:
            log.warning("; ".join(parts))


def misplaced(
    owner: str, isolators: list[tuple[str, object]], unenforced: Unenforced
) -> None:  # fmt: skip
    """Note the isolators of a pod that are for apps, and those of an app that are for pods."""
    for name, _ in isolators:
        if owner == "pod" and name not in _FOR_PODS:
            unenforced.other(owner, name, "it is not for pods")
        elif owner != "pod" and name == SYSCTL:
            unenforced.other(owner, name, "it is not for apps")


def is_limit(name: str) -> bool:
    """Say whether an isolator of that name is enforced by control groups."""
    return name in _CONTROLLERS


class Limits:
    """What the isolators of an app, or those of a pod, limit; None is no limit.

    An isolator that is given several times counts with its smallest value.
    """

    __slots__ = ("block_bytes", "block_ops", "cpu", "memory", "shares")

    def __init__(self) -> None:
        self.memory: int | None = None  # bytes
        self.cpu: int | None = None  # thousandths of a processor
        self.shares: int | None = None
        self.block_bytes: int | None = None  # a second
        self.block_ops: int | None = None  # a second

    def within(self, outer: Limits) -> Limits:
        """Give these limits, none of them above one of the pod's."""
        bounded = Limits()
        bounded.shares = self.shares
        for name in ("memory", "cpu", "block_bytes", "block_ops"):
            own, limit = getattr(self, name), getattr(outer, name)
            # What only the pod limits, its control group limits for all of its apps together.
            setattr(bounded, name, own if own is None or limit is None else min(own, limit))
        return bounded


def limits(
    isolators: list[tuple[str, object]], controllers: set[str], unenforced: Unenforced
) -> Limits:
    """Read the resource isolators that the host's controllers can enforce."""
    found = Limits()
    for name, value in isolators:
        wanted = _CONTROLLERS.get(name)
        if wanted is None:
            continue
        if not controllers.intersection(wanted):
            unenforced.disabled(name)
            continue
        if name == "os/linux/cpu-shares":
            found.shares = value if isinstance(value, int) else None
            continue
        limit = value.get("limit") if isinstance(value, dict) else None
        if not limit:
            continue
        if name == "resource/memory":
            found.memory = _least(found.memory, quantity(str(limit)), _MOST_BYTES)
        elif name == "resource/cpu":
            found.cpu = _least(found.cpu, quantity(str(limit), 1000), _MOST_CPU)
        elif name == "resource/block-bandwidth":
            found.block_bytes = _least(found.block_bytes, quantity(str(limit)), _MOST_BYTES)
        else:
            found.block_ops = _least(found.block_ops, quantity(str(limit)), _MOST_OPS)
    return found


def _least(one: int | None, *others: int) -> int:
    return min(others) if one is None else min(one, *others)


def as_oci(found: Limits) -> dict[str, object]:
    """Give OCI `linux.resources`."""
    result: dict[str, object] = {}
    if found.memory is not None:
        result["memory"] = {"limit": found.memory}
    cpu: dict[str, int] = {}
    if found.cpu is not None:
        cpu["period"] = _PERIOD
        cpu["quota"] = max(found.cpu * _PERIOD // 1000, 1000)
    if found.shares is not None:
        cpu["shares"] = found.shares
    if cpu:
        result["cpu"] = cpu
    throttle: dict[str, object] = {}
    for kind, rate in (("Bps", found.block_bytes), ("IOPS", found.block_ops)):
        if rate is not None:
            entries = [{"major": a, "minor": b, "rate": rate} for a, b in disks()]
            throttle[f"throttleRead{kind}Device"] = entries
            throttle[f"throttleWrite{kind}Device"] = entries
    if throttle:
        result["blockIO"] = throttle
    return result


def disks(top: str = "/sys/block") -> list[tuple[int, int]]:
    """Give the device numbers of the disks that hold something."""
    found = []
    try:
        names = sorted(os.listdir(top))
    except OSError:
        return []
    for name in names:
        if name.startswith(("ram", "zram")) or _text(f"{top}/{name}/size") in ("", "0"):
            continue
        major, _, minor = _text(f"{top}/{name}/dev").partition(":")
        if major.isdigit() and minor.isdigit():
            found.append((int(major), int(minor)))
    return found


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def network_rate(isolators: list[tuple[str, object]]) -> int | None:
    """Give the limit on network traffic in bytes a second, None if there is none."""
    rate: int | None = None
    for name, value in isolators:
        limit = value.get("limit") if name == NETWORK and isinstance(value, dict) else None
        if limit:
            rate = _least(rate, quantity(str(limit)))
    return rate


def oom_score_adj(
    app: str, isolators: list[tuple[str, object]], have: tuple[str, ...], unenforced: Unenforced
) -> int | None:
    """Give the wanted oom_score_adj; None when this process may not lower it so far."""
    for name, value in isolators:
        if name != "os/linux/oom-score-adj" or not isinstance(value, int):
            continue
        if "CAP_SYS_RESOURCE" not in have and value < _own_score():
            unenforced.other(f'app "{app}"', name, f"no permission to lower it to {value}")
            return None
        return value
    return None


def _own_score() -> int:
    fd = os.open("/proc/self/oom_score_adj", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)


def open_files(path: str = "/proc/self/limits") -> tuple[int, int] | None:
    """Give this process's soft and hard limit on open files; None if the kernel does not tell.

    Importing `resource` would take ten times as long.
    """
    with open(path, encoding="ascii") as file:
        for line in file:
            if line.startswith("Max open files"):
                words = line[len("Max open files") :].split()
                if len(words) >= 2 and words[0].isdigit() and words[1].isdigit():
                    return int(words[0]), int(words[1])
    return None


def selinux_label(app: str, isolators: list[tuple[str, object]], unenforced: Unenforced) -> str:
    """Give the SELinux context that an isolator asks for, "" if none does.

    Raises RktError for one that the host's policy does not know.
    """
    for name, value in isolators:
        if name == "os/linux/selinux-context" and isinstance(value, dict):
            if not os.path.exists(SELINUX_ENFORCE):
                unenforced.other(f'app "{app}"', name, "SELinux is not enabled")
                return ""
            from rkt.linux import selinux

            context = ":".join(str(value.get(k, "")) for k in ("user", "role", "type", "level"))
            if not selinux.is_context(context) or not selinux.in_policy(context):
                raise RktError(f'{name} "{context}": the SELinux policy of this host does not '
                               "know this context")  # fmt: skip
            return context
    return ""


def sysctl(
    isolators: list[tuple[str, object]], joined: set[str], unenforced: Unenforced
) -> dict[str, str]:
    """Give the kernel parameters that belong to namespaces of the pod's own."""
    found: dict[str, str] = {}
    for name, value in isolators:
        if name != SYSCTL or not isinstance(value, dict):
            continue
        for key, text in value.items():
            space = _namespace_of(str(key).replace("/", "."))
            if space in joined:
                found[str(key)] = str(text)
            else:
                unenforced.other("pod", f"{name} {key}", "it is not of a namespace of the pod")
    return found


def _namespace_of(key: str) -> str:
    if key.startswith("net."):
        return "network"
    if key.startswith(("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")):
        return "ipc"
    return "uts" if key in ("kernel.hostname", "kernel.domainname") else ""
