"""The root file system that the layers of an image make, as a tree of names without content.

Layers are applied lowest first.  Deletions take names away; a name below a symbolic link goes to
where the link leads inside the root; a hard link to a file of a lower layer is reported, since an
image archive cannot express it.  OCI image specification v1.1, layer.md.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from rkt.errors import ArchiveError
from rkt.image import tar
from rkt.image.tar import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rkt.image.layerindex import LayerIndex, Meta

_MAX_LINKS = 40


class Node:
    """A name in the merged tree."""

    __slots__ = ("children", "first", "implied", "kind", "layer", "link", "ordinal")

    def __init__(self, kind: int, layer: int, ordinal: int) -> None:
        self.kind = kind
        self.layer = layer
        """Number of the uppermost layer that provides it."""
        self.ordinal = ordinal
        self.link = b""
        self.first = b""
        """Of a further name of a file: the name in the layer under which its content stands."""
        self.implied = False
        self.children: dict[bytes, _Held] | None = {} if kind == tar.DIRECTORY else None


_ORDINAL_BITS = 32
_Held = Node | int
"""An ordinary file is only a number, its layer and its ordinal: most names are such files."""


def _packed(layer: int, ordinal: int) -> int:
    return layer << _ORDINAL_BITS | ordinal


def _whole(held: _Held) -> Node:
    if isinstance(held, Node):
        return held
    return Node(tar.FILE, held >> _ORDINAL_BITS, held & ((1 << _ORDINAL_BITS) - 1))


def _child(node: Node, name: bytes) -> Node | None:
    """Give a node of a directory; a number becomes one, since it may be changed now."""
    assert node.children is not None
    held = node.children.get(name)
    if isinstance(held, int):
        held = node.children[name] = _whole(held)
    return held


class Copy(msgspec.Struct, frozen=True):
    """A file of a lower layer that a hard link needs in the layer itself."""

    layer: int
    source: bytes
    """Where its content stands in that layer."""
    path: bytes
    """Where it is in the merged tree."""
    others: tuple[bytes, ...]
    """Its further names there."""


class Outcome(msgspec.Struct):
    """What applying a layer has shown; numbers are positions in its list of entries."""

    names: dict[int, bytes] = {}
    """Entries that go to another place than they say."""
    links: dict[int, bytes] = {}
    """Hard links whose target is at another place than they say."""
    skipped: set[int] = set()
    """Entries that a later one of the same layer replaces."""
    copies: dict[int, Copy] = {}
    """Hard links to files of lower layers."""
    replaced: set[bytes] = set()
    """Further names of such files that an entry of the layer replaces."""

    @property
    def is_plain(self) -> bool:
        """Say whether the layer can be taken as it is, whatever lies below it."""
        return not (self.names or self.links or self.skipped or self.copies)


class MissingTarget(ArchiveError):
    """A hard link names a file that neither its layer nor a lower one has."""


class Merged:
    """The tree of all layers applied so far."""

    def __init__(self) -> None:
        self.root = Node(tar.DIRECTORY, -1, -1)
        self.root_meta: Meta | None = None
        self.bare: set[bytes] = set()
        """Directories without an entry of their own in place of deleted ones that had one."""
        self.has_lost = False
        """Whether something of a layer is no longer in the tree."""
        self._has_implied = False
        self._deleted: set[bytes] = set()
        self._cache: dict[bytes, tuple[bytes, Node]] = {}
        self._groups: dict[tuple[int, bytes], list[bytes]] = {}
        self._names: dict[bytes, list[tuple[bytes, Node]]] = {}
        """Of a name of the layer under which content stands: its further names, oldest first."""
        self._copied: dict[bytes, int] = {}
        """Of content copied from a lower layer: the entry that makes it so."""
        self._outcome = Outcome()
        self._layer = -1

    def apply(self, index: LayerIndex) -> Outcome:
        """Put the next layer on top.  Raises ArchiveError, and MissingTarget."""
        self._layer += 1
        self._cache.clear()
        self._groups.clear()
        self._names.clear()
        self._copied.clear()
        self._outcome = outcome = Outcome()
        for path in index.whiteouts:
            self._whiteout(path)
        for path in index.opaques:
            self._opaque(path)
        if index.root is not None:
            self.root_meta = index.root
        for ordinal, (kind, path, link) in enumerate(index.entries):
            if path:
                self._add(ordinal, kind, path, link)
        return outcome

    def find(self, path: bytes) -> Node | None:
        """Give the node at a path, following no link."""
        node: Node | None = self.root
        for name in path.split(b"/"):
            if node is None or node.children is None:
                return None
            node = _child(node, name)
        return node

    def paths(self) -> set[bytes]:
        """Give all paths but the root."""
        return {path for path, _ in _walk(self.root, b"")}

    def missing(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Give those paths that are not in the tree; quick for neighbours."""
        last, children = None, None
        for path in paths:
            parent, _, base = path.rpartition(b"/")
            if parent != last:
                holder = self.find(parent) if parent else self.root
                last, children = parent, holder.children if holder is not None else None
            if children is None or base not in children:
                yield path

    def bare_directories(self) -> set[bytes]:
        """Name the directories that no entry of a layer makes, or makes as they must be.

        They were made for something that was deleted, or stand in the place of deleted ones.
        """
        found = set(self.bare)
        if not self._has_implied:
            return found
        held: set[bytes] = set()
        implied = []
        for path, node in _walk(self.root, b""):
            if isinstance(node, Node) and node.implied:
                implied.append(path)
            else:
                held.add(path.rpartition(b"/")[0])
        for path in sorted(implied, key=lambda one: one.count(b"/"), reverse=True):
            if path in held:
                held.add(path.rpartition(b"/")[0])
            else:
                found.add(path)
        return found

    # -- entries

    def _add(self, ordinal: int, kind: int, path: bytes, link: bytes) -> None:
        parent, _, base = path.rpartition(b"/")
        where, holder = self._directory(parent)
        place = (where + b"/" + base if where else base) if where != parent else path
        if place != path:
            self._outcome.names[ordinal] = place
        assert holder.children is not None
        old = _child(holder, base)
        if kind == tar.DIRECTORY and old is not None and old.kind == tar.DIRECTORY:
            if old.layer == self._layer and not old.implied:
                self._outcome.skipped.add(old.ordinal)
            old.layer, old.ordinal, old.implied = self._layer, ordinal, False
            self.bare.discard(place)
            return
        node = self._hard_link(ordinal, place, link) if kind == tar.HARDLINK else None
        if kind == tar.HARDLINK and node is None:
            return  # a link to itself
        if old is not None:
            self._drop(old, place)
        if node is None and kind == tar.FILE:
            holder.children[base] = _packed(self._layer, ordinal)
            return
        if node is None:
            node = Node(kind, self._layer, ordinal)
            node.link = link
        holder.children[base] = node

    def _hard_link(self, ordinal: int, place: bytes, link: bytes) -> Node | None:
        parent, _, base = link.rpartition(b"/")
        try:
            where, holder = self._directory(parent, create=False)
        except KeyError:
            where, holder = parent, None
        target = where + b"/" + base if where else base
        found = _child(holder, base) if holder is not None and holder.children else None
        if found is None or found.kind == tar.DIRECTORY:
            raise MissingTarget(
                f"{show(place)}: hard link to {show(link)}, which is no earlier file"
            )
        if target == place:
            self._outcome.skipped.add(ordinal)
            return None
        if target != link:
            self._outcome.links[ordinal] = target
        if found.layer != self._layer:
            self._take_up(ordinal, found, target, place)
        node = Node(found.kind, self._layer, ordinal)
        node.link = found.link
        node.first = found.first or target
        self._names.setdefault(node.first, []).append((place, node))
        copied = self._copied.get(node.first)
        if copied in self._outcome.skipped:
            assert copied is not None  # numbers only are skipped
            self._outcome.copies[ordinal] = self._outcome.copies.pop(copied)
            self._copied[node.first] = ordinal
        return node

    def _take_up(self, ordinal: int, found: Node, target: bytes, place: bytes) -> None:
        """Move a lower layer's file into this layer with all its names but `place`, the new one."""
        source = found.first or target
        if not self._groups:
            for path, node in _walk(self.root, b""):
                if isinstance(node, Node) and node.first and node.layer < self._layer:
                    self._groups.setdefault((node.layer, node.first), []).append(path)
        others = []
        names = {source, *self._groups.get((found.layer, source), ())} - {target, place}
        for path in sorted(names):
            other = self.find(path)
            if other is not None and other.layer == found.layer and (other.first or path) == source:
                others.append((path, other))
        further = tuple(path for path, _ in others)
        self._outcome.copies[ordinal] = Copy(found.layer, source, target, further)
        self._copied[target] = ordinal
        self._names[target] = others
        for node in (found, *(node for _, node in others)):
            node.layer, node.ordinal, node.first = self._layer, -1, target
        found.first = b""

    # -- places

    def _directory(self, path: bytes, *, create: bool = True) -> tuple[bytes, Node]:
        """Find the directory that a path leads to, making what is missing.

        Without `create` raises KeyError instead.
        """
        found = self._cache.get(path)
        if found is None:
            found = self._cache[path] = self._resolve(path, create)
        return found

    def _resolve(self, path: bytes, create: bool) -> tuple[bytes, Node]:
        todo = path.split(b"/")[::-1]
        names: list[bytes] = []
        nodes = [self.root]
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if names:
                    names.pop()
                    nodes.pop()
                continue
            children = nodes[-1].children
            assert children is not None
            node = _child(nodes[-1], name)
            if node is None:
                if not create:
                    raise KeyError(name)
                node = children[name] = Node(tar.DIRECTORY, self._layer, -1)
                node.implied = self._has_implied = True
                here = b"/".join((*names, name))
                if here in self._deleted:
                    self.bare.add(here)
            elif node.kind == tar.SYMLINK:
                links += 1
                if links > _MAX_LINKS:
                    raise ArchiveError(f"{show(path)}: too many levels of symbolic links")
                if node.link.startswith(b"/"):
                    names.clear()
                    del nodes[1:]
                todo += node.link.split(b"/")[::-1]
                continue
            elif node.kind != tar.DIRECTORY:
                if not create:
                    raise KeyError(name)
                here = b"/".join((*names, name))
                raise ArchiveError(f"{show(path)}: {show(here)} is not a directory")
            names.append(name)
            nodes.append(node)
        return b"/".join(names), nodes[-1]

    # -- deletions

    def _whiteout(self, path: bytes) -> None:
        parent, _, base = path.rpartition(b"/")
        found = self._deleting_in(parent)
        if found is None:
            return
        where, holder = found
        assert holder.children is not None
        old = holder.children.pop(base, None)
        if old is not None:
            self._drop(old, where + b"/" + base if where else base)

    def _deleting_in(self, path: bytes) -> tuple[bytes, Node] | None:
        """Find the directory that something is deleted in."""
        try:
            return self._directory(path, create=False)
        except KeyError:
            return None

    def _opaque(self, path: bytes) -> None:
        found = self._deleting_in(path)
        if found is None:
            return
        where, holder = found
        assert holder.children is not None
        children, holder.children = holder.children, {}
        prefix = where + b"/" if where else b""
        for name, child in children.items():
            self._drop(child, prefix + name)

    def _drop(self, held: _Held, path: bytes) -> None:
        """Note what goes away with a node."""
        self.has_lost = True
        node = _whole(held)
        if node.kind in (tar.DIRECTORY, tar.SYMLINK):
            self._cache.clear()
        gone = [(below, _whole(each)) for below, each in chain(((path, held),), _walk(node, path))]
        dropped = {id(one) for _, one in gone} if self._names else set()
        for below, one in gone:
            is_own = one.layer == self._layer and not one.implied
            if is_own and not self._hand_over(below, one, dropped):
                if one.ordinal >= 0:
                    self._outcome.skipped.add(one.ordinal)
                else:
                    self._outcome.replaced.add(below)
            if one.kind == tar.DIRECTORY and not one.implied:
                self._deleted.add(below)
            self.bare.discard(below)

    def _hand_over(self, path: bytes, old: Node, dropped: set[int]) -> bool:
        """Let another name of a file of this layer have the content that an old one leaves.

        Gives whether the entry of the old name is still needed for that.
        """
        first = old.first or path
        names = self._names.get(first)
        if names is None:
            return False
        names = [(name, one) for name, one in names if id(one) not in dropped]
        copied = self._copied.get(first)
        if old.first:
            self._names[first] = names
            heirs = [one.ordinal for _, one in names if one.ordinal >= 0]
            if copied is not None and copied == old.ordinal and heirs:
                # The entry that would have copied the file is not written.
                self._copied[first] = heirs[0]
                self._outcome.copies[heirs[0]] = self._outcome.copies.pop(copied)
            return False
        del self._names[path]
        self._copied.pop(path, None)
        if not names:
            return False
        (heir, node), further = names[0], names[1:]
        entry = node.ordinal
        if copied is None:
            self._outcome.names[old.ordinal] = heir
            self._outcome.skipped.add(entry)
            node.ordinal = old.ordinal
        else:
            copy = self._outcome.copies.pop(copied)
            others = tuple(name for name, one in further if one.ordinal < 0)
            holder = copied if entry < 0 else entry
            self._outcome.copies[holder] = Copy(copy.layer, copy.source, heir, others)
            self._copied[heir] = holder
            node.ordinal = -1
        node.first = b""
        self._names[heir] = further
        for _, one in further:
            one.first = heir
            if one.ordinal >= 0:
                self._outcome.links[one.ordinal] = heir
        return copied is None


def _walk(top: Node, prefix: bytes) -> Iterator[tuple[bytes, _Held]]:
    stack = [(prefix, top)]
    while stack:
        path, node = stack.pop()
        if node.children:
            before = path + b"/" if path else b""
            for name, child in node.children.items():
                yield before + name, child
                if isinstance(child, Node) and child.children:
                    stack.append((before + name, child))
