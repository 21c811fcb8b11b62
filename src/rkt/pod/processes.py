"""What processes use, added up from /proc: for what the control groups of a pod do not count.

A stage1 need not ask for every controller (`stage1-fly` makes a control group only to find its
processes), and a host need not have them.  CPU time and I/O of processes that ended are known as
far as a living member waited for them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_READ = 1 << 16
_CPU_FIELDS = range(11, 15)  # utime stime cutime cstime of proc(5), counted from the state
_THREADS = 17


class Sum(NamedTuple):
    """CPU time in ns, sizes in bytes; I/O is None where it may not be read."""

    cpu: int
    memory: int
    threads: int
    io_read: int | None
    io_written: int | None


def members(directories: Iterable[str]) -> set[int]:
    """Give the processes of the first of these control groups, and of those below it, with any."""
    for top in directories:
        found: set[int] = set()
        for where, _, _ in os.walk(top):
            found.update(int(word) for word in _text(f"{where}/cgroup.procs").split())
        if found:
            return found
    return set()


def add_up(pids: Iterable[int], proc: str = "/proc") -> Sum:
    """Read what processes use; those that have just ended count as nothing."""
    tick = 10**9 // os.sysconf("SC_CLK_TCK")
    cpu = memory = threads = 0
    read: int | None = None
    written: int | None = None
    for pid in pids:
        fields = _text(f"{proc}/{pid}/stat").rpartition(")")[2].split()
        if len(fields) <= _THREADS:
            continue
        cpu += tick * sum(int(fields[at]) for at in _CPU_FIELDS)
        threads += int(fields[_THREADS])
        memory += _memory(f"{proc}/{pid}")
        counted = _pairs(_text(f"{proc}/{pid}/io"))
        if "read_bytes" in counted and "write_bytes" in counted:
            read = (read or 0) + counted["read_bytes"]
            written = (written or 0) + counted["write_bytes"]
    return Sum(cpu, memory, threads, read, written)


def _memory(process: str) -> int:
    """Give a process's share of the memory that it uses, else all of it."""
    share = _pairs(_text(f"{process}/smaps_rollup")).get("Pss")
    if share is not None:
        return share * 1024
    words = _text(f"{process}/statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else 0


def _pairs(text: str) -> dict[str, int]:
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        value = rest.split()[:1]
        if value and value[0].isdigit():
            found[name] = int(value[0])
    return found


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(_MAX_READ)
    except OSError:  # it has just ended, or is not for us to know
        return ""
