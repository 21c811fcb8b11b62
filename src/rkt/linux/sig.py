"""The module `signal` with plain numbers: its enumerations cost a millisecond at each start."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import *  # noqa: F403
else:
    from _signal import *  # noqa: F403 - what `signal` itself is made of


def name(number: int) -> str:
    """Give the name of a signal.  Raises ValueError if there is none of that number."""
    import signal

    return signal.Signals(number).name
