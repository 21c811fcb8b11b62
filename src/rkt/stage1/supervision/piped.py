"""A command inside an app, for a caller whose streams are files, or whose runtime would wait.

crun makes the command's user the owner of what are its streams, whoever they belong to, and SELinux
keeps apps from what is the host's.  Root in an app may change the modes of what it has, even those
of /dev/null.  So the command gets pipes in place of files and devices, and this process carries
between both.

runc carries all streams through pipes of its own, and ends only when nobody has them any more: not
when the command left something running.  Detached it hands them on as they are.
"""

from __future__ import annotations

import os

from rkt.errors import NotFound, RktError
from rkt.linux import libc, proc, sig
from rkt.stage1.host import runtime
from rkt.stage1.streams import pump, signals
from rkt.stage1.supervision import children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DRAIN = 0.05


def run(argv: list[str], taken: list[int], lend: Callable[..., None], *, pid_file: str = "") -> int:
    """Run the runtime's `exec` to its end with pipes in place of some streams; gives its status.

    `lend` lets the command use descriptors.  With `pid_file` the runtime leaves the command behind.
    """
    loop = pump.Loop()
    stdio, sources, theirs = [0, 1, 2], [], []
    for fd in taken:
        if fd == 2 and 1 in taken and os.path.sameopenfile(1, 2):
            stdio[2] = stdio[1]  # what is written to both stays in order
            continue
        if fd == 0:
            stdio[0] = feed(0)
        else:
            read, stdio[fd] = os.pipe()
            sources.append(pump.Source(loop, read, pump.Sink(loop, fd), None))
        theirs.append(stdio[fd])
    sinks = [source.sink for source in sources if not source.sink.dead]  # of /dev/null it is
    lend(*theirs)
    command = _Command(loop, pid_file)
    command.start(argv, (stdio[0], stdio[1], stdio[2]))
    for fd in theirs:
        os.close(fd)
    for source in sources:
        source.resume()
    while command.end is None:
        loop.step()
    # What the command left running may hold on to a pipe: silence is the end.
    while any(not source.closed for source in sources):
        if not loop.step(limit=_DRAIN):
            break
    if any(sink.dead for sink in sinks):
        raise RktError("the output of the command could not be written")
    return 128 - command.end if command.end < 0 else command.end


class _Command:
    """The runtime's `exec`, and the command that it leaves behind if it has a `pid_file`."""

    def __init__(self, loop: pump.Loop, pid_file: str) -> None:
        self.end: int | None = None
        """Its exit code, or minus the signal that killed it."""
        self._pid_file = pid_file
        self._pid = 0  # who is sent signals; 0 before the command is there
        self._due: set[int] = set()
        self._children = children.Children()
        self._wake = signals.catch(resize=False)
        loop.watch(self._wake, self._hear)

    def start(self, argv: list[str], stdio: tuple[int, int, int]) -> None:
        """Start the runtime."""
        if self._pid_file:
            libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)  # the command becomes this one's child
            self._children.spawn(argv, stdio, self._began)
        else:
            self._adopt(proc.spawn(argv, env=runtime.environment(), stdio=stdio))

    def _began(self, code: int) -> None:
        if code != 0:  # the runtime has said why
            self._ended(code)
            return
        try:
            with open(self._pid_file, encoding="ascii") as file:
                pid = int(file.read())
            os.unlink(self._pid_file)
        except FileNotFoundError:  # the pod has ended, and all that was in it
            self._ended(-sig.SIGKILL)
            return
        self._adopt(pid)

    def _adopt(self, pid: int) -> None:
        self._pid = pid
        self._children.adopt(pid, self._ended)

    def _ended(self, code: int) -> None:
        self.end = code

    def _hear(self) -> None:
        self._due.update(set(os.read(self._wake, 512)) - {sig.SIGCHLD})
        self._children.reap()
        while self._pid and self._due and self.end is None:
            children.kill(self._pid, self._due.pop())


def feed(fd: int) -> int:
    """Give the end of a pipe that a program of the host fills from a descriptor."""
    program = proc.find_program("cat")
    if program is None:
        raise NotFound('cannot carry the input: program "cat" is not installed')
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        proc.spawn([program], env=proc.BASE_ENV, stdio=(fd, write, null), new_session=True)
    finally:
        os.close(write)
        os.close(null)
    return read
