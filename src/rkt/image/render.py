"""Find the root file system of an image: its own tree, or a merged one with its dependencies.

appc.md section 6.
"""

from __future__ import annotations

import os

from rkt.errors import KernelError, RenderError, StoreError
from rkt.image.order import dependency_order, tree_id
from rkt.linux import treecopy
from rkt.schema.struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.store.images import Store
    from rkt.store.records import ImageKey


class Tree(Struct):
    """A complete tree in the store: the ID to lock, and its root file system."""

    id: str
    rootfs: str


def render(store: Store, key: ImageKey) -> Tree:
    """Give the tree with an image's root file system, making it first if need be.

    The images themselves are unpacked if they are not yet.  Raises RenderError, StoreError or
    KernelError; leaves nothing behind then.
    """
    order = dependency_order(store, key)
    allowed = store.pinned(key)
    if allowed is not None and not allowed.issuperset(element.key for element in order):
        # Another rkt has stored an image of the same name since they were verified.
        raise RenderError(f'image "{key}": its dependencies changed meanwhile, try again')
    images = dict.fromkeys(element.key for element in order)
    for image in images:
        if not store.get(image).unpacked:
            from rkt.image.ingest import ensure_unpacked

            ensure_unpacked(store, image)
    store.touch(*images)
    if len(order) == 1 and not order[0].has_whitelist:
        return _own_tree(store, key)
    name = tree_id(order)
    result = Tree(name, f"{store.tree_path(name)}/rootfs")
    if os.path.isdir(result.rootfs):
        return result
    with store.tmp_dir() as staging, store.lock_tree(name, exclusive=True):
        if os.path.isdir(result.rootfs):
            return result
        from rkt.image.farm import build  # what most images never need

        try:
            build(store, order, f"{staging}/tree")
            store.place_tree(name, f"{staging}/tree")
        except OSError as err:
            raise KernelError(f'cannot render image "{key}"', err, err.filename or "") from err
    return result


def _own_tree(store: Store, key: ImageKey) -> Tree:
    result = Tree(key, f"{store.tree_path(key)}/rootfs")
    if not os.path.isdir(result.rootfs):
        raise StoreError(f'image "{key}" is damaged: its tree is missing')
    return result


def copy_tree(src_rootfs: str, dest_dir: str) -> None:
    """Copy a root file system into an empty or new directory, for pods without overlay.

    Owners, modes, times, hard links, holes and extended attributes are kept.  Raises KernelError.
    """
    try:
        treecopy.copy(src_rootfs, dest_dir)
    except OSError as err:
        raise KernelError("cannot copy", err, err.filename or src_rootfs) from err
