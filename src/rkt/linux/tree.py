"""Remove and copy directory trees that hostile programs may have written.

Paths are resolved below a directory descriptor, no symbolic link is followed, no mount point is
crossed.  Functions raise OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from _struct import Struct
from itertools import islice

from rkt.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt.linux.spill import Scratch, Table
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
_NANO = 1_000_000_000
_SETTINGS = Struct("<IIIqIqI")
_MANY = 8192
"""Entries of a directory that are looked at together."""
_FEW = 64
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
                if fd == top or todo.is_partial:
                    todo = _unlink_files(fd)  # with what was moved up
                    stack[-1] = (fd, name, todo)
                    if todo or todo.is_partial:
                        continue
                stack.pop()
                if fd == top:
                    return
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
            stack.append((child_fd, child, _Todo()))
            stack[-1] = (child_fd, child, _unlink_files(child_fd))
    finally:
        for fd, _, _ in stack:
            if fd != top:
                os.close(fd)


class _Todo(list[str]):
    """Directories in a directory."""

    is_partial = False
    """Whether there may be more, and files too."""


def _unlink_files(fd: int) -> _Todo:
    """Unlink what is in a directory and is no directory; give the names of those that are.

    Of a large directory that is only a part.
    """
    found = _Todo()
    with os.scandir(fd) as entries:
        batch = [(one.name, one.is_dir(follow_symlinks=False)) for one in islice(entries, _MANY)]
        found.is_partial = len(batch) == _MANY
    for name, is_dir in batch:
        if is_dir:
            found.append(name)
            continue
        try:
            _unlink(fd, name)
        except FileNotFoundError:
            pass
    return found


class Entry:
    """A name in a large directory, as os.DirEntry gives one."""

    __slots__ = ("_fd", "_is_dir", "name")

    def __init__(self, fd: int, name: str, *, is_dir: bool) -> None:
        self._fd = fd
        self._is_dir = is_dir
        self.name = name

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        """Say whether it is a directory."""
        assert not follow_symlinks
        return self._is_dir

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        """Give what it is; only while the directory is open."""
        return os.stat(self.name, dir_fd=self._fd, follow_symlinks=follow_symlinks)


if TYPE_CHECKING:
    Found = os.DirEntry[str] | Entry


def walk(root: int) -> Iterator[tuple[str, int, list[Found]]]:
    """Give every directory below an open one: relative path ("" first), descriptor, entries.

    A directory comes after its parent; names are sorted.  A large directory comes several times in
    a row, each time with more of its entries, so that memory is bounded.  The descriptor lasts
    until the next step.  The caller may take sub-directories out of the list to leave them out.
    """
    pending = [_Pending("", [""])]
    while pending:
        path = pending[-1].pop()
        if not pending[-1]:
            pending.pop()
        fd = open_below(root, path or ".")
        prefix = path + "/" if path else ""
        below = []
        try:
            for entries in _sorted_entries(fd):
                yield path, fd, entries
                names = [one.name for one in entries if one.is_dir(follow_symlinks=False)]
                if names:
                    below.append(_Pending(prefix, names))
        finally:
            os.close(fd)
        pending += reversed(below)


class _Pending:
    """Sub-directories of a directory that are still to be visited; many are kept packed."""

    __slots__ = ("_names", "_packed", "_prefix")

    def __init__(self, prefix: str, names: list[str]) -> None:
        self._prefix = prefix
        self._names = names[::-1]
        self._packed = b""
        if len(names) > _FEW:
            self._packed, self._names = _packed(self._names), []

    def __bool__(self) -> bool:
        return bool(self._names or self._packed)

    def pop(self) -> str:
        """Give the path of the next one."""
        if not self._names:
            self._names, self._packed = _unpacked(self._packed), b""
        return self._prefix + self._names.pop()


def _sorted_entries(fd: int) -> Iterator[list[Found]]:
    """Give what is in a directory, sorted; in several lists if it is a large one."""
    with os.scandir(fd) as found:
        batch: list[Found] = sorted(islice(found, _MANY), key=_name)
        runs: list[list[bytes]] = []
        while len(batch) == _MANY or (runs and batch):
            texts = [one.name + "/" * one.is_dir(follow_symlinks=False) for one in batch]
            runs.append([_packed(texts[at : at + _FEW]) for at in range(0, len(texts), _FEW)])
            batch = sorted(islice(found, _MANY), key=_name)
    if not runs:
        yield batch
        return
    import heapq

    merged = heapq.merge(*(_run(pieces) for pieces in runs))
    while True:
        batch = [Entry(fd, name, is_dir=is_dir) for name, is_dir in islice(merged, _MANY)]
        if not batch:
            return
        yield batch


def _name(entry: Found) -> str:
    return entry.name


def _run(pieces: list[bytes]) -> Iterator[tuple[str, bool]]:
    for piece in pieces:
        for text in _unpacked(piece):
            yield text.rstrip("/"), text.endswith("/")


def _packed(names: list[str]) -> bytes:
    import zlib

    return zlib.compress("\0".join(names).encode("utf-8", "surrogateescape"), 1)


def _unpacked(data: bytes) -> list[str]:
    import zlib

    return zlib.decompress(data).decode("utf-8", "surrogateescape").split("\0")


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


def shift_owners(path: str, users: Range, *, back: bool = False) -> None:
    """Give everything in a tree to the users of a range: ID 0 to its first, and so on.

    What belongs to an ID that the range has not goes to `nobody`.  Modes, times and capabilities of
    files stay as they are.  With `back` it is undone; what is not of the range stays as it is.
    """
    from rkt.linux import spill

    root = os.open(path, _DIR | os.O_CLOEXEC)
    shift = _Unshift(users) if back else _Shift(users)
    try:
        with spill.Scratch.within(path) as scratch:
            _shift_content(root, shift, spill.marks(scratch))
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
