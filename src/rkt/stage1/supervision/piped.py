"""A command inside an app, for a caller whose streams are files, or whose runtime would wait.

crun makes the command's user the owner of what are its streams, whoever they belong to, and SELinux
keeps apps from what is the host's.  So the command gets pipes in place of files, and this process
carries between both.

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
    loop, kids = pump.Loop(), children.Children()
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
    lend(*theirs)
    wake = signals.catch(resize=False)
    ends: list[int] = []
    signals_due: set[int] = set()
    pid = 0

    def began(code: int) -> None:
        nonlocal pid
        if code != 0:  # the runtime has said why
            ends.append(code)
            return
        with open(pid_file, encoding="ascii") as file:
            pid = int(file.read())
        os.unlink(pid_file)
        kids.adopt(pid, ends.append)

    streams = (stdio[0], stdio[1], stdio[2])
    if pid_file:
        libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)  # the command becomes a child of this process
        pid = kids.spawn(argv, streams, began)
    else:
        pid = proc.spawn(argv, env=runtime.environment(), stdio=streams)
        kids.adopt(pid, ends.append)
    for fd in theirs:
        os.close(fd)

    def handle() -> None:
        signals_due.update(set(os.read(wake, 512)) - {sig.SIGCHLD})
        kids.reap()
        if pid_file and kids.busy:  # not for the runtime, but for the command
            return
        while signals_due and not ends:
            children.kill(pid, signals_due.pop())

    loop.watch(wake, handle)
    for source in sources:
        source.resume()
    while not ends:
        loop.step()
    # What the command left running may hold on to a pipe: silence is the end.
    while any(not source.closed for source in sources):
        if not loop.step(limit=_DRAIN):
            break
    if any(source.sink.dead for source in sources):
        raise RktError("the output of the command could not be written")
    return 128 - ends[0] if ends[0] < 0 else ends[0]


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
