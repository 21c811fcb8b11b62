"""Sockets that a service manager passed to rkt (sd_listen_fds(3)), on their way to stage1."""

from __future__ import annotations

import os

from rkt.errors import RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
_FIRST = 3


def hold(env: Mapping[str, str]) -> int:
    """Count the descriptors that were passed to this process; no program gets them by itself.

    Has to come before anything is opened.  Raises RktError.
    """
    count = env.get("LISTEN_FDS", "")
    if not count or env.get("LISTEN_PID") != str(os.getpid()):
        return 0
    if not (count.isascii() and count.isdigit()):
        raise RktError(f'LISTEN_FDS="{count}" is not a number')
    for fd in range(_FIRST, _FIRST + int(count)):
        try:
            os.set_inheritable(fd, False)
        except OSError:
            raise RktError(f"LISTEN_FDS={count}, but descriptor {fd} is not open") from None
    return int(count)


def hand_on(count: int, environment: MutableMapping[str, str]) -> None:
    """Leave them to the program that this process becomes."""
    if not count:
        for name in VARIABLES:
            environment.pop(name, None)
        return
    for fd in range(_FIRST, _FIRST + count):
        os.set_inheritable(fd, True)
    environment["LISTEN_PID"] = str(os.getpid())  # a detached pod's is another
