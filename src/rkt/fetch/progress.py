"""The progress line of a download, in the form that rkt has always drawn.

    Downloading aci: [=======================================      ] 3.25 MB/3.7 MB

On a terminal it is drawn again in place at most once a second; elsewhere it is written once.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_COLUMNS = 80
_BYTES_WIDTH = 18  # room for "3.25 MB/3.7 MB" and the blanks around it
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


def size_text(count: int) -> str:
    """Write a size in decimal units with three digits: `473 B`, `3.25 MB`."""
    size = float(count)
    unit = _UNITS[0]
    for unit in _UNITS:
        if size < 999.5 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.3g} {unit}"


def line_text(label: str, done: int, total: int | None) -> str:
    """Write one progress line."""
    if total is None:
        return f"{label}: {size_text(done)} of an unknown total size"
    width = _COLUMNS - len(label) - _BYTES_WIDTH - 2
    filled = width * min(done, total) // total if total else width
    bar = "=" * filled + " " * (width - filled)
    return f"{label}: [{bar}] {size_text(done)}/{size_text(total)}"


class Progress:
    """The progress of one download; `start` bytes are there already."""

    def __init__(
        self, label: str, total: int | None, *, start: int = 0, stream: TextIO | None = None
    ) -> None:
        self._label = label
        self._total = total
        self._done = start
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._next = 0.0
        self._drawn = 0

    def advance(self, count: int) -> None:
        """Note that more bytes have arrived."""
        self._done += count
        if self._live and time.monotonic() >= self._next:
            self._next = time.monotonic() + 1
            self._draw()

    def finish(self) -> None:
        """Draw the final state and end the line."""
        if self._live:
            self._draw()
            self._end()
        else:
            self._stream.write(line_text(self._label, self._done, self._total) + "\n")
            self._stream.flush()

    def abort(self) -> None:
        """End a line that was begun, so that what follows starts at the left."""
        if self._drawn:
            self._end()

    def _draw(self) -> None:
        text = line_text(self._label, self._done, self._total)
        self._stream.write("\r" + text.ljust(self._drawn))
        self._stream.flush()
        self._drawn = len(text)

    def _end(self) -> None:
        self._stream.write("\n")
        self._stream.flush()
        self._drawn = 0
