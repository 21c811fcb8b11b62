"""The names of files that have several, as the layers of an image give them."""

from __future__ import annotations

from rkt.linux.spill import texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.linux.spill import Scratch, Table


class Links:
    """The further names of the files of all layers, by the first ones."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._table: Table[bytes, bytes] | None = None

    def add(self, layer: int, first: bytes, order: int, path: bytes, target: bytes) -> None:
        """Note a further name of a file, and which of its names it was linked to."""
        if self._table is None:
            self._table = texts(self._scratch, room=0)
        self._table[_prefix(layer, first) + _number(order)] = path + b"\0" + target

    def remove(self, layer: int, first: bytes, order: int) -> None:
        """Forget one."""
        assert self._table is not None
        self._table.pop(_prefix(layer, first) + _number(order))

    def of(self, layer: int, first: bytes) -> list[tuple[int, bytes, bytes]]:
        """Give number, path and target of all further names of a file in order."""
        if self._table is None:
            return []
        prefix = _prefix(layer, first)
        found = []
        for key, names in self._table.items(prefix):
            if not key.startswith(prefix):
                break
            path, _, target = names.partition(b"\0")
            found.append((int.from_bytes(key[len(prefix) :], "big") - (1 << 63), path, target))
        return found


def _prefix(layer: int, first: bytes) -> bytes:
    return layer.to_bytes(4, "big") + first + b"\0"


def _number(order: int) -> bytes:
    return (order + (1 << 63)).to_bytes(8, "big")
