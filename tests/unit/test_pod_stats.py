"""What the kernel counts, as the three kinds of hosts write it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rkt.pod import processes, stats
from rkt.pod.stats import Trees, Usage

if TYPE_CHECKING:
    from pathlib import Path

POD = "/rkt-u"
NET = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:     900       9    0    0    0     0          0         0      900       9    0    0
  eth0:    1000      10    0    0    0     0          0         0      200       2    0    0
  eth1:       5       1    0    0    0     0          0         0        7       1    0    0
"""


def put(top: Path, path: str, **files: str) -> None:
    """Write files of a cgroup; `__` in names stands for a dot."""
    directory = top / path.strip("/")
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


def mount(point: object, kind: str, options: str) -> str:
    """Make a line of mountinfo."""
    return f"30 24 0:26 / {point} rw,nosuid shared:4 - {kind} {kind} {options}\n"


def version_1(top: Path) -> str:
    """Make the hierarchies of a version 1 host; gives its mountinfo."""
    put(top, f"cpu,cpuacct{POD}", cpuacct__usage="2500000000\n")
    put(
        top, f"memory{POD}", memory__usage_in_bytes="1000\n",
        memory__stat="cache 5\ntotal_inactive_file 300\n",
        memory__limit_in_bytes="9223372036854771712\n",
    )  # fmt: skip
    put(top, f"pids{POD}", pids__current="3\n")
    rows = "8:0 Read 10\n8:0 Write 20\n8:16 Read 1\n8:16 Write 2\nTotal 33\n"
    put(top, f"blkio{POD}", blkio__throttle__io_service_bytes_recursive=rows)
    names = ("cpu,cpuacct", "memory", "pids", "blkio")
    return "".join(mount(top / name, "cgroup", f"rw,{name}") for name in names)


EXPECTED = Usage(2500000000, 700, None, 3, 11, 22)


def test_version_1(tmp_path: Path) -> None:
    assert Trees(version_1(tmp_path)).usage(POD) == EXPECTED


def test_hybrid(tmp_path: Path) -> None:
    put(tmp_path, f"unified{POD}", cgroup__controllers="\n")
    info = mount(tmp_path / "unified", "cgroup2", "rw") + version_1(tmp_path)
    assert Trees(info).usage(POD) == EXPECTED


def test_version_2(tmp_path: Path) -> None:
    put(
        tmp_path, POD, cgroup__controllers="cpu io memory pids\n", pids__current="3\n",
        cpu__stat="usage_usec 2500000\nuser_usec 1\n", memory__current="1000\n",
        memory__stat="anon 5\ninactive_file 300\n", memory__max="4096\n",
        io__stat="8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2 rios=1\n",
    )  # fmt: skip
    found = Trees(mount(tmp_path, "cgroup2", "rw")).usage(POD)
    assert found == Usage(2500000000, 700, 4096, 3, 11, 22)


def test_no_limit_in_version_2(tmp_path: Path) -> None:
    put(tmp_path, POD, cgroup__controllers="memory\n", memory__max="max\n", memory__current="1\n")
    assert Trees(mount(tmp_path, "cgroup2", "rw")).usage(POD).memory_limit is None


def test_what_is_not_counted_is_none(tmp_path: Path) -> None:
    assert Trees("").usage(POD) == Usage()
    assert Trees(mount(tmp_path, "cgroup2", "rw")).usage(POD) == Usage()
    assert Trees("garbage\n1 2\n").usage(POD) == Usage()


def test_interfaces_without_loopback() -> None:
    assert stats.interface_bytes(NET) == (1005, 207)
    assert stats.interface_bytes("") == (None, None)


def process(proc: Path, pid: int, *, name: str = "a) b", threads: int = 1, **files: str) -> None:
    """Write what /proc has of a process: 100 and 20 ticks of its own, 3 and 4 of dead children."""
    head = "S 1 1 1 0 -1 4194560 1 1 1 1"
    stat = f"{pid} ({name}) {head} 100 20 3 4 20 0 {threads} 0 99 1 1\n"
    put(proc, str(pid), stat=stat, **files)


def test_processes_are_added_up(tmp_path: Path) -> None:
    io = "rchar: 9\nread_bytes: 10\nwrite_bytes: 20\ncancelled_write_bytes: 5\n"
    rollup = "0-1 ---p 0 00:00 0 [rollup]\nRss: 900 kB\nPss: 300 kB\n"
    process(tmp_path, 7, threads=3, io=io, smaps_rollup=rollup)
    process(tmp_path, 8, statm="100 2 1 1 0 1 0\n")
    put(tmp_path, "9", stat="9 (torn")
    tick = 10**9 // os.sysconf("SC_CLK_TCK")
    used = processes.add_up([7, 8, 9, 10], str(tmp_path))
    memory = 300 * 1024 + 2 * os.sysconf("SC_PAGE_SIZE")
    assert used == processes.Sum(2 * 127 * tick, memory, 4, 10, 20)
    assert processes.add_up([10], str(tmp_path)) == processes.Sum(0, 0, 0, None, None)


def test_members_of_the_first_cgroup_that_has_any(tmp_path: Path) -> None:
    put(tmp_path, "one", cgroup__procs="")
    put(tmp_path, "two", cgroup__procs="1\n")
    put(tmp_path, "two/app", cgroup__procs="2\n3\n")
    put(tmp_path, "three", cgroup__procs="4\n")
    tops = [str(tmp_path / name) for name in ("none", "one", "two", "three")]
    assert processes.members(tops) == {1, 2, 3}
    assert processes.members(tops[:2]) == set()


def test_what_a_cgroup_does_not_count_its_processes_tell(tmp_path: Path) -> None:
    put(tmp_path, f"freezer{POD}/app", cgroup__procs=f"{os.getpid()}\n")
    put(tmp_path, f"pids{POD}", pids__current="77\n")
    trees = Trees(
        mount(tmp_path / "pids", "cgroup", "rw,pids")
        + mount(tmp_path / "freezer", "cgroup", "rw,freezer")
    )
    used = trees.usage(POD)
    assert used.pids == 77
    assert used.cpu is not None
    assert used.cpu > 0
    assert used.memory is not None
    assert used.memory > 100_000
    assert used.memory_limit is None
