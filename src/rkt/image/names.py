"""A tree of names without content: in memory while there are few, then in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rkt.image import tar
from rkt.linux.spill import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt.linux.spill import Scratch, Value

ROOM = 16 << 20
"""Bytes, roughly, that a tree may take in memory."""
_FILE_ROOM = 170
_NODE_ROOM = 500
_ORDINAL_BITS = 32


class Node(msgspec.Struct, array_like=True):
    """A name in a merged tree."""

    kind: int
    layer: int
    """Number of the uppermost layer that provides it."""
    ordinal: int
    """Number of its entry there; -1 if it has none."""
    link: bytes = b""
    first: bytes = b""
    """Of a further name of a file: the name in the layer under which its content stands."""
    implied: bool = False


Held = Node | int
"""An ordinary file is only a number, its layer and its ordinal: most names are such files."""


def packed(layer: int, ordinal: int) -> int:
    """Give an ordinary file."""
    return layer << _ORDINAL_BITS | ordinal


def whole(held: Held) -> Node:
    """Give a node for what is held; it is another one for an ordinary file."""
    if isinstance(held, Node):
        return held
    return Node(tar.FILE, held >> _ORDINAL_BITS, held & ((1 << _ORDINAL_BITS) - 1))


class Names:
    """The names of a tree by directory (path below the root) and base name.

    A node that was changed must be put again.  Methods raise OSError once it is in the file.
    """

    def __init__(self, scratch: Scratch, *, room: int = ROOM) -> None:
        self._scratch = scratch
        self._room = room
        self._directories: dict[bytes, dict[bytes, Held]] = {}
        self._table: Table[bytes, Held] | None = None

    def get(self, parent: bytes, base: bytes) -> Held | None:
        """Give what is held under a name."""
        if self._table is not None:
            return self._table.get(_key(parent, base))
        children = self._directories.get(parent)
        return None if children is None else children.get(base)

    def put(self, parent: bytes, base: bytes, held: Held) -> None:
        """Hold something under a name."""
        if self._table is not None:
            self._table[_key(parent, base)] = held
            return
        children = self._directories.get(parent)
        if children is None:
            children = self._directories[parent] = {}
        if base not in children:
            self._room -= _room(base, held)
        children[base] = held
        if self._room < 0:
            self._spill()

    def pop(self, parent: bytes, base: bytes) -> Held | None:
        """Take a name away, but nothing that is below it."""
        if self._table is not None:
            return self._table.pop(_key(parent, base))
        children = self._directories.get(parent)
        held = None if children is None else children.pop(base, None)
        if children is not None and held is not None:
            self._room += _room(base, held)
            if not children:
                del self._directories[parent]
        return held

    def at(self, path: bytes) -> Held | None:
        """Give what is held under a path."""
        parent, _, base = path.rpartition(b"/")
        return self.get(parent, base)

    def children(self, parent: bytes) -> Iterator[tuple[bytes, Held]]:
        """Give what is in a directory; those that were given already may be taken away."""
        if self._table is None:
            yield from tuple(self._directories.get(parent, {}).items())
            return
        prefix = parent + b"\0"
        for key, held in self._table.items(prefix):
            if not key.startswith(prefix):
                return
            yield key[len(prefix) :], held

    def has_children(self, parent: bytes) -> bool:
        """Say whether there is anything in a directory."""
        if self._table is None:
            return bool(self._directories.get(parent))
        return next(self.children(parent), None) is not None

    def below(self, top: bytes) -> Iterator[tuple[bytes, Held]]:
        """Give the path of everything below one, a directory before what is in it."""
        stack = [(top, self.children(top))]
        while stack:
            parent, children = stack[-1]
            found = next(children, None)
            if found is None:
                stack.pop()
                continue
            path = parent + b"/" + found[0] if parent else found[0]
            yield path, found[1]
            if isinstance(found[1], Node) and found[1].kind == tar.DIRECTORY:
                stack.append((path, self.children(path)))

    def _spill(self) -> None:
        table: Table[bytes, Held] = Table(self._scratch, _pack, _unpack, room=0)
        for parent in sorted(self._directories):
            for base, held in self._directories.pop(parent).items():
                table[_key(parent, base)] = held
        self._table = table


def _key(parent: bytes, base: bytes) -> bytes:
    return parent + b"\0" + base


def _room(base: bytes, held: Held) -> int:
    return (_FILE_ROOM if isinstance(held, int) else _NODE_ROOM) + len(base)


def _pack(held: Held) -> Value:
    return held if isinstance(held, int) else msgspec.msgpack.encode(held)


def _unpack(value: Value) -> Held:
    return value if isinstance(value, int) else msgspec.msgpack.decode(value, type=Node)
