"""The ends of processes, also of such as end before anybody asks."""

from __future__ import annotations

import os

import pytest

from rkt.stage1.supervision.children import Children

NULL = "/dev/null"


@pytest.fixture
def children() -> Children:
    return Children()


def spawn(children: Children) -> int:
    """Start a command that runs as long as the test likes; gives its PID."""
    fd = os.open(NULL, os.O_RDWR)
    try:
        return children.spawn(["/bin/sleep", "1000"], (fd, fd, fd), lambda _: None)
    finally:
        os.close(fd)


def orphan(status: int) -> int:
    """Make a child that nobody waits for yet, and that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(status)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_what_ended_while_a_command_runs(children: Children) -> None:
    command = spawn(children)
    pid = orphan(7)
    children.reap()
    ends: list[int] = []
    children.adopt(pid, ends.append)
    assert ends == [7]
    os.kill(command, 9)
    os.waitpid(command, 0)


def test_a_number_that_came_round(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long command runs, a process ends, and a later one has its PID: that one lives."""
    command = spawn(children)
    results = iter([(os.getpid(), 0), (0, 0)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "waitpid", lambda *_: next(results))
        children.reap()
    ends: list[int] = []
    children.adopt(os.getpid(), ends.append)
    assert ends == []
    results = iter([(os.getpid(), 3 << 8), (0, 0)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "waitpid", lambda *_: next(results))
        children.reap()
    assert ends == [3]
    os.kill(command, 9)
    os.waitpid(command, 0)
