"""Lines on stderr.  stdout belongs to the answer of a command."""

from __future__ import annotations

import sys

from rkt.errors import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PREFIX = "rkt: "


class _Level:
    debug = False
    writer: Callable[[str], None] | None = None


def configure(*, debug: bool) -> None:
    """Choose whether diagnostic lines are shown."""
    _Level.debug = debug


def is_debug() -> bool:
    """Say whether diagnostic lines are shown."""
    return _Level.debug


def divert(writer: Callable[[str], None] | None) -> None:
    """Hand lines to whoever draws on the terminal meanwhile; None: write them to stderr again."""
    _Level.writer = writer


def plain(text: str) -> None:
    """Write a line, or several, to stderr without the prefix; lost if stderr takes nothing.

    Names and paths in it may come from images: nothing of them steers the terminal.
    """
    if not text.isprintable():
        text = "\n".join("\t".join(map(one_line, s.split("\t"))) for s in text.split("\n"))
    if _Level.writer is not None:
        _Level.writer(text + "\n")
        return
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:  # a full disk, a closed pipe: no reason to fail, nor a way to tell
        pass


def info(text: str) -> None:
    """Write a line that the user always sees."""
    plain(_PREFIX + text)


def warning(text: str) -> None:
    """Write one line, whatever it quotes, that says what is weaker or different than asked for."""
    plain(f"{_PREFIX}warning: {one_line(text)}")


def debug(text: str) -> None:
    """Write a diagnostic line, shown with --debug only."""
    if _Level.debug:
        plain(_PREFIX + text)
