"""Remove and copy directory trees that hostile programs may have written.

Paths are resolved below a directory descriptor, no symbolic link is followed, no mount point is
crossed.  Functions raise OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from rkt.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt.linux.userns import Range

RESOLVE_NO_XDEV = 0x01
_BELOW = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_MAX_OPEN = 64  # levels held open at a time while removing
_FICLONE = 0x40049409
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_PROTECTED_FL = 0x10 | 0x20  # immutable, append only
_NOBODY = 65534
_COPY_CHUNK = 1 << 20
_NO_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EPERM)


def open_below(dir_fd: int, path: str, flags: int = _DIR, mode: int = 0) -> int:
    """Open a relative path below a directory, through real directories of one file system only."""
    return libc.openat2(dir_fd, path, flags, resolve=_BELOW, mode=mode)


def remove(path: str) -> None:
    """Remove a file or a whole tree; nothing there is success.

    A mount point below stops it with an OSError, and nothing on the mounted file system is touched.
    """
    try:
        parent = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_at(parent, os.path.basename(path))
    finally:
        os.close(parent)


def remove_at(dir_fd: int, name: str) -> None:
    """Remove a name in a directory, with everything below it."""
    try:
        _unlink(dir_fd, name)
        return
    except FileNotFoundError:
        return
    except IsADirectoryError:
        pass
    top = _open_removable(dir_fd, name)
    try:
        _empty(top)
    finally:
        os.close(top)
    _rmdir(dir_fd, name)


def _unlink(dir_fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=dir_fd)
    except PermissionError:
        if not _unprotect(dir_fd, name):
            raise
        os.unlink(name, dir_fd=dir_fd)


def _rmdir(dir_fd: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
    except PermissionError:
        if not _unprotect(dir_fd, name):
            raise
        os.rmdir(name, dir_fd=dir_fd)


def _unprotect(dir_fd: int, name: str) -> bool:
    """Clear immutable and append-only flags of a file and of its directory."""
    done = False
    for fd_name in (name, "."):
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(fd_name, flags, dir_fd=dir_fd)
        except OSError:
            continue
        try:
            if not stat.S_IFMT(os.fstat(fd).st_mode) & (stat.S_IFREG | stat.S_IFDIR):
                continue
            bits = int.from_bytes(fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8))[:4], "little")
            if bits & _FS_PROTECTED_FL:
                value = (bits & ~_FS_PROTECTED_FL).to_bytes(8, "little")
                fcntl.ioctl(fd, _FS_IOC_SETFLAGS, value)
                done = True
        except OSError:
            continue
        finally:
            os.close(fd)
    return done


def _open_removable(dir_fd: int, name: str) -> int:
    """Open a directory for emptying it, whatever its mode."""
    try:
        fd = open_below(dir_fd, name)
    except PermissionError:
        path_fd = open_below(dir_fd, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.chmod(f"/proc/self/fd/{path_fd}", 0o700)
        finally:
            os.close(path_fd)
        fd = open_below(dir_fd, name)
    if os.geteuid() != 0:
        try:
            os.fchmod(fd, 0o700)
        except PermissionError:
            pass  # of another owner: unlinking will say what is wrong
    return fd


def _empty(top: int) -> None:
    """Empty a directory without recursion: what lies too deep is moved up first."""
    moved = 0
    stack = [(top, "", _unlink_files(top))]
    try:
        while stack:
            fd, name, todo = stack[-1]
            if not todo:
                if fd == top:
                    todo += _unlink_files(top)  # what was moved up
                    if todo:
                        continue
                    stack.pop()
                    return
                stack.pop()
                os.close(fd)
                _rmdir(stack[-1][0], name)
                continue
            child = todo.pop()
            if len(stack) >= _MAX_OPEN:
                moved += 1
                os.rename(child, f".rkt-rm-{os.getpid()}-{moved}", src_dir_fd=fd, dst_dir_fd=top)
                continue
            try:
                child_fd = _open_removable(fd, child)
            except FileNotFoundError:
                continue
            stack.append((child_fd, child, []))
            stack[-1][2].extend(_unlink_files(child_fd))
    finally:
        for fd, _, _ in stack:
            if fd != top:
                os.close(fd)


def _unlink_files(fd: int) -> list[str]:
    """Unlink everything in a directory that is no directory; give the names of those that are."""
    with os.scandir(fd) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_dir in names:
        if not is_dir:
            try:
                _unlink(fd, name)
            except FileNotFoundError:
                pass
    return [name for name, is_dir in names if is_dir]


def walk(root: int) -> Iterator[tuple[str, int, list[os.DirEntry[str]]]]:
    """Give every directory below an open one: relative path ("" first), descriptor, entries.

    A directory comes after its parent; names are sorted.  The descriptor lasts until the next step.
    The caller may take sub-directories out of the list to leave them out.
    """
    pending = [""]
    while pending:
        path = pending.pop()
        fd = open_below(root, path or ".")
        try:
            with os.scandir(fd) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            yield path, fd, entries
            prefix = path + "/" if path else ""
            pending += [
                prefix + entry.name
                for entry in reversed(entries)
                if entry.is_dir(follow_symlinks=False)
            ]
        finally:
            os.close(fd)


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
    src = os.open(source, _DIR | os.O_CLOEXEC)
    try:
        dst = os.open(target, _DIR | os.O_CLOEXEC)
        try:
            _copy_content(src, dst)
        finally:
            os.close(dst)
    finally:
        os.close(src)


def _copy_content(src: int, dst: int) -> None:
    links: dict[int, str] = {}
    directories: list[tuple[str, os.stat_result]] = []
    for path, src_dir, entries in walk(src):
        directories.append((path, os.fstat(src_dir)))
        dst_dir = open_below(dst, path or ".")
        try:
            for entry in entries:
                name = entry.name
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    os.mkdir(name, 0o700, dir_fd=dst_dir)
                    continue
                if info.st_nlink > 1:
                    first = links.setdefault(info.st_ino, f"{path}/{name}" if path else name)
                    if first != (f"{path}/{name}" if path else name):
                        os.link(
                            first, name, src_dir_fd=dst, dst_dir_fd=dst_dir, follow_symlinks=False
                        )
                        continue
                copy_node(src_dir, dst_dir, name, info)
        finally:
            os.close(dst_dir)
    for path, info in reversed(directories):
        fd = open_below(dst, path or ".")
        try:
            set_directory(fd, info)
        finally:
            os.close(fd)


def shift_owners(path: str, users: Range, *, back: bool = False) -> None:
    """Give everything in a tree to the users of a range: ID 0 to its first, and so on.

    What belongs to an ID that the range has not goes to `nobody`.  Modes, times and capabilities of
    files stay as they are.  With `back` it is undone; what is not of the range stays as it is.
    """
    root = os.open(path, _DIR | os.O_CLOEXEC)
    seen: set[int] = set()
    shift = _Unshift(users) if back else _Shift(users)
    try:
        info = os.fstat(root)
        os.fchown(root, shift.owner(info.st_uid), shift.owner(info.st_gid))
        for _, fd, entries in walk(root):
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                    if info.st_ino in seen:
                        continue
                    seen.add(info.st_ino)
                _shift_entry(fd, entry.name, info, shift)
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


def set_directory(fd: int, info: os.stat_result) -> None:
    """Give a directory the owner, mode and times of another."""
    os.fchown(fd, info.st_uid, info.st_gid)
    os.fchmod(fd, stat.S_IMODE(info.st_mode))
    os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))


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
