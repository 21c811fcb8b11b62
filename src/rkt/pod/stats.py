"""What a running pod uses: read from its cgroups and from its network namespace.

Version 1, hybrid and version 2 hosts.  What the cgroups do not count is added up from their
processes; what cannot be known is None.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from rkt.errors import RktError
from rkt.pod import processes, view
from rkt.schema.struct import Struct

if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod

_NO_LIMIT = 1 << 62  # version 1 writes a number near to 2^63 for "none"
_MAX_READ = 1 << 20


class Usage(Struct):
    """What processes used: CPU time in ns, sizes in bytes."""

    cpu: int | None = None
    memory: int | None = None
    memory_limit: int | None = None
    pids: int | None = None
    io_read: int | None = None
    io_written: int | None = None


class AppStats(Struct):
    """What an app uses."""

    name: str
    usage: Usage


class PodStats(Struct):
    """What a pod uses; `when` is ns of the monotonic clock, `started` ns since 1970."""

    uuid: str
    name: str
    apps: tuple[AppStats, ...]
    usage: Usage
    received: int | None
    sent: int | None
    when: int
    started: int | None


class Trees:
    """Where the cgroup hierarchies of this host are mounted."""

    __slots__ = ("unified", "v1")

    def __init__(self, mountinfo: str) -> None:
        self.v1: dict[str, str] = {}
        self.unified = ""
        for line in mountinfo.splitlines():
            head, _, tail = line.partition(" - ")
            fields, kind = head.split(" "), tail.partition(" ")[0]
            if len(fields) < 5:
                continue
            if kind == "cgroup":
                for name in tail.rpartition(" ")[2].split(","):
                    self.v1.setdefault(name, fields[4])
            elif kind == "cgroup2":
                self.unified = self.unified or fields[4]

    def usage(self, path: str) -> Usage:
        """Read a cgroup, given by its path below the roots."""
        two = f"{self.unified}{path}" if self.unified else ""
        if two and _text(f"{two}/cgroup.controllers").strip():
            found = _usage_v2(two)
        else:
            found = self._usage_v1(path)
        if None not in (found.cpu, found.memory, found.pids, found.io_read):
            return found
        tops = dict.fromkeys((*self.v1.values(), *([self.unified] if self.unified else ())))
        pids = processes.members(f"{top}{path}" for top in tops)
        return _completed(found, processes.add_up(pids)) if pids else found

    def _usage_v1(self, path: str) -> Usage:
        memory = self._directory("memory", path)
        used = _number(f"{memory}/memory.usage_in_bytes")
        if used is not None:
            used -= min(used, _field(f"{memory}/memory.stat", "total_inactive_file") or 0)
        limit = _number(f"{memory}/memory.limit_in_bytes")
        block = self._directory("blkio", path)
        read, written = _service_bytes(_text(f"{block}/blkio.throttle.io_service_bytes_recursive"))
        return Usage(
            cpu=_number(f"{self._directory('cpuacct', path)}/cpuacct.usage"),
            memory=used,
            memory_limit=limit if limit is not None and limit < _NO_LIMIT else None,
            pids=_number(f"{self._directory('pids', path)}/pids.current"),
            io_read=read, io_written=written,
        )  # fmt: skip

    def _directory(self, controller: str, path: str) -> str:
        return f"{self.v1.get(controller, '/nonexistent')}{path}"


def read_trees() -> Trees:
    """Look where the hierarchies are."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return Trees(file.read())


def read(pod: Pod, trees: Trees) -> PodStats:
    """Look at a running pod.  Raises RktError if its manifest or its cgroup's name is damaged."""
    path = pod.read_text("subcgroup") or ""
    if path and (not path.startswith("/") or ".." in path.split("/") or "\0" in path):
        raise RktError(f'pod "{pod.uuid}": file "subcgroup" is damaged')
    names = view.app_names(pod)
    apps = tuple(AppStats(n, trees.usage(f"{path}/{n}") if path else Usage()) for n in names)
    received, sent = _network(pod.pid())
    usage = trees.usage(path) if path else Usage()
    return PodStats(
        pod.uuid, pod.name(), apps, usage, received, sent, time.monotonic_ns(), pod.started()
    )


def _completed(found: Usage, used: processes.Sum) -> Usage:
    """Fill in what a cgroup did not count."""
    return Usage(
        cpu=used.cpu if found.cpu is None else found.cpu,
        memory=used.memory if found.memory is None else found.memory,
        memory_limit=found.memory_limit,
        pids=used.threads if found.pids is None else found.pids,
        io_read=used.io_read if found.io_read is None else found.io_read,
        io_written=used.io_written if found.io_written is None else found.io_written,
    )


def _usage_v2(path: str) -> Usage:
    cpu = _field(f"{path}/cpu.stat", "usage_usec")
    used = _number(f"{path}/memory.current")
    if used is not None:
        used -= min(used, _field(f"{path}/memory.stat", "inactive_file") or 0)
    read, written = _io_stat(_text(f"{path}/io.stat"))
    return Usage(
        cpu=None if cpu is None else cpu * 1000,
        memory=used,
        memory_limit=_number(f"{path}/memory.max"),
        pids=_number(f"{path}/pids.current"),
        io_read=read, io_written=written,
    )  # fmt: skip


def _io_stat(text: str) -> tuple[int | None, int | None]:
    """Add up the devices of a version 2 `io.stat`."""
    total = {"rbytes": 0, "wbytes": 0}
    for word in text.split():
        name, _, value = word.partition("=")
        if name in total and value.isascii() and value.isdigit():
            total[name] += int(value)
    return (total["rbytes"], total["wbytes"]) if text else (None, None)


def _service_bytes(text: str) -> tuple[int | None, int | None]:
    """Add up the devices of a version 1 `io_service_bytes`."""
    total = {"Read": 0, "Write": 0}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in total and words[2].isdigit():
            total[words[1]] += int(words[2])
    return (total["Read"], total["Write"]) if text else (None, None)


def _network(pid: int | None) -> tuple[int | None, int | None]:
    """Give the bytes that a process's network namespace received and sent, not counting loopback.

    Of the host's own namespace nothing can be said for one pod.
    """
    own = None if pid is None else _namespace(f"/proc/{pid}")
    if own is None or own in (_namespace("/proc/self"), _namespace("/proc/1")):
        return None, None
    return interface_bytes(_text(f"/proc/{pid}/net/dev"))


def _namespace(process: str) -> tuple[int, int] | None:
    try:
        info = os.stat(f"{process}/ns/net")
    except OSError:  # gone, or not for us to know
        return None
    return info.st_dev, info.st_ino


def interface_bytes(text: str) -> tuple[int | None, int | None]:
    """Add up the interfaces of a /proc/PID/net/dev."""
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        if name.strip() != "lo" and len(fields) >= 9:
            received += int(fields[0])
            sent += int(fields[8])
    return (received, sent) if text else (None, None)


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(_MAX_READ)
    except OSError:  # not counted here, or the pod has just ended
        return ""


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _field(path: str, name: str) -> int | None:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isascii() and value.isdigit():
            return int(value)
    return None
