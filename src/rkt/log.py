"""Lines on stderr.  stdout belongs to the answer of a command."""

from __future__ import annotations

import sys

_PREFIX = "rkt: "


class _Level:
    debug = False


def configure(*, debug: bool) -> None:
    """Choose whether diagnostic lines are shown."""
    _Level.debug = debug


def is_debug() -> bool:
    """Say whether diagnostic lines are shown."""
    return _Level.debug


def plain(text: str) -> None:
    """Write a line to stderr without the prefix."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def info(text: str) -> None:
    """Write a line that the user always sees."""
    plain(_PREFIX + text)


def warning(text: str) -> None:
    """Write a line that says what is weaker or different than asked for."""
    plain(f"{_PREFIX}warning: {text}")


def debug(text: str) -> None:
    """Write a diagnostic line, shown with --debug only."""
    if _Level.debug:
        plain(_PREFIX + text)
