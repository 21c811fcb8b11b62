"""Clear away what an interrupted import or removal left in the store."""

from __future__ import annotations

import os

from rkt.errors import LockedError, NotFound
from rkt.linux import lock
from rkt.store import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.store.images import Store

_PARTS = ("manifest", "sig", "blob", "split", "trust")


def sweep(store: Store) -> list[str]:
    """Remove the parts of images that the database does not know; give `kind/key` of each.

    Trees are not touched, pods may use them: see `Store.trees` and `Store.remove_tree`.  An image
    that is being imported at the moment is left alone.
    """
    removed = []
    for kind in _PARTS:
        try:
            keys = os.listdir(f"{store.path}/{kind}")
        except (FileNotFoundError, PermissionError):
            continue  # no store yet; what root unpacked is for root to clear away
        for key in keys:
            if not _is_known(store, key) and _remove(store, kind, key):
                removed.append(f"{kind}/{key}")
    with store.tmp_dir():  # this takes away the staging of dead processes
        pass
    return sorted(removed)


def _is_known(store: Store, key: str) -> bool:
    try:
        store.get(key)
    except NotFound:
        return False
    return True


def _remove(store: Store, kind: str, key: str) -> bool:
    try:
        with lock.held(f"{store.path}/imagelocks/{key}", blocking=False):
            if _is_known(store, key):
                return False
            files.unlink(f"{store.path}/{kind}/{key}")
            return True
    except (LockedError, OSError):
        return False
