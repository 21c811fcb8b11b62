"""A place for what inotify(7) tells; the kernel gives a user a few of them, apps included."""

from __future__ import annotations

import errno

from rkt.errors import KernelError, RktError
from rkt.linux import libc


def instance() -> int:
    """Give a new inotify descriptor.  Raises RktError that says which limit is in the way."""
    try:
        return libc.inotify_init()
    except OSError as err:
        if err.errno == errno.EMFILE:
            raise RktError(
                "cannot watch for changes: no inotify instance is left to this user, whose "
                "processes in pods count too", hint="sysctl fs.inotify.max_user_instances",
            ) from None  # fmt: skip
        raise KernelError("cannot watch for changes", err) from err
