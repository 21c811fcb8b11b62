"""Looking into an app's root file system, which is hostile.

Every path is resolved by the kernel with the app's root as its root (openat2, RESOLVE_IN_ROOT): a
link in the image, absolute or with any number of "..", never leads out.
"""

from __future__ import annotations

import errno
import os
import stat

from rkt import log
from rkt.errors import KernelError, RktError
from rkt.linux import libc, regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from rkt.linux.userns import Range

    class Files(Protocol):
        """Where programs are looked up: a root, or one with volumes in it."""

        def stat(self, path: str) -> os.stat_result | None: ...
        def head(self, path: str) -> bytes: ...


_FILE_LIMIT = 4 << 20  # of etc/passwd and etc/group
_HEAD = 4096
_MAX_LINKS = 40
_MAX_INTERPRETERS = 6  # of the kernel: BINPRM_MAX_RECURSION and the program itself
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_RESOLVE = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS


class Root:
    """An app's root directory, held open."""

    __slots__ = ("fd", "path", "users")

    def __init__(self, path: str, *, follow: bool = False, users: Range | None = None) -> None:
        self.path = path
        self.users = users  # whom its files belong to, if not to the host's own users
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        try:
            self.fd = os.open(path, flags)
        except OSError as err:
            raise KernelError("cannot open root file system", err, path) from err

    def close(self) -> None:
        """Close the directory."""
        os.close(self.fd)

    def open(self, path: str, flags: int) -> int:
        """Open a path inside the root.  Raises OSError."""
        return libc.openat2(self.fd, path.lstrip("/") or ".", flags, resolve=_RESOLVE)

    def lstat(self, path: str) -> os.stat_result:
        """Stat a path inside the root without following a last link.  Raises OSError."""
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def stat(self, path: str) -> os.stat_result | None:
        """Stat a path inside the root; None when it does not exist."""
        try:
            fd = self.open(path, os.O_PATH)
        except OSError as err:
            if err.errno in _ABSENT:
                return None
            raise
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def read(self, path: str, limit: int = _FILE_LIMIT) -> bytes | None:
        """Read a regular file of bounded size; None when there is none."""
        try:
            fd = regular.reopen(self.open(path, os.O_PATH))
        except OSError as err:
            if err.errno in (*_ABSENT, errno.EACCES):
                return None
            raise
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise RktError(f'"{path}" is larger than {limit} bytes')
        return data

    def head(self, path: str) -> bytes:
        """Read the first bytes of an executable.  Raises OSError."""
        fd = regular.reopen(self.open(path, os.O_PATH))
        try:
            return os.pread(fd, _HEAD, 0)
        finally:
            os.close(fd)

    def ensure_dir(self, path: str, mode: int) -> None:
        """Make one directory inside the root unless something is there; its parent must exist."""
        parent, _, name = path.strip("/").rpartition("/")
        fd = self.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.mkdir(name, mode, dir_fd=fd)
            os.chmod(name, mode, dir_fd=fd)
            self._own(name, fd)
        except FileExistsError:
            pass
        finally:
            os.close(fd)

    def _own(self, name: str, dir_fd: int) -> None:
        """Give what was just made to the root of the app."""
        if self.users is not None:
            owner = self.users.shift
            os.chown(name, owner, owner, dir_fd=dir_fd, follow_symlinks=False)

    def make_real_dir(self, name: str) -> None:
        """Put a directory where the image has a link or a file of that name in its root.

        runc 1.1 makes the links below /dev by path: were /dev a link, they would be made outside.
        """
        fd = self.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                info = None
            if info is not None and not stat.S_ISDIR(info.st_mode):
                os.unlink(name, dir_fd=fd)
                info = None
            if info is None:
                os.mkdir(name, 0o755, dir_fd=fd)
                self._own(name, fd)
        finally:
            os.close(fd)

    def make_target(self, path: str, *, directory: bool) -> str:
        """Make what a mount at a path needs to be there; gives the path without any link.

        Links count as inside the root, whatever they say.  A file in the place of a directory is
        replaced.  Raises RktError for what cannot be mounted on.
        """
        done: list[str] = []
        todo = path.split("/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", ".", ".."):
                del done[len(done) - (name == "..") :]
                continue
            parent = self.open("/".join(done), os.O_RDONLY | os.O_DIRECTORY)
            try:
                link = self._step(parent, name, path, directory=directory or any(todo))
            finally:
                os.close(parent)
            if link is None:
                done.append(name)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise RktError(f'cannot mount at "{path}": too many levels of symbolic links')
            done = [] if link.startswith("/") else done
            todo += link.split("/")[::-1]
        found = "/" + "/".join(done)
        if links and not directory and stat.S_ISDIR(self.lstat(found).st_mode):
            raise RktError(f'cannot mount a file at "{path}": the app has a directory there')
        return found

    def _step(self, parent: int, name: str, path: str, *, directory: bool) -> str | None:
        """Make one part of a target, or give what it links to."""
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            mode = 0
        if stat.S_ISLNK(mode):
            return os.readlink(name, dir_fd=parent)
        if mode and stat.S_ISDIR(mode) and not directory:
            raise RktError(f'cannot mount a file at "{path}": the app has a directory there')
        if mode and stat.S_ISDIR(mode) == directory:
            return None
        if directory:
            if mode:
                log.warning(f'"{path}": a file of the image is replaced to mount there')
                os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o755, dir_fd=parent))
        self._own(name, parent)
        return None

    def ensure_mtab(self) -> None:
        """Make etc/mtab a link to the mount table where the image has an etc without mtab."""
        try:
            fd = self.open("etc", os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return
        try:
            os.symlink("../proc/self/mounts", "mtab", dir_fd=fd)
            self._own("mtab", fd)
        except OSError as err:
            if err.errno not in (errno.EEXIST, errno.EROFS):
                raise
        finally:
            os.close(fd)


def find_executable(root: Files, name: str, search: str, cwd: str) -> str:
    """Find a program as rkt does: a path as it is, a name along the app's PATH.

    Gives the path inside the root.  Raises RktError naming what is missing.
    """
    if "/" in name:
        path = name if name.startswith("/") else f"{cwd.rstrip('/')}/{name}"
        problem = _executable(root, path)
        if problem:
            raise RktError(f'error looking up "{name}": {problem}')
        return path
    seen = ""
    for directory in search.split(":"):
        base = directory if directory.startswith("/") else f"{cwd.rstrip('/')}/{directory}"
        path = f"{base.rstrip('/')}/{name}"
        problem = _executable(root, path)
        if not problem:
            return path
        if problem != "no such file or directory":
            seen = f'"{path}": {problem}'
    raise RktError(f'error looking up "{name}": {seen or f"not found along PATH={search}"}')


def _executable(root: Files, path: str) -> str:
    try:
        info = root.stat(path)
    except OSError as err:
        return err.strerror.lower() if err.strerror else "cannot be read"
    if info is None:
        return "no such file or directory"
    if stat.S_ISDIR(info.st_mode):
        return "is a directory"
    if not stat.S_ISREG(info.st_mode):
        return "not a regular file"
    if not info.st_mode & 0o111:
        return "permission denied (not executable)"
    return ""


def missing_interpreter(root: Files, path: str) -> str:
    """Name the interpreter that an executable wants and the root has not; "" if all is there.

    That may be the interpreter of the interpreter; it is named so that it can be printed.
    """
    for _ in range(_MAX_INTERPRETERS):
        try:
            head = root.head(path)
        except OSError:
            return ""
        if head[:2] == b"#!":
            words = head[2:].split(b"\n", 1)[0].replace(b"\t", b" ").split(b" ")
            path = os.fsdecode(next(filter(None, words), b""))
        elif head[:4] == b"\x7fELF":
            path = _elf_interpreter(head)
        else:
            return ""
        if not path.startswith("/"):
            return ""
        try:
            if root.stat(path) is None:
                return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)
        except OSError:
            return ""
    return ""


def _elf_interpreter(head: bytes) -> str:
    """Read PT_INTERP from the first page of an ELF file, "" for a static or an odd one."""
    wide = head[4:5] == b"\2"
    big = head[5:6] == b"\2"

    def number(offset: int, size: int) -> int:
        return int.from_bytes(head[offset : offset + size], "big" if big else "little")

    table = number(32, 8) if wide else number(28, 4)
    size, count = (number(54, 2), number(56, 2)) if wide else (number(42, 2), number(44, 2))
    for index in range(min(count, 64)):
        entry = table + index * size
        if entry + size > len(head) or number(entry, 4) != 3:
            continue
        start = number(entry + 8, 8) if wide else number(entry + 4, 4)
        length = number(entry + 32, 8) if wide else number(entry + 16, 4)
        raw = head[start : start + length]
        return os.fsdecode(raw.rstrip(b"\0")) if len(raw) == length else ""
    return ""
