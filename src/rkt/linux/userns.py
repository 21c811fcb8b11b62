"""Ranges of user IDs, user namespaces that hold them, and mounts shifted into them."""

from __future__ import annotations

import os

from rkt.errors import KernelError, RktError
from rkt.linux import libc, proc

COUNT = 0x10000
_IDMAPPED_OVERLAY = (5, 19)


class Range:
    """A pod's IDs: `shift` is what ID 0 of the pod is on the host, `count` how many there are."""

    __slots__ = ("count", "shift")

    def __init__(self, shift: int, count: int = COUNT) -> None:
        self.shift = shift
        self.count = count

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read SHIFT:COUNT.  Raises RktError."""
        shift, colon, count = text.strip().partition(":")
        if not colon or not shift.isdecimal() or not count.isdecimal() or int(count) < 1:
            raise RktError(f'invalid range of user IDs "{text.strip()}"')
        return cls(int(shift), int(count))

    def __str__(self) -> str:
        return f"{self.shift}:{self.count}"

    def outside(self, number: int, what: str = "ID") -> int:
        """Give what an ID of the pod is on the host.  Raises RktError for one that is not in it."""
        if not 0 <= number < self.count:
            raise RktError(f"{what} {number} is not one of the {self.count} IDs that a pod with "
                           "private users has")  # fmt: skip
        return self.shift + number

    def inside(self, number: int) -> int:
        """Give what an ID of the host is in the pod; -1 for one that it cannot see."""
        return number - self.shift if 0 <= number - self.shift < self.count else -1


def namespace(users: Range, *, back: bool = False) -> int:
    """Give the descriptor of a new user namespace with those IDs.  Raises KernelError.

    With `back` it is one for mounts that shift such IDs back.
    """
    ready_r, ready_w = os.pipe()
    wait_r, wait_w = os.pipe()

    def keep_it() -> int:
        os.close(ready_r)
        os.close(wait_w)
        try:
            libc.unshare(libc.CLONE_NEWUSER)
        except OSError:
            return 1  # writing the maps says what is wrong
        os.write(ready_w, b"r")
        os.read(wait_r, 1)
        return 0

    pid = proc.fork(keep_it)
    os.close(ready_w)
    os.close(wait_r)
    try:
        os.read(ready_r, 1)
        first, second = (users.shift, 0) if back else (0, users.shift)
        write_maps(pid, f"{first} {second} {users.count}\n")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        raise KernelError("cannot make a user namespace", err) from err
    finally:
        os.close(ready_r)
        os.close(wait_w)
        os.waitpid(pid, 0)


def write_maps(pid: int, text: str) -> None:
    """Give a process's new user namespace its IDs, the same for users and groups."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(text)


def bind(source: str, target: str, space: int) -> None:
    """Bind a directory so that its owners appear shifted into a user namespace (kernel 5.12).

    Raises OSError, EINVAL where the kernel or the file system cannot.
    """
    tree = libc.open_tree(source, libc.OPEN_TREE_CLONE)
    try:
        libc.idmap_mount(tree, space)
        libc.move_mount(tree, target)
    finally:
        os.close(tree)


def can_shift(path: str) -> bool:
    """Say whether overlays can be made of the directory tree at a path, shifted."""
    release = os.uname().release.split(".")
    if tuple(int(part) if part.isdigit() else 0 for part in release[:2]) < _IDMAPPED_OVERLAY:
        return False
    try:
        space = namespace(Range(COUNT))
    except KernelError:
        return False
    try:
        tree = libc.open_tree(path, libc.OPEN_TREE_CLONE)
        try:
            libc.idmap_mount(tree, space)
        finally:
            os.close(tree)
    except OSError:
        return False
    finally:
        os.close(space)
    return True
