"""The module `signal` with plain numbers: its enumerations cost a millisecond at each start."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import *  # noqa: F403
else:
    from _signal import *  # noqa: F403 - what `signal` itself is made of


ENDING = (SIGTERM, SIGHUP)  # noqa: F405
"""The signals, besides SIGINT, that ask a process to end."""


def end_by_default() -> None:
    """Give them their usual meaning where they had another.

    To be called before exec: one that came already is heard now, one that comes later ends the
    process, and none is lost between the two programs.
    """
    for number in ENDING:
        if callable(getsignal(number)):  # noqa: F405
            signal(number, SIG_DFL)  # noqa: F405


def name(number: int) -> str:
    """Give the name of a signal.  Raises ValueError if there is none of that number."""
    from signal import Signals

    return Signals(number).name
