"""The mount table: read it, mount overlays, take away everything below a path."""

from __future__ import annotations

import errno
import os

from rkt.errors import KernelError
from rkt.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Mount:
    """A line of /proc/self/mountinfo."""

    __slots__ = ("device", "fstype", "options", "point")

    def __init__(self, device: str, point: str, fstype: str, options: str) -> None:
        self.device = device
        self.point = point
        self.fstype = fstype
        self.options = options


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    parts = text.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])


def table(path: str = "/proc/self/mountinfo") -> Iterator[Mount]:
    """Yield the mounts that this process sees, in mount order."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.rstrip("\n").partition(" - ")
            fields = before.split(" ")
            yield Mount(fields[2], _unescape(fields[4]), after.split(" ")[0], fields[5])


def fstype_of(path: str) -> str:
    """Give the type of the file system that a path lies on, `unknown` if the table does not say."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    types = [mount.fstype for mount in table() if mount.device == wanted]
    return types[-1] if types else "unknown"


def overlay_obstacle(data_dir: str) -> str | None:
    """Say why overlays cannot be used with a data directory, None if they can."""
    try:
        with open("/proc/filesystems", encoding="utf-8") as file:
            known = "\toverlay\n" in file.read()
    except OSError as err:
        return f"cannot open /proc/filesystems: {err.strerror}"
    if not known and not libc.has_filesystem("overlay"):
        return "overlay entry not present in /proc/filesystems"
    fstype = fstype_of(data_dir)
    if fstype in ("aufs", "zfs", "overlay", "nfs", "nfs4", "ecryptfs", "vfat"):
        return f"unsupported filesystem: {fstype}"
    if not libc.has_entry_types(data_dir):
        return "unsupported filesystem: missing d_type support"
    return None


def mount_overlay(lower: str, upper: str, work: str, target: str, *, label: str = "") -> None:
    """Mount an overlay.  The paths are given relative to the current directory, so that no
    character of the data directory's path can be read as an option.  Raises KernelError.
    """
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    if label:
        options += f',context="{label}"'
    try:
        libc.mount("overlay", target, "overlay", 0, options)
    except OSError as err:
        raise KernelError("cannot mount the overlay", err, target) from err


def mount_layers(layers: Sequence[str], target: str) -> None:
    """Mount directories over each other, the uppermost first, read-only.  Raises KernelError.

    The paths are relative, as for `mount_overlay`.
    """
    try:
        options = f"lowerdir={':'.join(layers)}"
        libc.mount("overlay", target, "overlay", libc.MS_RDONLY, options)
    except OSError as err:
        raise KernelError("cannot mount the overlay", err, target) from err


def bind(source: str, target: str) -> None:
    """Show a directory at another place too, without what is mounted below it."""
    libc.mount(source, target, "", libc.MS_BIND)


def detach_below(path: str) -> list[str]:
    """Unmount everything at or below a path, the last mounted first; busy ones lazily.

    Gives the mount points that could not be taken away.
    """
    base = os.path.realpath(path)
    if not _mentioned(base):
        return []
    points = [m.point for m in table() if m.point == base or m.point.startswith(base + "/")]
    stuck = []
    for point in reversed(points):
        try:
            _unmount(point)
        except OSError as err:
            if err.errno not in (errno.EINVAL, errno.ENOENT):  # already gone
                stuck.append(point)
    return stuck


def _mentioned(path: str) -> bool:
    """Say whether the mount table may have something about a path; quick where it is long."""
    raw = os.fsencode(path)
    if any(c in raw for c in b" \t\n\\#"):  # written in another way there
        return True
    with open("/proc/self/mountinfo", "rb") as file:
        return raw in file.read()


def _unmount(point: str) -> None:
    try:
        libc.umount(point, libc.UMOUNT_NOFOLLOW)
    except OSError as err:
        if err.errno != errno.EBUSY:
            raise
        libc.umount(point, libc.UMOUNT_NOFOLLOW | libc.MNT_DETACH)


def leave_host_mounts() -> None:
    """Enter a mount namespace of our own: what the host mounts later still shows up here, what is
    mounted here is seen by nobody else and ends with the last process in it.
    """
    try:
        libc.unshare(libc.CLONE_NEWNS)
        libc.mount("", "/", "", libc.MS_REC | libc.MS_SLAVE)
    except OSError as err:
        raise KernelError("cannot make a private mount namespace", err) from err
