"""Where a pod lives in the cgroup trees, and how its directories go away.

Version 1 and hybrid hosts: `/rkt-<uuid>/<app>` in every hierarchy.  Version 2: the same below the
cgroup that rkt runs in.
"""

from __future__ import annotations

import os
import signal
import time

from rkt.stage1 import identity

ROOT = "/sys/fs/cgroup"
_UNIFIED = f"{ROOT}/unified"
_RETRIES = 100


class Layout:
    """What cgroup trees this process sees."""

    __slots__ = ("controllers", "hierarchies", "hybrid", "own", "unified")

    def __init__(self, mountinfo: str, own: str) -> None:
        self.hierarchies: list[str] = []
        self.unified = False
        self.hybrid = False
        self.own = "/"
        self.controllers: set[str] = set()
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
                self.controllers.update(name for name in names if "=" not in name)
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
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return Layout(mountinfo, file.read())


def has_controllers(path: str = _UNIFIED) -> bool:
    """Say whether a version 2 tree has controllers."""
    return bool(_words(f"{path}/cgroup.controllers"))


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
            _kill_if_member(pid, path)
        time.sleep(0.02)


def _kill_if_member(pid: int, path: str) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # The pidfd is open: what /proc now says is about the process that will get the signal.
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            paths = [line.rstrip("\n").split(":", 2)[2] for line in file]
        if any(own == path or own.startswith(f"{path}/") for own in paths):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
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
