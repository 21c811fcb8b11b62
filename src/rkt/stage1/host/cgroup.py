"""Where a pod lives in the cgroup trees, and how its directories go away.

Version 1 and hybrid hosts: `/rkt-<uuid>/<app>` in every hierarchy.  Version 2: the same below the
cgroup that rkt runs in.
"""

from __future__ import annotations

import os
import time

from rkt.errors import KernelError
from rkt.linux import sig
from rkt.stage1.host import identity

ROOT = "/sys/fs/cgroup"
_UNIFIED = f"{ROOT}/unified"
_RETRIES = 100


class Layout:
    """What cgroup trees this process sees."""

    __slots__ = ("controllers", "hierarchies", "hybrid", "own", "places", "unified")

    def __init__(self, mountinfo: str, own: str) -> None:
        self.hierarchies: list[str] = []
        self.unified = False
        self.hybrid = False
        self.own = "/"
        self.controllers: set[str] = set()
        self.places: dict[str, str] = {}  # version 1: where a controller's hierarchy is mounted
        for line in mountinfo.splitlines():
            head, _, tail = line.partition(" - ")
            fields = head.split(" ")
            kind, _, options = tail.partition(" ")
            if kind not in ("cgroup", "cgroup2") or len(fields) < 5:
                continue
            where = fields[4]
            self.hierarchies.append(where)
            if kind == "cgroup2":
                self.unified = where == ROOT
                self.hybrid = self.hybrid or not self.unified
            else:
                names = options.rpartition(" ")[2].split(",")
                self.places.update((name, where) for name in names if "=" not in name)
                self.controllers.update(self.places)
        for line in own.splitlines():
            if self.unified and line.startswith("0::"):
                self.own = line[3:]
        if self.unified:
            self.controllers.update(_words(f"{ROOT}{self.own.rstrip('/')}/cgroup.controllers"))

    def pod_path(self, uuid: str) -> str:
        """Give the pod's cgroup, from the root of each hierarchy."""
        return f"{self.own.rstrip('/')}/rkt-{uuid}"


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return []


def read_layout() -> Layout:
    """Look at the mounts and the cgroup of this process."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mountinfo = file.read()
    return Layout(mountinfo, _own())


def _own() -> str:
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def hasten(layout: Layout) -> None:
    """Wait for what the runtime would wait for, while it is still on its way there.

    Whoever changes a process's cgroup holds up all forks, for which the kernel first waits until no
    processor is in the middle of one: some 10 ms, and nothing soon afterwards.  This process moves
    to the cgroup that it is in; where it cannot, nothing is lost.
    """
    for line in _own().splitlines():
        number, names, path = line.split(":", 2)
        of_version_2 = layout.unified and number == "0"
        place = ROOT if of_version_2 else layout.places.get(names.partition(",")[0])
        if place is not None:
            try:
                _join(f"{place}{path}", 0)
            except OSError:
                pass
            return


def has_controllers(path: str = _UNIFIED) -> bool:
    """Say whether a version 2 tree has controllers."""
    return bool(_words(f"{path}/cgroup.controllers"))


def claim(layout: Layout, uuid: str, own_pids: set[int], *, limited: bool) -> None:
    """Version 2: make a pod's cgroup and hand it the controllers that its apps may be limited by.

    A cgroup with processes can give none to those below, and the attempt spoils it: the kernel
    gives what it can and makes those below "domain invalid".  crun tries, limits or not, wherever
    there are controllers.  So a pod lies below the cgroup that rkt was started in only if that
    gives controllers already or has none to give, or if it was delegated and only processes of
    the pod are in it, as in a service; they move to a leaf of their own.  Else it lies below the
    root of the tree.
    """
    if not layout.unified:
        return
    above = ROOT + layout.own.rstrip("/")
    wanted = layout.own != "/" and (limited or layout.controllers) and not _gives(above)
    if wanted and not (_is_delegated(above) and _vacate(above, own_pids)):
        layout.own = "/"
        above = ROOT
    if layout.own == "/" or not _words(f"{above}/cgroup.procs"):
        _enable(above, _words(f"{above}/cgroup.controllers"))
    own = ROOT + layout.pod_path(uuid)
    try:
        os.mkdir(own, 0o755)
    except FileExistsError:
        pass
    except OSError:  # the runtime will say what is wrong
        return
    layout.controllers = set(_words(f"{own}/cgroup.controllers"))
    _enable(own, sorted(layout.controllers))


def _gives(path: str) -> bool:
    """Say whether a cgroup hands the controllers for limits down."""
    return {"cpu", "memory"} <= set(_words(f"{path}/cgroup.subtree_control"))


def _is_delegated(path: str) -> bool:
    """Say whether systemd leaves what is below a unit's cgroup to the unit."""
    try:
        return os.getxattr(path, "trusted.delegate") == b"1"
    except OSError:
        return False


def _vacate(path: str, own_pids: set[int]) -> bool:
    """Move all processes of a cgroup to a leaf; False if some are neither ours nor our children."""
    for _ in range(_RETRIES):  # they may fork, and end, while we look
        present = [int(pid) for pid in _words(f"{path}/cgroup.procs")]
        if not present:
            return True
        if not all(_is_ours(pid, own_pids) for pid in present):
            return False
        try:
            os.makedirs(f"{path}/supervisor", 0o755, exist_ok=True)
            for pid in present:
                _join(f"{path}/supervisor", pid)
        except OSError:
            return False
    return False


def _is_ours(pid: int, own_pids: set[int]) -> bool:
    """Say whether a process is one of ours or descends from one; so does one that has ended."""
    while pid > 1 and pid not in own_pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return True
    return pid in own_pids


def _join(path: str, pid: int) -> None:
    try:
        _write(f"{path}/cgroup.procs", str(pid))
    except ProcessLookupError:
        pass  # it has ended


def _enable(path: str, controllers: list[str]) -> None:
    have = _words(f"{path}/cgroup.subtree_control")
    for name in controllers:
        if name not in have:
            try:
                _write(f"{path}/cgroup.subtree_control", f"+{name}")
            except OSError:
                continue  # this one has no use for it, or processes stand in the way


def limit(layout: Layout, path: str, resources: dict[str, object]) -> None:
    """Limit all of a pod: its apps' cgroups lie below.  Raises KernelError."""
    for controller, name, value in _settings(layout, resources):
        directory = f"{layout.places.get(controller, ROOT)}{path}"
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
            _write(f"{directory}/{name}", value)
        except OSError as err:
            raise KernelError("cannot limit the pod", err, f"{directory}/{name}") from err


def _settings(layout: Layout, resources: dict[str, object]) -> list[tuple[str, str, str]]:
    """Give (controller, file, value) of each limit."""
    found: list[tuple[str, str, str]] = []
    memory, cpu, block = (resources.get(key) for key in ("memory", "cpu", "blockIO"))
    if isinstance(memory, dict):
        name = "memory.max" if layout.unified else "memory.limit_in_bytes"
        found.append(("memory", name, str(memory["limit"])))
    if isinstance(cpu, dict) and "quota" in cpu:
        if layout.unified:
            found.append(("cpu", "cpu.max", f"{cpu['quota']} {cpu['period']}"))
        else:
            found.append(("cpu", "cpu.cfs_period_us", str(cpu["period"])))
            found.append(("cpu", "cpu.cfs_quota_us", str(cpu["quota"])))
    if isinstance(cpu, dict) and "shares" in cpu:
        if layout.unified:
            weight = 1 + (cpu["shares"] - 2) * 9999 // 262142
            found.append(("cpu", "cpu.weight", str(weight)))
        else:
            found.append(("cpu", "cpu.shares", str(cpu["shares"])))
    if isinstance(block, dict):
        found += [
            ("io" if layout.unified else "blkio", file, f"{entry['major']}:{entry['minor']} {rate}")
            for key, entries in block.items()
            for entry in entries
            for file, rate in (_throttle(key, entry["rate"], unified=layout.unified),)
        ]
    return found


def _throttle(key: str, rate: int, *, unified: bool) -> tuple[str, str]:
    way = "read" if "Read" in key else "write"
    unit = "bps" if "Bps" in key else "iops"
    if unified:
        return "io.max", f"{way[0]}{unit}={rate}"
    return f"blkio.throttle.{way}_{unit}_device", str(rate)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


def is_pod_path(path: str, uuid: str) -> bool:
    """Say whether a recorded path can only be that pod's: never remove anything else."""
    return path.startswith("/") and ".." not in path.split("/") and path.endswith(f"/rkt-{uuid}")


def members(layout: Layout, path: str) -> set[int]:
    """Give the living processes below a cgroup in all hierarchies."""
    found: set[int] = set()
    for hierarchy in layout.hierarchies:
        for directory in _below(hierarchy + path):
            found.update(int(pid) for pid in _words(f"{directory}/cgroup.procs"))
    return {pid for pid in found if identity.start_time(pid)}


def kill_members(layout: Layout, path: str, patience: float = 2.0) -> None:
    """Kill what still runs in a pod's own cgroups: usually nothing, it dies with the pod."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        pids = members(layout, path)
        if not pids:
            return
        for pid in pids:
            kill_if_member(pid, path)
        time.sleep(0.02)


def kill_if_member(pid: int, path: str) -> None:
    """Kill a process if it is in a cgroup, or below it, right now."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # The pidfd is open: what /proc now says is about the process that will get the signal.
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            paths = [line.rstrip("\n").split(":", 2)[2] for line in file]
        if any(own == path or own.startswith(f"{path}/") for own in paths):
            sig.pidfd_send_signal(pidfd, sig.SIGKILL)
    except OSError:  # gone in the meantime
        pass
    finally:
        os.close(pidfd)


def remove(layout: Layout, path: str) -> list[str]:
    """Remove a pod's directories, deepest first; gives those that could not be removed.

    The kernel takes a moment to forget processes that were just reaped: a busy one is tried again.
    """
    left: list[str] = []
    for hierarchy in layout.hierarchies:
        for directory in _below(hierarchy + path):
            if not _rmdir(directory):
                left.append(directory)
    return left


def _below(top: str) -> list[str]:
    found: list[str] = []
    try:
        with os.scandir(top) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    for name in names:
        found += _below(f"{top}/{name}")
    found.append(top)
    return found


def _rmdir(path: str) -> bool:
    for _ in range(_RETRIES):
        try:
            os.rmdir(path)
            return True
        except FileNotFoundError:
            return True
        except OSError:
            time.sleep(0.005)
    return False
