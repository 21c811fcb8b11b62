"""Compare what the store holds of an image with what was hashed when it was stored.

The archive is put together again and hashed, which vouches for headers and contents, and each of
its headers is held against the file that it stands for.
"""

from __future__ import annotations

import filecmp
import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rkt.errors import ArchiveError, StoreError
from rkt.image import tar
from rkt.image.archive import Layout
from rkt.image.export import archive_chunks
from rkt.image.farm import build
from rkt.image.order import dependency_order, tree_id
from rkt.image.tar import show
from rkt.linux import tree, treecopy
from rkt.linux.spill import Scratch
from rkt.store.records import check_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt.store.images import Store
    from rkt.store.records import ImageKey, ImageRecord

_TYPES = {
    stat.S_IFREG: "a file", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device", stat.S_IFBLK: "a block device", stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip
_TIMES = (-(1 << 31), 1 << 34)
"""Seconds that every usual file system can keep."""


def verify(store: Store, record: ImageRecord) -> None:
    """Check an image in the store; raises StoreError naming the first difference."""
    check_name(record, store.outline(record.key).manifest)
    if not record.unpacked:
        for _ in archive_chunks(store, record.key):
            pass
        return
    path = store.tree_path(record.key)
    try:
        os.stat(f"{path}/rootfs")
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as err:
        text = f'image "{record.key}" is unpacked: only root can verify it'
        raise StoreError(text) from err
    except OSError as err:
        raise StoreError(f'image "{record.key}" is damaged: its tree is missing') from err
    try:
        _against_tree(store, record, fd)
    except (ArchiveError, OSError) as err:
        raise StoreError(f'image "{record.key}" is damaged: {_text(err)}') from err
    finally:
        os.close(fd)


def _against_tree(store: Store, record: ImageRecord, fd: int) -> None:
    with Scratch(store.tmp_dir) as scratch:
        _against_layout(store, record, fd, Layout(scratch))


def _against_layout(store: Store, record: ImageRecord, fd: int, layout: Layout) -> None:
    check = _Check(fd, layout)
    reader = tar.TarReader(archive_chunks(store, record.key))
    while (entry := reader.next()) is not None:
        if not layout.admit(entry):
            continue
        if entry.name == b"manifest":
            if b"".join(reader.payload()) != store.manifest_bytes(record.key):
                raise ArchiveError("its manifest is not the one in the archive")
        else:
            layout.missing_parents(entry.name)
            check.entry(entry)
        layout.record(entry)
    layout.finish()
    check.nothing_else()


class _Check:
    """Holds entries against files below a directory."""

    def __init__(self, fd: int, layout: Layout) -> None:
        self._fd = fd
        self._layout = layout
        self._own = os.geteuid() == 0
        self._parent = b""
        self._parent_fd = -1

    def entry(self, entry: tar.Entry) -> None:
        """Compare a file with its entry.  Raises ArchiveError or OSError."""
        dir_fd, base = self._place(entry.name)
        try:
            info = os.stat(base, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            raise ArchiveError(f"{show(entry.name)} is missing") from None
        if entry.kind == tar.HARDLINK:
            if not os.path.samestat(info, self._stat(entry.link)):
                raise ArchiveError(f"{show(entry.name)} is not linked to {show(entry.link)}")
            return
        for what, found, wanted in self._values(entry, info, dir_fd, base):
            if found != wanted:
                raise ArchiveError(f"{show(entry.name)}: {what} is {found}, was {wanted}")

    def _values(
        self, entry: tar.Entry, info: os.stat_result, dir_fd: int, base: bytes
    ) -> Iterator[tuple[str, object, object]]:
        yield "it", _TYPES[stat.S_IFMT(info.st_mode)], _TYPES[entry.kind]
        if entry.kind != tar.SYMLINK:
            mode = entry.mode if self._own else entry.mode & 0o1777
            yield "mode", f"{stat.S_IMODE(info.st_mode):04o}", f"{mode:04o}"
        if self._own:
            found, wanted = f"{info.st_uid}:{info.st_gid}", f"{entry.uid}:{entry.gid}"
            yield "owner", found, wanted
        if _TIMES[0] <= entry.mtime // 10**9 < _TIMES[1]:
            yield "modification time", info.st_mtime_ns, entry.mtime
        if entry.kind == tar.FILE:
            yield "size", info.st_size, entry.size
            yield from self._attributes(entry, dir_fd, base)
        elif entry.kind == tar.SYMLINK:
            yield "target", show(os.readlink(base, dir_fd=dir_fd)), show(entry.link)
        elif entry.kind in (tar.CHAR, tar.BLOCKDEV):
            found = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
            yield "device", found, f"{entry.major}:{entry.minor}"

    def _attributes(
        self, entry: tar.Entry, dir_fd: int, base: bytes
    ) -> Iterator[tuple[str, object, object]]:
        wanted = {os.fsdecode(name): value for name, value in (entry.xattrs or {}).items()}
        if not self._own:
            wanted.pop("security.capability", None)
        wanted = {name: value for name, value in wanted.items() if treecopy.is_kept_xattr(name)}
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(base, flags, dir_fd=dir_fd)
        try:
            names = [name for name in os.listxattr(fd) if treecopy.is_kept_xattr(name)]
            found = {name: os.getxattr(fd, name) for name in names}
        finally:
            os.close(fd)
        for name in sorted(found.keys() | wanted.keys()):
            yield f"extended attribute {name}", found.get(name), wanted.get(name)

    def nothing_else(self) -> None:
        """Check that there is no file without an entry."""
        self._close()
        kinds = self._layout.kinds
        rootfs = tree.open_below(self._fd, "rootfs")
        try:
            for path, _, entries in tree.walk(rootfs):
                prefix = os.fsencode(f"rootfs/{path}/" if path else "rootfs/")
                for entry in entries:
                    name = prefix + os.fsencode(entry.name)
                    if name not in kinds:
                        raise ArchiveError(f"{show(name)} is not in the archive")
        finally:
            os.close(rootfs)

    def _stat(self, path: bytes) -> os.stat_result:
        upper, _, base = path.rpartition(b"/")
        fd = tree.open_below(self._fd, os.fsdecode(upper))
        try:
            return os.stat(base, dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(fd)

    def _place(self, path: bytes) -> tuple[int, bytes]:
        upper, _, base = path.rpartition(b"/")
        if upper != self._parent or self._parent_fd < 0:
            self._close()
            self._parent_fd = tree.open_below(self._fd, os.fsdecode(upper or b"."))
            self._parent = upper
        return self._parent_fd, base

    def _close(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
            self._parent_fd = -1


def rebuild(store: Store, record: ImageRecord) -> None:
    """Unpack an image again in the place of its tree; no pod may use it.

    What is needed is its archive, or all contents and the record of the rest.  Raises StoreError if
    that is lost.
    """
    from rkt.image.ingest import unpack_again

    with store.tmp_dir() as staging, open(f"{staging}/tar", "x+b", buffering=0) as whole:
        raw = store.open_blob(record.key)
        if raw is None:
            for chunk in archive_chunks(store, record.key):
                whole.write(chunk)
            whole.seek(0)
            raw = whole
        with raw:
            unpack_again(record, raw, staging)
        old, new = store.tree_path(record.key), f"{staging}/tree"
        with store.lock_tree(record.key, exclusive=True):
            if not os.path.isdir(old):
                store.place_tree(record.key, new)
                return
            for name in sorted(set(os.listdir(old)) - set(os.listdir(new)) - {"implied"}):
                os.rename(f"{old}/{name}", f"{new}/{name}")  # what a converter noted about it
            store.exchange_tree(record.key, new)


def rendered(store: Store, key: ImageKey) -> str | None:
    """Give the ID of an image's rendered tree if it has one of its own and it is there."""
    order = dependency_order(store, key)
    name = tree_id(order)
    return name if os.path.isdir(store.tree_path(name)) else None


def verify_rendered(store: Store, key: ImageKey) -> None:
    """Compare the rendered tree of an image with a new one.  Raises StoreError."""
    order = dependency_order(store, key)
    name = tree_id(order)
    with store.tmp_dir() as staging, store.lock_tree(name, exclusive=False):
        build(store, order, f"{staging}/tree")
        with ExitStack() as stack:
            try:
                old, new = (
                    stack.enter_context(_opened(f"{path}/rootfs"))
                    for path in (store.tree_path(name), f"{staging}/tree")
                )
                _same_trees(old, new)
            except (ArchiveError, OSError) as err:
                raise StoreError(f'rendered tree "{name}" is damaged: {_text(err)}') from err


def _text(err: ArchiveError | OSError) -> str:
    return err.message if isinstance(err, ArchiveError) else f'"{err.filename}": {err.strerror}'


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _same_trees(old: int, new: int) -> None:
    for path, fd, entries in tree.walk(new):
        other = tree.open_below(old, path or ".")
        try:
            _same_node(path or "rootfs", os.fstat(other), os.fstat(fd))
            for entry in entries:
                name = entry.name
                if not _is_there(name, other):
                    raise ArchiveError(f'"{path}/{name}" is missing')
                if entry.is_dir(follow_symlinks=False):
                    continue
                mine = entry.stat(follow_symlinks=False)
                found = os.stat(name, dir_fd=other, follow_symlinks=False)
                if not os.path.samestat(mine, found):  # too many links for the file system
                    _same_node(f"{path}/{name}", found, mine)
                    _same_content(f"{path}/{name}", name, other, fd, mine)
        finally:
            os.close(other)
    for path, _, entries in tree.walk(old):
        other = tree.open_below(new, path or ".")
        try:
            for entry in entries:
                if not _is_there(entry.name, other):
                    raise ArchiveError(f'"{path}/{entry.name}" should not be there')
        finally:
            os.close(other)


def _is_there(name: str, fd: int) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _same_node(path: str, found: os.stat_result, wanted: os.stat_result) -> None:
    for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_rdev"):
        if getattr(found, field) != getattr(wanted, field):
            raise ArchiveError(f'"{path}": {field[3:]} is not what it was')


def _same_content(path: str, name: str, old: int, new: int, info: os.stat_result) -> None:
    one, other = (f"/proc/self/fd/{fd}/{name}" for fd in (old, new))
    if stat.S_ISLNK(info.st_mode):
        same = os.readlink(one) == os.readlink(other)
    else:
        same = not stat.S_ISREG(info.st_mode) or filecmp.cmp(one, other, shallow=False)
    if not same:
        raise ArchiveError(f'"{path}": its content is not what it was')


def render_again(store: Store, key: ImageKey) -> None:
    """Make the rendered tree of an image anew; no pod may use it."""
    order = dependency_order(store, key)
    name = tree_id(order)
    with store.tmp_dir() as staging, store.lock_tree(name, exclusive=True):
        build(store, order, f"{staging}/tree")
        store.exchange_tree(name, f"{staging}/tree")
