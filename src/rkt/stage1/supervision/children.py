"""The child processes of a supervisor, by what is to happen at their end."""

from __future__ import annotations

import os

from rkt.linux import proc, sig
from rkt.stage1.host import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Ended = Callable[[int], None]


_foreign: dict[int, int] = {}
_NONE: list[int] = []


class Children:
    """Who is told when a child ends: exit code, or minus the signal.

    The runtime's commands leave processes behind that become children of this one (a subreaper).
    Such a process may end before its number is known: ends are kept while a command runs.
    """

    __slots__ = ("_early", "_running", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[int, Ended] = {}
        self._running: set[int] = set()
        self._early: dict[int, int] = {}

    @property
    def busy(self) -> bool:
        """Whether a command that was spawned still runs."""
        return bool(self._running)

    def spawn(
        self, argv: list[str], stdio: tuple[int, int, int], ended: Ended, passed: list[int] = _NONE
    ) -> int:
        """Start a program of the host in a session of its own; `passed` are its descriptors from 3.

        Raises OSError.
        """
        pid = proc.spawn(
            argv, env=runtime.environment(), stdio=stdio, passed=passed, new_session=True
        )
        self._waiting[pid] = ended
        self._running.add(pid)
        return pid

    def spawn_tied(
        self, argv: list[str], stdio: tuple[int, int, int], keep: int, ended: Ended
    ) -> int:
        """Start a program that ends with this process; `keep` is open in it.  Raises OSError."""
        pid = proc.spawn_tied(argv, env=runtime.environment(), stdio=stdio, keep=keep)
        self._waiting[pid] = ended
        self._running.add(pid)
        return pid

    def adopt(self, pid: int, ended: Ended) -> None:
        """Have the end of a child reported, which may have come already; replaces who was told."""
        code = self._early.pop(pid, None)
        if code is None or os.path.exists(f"/proc/{pid}"):  # else the number has come round
            self._waiting[pid] = ended
        else:
            ended(code)

    def reap(self) -> None:
        """Collect all that have ended."""
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(raw)
            ended = self._waiting.pop(pid, None)
            self._running.discard(pid)
            if ended:
                ended(code)
            elif self._running:
                self._early[pid] = code
            if not self._running:
                self._early.clear()


def know(pid: int) -> None:
    """Hold on to a process that somebody else reaps, so that `kill` can mean no other one."""
    forget(pid)
    try:
        _foreign[pid] = os.pidfd_open(pid)
    except OSError:  # gone already
        pass


def forget(pid: int) -> None:
    """Let go of such a process."""
    fd = _foreign.pop(pid, -1)
    if fd >= 0:
        os.close(fd)


def kill(pid: int, number: int = sig.SIGKILL) -> None:
    """Signal a child that was not reaped yet: its number cannot be anyone else's."""
    try:
        if pid in _foreign:
            sig.pidfd_send_signal(_foreign[pid], number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        pass
