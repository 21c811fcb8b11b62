"""Make the tree of an image and its dependencies: a farm of hard links to the files of their trees.

Nobody may ever change those; it costs directories only.
"""

from __future__ import annotations

import os

from rkt.image.unpack import LINK_FAILURES
from rkt.linux import tree, treecopy
from rkt.linux.spill import Scratch, marks, numbers, texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.image.order import Element
    from rkt.linux.spill import Table
    from rkt.store.images import Store
    from rkt.store.records import ImageKey

    _Paths = Table[bytes, bool]

_ROOM = 4 << 20
_CHUNK = 1 << 20
_BARE, _SETTLED, _FILE = 0, 1, 2
"""How far a name is: a directory, one that an image gave its settings, anything else."""


def build(store: Store, order: list[Element], target: str) -> None:
    """Make the tree of a flattened list of images, all unpacked, in a new directory."""
    os.mkdir(target, 0o700)
    os.chmod(target, 0o700)
    os.mkdir(f"{target}/rootfs", 0o700)
    if os.geteuid() == 0:
        for path in (target, f"{target}/rootfs"):
            os.chown(path, 0, 0)  # the store's directories hand their group down
            os.chmod(path, 0o700)
    with open(f"{target}/manifest", "xb") as file:
        file.write(store.manifest_bytes(order[0].key))
    root = os.open(f"{target}/rootfs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with Scratch.within(target) as scratch:
            farm = _Farm(root, scratch, apart=_has_layer_twice(order))
            lists = _Whitelists(store, scratch)
            for element in order:
                own = lists.of(element.key) if element.has_whitelist else None
                ancestor = lists.of(element.ancestor) if element.ancestor else None
                with store.lock_tree(element.key, exclusive=False):
                    farm.add(store.tree_path(element.key), own, ancestor)
            farm.finish()
    finally:
        os.close(root)


def _has_layer_twice(order: list[Element]) -> bool:
    """Say whether a layer occurs twice: its files may be the same ones in two places then."""
    layers = [one.name.split("/")[1] for one in order if one.name.startswith("oci-layer/")]
    return len(set(layers)) < len(layers)


class _Whitelists:
    """The whitelists that were asked for last: an image's own one, and that of an ancestor."""

    def __init__(self, store: Store, scratch: Scratch) -> None:
        self._store = store
        self._scratch = scratch
        self._last: dict[ImageKey, _Paths] = {}

    def of(self, key: ImageKey) -> _Paths:
        """Give the paths that the whitelist of an image names."""
        found = self._last.pop(key, None)
        if found is None:
            found = marks(self._scratch, room=_ROOM)
            for path in self._store.whitelist(key):
                found[_clean(path)] = True
            for old in list(self._last)[:-1]:
                self._last.pop(old).drop()
        self._last[key] = found
        return found


class _Farm:
    """The tree under construction; images are added uppermost first."""

    def __init__(self, root: int, scratch: Scratch, *, apart: bool) -> None:
        self._root = root
        self._scratch = scratch
        self._number = 0
        self._seen: Table[int, bytes] | None = texts(scratch) if apart else None
        """Of each file the number of the image that brought it last, and its path.  None where no
        image shares a file with another that must be two files in the tree."""
        self._taken: Table[bytes, int] = numbers(scratch)
        """What is made, and how far."""
        self._settings: Table[bytes, bytes] = texts(scratch, room=_ROOM)
        """Of the directories that an image has given an entry of its own."""
        self._taken[b""] = _BARE

    def add(self, source: str, own: _Paths | None, ancestor: _Paths | None) -> None:
        """Link what an image provides and no upper image hides."""
        self._number += 1
        implied = _implied(source, self._scratch)
        src_root = os.open(f"{source}/rootfs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, fd, entries in tree.walk(src_root):
                path = os.fsencode(name)
                if path not in implied:
                    self._directory(path, fd, ancestor)
                prefix = path + b"/" if path else b""
                target = -1
                try:
                    for entry in list(entries):
                        child = prefix + os.fsencode(entry.name)
                        taken = self._taken.get(child)
                        if entry.is_dir(follow_symlinks=False):
                            if taken == _FILE:
                                entries.remove(entry)  # hidden with all that is below it
                            continue
                        if taken is not None or not _allowed(child, own, ancestor):
                            continue
                        if target < 0:
                            target = self._open(path)
                        info = entry.stat(follow_symlinks=False)
                        if self._seen is None:
                            _link(fd, target, entry.name, info)
                        else:
                            self._set_apart(fd, target, child, info, self._seen)
                        self._taken[child] = _FILE
                finally:
                    if target >= 0:
                        os.close(target)
        finally:
            os.close(src_root)
        implied.drop()

    def _set_apart(
        self, fd: int, target: int, path: bytes, info: os.stat_result, seen: Table[int, bytes]
    ) -> None:
        """Link a file, or copy it if it is in the tree already for another image."""
        name = os.fsdecode(path.rpartition(b"/")[2])
        mine = self._number.to_bytes(4, "big")
        found = seen.get(info.st_ino)
        if found is not None and found.startswith(mine):
            os.link(
                found[len(mine) :], name, src_dir_fd=self._root, dst_dir_fd=target,
                follow_symlinks=False,
            )  # fmt: skip
            return
        if found is None:
            _link(fd, target, name, info)
        else:
            treecopy.copy_node(fd, target, name, info)
        seen[info.st_ino] = mine + path

    def _directory(self, path: bytes, fd: int, ancestor: _Paths | None) -> None:
        if self._taken.get(path) == _SETTLED:
            return
        if path and ancestor is not None and path not in ancestor:
            return
        self._make(path)
        self._taken[path] = _SETTLED
        self._settings[path] = treecopy.settings_of(os.fstat(fd))

    def _make(self, path: bytes) -> None:
        missing = []
        while path not in self._taken:
            missing.append(path)
            path = path.rpartition(b"/")[0]
        for name in reversed(missing):
            parent, _, base = name.rpartition(b"/")
            fd = tree.open_below(self._root, os.fsdecode(parent or b"."))
            try:
                os.mkdir(base, 0o700, dir_fd=fd)
            finally:
                os.close(fd)
            self._taken[name] = _BARE

    def _open(self, path: bytes) -> int:
        self._make(path)
        return tree.open_below(self._root, os.fsdecode(path or b"."))

    def finish(self) -> None:
        """Give the directories their owners, modes and times, innermost first."""
        for path, kind in self._taken.items(reverse=True):
            if kind == _FILE:
                continue
            fd = tree.open_below(self._root, os.fsdecode(path or b"."))
            try:
                settings = self._settings.get(path)
                if settings is not None:
                    treecopy.set_directory(fd, settings)
                else:
                    os.fchmod(fd, 0o755)
                    os.utime(fd, ns=(0, 0))
            finally:
                os.close(fd)


def _allowed(path: bytes, own: _Paths | None, ancestor: _Paths | None) -> bool:
    return (own is None or path in own) and (ancestor is None or path in ancestor)


def _implied(source: str, scratch: Scratch) -> _Paths:
    """Name the directories that no entry of the archive named: a lower image may define them."""
    found: _Paths = marks(scratch, room=_ROOM)
    try:
        with open(f"{source}/implied", "rb") as file:
            rest = b""
            while data := file.read(_CHUNK):
                *paths, rest = (rest + data).split(b"\0")
                for path in paths:
                    found[path.removeprefix(b"rootfs/")] = True
    except FileNotFoundError:
        pass
    return found


def _link(src: int, dst: int, name: str, info: os.stat_result) -> None:
    try:
        os.link(name, name, src_dir_fd=src, dst_dir_fd=dst, follow_symlinks=False)
    except OSError as err:
        if err.errno not in LINK_FAILURES:
            raise
        treecopy.copy_node(src, dst, name, info)


def _clean(path: str) -> bytes:
    return os.fsencode(os.path.normpath("/" + path).lstrip("/"))
