"""Programs that do not outlive who started them."""

from __future__ import annotations

import os
import select
import signal

from rkt.linux import proc

DEADLINE = 60


def test_it_is_killed_with_its_parent() -> None:
    read, write = os.pipe()
    told, tell = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)

    def parent() -> int:
        os.close(read)
        script = "echo ready; exec sleep 1000"
        stdio = (null, tell, null)
        proc.spawn_tied(["/bin/sh", "-c", script], env={}, stdio=stdio, keep=write)
        os.close(write)
        signal.pause()
        return 0

    pid = proc.fork(parent)
    try:
        os.close(write)
        os.close(tell)
        assert os.read(told, 16) == b"ready\n"
        # The program holds the only other end of the pipe.
        assert select.select([read], [], [], 0)[0] == []
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert select.select([read], [], [], DEADLINE)[0] == [read]
    assert os.read(read, 1) == b""
    for fd in (read, told, null):
        os.close(fd)


def test_what_cannot_be_executed() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    pid = proc.spawn_tied(["/nonexistent"], env={}, stdio=(null, null, null), keep=null)
    os.close(null)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 127
