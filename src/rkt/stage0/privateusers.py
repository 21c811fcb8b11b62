"""The user IDs of a pod with a user namespace of its own: no two pods ever share one."""

from __future__ import annotations

import os

from rkt.errors import RktError
from rkt.linux import lock
from rkt.linux.userns import COUNT, Range
from rkt.pod import lifecycle, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod

FILE = "private-users-prepared"
_LAST = 0x7FFF
_TRIES = 1000


def assign(pod: Pod, data_dir: str) -> Range:
    """Choose a random range that nobody else has, and record it in the pod.  Raises RktError."""
    directory = f"{data_dir}/locks/users"
    os.makedirs(directory, mode=0o750, exist_ok=True)
    fd = lock.open_dir(directory)
    try:
        lock.acquire(fd, exclusive=True, what=directory)
        taken = [
            users
            for other in lifecycle.every(data_dir, state.SEARCH_ORDER)
            if (users := read(other))
        ]
        chosen = choose([*taken, *_of_the_host()])
        path = f"{pod.path}/{FILE}"
        with open(path, "x", encoding="ascii") as file:
            file.write(str(chosen))
    finally:
        os.close(fd)
    return chosen


def choose(taken: list[Range]) -> Range:
    """Choose a range at random that overlaps none of those."""
    used = {
        number
        for other in taken
        for number in range(
            other.shift >> 16, min((other.shift + other.count - 1) >> 16, _LAST) + 1
        )
    }
    for _ in range(_TRIES):
        number = int.from_bytes(os.urandom(2), "little") & _LAST
        if number and number not in used:
            return Range(number << 16)
    for number in range(1, _LAST + 1):
        if number not in used:
            return Range(number << 16)
    raise RktError(f"no range of {COUNT} user IDs is free", hint="remove old pods: rkt gc")


def read(pod: Pod) -> Range | None:
    """Give the range of a pod, None if it has no user namespace of its own."""
    text = pod.read_text(FILE)
    return Range.parse(text) if text else None


def _of_the_host() -> list[Range]:
    """Give the ranges that users of the host may use for containers of their own (subuid(5))."""
    found = []
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read(1 << 20).splitlines()
        except OSError:
            continue
        for line in lines:
            _, _, numbers = line.partition(":")
            try:
                found.append(Range.parse(numbers))
            except RktError:
                continue
    return found
