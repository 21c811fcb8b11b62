"""Give the files of a tree to the users of a user namespace, and back."""

from __future__ import annotations

import os
import stat

from rkt.linux.tree import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.linux.spill import Table
    from rkt.linux.userns import Range

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NOBODY = 65534


def shift(path: str, users: Range, *, back: bool = False) -> None:
    """Give everything in a tree to the users of a range: ID 0 to its first, and so on.

    What belongs to an ID that the range has not goes to `nobody`.  Modes, times and capabilities of
    files stay as they are.  With `back` it is undone; what is not of the range stays as it is.
    """
    from rkt.linux import spill

    root = os.open(path, _DIR | os.O_CLOEXEC)
    rule = _Unshift(users) if back else _Shift(users)
    try:
        with spill.Scratch.within(path) as scratch:
            _shift_content(root, rule, spill.marks(scratch))
    finally:
        os.close(root)


class _Shift:
    """From the IDs of an image to those of a pod's range."""

    def __init__(self, users: Range) -> None:
        self._users = users

    def owner(self, number: int) -> int:
        return self._users.shift + (number if number < self._users.count else _NOBODY)

    def capability(self, value: bytes) -> bytes:
        """Make a file capability (version 2) count for the root of the range only (version 3)."""
        if len(value) != 20 or value[3] != 2:
            return value
        return value[:3] + b"\x03" + value[4:] + self._users.shift.to_bytes(4, "little")


class _Unshift(_Shift):
    """From the IDs of a pod's range to those of an image."""

    def owner(self, number: int) -> int:
        inside = self._users.inside(number)
        return number if inside < 0 else inside

    def capability(self, value: bytes) -> bytes:
        """Make a file capability of the range's root one of everybody's root."""
        if value[3:4] != b"\x03" or value[20:] != self._users.shift.to_bytes(4, "little"):
            return value
        return value[:3] + b"\x02" + value[4:20]


def _shift_content(root: int, shift: _Shift, seen: Table[int, bool]) -> None:
    info = os.fstat(root)
    times = (info.st_atime_ns, info.st_mtime_ns)
    os.fchown(root, shift.owner(info.st_uid), shift.owner(info.st_gid))
    for _, fd, entries in walk(root):
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                if info.st_ino in seen:
                    continue
                seen[info.st_ino] = True
            _shift_entry(fd, entry.name, info, shift)
    os.utime(root, ns=times)  # a temporary file was there


def _shift_entry(fd: int, name: str, info: os.stat_result, shift: _Shift) -> None:
    uid, gid = shift.owner(info.st_uid), shift.owner(info.st_gid)
    if not stat.S_ISREG(info.st_mode):
        os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=fd)
        return
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    try:
        try:
            capability = os.getxattr(file, "security.capability")
        except OSError:
            capability = b""
        os.fchown(file, uid, gid)  # clears set-id bits and capabilities
        os.fchmod(file, stat.S_IMODE(info.st_mode))
        if capability:
            os.setxattr(file, "security.capability", shift.capability(capability))
    finally:
        os.close(file)
