"""Remove and walk directory trees that hostile programs may have written.

Paths are resolved below a directory descriptor, no symbolic link is followed, no mount point is
crossed.  Functions raise OSError.
"""

from __future__ import annotations

import fcntl
import os
import stat
from itertools import islice

from rkt.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RESOLVE_NO_XDEV = 0x01
_BELOW = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_MAX_OPEN = 64  # levels held open at a time while removing
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_PROTECTED_FL = 0x10 | 0x20  # immutable, append only
_MANY = 8192
"""Entries of a directory that are looked at together."""
_FEW = 64


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


def _remove_empty(dir_fd: int, name: str) -> bool:
    """Remove a directory if that takes no more than one call, as is so of most in a pod."""
    try:
        os.rmdir(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
    except OSError:  # it has something in it, is mounted on or protected
        return False
    return True


def _unprotect(dir_fd: int, name: str) -> bool:
    """Clear immutable and append-only flags of a file and of its directory."""
    done = False
    for fd_name in (name, "."):
        try:
            mode = os.stat(fd_name, dir_fd=dir_fd, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a device can do things
                continue
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(fd_name, flags, dir_fd=dir_fd)
        except OSError:
            continue
        try:
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
            if _remove_empty(fd, child):
                continue
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
