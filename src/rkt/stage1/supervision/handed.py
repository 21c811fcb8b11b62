"""What stage0 and the caller hand over: the lock, secrets, a pipe to tell of, standard input."""

from __future__ import annotations

import os
import stat

from rkt import log
from rkt.const import LOCK_FD_ENV, READY_FD_ENV
from rkt.errors import KernelError


def keep_lock() -> None:
    """Hold the lock as long as this process lives, and no child of it."""
    value = os.environ.get(LOCK_FD_ENV, "")
    if value.isdigit():
        try:
            os.set_inheritable(int(value), False)
        except OSError as err:
            raise KernelError(f"{LOCK_FD_ENV}={value}", err) from err


def blot_out(secret: str) -> None:
    """Take a secret out of the command line of this process, which `ps` shows to everybody.

    Stage1 programs are given the token of the metadata service there (rkt-internals 2.2).
    """
    wanted = os.fsencode(secret)
    try:
        with open("/proc/self/stat", "rb") as file:  # arg_start, arg_end: proc(5)
            start, end = map(int, file.read().rpartition(b")")[2].split()[45:47])
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            at = memory.read(end - start).find(wanted)
            if at >= 0:
                memory.seek(start + at)
                memory.write(b"*" * len(wanted))
    except OSError as err:
        log.debug(f"a secret stays in the command line: {err.strerror}")


def take_ready_fd() -> int:
    """Give the pipe on which a detached pod says that its apps run; -1 if it is not detached."""
    value = os.environ.pop(READY_FD_ENV, "")
    if not value.isdigit():
        return -1
    try:
        os.set_inheritable(int(value), False)
    except OSError as err:
        raise KernelError(f"{READY_FD_ENV}={value}", err) from err
    return int(value)


def is_pipeline(fd: int) -> bool:
    """Say whether a descriptor is a pipe or a file: not a terminal, nor /dev/null."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def stdin() -> int:
    """Give the caller's standard input to hand to an app.

    The runtimes change the owner of a stream to the app's user.  That must not happen to a file or
    a device of the caller's: its content goes through a pipe.
    """
    mode = os.fstat(0).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode) and not stat.S_ISCHR(mode):
        return 0
    if os.isatty(0):
        return 0
    from rkt.stage1.supervision import piped

    return piped.feed(0)
