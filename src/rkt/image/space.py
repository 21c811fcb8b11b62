"""How much of the disk images take, and how much of that they have in common."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from rkt.errors import RktError
from rkt.image.order import dependency_order
from rkt.linux import tree
from rkt.linux.spill import Scratch, marks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rkt.linux.spill import Table
    from rkt.store.images import Store
    from rkt.store.records import ImageKey, ImageRecord

_KINDS = ("blob", "manifest", "sig", "split")


def parts(store: Store, key: ImageKey) -> list[ImageRecord]:
    """Give the images that an image depends on, directly or not.  Raises RktError."""
    keys = dict.fromkeys(element.key for element in dependency_order(store, key))
    return [store.get(one) for one in keys if one != key]


def sizes(store: Store, key: ImageKey, below: Sequence[ImageRecord]) -> tuple[int, int] | None:
    """Give the bytes on disk of an image with what it depends on, and those that others use too.

    None if the trees are closed to this user.
    """
    own = [key, *(one.key for one in below)]
    others: set[str] = set()
    if below:
        family = set(own)
        for record in store.list():
            if record.key in family and record.is_layer:
                continue
            if record.key != key:
                others |= _reached(store, record.key)
    total = shared = 0
    for one in own:
        size = _on_disk(store, one)
        if size is None:
            return None
        total += size
        shared += size if one in others else 0
    return total, shared


def _reached(store: Store, key: ImageKey) -> set[str]:
    try:
        return {element.key for element in dependency_order(store, key)}
    except RktError:
        return {key}  # it cannot be rendered, so it uses nothing


def _on_disk(store: Store, key: str) -> int | None:
    total = 0
    try:
        for kind in _KINDS:
            try:
                total += os.lstat(f"{store.path}/{kind}/{key}").st_blocks * 512
            except FileNotFoundError:
                continue
        return total + tree_blocks(store, store.tree_path(key))
    except PermissionError:
        return None


def tree_blocks(store: Store, path: str) -> int:
    """Give the bytes on disk of a directory and everything below it, each file once."""
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        with Scratch(store.tmp_dir) as scratch:
            return _blocks(root, marks(scratch)) * 512
    finally:
        os.close(root)


def _blocks(root: int, seen: Table[int, bool]) -> int:
    total = 0
    last: str | None = None
    for path, fd, entries in tree.walk(root):
        if path != last:
            last = path
            total += os.fstat(fd).st_blocks
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                continue
            if info.st_nlink > 1:
                if info.st_ino in seen:
                    continue
                seen[info.st_ino] = True
            total += info.st_blocks
    return total
