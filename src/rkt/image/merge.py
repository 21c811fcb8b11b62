"""The root file system that the layers of an image make, as a tree of names without content.

Layers are applied lowest first.  Deletions take names away; a name below a symbolic link goes to
where the link leads inside the root; a hard link to a file of a lower layer is reported, since an
image archive cannot express it.  OCI image specification v1.1, layer.md.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rkt.errors import ArchiveError
from rkt.image import tar
from rkt.image.hardlinks import Links
from rkt.image.names import Names, Node, packed, whole
from rkt.image.tar import show
from rkt.linux.spill import Table, marks, numbers, texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rkt.image.layerindex import LayerIndex, Meta
    from rkt.image.names import Held
    from rkt.linux.spill import Scratch, Value

_MAX_LINKS = 40
_MAX_CACHED = 4096
_ROOM = 2 << 20
"""Bytes in memory for each thing of which ordinary layers have little."""


class Copy(msgspec.Struct, frozen=True, array_like=True):
    """A file of a lower layer that a hard link needs in the layer itself."""

    layer: int
    source: bytes
    """Where its content stands in that layer."""
    path: bytes
    """Where it is in the merged tree."""
    others: tuple[bytes, ...]
    """Its further names there."""


class Outcome:
    """What applying a layer has shown; numbers are positions in its list of entries."""

    __slots__ = ("cleared", "copies", "links", "names", "needs_lower", "replaced", "skipped")

    def __init__(self, scratch: Scratch) -> None:
        self.names: Table[int, bytes] = texts(scratch, room=_ROOM)
        """Entries that go to another place than they say."""
        self.links: Table[int, bytes] = texts(scratch, room=_ROOM)
        """Hard links whose target is at another place than they say."""
        self.skipped: Table[int, bool] = marks(scratch, room=_ROOM)
        """Entries that a later one of the same layer replaces."""
        self.copies: Table[int, Copy] = Table(scratch, _pack, _unpack, room=_ROOM)
        """Hard links to files of lower layers."""
        self.replaced: Table[bytes, bool] = marks(scratch, room=_ROOM)
        """Further names of such files that an entry of the layer replaces."""
        self.cleared: Table[bytes, bool] = marks(scratch, room=_ROOM)
        """Directories in the place of something of the same layer, or listed again after something
        was put into them: nothing that lower layers have at their place is left."""
        self.needs_lower = False
        """Whether something took the place of a directory that no entry makes, or a directory is
        listed again: what was put into it went elsewhere if it is a symbolic link in a lower
        layer."""

    @property
    def is_plain(self) -> bool:
        """Say whether the layer can be taken as it is, whatever lies below it."""
        return not (self.names or self.links or self.skipped or self.copies)


def _pack(copy: Copy) -> Value:
    return msgspec.msgpack.encode(copy)


def _unpack(value: Value) -> Copy:
    assert isinstance(value, bytes)
    return msgspec.msgpack.decode(value, type=Copy)


class MissingTarget(ArchiveError):
    """A hard link names a file that neither its layer nor a lower one has."""


class _Further(NamedTuple):
    """A further name of a file."""

    order: int
    """Number of its entry; negative for a name of a lower layer."""
    path: bytes
    target: bytes
    """Which name of the file its entry names."""
    node: Node


class Merged:
    """The tree of all layers applied so far.  Methods may raise OSError: it may be in a file."""

    def __init__(self, scratch: Scratch) -> None:
        self.root_meta: Meta | None = None
        self.bare: Table[bytes, bool] = marks(scratch, room=_ROOM)
        """Directories without an entry of their own in place of deleted ones that had one."""
        self.has_lost = False
        """Whether something of a layer is no longer in the tree."""
        self._scratch = scratch
        self._names = Names(scratch)
        self._has_implied = False
        self._deleted: Table[bytes, bool] = marks(scratch, room=_ROOM)
        self._cache: dict[bytes, bytes] = {}
        self._links = Links(scratch)
        self._copied: Table[bytes, int] = numbers(scratch, room=_ROOM)
        """Of content copied from a lower layer: the entry that makes it so."""
        self._replacing: Table[bytes, bool] = marks(scratch, room=_ROOM)
        """Directories of this layer in the place of something else of a lower one."""
        self._adding: tuple[int, Node] | None = None
        """Number and node of the hard link that is about to be put into the tree."""
        self._outcome = Outcome(scratch)
        self._layer = -1

    def apply(self, index: LayerIndex) -> Outcome:
        """Put the next layer on top.  Raises ArchiveError, and MissingTarget."""
        self._layer += 1
        self._cache.clear()
        self._copied = numbers(self._scratch, room=_ROOM)
        self._replacing = marks(self._scratch, room=_ROOM)
        self._outcome = outcome = Outcome(self._scratch)
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
        """Give what is at a path, following no link."""
        held = self._names.at(path)
        return None if held is None else whole(held)

    def paths(self) -> Iterator[bytes]:
        """Give all paths but the root."""
        return (path for path, _ in self._names.below(b""))

    def missing(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Give those paths that are not in the tree."""
        return (path for path in paths if self._names.at(path) is None)

    def bare_directories(self) -> Table[bytes, bool]:
        """Name the directories that no entry of a layer makes, or makes as they must be.

        They were made for something that was deleted, or stand in the place of deleted ones.
        """
        if not self._has_implied:
            return self.bare
        # From the leaves: an implied directory counts if nothing in it has an entry.
        stack = [(b"", self._names.children(b""), False)]
        is_needed = [False]
        while stack:
            parent, children, is_implied = stack[-1]
            for base, held in children:
                if isinstance(held, Node) and held.kind == tar.DIRECTORY:
                    path = _join(parent, base)
                    stack.append((path, self._names.children(path), held.implied))
                    is_needed.append(False)
                    break
                is_needed[-1] = True
            else:
                stack.pop()
                if is_needed.pop() or not is_implied:
                    is_needed[-1:] = [True]
                else:
                    self.bare[parent] = True
        return self.bare

    # -- entries

    def _add(self, ordinal: int, kind: int, path: bytes, link: bytes) -> None:
        parent, _, base = path.rpartition(b"/")
        where = self._directory(parent)
        place = path
        if where != parent:
            place = self._outcome.names[ordinal] = _join(where, base)
        old = self._names.get(where, base)
        if kind == tar.DIRECTORY and isinstance(old, Node) and old.kind == tar.DIRECTORY:
            if old.layer == self._layer and not old.implied:
                self._outcome.skipped[old.ordinal] = True
                self._repeated(place)
            old.layer, old.ordinal, old.implied = self._layer, ordinal, False
            self._names.put(where, base, old)
            self.bare.pop(place)
            return
        node: Node | None = None
        if kind == tar.HARDLINK:
            node = self._hard_link(ordinal, place, link)
            if node is None:
                return  # a link to itself
            self._adding = (ordinal, node)
        if old is not None:
            if kind == tar.DIRECTORY and self._is_own(whole(old)):
                self._outcome.cleared[place] = True
            elif kind == tar.DIRECTORY:
                self._replacing[place] = True
            self._drop(old, place)
        self._adding = None
        if node is None and kind == tar.FILE:
            self._names.put(where, base, packed(self._layer, ordinal))
            return
        self._names.put(where, base, node or Node(kind, self._layer, ordinal, link))

    def _repeated(self, place: bytes) -> None:
        """Note a directory whose first entry, which counts no more, is not there to replace what a
        lower layer has at its place before something is put into it.
        """
        if self._names.has_children(place):
            self._outcome.needs_lower = True
            if place in self._replacing:
                self._outcome.cleared[place] = True

    def _hard_link(self, ordinal: int, place: bytes, link: bytes) -> Node | None:
        parent, _, base = link.rpartition(b"/")
        try:
            target = _join(self._directory(parent, create=False), base)
            found = self.find(target)
        except KeyError:
            target, found = link, None
        if found is None or found.kind == tar.DIRECTORY:
            raise MissingTarget(
                f"{show(place)}: hard link to {show(link)}, which is no earlier file"
            )
        if target == place:
            self._outcome.skipped[ordinal] = True
            return None
        if target != link:
            self._outcome.links[ordinal] = target
        if found.layer != self._layer:
            self._take_up(ordinal, found, target, place)
        first = found.first or target
        self._links.add(self._layer, first, ordinal, place, target)
        return Node(found.kind, self._layer, ordinal, found.link, first)

    def _take_up(self, ordinal: int, found: Node, target: bytes, place: bytes) -> None:
        """Move a lower layer's file into this layer with all its names but `place`, the new one."""
        source = found.first or target
        names = {source, *(path for _, path, _ in self._links.of(found.layer, source))}
        others = []
        for path in sorted(names - {target, place}):
            other = self.find(path)
            if other is not None and other.layer == found.layer and (other.first or path) == source:
                others.append((path, other))
        self._outcome.copies[ordinal] = Copy(
            found.layer, source, target, tuple(path for path, _ in others)
        )
        self._copied[target] = ordinal
        for number, (path, other) in enumerate(others):
            self._links.add(self._layer, target, number - len(others), path, target)
            self._own(other, path, target)
        self._own(found, target, b"")

    def _own(self, node: Node, path: bytes, first: bytes) -> None:
        node.layer, node.ordinal, node.first = self._layer, -1, first
        self._put(path, node)

    def _is_own(self, node: Node) -> bool:
        """Say whether an entry of this layer made it."""
        return node.layer == self._layer and node.ordinal >= 0

    def _put(self, path: bytes, node: Node) -> None:
        parent, _, base = path.rpartition(b"/")
        self._names.put(parent, base, node)

    # -- places

    def _directory(self, path: bytes, *, create: bool = True) -> bytes:
        """Find the directory that a path leads to, making what is missing.

        Without `create` raises KeyError instead.
        """
        found = self._cache.get(path)
        if found is None:
            if len(self._cache) > _MAX_CACHED:
                self._cache.clear()
            found = self._cache[path] = self._resolve(path, create)
        return found

    def _resolve(self, path: bytes, create: bool) -> bytes:
        todo = path.split(b"/")[::-1]
        here = b""
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = here.rpartition(b"/")[0]
                continue
            held = self._names.get(here, name)
            there = _join(here, name)
            if held is None:
                if not create:
                    raise KeyError(name)
                implied = Node(tar.DIRECTORY, self._layer, -1, implied=True)
                self._names.put(here, name, implied)
                self._has_implied = True
                if there in self._deleted:
                    self.bare[there] = True
            elif isinstance(held, Node) and held.kind == tar.SYMLINK:
                links += 1
                if links > _MAX_LINKS:
                    raise ArchiveError(f"{show(path)}: too many levels of symbolic links")
                if held.link.startswith(b"/"):
                    here = b""
                todo += held.link.split(b"/")[::-1]
                continue
            elif not isinstance(held, Node) or held.kind != tar.DIRECTORY:
                if not create:
                    raise KeyError(name)
                raise ArchiveError(f"{show(path)}: {show(there)} is not a directory")
            here = there
        return here

    # -- deletions

    def _whiteout(self, path: bytes) -> None:
        parent, _, base = path.rpartition(b"/")
        try:
            where = self._directory(parent, create=False)
        except KeyError:
            return
        old = self._names.pop(where, base)
        if old is not None:
            self._drop(old, _join(where, base))

    def _opaque(self, path: bytes) -> None:
        try:
            where = self._directory(path, create=False)
        except KeyError:
            return
        for name, held in self._names.children(where):
            self._names.pop(where, name)
            self._drop(held, _join(where, name))

    def _drop(self, held: Held, top: bytes) -> None:
        """Note what goes away with a name, and take away all that is below it."""
        self.has_lost = True
        below: Iterable[tuple[bytes, Held]] = ()
        if isinstance(held, Node) and held.kind in (tar.DIRECTORY, tar.SYMLINK):
            self._cache.clear()
            if held.kind == tar.DIRECTORY:
                below = self._names.below(top)
        for path, each in chain(((top, held),), below):
            one = whole(each)
            if path != top:
                parent, _, base = path.rpartition(b"/")
                self._names.pop(parent, base)
            is_own = one.layer == self._layer and not one.implied
            if one.implied:
                self._outcome.needs_lower = True
            if is_own and not self._hand_over(path, one, top):
                if one.ordinal >= 0:
                    self._outcome.skipped[one.ordinal] = True
                else:
                    self._outcome.replaced[path] = True
            if one.kind == tar.DIRECTORY and not one.implied:
                self._deleted[path] = True
            if self.bare:
                self.bare.pop(path)

    def _hand_over(self, path: bytes, old: Node, top: bytes) -> bool:
        """Let another name of a file of this layer have the content that an old one leaves.

        All names below `top` go away.  Gives whether the entry of the old name is still needed.
        """
        first = old.first or path
        names = self._remaining(first, top)
        if old.first:
            for one in names:
                if one.target == path:
                    self._outcome.links[one.order] = first
                    self._links.add(self._layer, first, one.order, one.path, first)
        copied = self._copied.get(first)
        if copied is not None:
            self._hand_copy_over(old, first, names, copied)
            return False
        if old.first or not names:
            return False
        heir = names[0]
        self._outcome.names[old.ordinal] = heir.path
        self._outcome.skipped[heir.node.ordinal] = True
        heir.node.ordinal = old.ordinal
        self._pass_to(names, first)
        return True

    def _hand_copy_over(self, old: Node, first: bytes, names: list[_Further], copied: int) -> None:
        """Do the same for a file that the entry `copied` copies from a lower layer."""
        entries = [one.order for one in names if one.order >= 0]
        kept = self.find(first) if old.first else None
        if kept is not None and kept.ordinal >= 0:
            entries.insert(0, kept.ordinal)
        if kept is not None and copied in entries:
            return
        copy = self._outcome.copies.pop(copied)
        assert copy is not None
        self._copied.pop(first)
        if copied not in entries:
            self._outcome.skipped[copied] = True
        if not entries:
            self._give_back(copy, names)
            return
        holder = copied if copied in entries else entries[0]
        if kept is None:
            others = tuple(one.path for one in names[1:] if one.order < 0)
            copy = Copy(copy.layer, copy.source, names[0].path, others)
            self._pass_to(names, first)
        self._outcome.copies[holder] = copy
        self._copied[copy.path] = holder

    def _give_back(self, copy: Copy, names: list[_Further]) -> None:
        """Leave a file to its lower layer: this one has no name for it any more."""
        for one in names:
            self._links.remove(self._layer, copy.path, one.order)
        for path in (copy.path, *copy.others):
            node = self.find(path)
            if node is None or node.layer != self._layer or (node.first or path) != copy.path:
                continue
            node.layer, node.first = copy.layer, b"" if path == copy.source else copy.source
            self._put(path, node)

    def _pass_to(self, names: list[_Further], first: bytes) -> None:
        """Let the first of some names stand for the content instead of another one."""
        for one in names:
            self._links.remove(self._layer, first, one.order)
        heir = names[0]
        self._now_under(heir, b"")
        for one in names[1:]:
            self._links.add(self._layer, heir.path, one.order, one.path, heir.path)
            self._now_under(one, heir.path)
            if one.order >= 0:
                self._outcome.links[one.order] = heir.path

    def _remaining(self, first: bytes, top: bytes) -> list[_Further]:
        """Give the further names of a file that stay when all below `top` go; forget the others."""
        names = []
        for order, path, target in self._links.of(self._layer, first):
            if self._adding is not None and order == self._adding[0]:
                names.append(_Further(order, path, target, self._adding[1]))
            elif path == top or path.startswith(top + b"/"):
                self._links.remove(self._layer, first, order)
            else:
                node = self.find(path)
                assert node is not None
                names.append(_Further(order, path, target, node))
        return names

    def _now_under(self, one: _Further, first: bytes) -> None:
        one.node.first = first
        if self._adding is None or one.node is not self._adding[1]:
            self._put(one.path, one.node)


def _join(parent: bytes, base: bytes) -> bytes:
    return parent + b"/" + base if parent else base
