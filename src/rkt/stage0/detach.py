"""A pod in the background: the caller waits until its apps run, then leaves it alone."""

from __future__ import annotations

import os
import signal
import sys

from rkt import const
from rkt.errors import EXIT_FAILURE, RktError
from rkt.linux import proc
from rkt.stage0.entrypoint import Stage1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod
    from rkt.stage0.request import RunRequest


def check(pod: Pod) -> None:
    """Refuse a stage1 that could not say when its apps run.  Raises RktError."""
    manifest = Stage1(pod).manifest
    if manifest.annotation(const.STAGE1_READY) != "true":
        raise RktError(f'stage1 image "{manifest.name}" does not support --detach',
                       hint="let a service manager run it, as systemd-run does")  # fmt: skip


def part(pod: Pod, request: RunRequest) -> int | None:
    """Fork: None in the child, which goes on to start the pod; in the caller an exit status.

    The child has a session of its own and /dev/null for stdin and stdout; its stderr stays the
    caller's until the apps run, so that whatever goes wrong before is seen there.  Stage1 gets no
    other descriptor of the caller's: it would hold its locks and pipes as long as the pod lives.
    """
    ready_r, ready_w = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(ready_r)
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        proc.close_on_exec()
        request.ready_fd = ready_w
        return None
    os.close(ready_w)
    pod.close()  # the lock is the child's

    def end(_number: int, _frame: object) -> None:
        os.kill(child, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    try:
        runs = os.read(ready_r, 1) == b"1"
    finally:
        os.close(ready_r)
    if runs:
        return 0
    os.waitpid(child, 0)
    return EXIT_FAILURE
