"""Which images and trees the pods on disk use, and removing what none does.

A pod uses the images that its manifest names and the trees that its files name, in whatever state
it is: an exited one is mounted again to be cleaned up.  With an image go those that it depends on:
without them its tree could neither be verified nor made anew.  Whoever decides on a removal holds
`Store.guard(exclusive=True)`, so that no pod is half prepared meanwhile.
"""

from __future__ import annotations

import os
import time

from rkt import log
from rkt.errors import NotFound, RktError, describe
from rkt.pod import lifecycle, state, view
from rkt.store.records import KEY_LENGTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rkt.pod.lifecycle import Pod
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord


class Usage:
    """The pods that use each image (by key) and each tree (by ID)."""

    __slots__ = ("below", "images", "trees")

    def __init__(self) -> None:
        self.images: dict[str, list[str]] = {}
        self.below: dict[str, list[str]] = {}
        self.trees: dict[str, list[str]] = {}

    def pods(self, key: str) -> list[str]:
        """Name the pods that use an image, its own tree or an image that depends on it."""
        return sorted({
            *self.images.get(key, ()), *self.below.get(key, ()), *self.trees.get(key, ())
        })  # fmt: skip

    def add_dependencies(self, store: Store) -> None:
        """Count those images as used that the used ones depend on."""
        for key, pods in self.images.items():
            try:
                needed = _needed(store, [key])
            except RktError as err:  # gone or damaged: nothing can be kept for it
                log.debug(describe(err))
                continue
            for below in needed:
                self.below.setdefault(below, []).extend(pods)


def find(data_dir: str) -> Usage:
    """Look through all pods.  Raises RktError if that is not allowed."""
    usage = Usage()
    try:
        os.listdir(lifecycle.pods_dir(data_dir))  # a directory that is closed must not look empty
    except FileNotFoundError:
        return usage
    except PermissionError as err:
        raise RktError("cannot see which images the pods use: run as root") from err
    for pod in lifecycle.every(data_dir, state.SEARCH_ORDER):
        try:
            _note(usage, pod)
        except PermissionError as err:
            raise RktError(f'cannot see which images pod "{pod.uuid}" uses: run as root') from err
    return usage


def _note(usage: Usage, pod: Pod) -> None:
    trees = {pod.read_text("stage1TreeStoreID")}
    try:
        fd = os.open("appsinfo", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=pod.fd)
    except FileNotFoundError:
        pass
    else:
        try:
            trees |= {pod.read_text(f"appsinfo/{app}/treeStoreID") for app in os.listdir(fd)}
        finally:
            os.close(fd)
    for tree in trees - {None, ""}:
        usage.trees.setdefault(str(tree), []).append(pod.uuid)
    if pod.exists("pod"):
        try:
            keys = {app.image.id[:KEY_LENGTH] for app in view.manifest(pod).apps}
        except RktError as err:  # what its apps are made of is known from the trees
            log.warning(describe(err))
            return
        for key in keys:
            usage.images.setdefault(key, []).append(pod.uuid)


def _needed(store: Store, keys: Iterable[str]) -> set[str]:
    """Give the keys of images and of all that they depend on.

    Raises RktError for an unreadable manifest: what it needs might be taken away.
    """
    needed: set[str] = set()
    todo = list(keys)
    while todo:
        key = todo.pop()
        if key in needed:
            continue
        needed.add(key)
        todo += _dependencies(store, key)
    return needed


def _dependencies(store: Store, key: str) -> list[str]:
    found: list[str] = []
    for dependency in store.outline(key).manifest.dependencies or ():
        try:
            if dependency.image_id:
                found.append(store.resolve(dependency.image_id))
                continue
            labels = {label.name: label.value for label in dependency.labels or ()}
            record = store.find(dependency.image_name, labels)
            found += [record.key] if record is not None else []
        except NotFound:
            continue  # not there: nothing to keep
    return found


class Remover:
    """Removes images with all that was kept for them alone; made and used under the guard."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._usage = find(store.data_dir)
        self._usage.add_dependencies(store)

    def remove(self, record: ImageRecord) -> bool:
        """Remove an image, its trees, and layers that no other image needs.

        Gives false if files had to stay.  Raises RktError naming the pods that use it.
        """
        self._refuse_if_used(record.key)
        order, tree = self._made_of(record)
        whole = self._store.remove(record.key)
        layers = [one for one in order if one.key != record.key and one.is_layer]
        if not os.access(f"{self._store.path}/tree", os.R_OK | os.X_OK):
            whole = whole and not record.unpacked  # a member of the group: trees are root's
        else:
            for name in (tree, record.key):
                whole = self._drop_tree(name) and whole
        return self._drop_layers(layers) and whole

    def forget(self, key: str) -> bool:
        """Remove an image whose record cannot be read; gives false if files had to stay."""
        self._refuse_if_used(key)
        whole = self._store.remove(key)
        is_root = os.access(f"{self._store.path}/tree", os.R_OK | os.X_OK)
        return is_root and self._drop_tree(key) and whole

    def _refuse_if_used(self, key: str) -> None:
        pods = self._usage.pods(key)
        if pods:
            raise RktError(
                f'image "{key}" is used by {_listed(pods)}', hint=f"rkt rm {' '.join(pods)}"
            )

    def unused(self, seconds: float) -> list[ImageRecord]:
        """Give the images that no pod uses, no other image needs and nobody used for that long."""
        records = self._store.list()
        limit = time.time_ns() - int(seconds * 1e9)
        kept = [
            record
            for record in records
            if not record.is_layer and (record.last_used > limit or self._usage.pods(record.key))
        ]
        needed = _needed(self._store, [one.key for one in kept])
        return [record for record in records if not record.is_layer and record.key not in needed]

    def orphans(self) -> list[ImageRecord]:
        """Give the layers that no image needs."""
        records = self._store.list()
        layers = [record for record in records if record.is_layer]
        images = [one.key for one in records if not one.is_layer]
        needed = _needed(self._store, images) if layers else set()
        return [one for one in layers if one.key not in needed and not self._usage.pods(one.key)]

    def sweep_trees(self) -> list[str]:
        """Remove trees that no pod uses and that are no image's only copy; give their IDs."""
        return [tree for tree in self._store.trees() if self._is_loose(tree) and self._try(tree)]

    def _is_loose(self, tree: str) -> bool:
        return tree not in self._usage.trees and self._store.is_removable_tree(tree)

    def _try(self, tree: str) -> bool:
        try:
            self._store.remove_tree(tree)
        except RktError as err:
            log.warning(describe(err))
            return False
        return True

    def _made_of(self, record: ImageRecord) -> tuple[list[ImageRecord], str]:
        """Give the images that an image consists of, and the ID of its rendered tree."""
        from rkt.image.order import dependency_order, tree_id

        try:
            order = dependency_order(self._store, record.key)
        except (RktError, OSError) as err:  # damaged, or a dependency is gone already
            log.debug(describe(err))
            return [], record.key
        keys = dict.fromkeys(element.key for element in order)
        return [self._store.get(key) for key in keys], tree_id(order)

    def _drop_tree(self, tree: str) -> bool:
        if tree in self._usage.trees or not self._store.is_removable_tree(tree):
            return True
        try:
            self._store.remove_tree(tree)
        except (RktError, OSError) as err:
            log.debug(describe(err))  # of root's trees a member of the group knows nothing
            return False
        return True

    def _drop_layers(self, layers: list[ImageRecord]) -> bool:
        if not layers:
            return True
        try:
            images = [one.key for one in self._store.list() if not one.is_layer]
            needed = _needed(self._store, images)
        except RktError as err:
            log.warning(f"layers stay: {describe(err)}")
            return False
        whole = True
        for layer in layers:
            if layer.key not in needed and not self._usage.pods(layer.key):
                try:
                    whole = self.remove(layer) and whole
                except NotFound:
                    continue  # it went with another layer, which needed it
        return whole


def _listed(pods: list[str]) -> str:
    return f'pod "{pods[0]}"' if len(pods) == 1 else "pods " + ", ".join(f'"{p}"' for p in pods)
