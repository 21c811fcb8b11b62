"""What a pod could leave on the machine, and how to see it.

A snapshot before, another one after: `differences` names what is new.  A zombie is dead: it waits
only for a parent that is slow to read its status.  Standard library only, the demo uses it too.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

POD = re.compile(r"rkt-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# Where programs put sockets, locks and temporary files; only names that tell of rkt count.
SHARED_DIRECTORIES = ("/tmp", "/var/tmp", "/run", "/run/netns", "/var/run/netns", "/dev/shm")

# rkt's own directory there may be made at any time, and stays.
RUNTIME = "/run/rkt"

# Tests that run at the same time, each of which looks after its own.
OF_TESTS = ("rkt-test-", "rkt-probe-", "rktgpg")


class Snapshot(NamedTuple):
    """The traces of pods on a machine at one moment."""

    mounts: frozenset[str]
    interfaces: frozenset[str]
    rules: frozenset[str]
    cgroups: frozenset[str]
    files: frozenset[str]


def snapshot(pid: int | str = "self", *, pods: Iterable[str] | None = None) -> Snapshot:
    """Look at the machine as the namespaces of a process show it; see `cgroups` for `pods`."""
    return Snapshot(
        mounts=mounts(pid),
        interfaces=interfaces(pid),
        rules=firewall_rules(pid),
        cgroups=cgroups(pods),
        files=shared_files(),
    )


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """Name what is there now and was not before."""
    found = []
    for kind in Snapshot._fields:
        new = getattr(after, kind) - getattr(before, kind)
        found += [f"{kind}: {name}" for name in sorted(new)]
    return found


def mounts(pid: int | str = "self") -> frozenset[str]:
    """Give the mount points of a process's mount namespace, with their file system types."""
    found = set()
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            found.add(f"{fields[4]} ({fields[fields.index('-') + 1]})")
    return frozenset(found)


def interfaces(pid: int | str = "self") -> frozenset[str]:
    """Give the network interfaces of a process's network namespace."""
    with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
        return frozenset(line.split(":")[0].strip() for line in file if ":" in line)


def firewall_rules(pid: int | str = "self") -> frozenset[str]:
    """Give the firewall rules that speak of CNI or rkt (nothing when they cannot be read)."""
    enter = () if pid == "self" else ("nsenter", "--target", str(pid), "--net")
    done = subprocess.run(
        [*enter, "iptables-save"], capture_output=True, text=True, check=False
    ) if _has_iptables() else None  # fmt: skip
    if done is None or done.returncode != 0:
        return frozenset()
    wanted = re.compile(r"^-A .*(CNI|cni|rkt|RKT)")
    return frozenset(line for line in done.stdout.splitlines() if wanted.search(line))


def _has_iptables() -> bool:
    return any(os.access(f"{place}/iptables-save", os.X_OK) for place in ("/usr/sbin", "/sbin"))


def cgroups(pods: Iterable[str] | None = None) -> frozenset[str]:
    """Give the control groups of pods in every hierarchy.

    Hierarchies are the machine's, and other pods come and go: with `pods` (UUIDs or their
    beginnings) only those count.
    """
    found = set()
    mine = None if pods is None else tuple(f"rkt-{pod}" for pod in pods)
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            match = POD.search(name)
            if match and (mine is None or match[0].startswith(mine)):
                found.add(os.path.join(directory, name))
    return frozenset(found)


def shared_files() -> frozenset[str]:
    """Give the names in shared directories that tell of rkt, of gpg agents or of namespaces."""
    found = set()
    for directory in SHARED_DIRECTORIES:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        everything = directory.endswith("netns")
        found |= {
            f"{directory}/{name}"
            for name in names
            if everything
            or (
                "rkt" in name and not name.startswith(OF_TESTS) and f"{directory}/{name}" != RUNTIME
            )
        }
    return frozenset(found)


def children() -> dict[int, list[int]]:
    """Map every process to the ones it started; the dead are left out."""
    tree: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        parent = _parent_of_living(int(name))
        if parent is not None:
            tree.setdefault(parent, []).append(int(name))
    return tree


def descendants(pid: int) -> frozenset[int]:
    """Give the living processes below a process."""
    tree, found, todo = children(), set[int](), [pid]
    while todo:
        for child in tree.get(todo.pop(), ()):
            found.add(child)
            todo.append(child)
    return frozenset(found)


def dead_children(pid: int) -> frozenset[int]:
    """Give the zombies that wait for a process to read their status."""
    states = {int(name): _state(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return frozenset(child for child, state in states.items() if state == ("Z", pid))


def _parent_of_living(pid: int) -> int | None:
    state = _state(pid)
    return None if state is None or state[0] in "ZX" else state[1]


def _state(pid: int) -> tuple[str, int] | None:
    """Give the state letter of a process and its parent; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, parent = file.read().rsplit(")", 1)[1].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent)


def describe_process(pid: int) -> str:
    """Name a process for a person."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        words = "(gone)"
    return f"process {pid}: {words}"


def describe_state(pid: int) -> str:
    """Say what a process does: its state, where it waits, what its standard streams are."""
    top = f"/proc/{pid}"
    try:
        state = _state(pid)
        with open(f"{top}/wchan", encoding="ascii") as file:
            place = file.read()
        streams = [
            os.readlink(f"{top}/fd/{fd}") for fd in range(3) if os.path.lexists(f"{top}/fd/{fd}")
        ]
    except (FileNotFoundError, ProcessLookupError):
        return describe_process(pid)
    letter, parent = state or ("?", 0)
    return f"{describe_process(pid)}\n    {letter} below {parent} in {place}: {' '.join(streams)}"
