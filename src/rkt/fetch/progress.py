"""The progress line of a download, in the form that rkt has always drawn.

    Downloading aci: [=======================================      ] 3.25 MB/3.7 MB

On a terminal it is drawn again in place at most once a second; elsewhere it is written once.
Several downloads at a time have a board: a line each, on a terminal only.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from rkt import log

if TYPE_CHECKING:
    from types import TracebackType
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


class Row:
    """One download on a board."""

    __slots__ = ("done", "label", "total")

    def __init__(self, label: str, total: int) -> None:
        self.label = label
        self.total = total
        self.done = 0


class Board:
    """The progress of several downloads, for several threads; use it as a context manager.

    On a terminal the lines of those under way are at the bottom, and whatever rkt has to say in the
    meantime goes above them, as do the lines of those that have ended.  Elsewhere nothing is drawn.
    """

    def __init__(self, *, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self.is_live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._next = 0.0
        self._drawn = 0

    def __enter__(self) -> Board:
        if self.is_live:
            log.divert(self.say)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_live:
            log.divert(None)
            with self._lock:
                self._draw()
                self._rows.clear()  # a download that is left behind draws nothing any more
                self.is_live = False

    def say(self, text: str) -> None:
        """Write a line above those that are drawn again."""
        with self._lock:
            self._draw(text)

    def begin(self, label: str, total: int) -> Row:
        """Add a line."""
        row = Row(label, total)
        if self.is_live:
            with self._lock:
                self._rows.append(row)
                self._draw()
        return row

    def restart(self, row: Row) -> None:
        """Note that a download begins again."""
        row.done = 0

    def advance(self, row: Row, count: int) -> None:
        """Note that more bytes have arrived."""
        row.done += count
        if self.is_live and time.monotonic() >= self._next:
            with self._lock:
                self._draw()

    def end(self, row: Row) -> None:
        """Leave a line as it is now."""
        with self._lock:
            if row in self._rows:
                self._rows.remove(row)
                self._draw(self._line(row))

    def _draw(self, above: str = "") -> None:
        if not (above or self._rows or self._drawn):
            return
        self._next = time.monotonic() + 1
        back = f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else ""
        self._stream.write(back + above + "".join(map(self._line, self._rows)))
        self._stream.flush()
        self._drawn = len(self._rows)

    def _line(self, row: Row) -> str:
        # A line that the terminal wraps would be two to go up.
        return line_text(row.label, row.done, row.total)[: self._width()] + "\n"

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _COLUMNS
        except (OSError, ValueError):
            return _COLUMNS
