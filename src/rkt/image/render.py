"""Make the root file system of an image: its own tree, or a merged one with its dependencies.

appc.md section 6.  A merged tree is a farm of hard links to the files of the images' trees, which
nobody may ever change; it costs directories only.
"""

from __future__ import annotations

import os

from rkt.errors import KernelError, NotFound, RenderError, StoreError
from rkt.linux import tree
from rkt.schema.struct import Struct
from rkt.store.images import DEPS_PREFIX, ImageKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.schema.image import Dependency, ImageManifest
    from rkt.store.images import Store

MAX_ELEMENTS = 4096
"""Images in one flattened list: a few images can ask for exponentially many."""
_LINK_FAILURES = (1, 18, 31, 95)  # EPERM, EXDEV, EMLINK, EOPNOTSUPP: copy instead


class Tree(Struct):
    """A complete tree in the store: the ID to lock, and its root file system."""

    id: str
    rootfs: str


class Element(Struct):
    """One image of a flattened list, uppermost first."""

    key: ImageKey
    whitelist: frozenset[str]
    """Of the image itself: files it does not name are left out."""
    ancestor_whitelist: frozenset[str]
    """Of the ancestor nearest to the root that has one: whatever it does not name is left out."""


def dependency_order(store: Store, key: ImageKey) -> list[Element]:
    """Flatten an image and its dependencies; in the list upper images come before lower ones.

    An image occurs once for each path that leads to it.  Raises RenderError for a dependency that
    is not in the store, for a cycle, and for a list that grows without reason.
    """
    order: list[Element] = []
    none: frozenset[str] = frozenset()
    stack: list[tuple[ImageKey, tuple[ImageKey, ...], frozenset[str]]] = [(key, (), none)]
    manifests: dict[ImageKey, ImageManifest] = {}
    while stack:
        current, ancestors, inherited = stack.pop()
        if current in ancestors:
            raise RenderError(f'image "{current}" depends on itself')
        if len(order) >= MAX_ELEMENTS:
            raise RenderError(f'image "{key}" has more than {MAX_ELEMENTS} dependencies')
        manifest = manifests.get(current)
        if manifest is None:
            manifest = manifests[current] = store.manifest(current)
        own = frozenset(_clean(path) for path in manifest.path_whitelist)
        order.append(Element(current, own, inherited))
        path = (*ancestors, current)
        # Popped from the end: the last dependency comes first, its own ones right behind it.
        for dependency in manifest.dependencies or ():
            stack.append((_resolve(store, manifest.name, dependency), path, inherited or own))
    return order


def _resolve(store: Store, parent: str, dependency: Dependency) -> ImageKey:
    name = dependency.image_name
    if dependency.image_id:
        try:
            key = store.resolve(dependency.image_id)
        except NotFound as err:
            raise RenderError(
                f'dependency "{name}" of image "{parent}" with ID "{dependency.image_id}" '
                "is not in the local store",
                hint=f"rkt fetch {name}",
            ) from err
        if store.get(key).name != name:
            raise RenderError(
                f'dependency "{name}" of image "{parent}": '
                f'the image with ID "{key}" has the name "{store.get(key).name}"'
            )
        return key
    labels = {label.name: label.value for label in dependency.labels or ()}
    record = store.find(name, labels)
    if record is None:
        text = ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"
        raise RenderError(
            f'dependency of image "{parent}": cannot find aci satisfying name: "{name}" '
            f"and labels: {text} in the local store",
            hint=f"rkt fetch {name}",
        )
    return record.key


def _clean(path: str) -> str:
    return os.path.normpath("/" + path).lstrip("/")


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
    if len(order) == 1 and not order[0].whitelist:
        return _own_tree(store, key)
    name = tree_id(order)
    result = Tree(name, f"{store.tree_path(name)}/rootfs")
    if os.path.isdir(result.rootfs):
        return result
    with store.tmp_dir() as staging, store.lock_tree(name, exclusive=True):
        if os.path.isdir(result.rootfs):
            return result
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


def tree_id(order: list[Element]) -> str:
    """Give the ID of the tree that a flattened list of images makes."""
    import hashlib

    text = ",".join(element.key for element in order)
    return DEPS_PREFIX + hashlib.sha512(text.encode()).hexdigest()[:64]


def copy_tree(src_rootfs: str, dest_dir: str) -> None:
    """Copy a root file system into an empty or new directory, for pods without overlay.

    Owners, modes, times, hard links, holes and extended attributes are kept.  Raises KernelError.
    """
    try:
        tree.copy(src_rootfs, dest_dir)
    except OSError as err:
        raise KernelError("cannot copy", err, err.filename or src_rootfs) from err


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
        farm = _Farm(root)
        for element in order:
            with store.lock_tree(element.key, exclusive=False):
                farm.add(store.tree_path(element.key), element)
        farm.finish()
    finally:
        os.close(root)


class _Farm:
    """The tree under construction; images are added uppermost first."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._directories: dict[str, os.stat_result] = {}
        """Those that an image has given an entry of its own."""
        self._files: set[str] = set()
        """Whatever else was linked."""
        self._made: set[str] = {""}

    def add(self, source: str, element: Element) -> None:
        """Link what an image provides and no upper image hides."""
        implied = _implied(source)
        src_root = os.open(f"{source}/rootfs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path, fd, entries in tree.walk(src_root):
                self._directory(path, fd, element, implied=path in implied)
                prefix = f"{path}/" if path else ""
                target = -1
                try:
                    for entry in list(entries):
                        child = prefix + entry.name
                        if entry.is_dir(follow_symlinks=False):
                            if child in self._files:
                                entries.remove(entry)  # hidden with all that is below it
                            continue
                        is_taken = child in self._files or child in self._made
                        if is_taken or _excluded(child, element):
                            continue
                        if target < 0:
                            target = self._open(path)
                        info = entry.stat(follow_symlinks=False)
                        _link(fd, target, entry.name, info)
                        self._files.add(child)
                finally:
                    if target >= 0:
                        os.close(target)
        finally:
            os.close(src_root)

    def _directory(self, path: str, fd: int, element: Element, *, implied: bool) -> None:
        if implied or path in self._directories:
            return
        if path and element.ancestor_whitelist and path not in element.ancestor_whitelist:
            return
        self._make(path)
        self._directories[path] = os.fstat(fd)

    def _make(self, path: str) -> None:
        missing = []
        while path not in self._made:
            missing.append(path)
            path = path.rpartition("/")[0]
        for name in reversed(missing):
            parent, _, base = name.rpartition("/")
            fd = tree.open_below(self._root, parent or ".")
            try:
                os.mkdir(base, 0o700, dir_fd=fd)
            finally:
                os.close(fd)
            self._made.add(name)

    def _open(self, path: str) -> int:
        self._make(path)
        return tree.open_below(self._root, path or ".")

    def finish(self) -> None:
        """Give the directories their owners, modes and times, innermost first."""
        for path in sorted(self._made, reverse=True):
            fd = tree.open_below(self._root, path or ".")
            try:
                info = self._directories.get(path)
                if info is not None:
                    tree.set_directory(fd, info)
                else:
                    os.fchmod(fd, 0o755)
                    os.utime(fd, ns=(0, 0))
            finally:
                os.close(fd)


def _excluded(path: str, element: Element) -> bool:
    if element.whitelist and path not in element.whitelist:
        return True
    return bool(element.ancestor_whitelist) and path not in element.ancestor_whitelist


def _implied(source: str) -> frozenset[str]:
    """Name the directories that no entry of the archive named: a lower image may define them."""
    try:
        with open(f"{source}/implied", "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return frozenset()
    return frozenset(os.fsdecode(path).removeprefix("rootfs/") for path in data.split(b"\0")[:-1])


def _link(src: int, dst: int, name: str, info: os.stat_result) -> None:
    try:
        os.link(name, name, src_dir_fd=src, dst_dir_fd=dst, follow_symlinks=False)
    except OSError as err:
        if err.errno not in _LINK_FAILURES:
            raise
        tree.copy_node(src, dst, name, info)
