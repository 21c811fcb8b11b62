"""Copy directory trees and files: owners, modes, times, hard links, holes and attributes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from _struct import Struct

from rkt.linux.tree import open_below, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.linux.spill import Scratch, Table

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FICLONE = 0x40049409
_COPY_CHUNK = 1 << 20
_NANO = 1_000_000_000
_SETTINGS = Struct("<IIIqIqI")
_NO_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EPERM)


def is_kept_xattr(name: str) -> bool:
    """Say whether an extended attribute belongs to a file's content, as for appc images."""
    return name == "security.capability" or name.startswith("user.")


def copy(source: str, target: str) -> None:
    """Copy the content of a directory into an empty or new one, and its owner, mode and times.

    Keeps owners, modes, times, hard links, holes and the extended attributes of files; shares
    blocks where the file system can.
    """
    if not os.path.isdir(target):
        os.mkdir(target, 0o700)
    from rkt.linux import spill

    src = os.open(source, _DIR | os.O_CLOEXEC)
    try:
        dst = os.open(target, _DIR | os.O_CLOEXEC)
        try:
            with spill.Scratch.within(target) as scratch:
                _copy_content(src, dst, scratch)
        finally:
            os.close(dst)
    finally:
        os.close(src)


def _copy_content(src: int, dst: int, scratch: Scratch) -> None:
    from rkt.linux import spill

    links: Table[int, bytes] = spill.texts(scratch)
    directories: Table[bytes, bytes] = spill.texts(scratch)
    for path, src_dir, entries in walk(src):
        directories[os.fsencode(path)] = settings_of(os.fstat(src_dir))
        dst_dir = open_below(dst, path or ".")
        try:
            for entry in entries:
                name = entry.name
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    os.mkdir(name, 0o700, dir_fd=dst_dir)
                    continue
                if info.st_nlink > 1:
                    first = links.get(info.st_ino)
                    if first is not None:
                        os.link(
                            first, name, src_dir_fd=dst, dst_dir_fd=dst_dir, follow_symlinks=False
                        )
                        continue
                    links[info.st_ino] = os.fsencode(f"{path}/{name}" if path else name)
                copy_node(src_dir, dst_dir, name, info)
        finally:
            os.close(dst_dir)
    for raw, settings in directories.items(reverse=True):
        fd = open_below(dst, os.fsdecode(raw) or ".")
        try:
            set_directory(fd, settings)
        finally:
            os.close(fd)


def settings_of(info: os.stat_result) -> bytes:
    """Give owner, mode and times of a directory for `set_directory`."""
    times = (*divmod(info.st_atime_ns, _NANO), *divmod(info.st_mtime_ns, _NANO))
    return _SETTINGS.pack(info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), *times)


def set_directory(fd: int, settings: bytes) -> None:
    """Give a directory the owner, mode and times of another."""
    uid, gid, mode, *times = _SETTINGS.unpack(settings)
    os.fchown(fd, uid, gid)
    os.fchmod(fd, mode)
    os.utime(fd, ns=(times[0] * _NANO + times[1], times[2] * _NANO + times[3]))


def copy_node(src_dir: int, dst_dir: int, name: str, info: os.stat_result) -> None:
    """Copy anything but a directory to the same name in another directory."""
    times = (info.st_atime_ns, info.st_mtime_ns)
    if stat.S_ISREG(info.st_mode):
        _copy_file(src_dir, dst_dir, name, info)
        return
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=src_dir), name, dir_fd=dst_dir)
    else:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=dst_dir)
    os.chown(name, info.st_uid, info.st_gid, dir_fd=dst_dir, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        # chmod after chown, which clears set-id bits; nothing else can be at this name
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=dst_dir)
    os.utime(name, ns=times, dir_fd=dst_dir, follow_symlinks=False)


def _copy_file(src_dir: int, dst_dir: int, name: str, info: os.stat_result) -> None:
    src = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=src_dir)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        dst = os.open(name, flags, 0o600, dir_fd=dst_dir)
        try:
            if info.st_size:
                copy_data(src, dst, info.st_size)
            os.fchown(dst, info.st_uid, info.st_gid)
            os.fchmod(dst, stat.S_IMODE(info.st_mode))
            for attribute in os.listxattr(src):
                if is_kept_xattr(attribute):
                    os.setxattr(dst, attribute, os.getxattr(src, attribute))
            os.utime(dst, ns=(info.st_atime_ns, info.st_mtime_ns))
        finally:
            os.close(dst)
    finally:
        os.close(src)


def copy_data(src: int, dst: int, size: int) -> None:
    """Copy a file's bytes to an empty file: shared blocks, else in the kernel, else by hand."""
    try:
        fcntl.ioctl(dst, _FICLONE, src)
        return
    except OSError as err:
        if err.errno not in _NO_CLONE:
            raise
    at = 0
    while at < size:
        try:
            start = os.lseek(src, at, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:  # only a hole follows
                break
            raise
        end = os.lseek(src, start, os.SEEK_HOLE)
        _copy_range(src, dst, start, min(end, size))
        at = end
    os.ftruncate(dst, size)


def _copy_range(src: int, dst: int, start: int, end: int) -> None:
    while start < end:
        try:
            done = os.copy_file_range(src, dst, end - start, start, start)
        except OSError as err:
            if err.errno not in _NO_CLONE:
                raise
            done = os.pwrite(dst, os.pread(src, min(end - start, _COPY_CHUNK), start), start)
        if done == 0:
            raise OSError(errno.EIO, "file became shorter while it was copied")
        start += done
