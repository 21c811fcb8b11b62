"""Write the entries of an image archive below a directory descriptor.

The target is a directory that only this process changes.  Every parent is opened component by
component without following links, and each entry is created anew: nothing that an archive says can
make a write go elsewhere.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rkt.errors import ArchiveError, KernelError
from rkt.image import tar
from rkt.image.tar import show
from rkt.linux import tree
from rkt.linux.spill import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt.image.archive import Layout
    from rkt.linux.spill import Value

    _Settings = tuple[int, int, int, int, int]
    """Mode, owner, group, atime and mtime of a directory."""

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_OPEN = 128
LINK_FAILURES = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP)
"""Errors of link(2) upon which a copy will do."""
_ROOM = 4 << 20


class Twin(NamedTuple):
    """A file of an unpacked image: descriptor of the image's tree, path in it.

    Nobody may ever change it.
    """

    tree: int
    path: bytes


class Unpacker:
    """Create files from entries; use it as a context manager and call `finish()` at the end.

    `owners` off leaves owners, set-id bits and devices' privileges to whoever runs this (tests).
    """

    def __init__(self, root_fd: int, layout: Layout, *, owners: bool) -> None:
        self._root = root_fd
        self._layout = layout
        self._owners = owners
        self._me = (os.geteuid(), os.getegid())
        self._open: dict[bytes, int] = {}
        self._directories: Table[bytes, _Settings] = Table(
            layout.scratch, msgspec.msgpack.encode, _settings, room=_ROOM
        )
        self.size = 0

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_all()

    def add(
        self, entry: tar.Entry, payload: Iterator[memoryview], twin: Twin | None = None
    ) -> None:
        """Create what an admitted entry says.  Raises ArchiveError or KernelError.

        With a `twin` that is as the entry says, a link to it; then no payload is read.
        """
        try:
            parent, base = self._parent(entry.name)
            if entry.kind == tar.FILE:
                if twin is None or not self._twin(twin, entry, parent, base):
                    self._file(entry, parent, base, payload)
            elif entry.kind == tar.DIRECTORY:
                if entry.name not in self._layout.implied:
                    os.mkdir(base, 0o700, dir_fd=parent)
                self._directories[entry.name] = (
                    entry.mode, entry.uid, entry.gid, entry.atime, entry.mtime
                )  # fmt: skip
            elif entry.kind == tar.HARDLINK:
                source, source_base = self._parent(entry.link)
                os.link(
                    source_base, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False
                )
            else:
                self._special(entry, parent, base)
        except OSError as err:
            if err.errno is None or isinstance(err, ArchiveError):
                raise
            raise KernelError("cannot unpack", err, os.fsdecode(entry.name)) from err

    def finish(self) -> None:
        """Set owners, modes and times of the directories, innermost first."""
        for path, _ in self._layout.implied.items():
            self._directories[path] = (0o755, 0, 0, 0, 0)
        entry = tar.Entry()
        entry.kind = tar.DIRECTORY
        for path, settings in self._directories.items(reverse=True):
            entry.mode, entry.uid, entry.gid, entry.atime, entry.mtime = settings
            if len(self._open) > _MAX_OPEN:
                self._close_all()
            try:
                if path in self._open:
                    os.close(self._open.pop(path))
                parent, _, base = path.rpartition(b"/")
                # Nobody else can change what is here, and what was made is a directory.
                self._settle(entry, self._directory(parent), base)
            except OSError as err:
                raise KernelError("cannot unpack", err, os.fsdecode(path)) from err

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """Open the directory that a path is in, making implied ones."""
        parent, _, base = path.rpartition(b"/")
        fd = self._open.get(parent)
        if fd is not None:
            return fd, base
        if not parent:
            return self._root, base
        if len(self._open) > _MAX_OPEN:
            self._close_all()
        if parent not in self._layout.kinds:
            for missing in self._layout.missing_parents(path):
                upper, _, name = missing.rpartition(b"/")
                os.mkdir(name, 0o700, dir_fd=self._directory(upper))
        return self._directory(parent), base

    def _directory(self, path: bytes) -> int:
        if not path:
            return self._root
        fd = self._open.get(path)
        if fd is None:
            upper, _, name = path.rpartition(b"/")
            fd = os.open(name, _DIR, dir_fd=self._directory(upper))
            self._open[path] = fd
        return fd

    def _close_all(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _file(
        self, entry: tar.Entry, parent: int, base: bytes, payload: Iterator[memoryview]
    ) -> None:
        fd = os.open(base, _CREATE, 0o600, dir_fd=parent)
        try:
            if entry.sparse is not None:
                _write_sparse(fd, entry, payload)
            elif entry.size:
                for piece in payload:
                    done = os.write(fd, piece)
                    while done < len(piece):
                        done += os.write(fd, piece[done:])
            self._own(fd, entry)
            os.fchmod(fd, self._mode(entry))
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.atime, entry.mtime))
            self.size += entry.size
        finally:
            os.close(fd)

    def _twin(self, twin: Twin, entry: tar.Entry, parent: int, base: bytes) -> bool:
        upper, _, name = twin.path.rpartition(b"/")
        source = tree.open_below(twin.tree, os.fsdecode(upper))
        try:
            info = os.stat(name, dir_fd=source, follow_symlinks=False)
            found = (info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns)
            wanted = (entry.kind | entry.mode, entry.uid, entry.gid, entry.size, entry.mtime)
            if found != wanted:
                return False  # somebody changed it
            os.link(name, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as err:
            if err.errno not in LINK_FAILURES:
                raise
            return False
        finally:
            os.close(source)
        self.size += entry.size
        return True

    def _own(self, fd: int, entry: tar.Entry) -> None:
        if self._owners and (entry.uid, entry.gid) != self._me:
            os.fchown(fd, entry.uid, entry.gid)

    def _mode(self, entry: tar.Entry) -> int:
        return entry.mode if self._owners else entry.mode & 0o1777

    def _set_xattrs(self, fd: int, entry: tar.Entry) -> None:
        assert entry.xattrs is not None
        for name, value in entry.xattrs.items():
            if name.startswith(b"user.") or (self._owners and name == b"security.capability"):
                try:
                    os.setxattr(fd, name, value)
                except OSError as err:
                    what = f"cannot set extended attribute {show(name)} of"
                    raise KernelError(what, err, os.fsdecode(entry.name)) from err

    def _special(self, entry: tar.Entry, parent: int, base: bytes) -> None:
        if entry.kind == tar.SYMLINK:
            os.symlink(entry.link, base, dir_fd=parent)
        elif entry.kind == tar.FIFO:
            os.mkfifo(base, 0o600, dir_fd=parent)
        else:
            device = _device(entry)
            os.mknod(base, entry.kind | 0o600, device, dir_fd=parent)
        self._settle(entry, parent, base)

    def _settle(self, entry: tar.Entry, parent: int, base: bytes) -> None:
        if self._owners and (entry.uid, entry.gid) != self._me:
            os.chown(base, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind != tar.SYMLINK:
            os.chmod(base, self._mode(entry), dir_fd=parent)
        os.utime(base, ns=(entry.atime, entry.mtime), dir_fd=parent, follow_symlinks=False)


def _settings(value: Value) -> _Settings:
    assert isinstance(value, bytes)
    return msgspec.msgpack.decode(value, type=tuple[int, int, int, int, int])


def _device(entry: tar.Entry) -> int:
    if entry.major >= 1 << 12 or entry.minor >= 1 << 20:
        raise ArchiveError(f"{show(entry.name)}: bad device {entry.major}:{entry.minor}")
    return os.makedev(entry.major, entry.minor)


def _write_sparse(fd: int, entry: tar.Entry, payload: Iterator[memoryview]) -> None:
    assert entry.sparse is not None
    rest = memoryview(b"")
    for start, length in entry.sparse:
        offset, end = start, start + length
        while offset < end:
            if not rest:
                rest = next(payload)
            done = os.pwrite(fd, rest[: end - offset], offset)
            rest = rest[done:]
            offset += done
    os.ftruncate(fd, entry.size)
