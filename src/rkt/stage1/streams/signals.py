"""Signals of a supervisor, as bytes on a descriptor for its loop."""

from __future__ import annotations

import os

from rkt.linux import sig

FORWARDED = (sig.SIGINT, sig.SIGTERM, sig.SIGHUP, sig.SIGQUIT)
URGENT = (sig.SIGINT, sig.SIGTERM)
PASSED = (sig.SIGUSR1, sig.SIGUSR2)  # for the apps to make sense of: they end nothing


def catch(*, resize: bool) -> int:
    """Make signals arrive as bytes on a descriptor; those ignored by the caller stay ignored."""
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    sig.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    numbers = [*FORWARDED, *PASSED, sig.SIGCHLD]
    if resize:
        numbers.append(sig.SIGWINCH)
    for number in numbers:
        if number == sig.SIGCHLD or sig.getsignal(number) != sig.SIG_IGN:
            sig.signal(number, _note)
    return wake_r


_noted: list[int] = []


def _note(number: int, _frame: object) -> None:
    """Remember the first signal that ends the pod; the wake-up byte is for the loop."""
    if not _noted and number in FORWARDED:
        _noted.append(number)


def asked_to_end() -> int:
    """Give the signal that came while there was no loop to handle it, 0 if none."""
    return _noted[0] if _noted else 0
