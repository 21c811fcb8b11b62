"""Health checks at the moments that a pod seldom hits: between two runs of an app, at its end."""

from __future__ import annotations

import os
import resource
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from rkt.stage1.app.policy import HealthPlan
from rkt.stage1.supervision import health

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rkt.stage1.supervision.apprun import AppRun


class Clock:
    """A loop whose time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def after(self, seconds: float, callback: Callable[[], None]) -> object:
        self._timers.append((self.now + seconds, callback))
        return self._timers[-1]

    def cancel(self, timer: object) -> None:
        self._timers = [other for other in self._timers if other is not timer]

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Nothing is written in these tests."""

    def forget(self, fd: int) -> None:
        """Nor is anything read."""

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer[0] <= end]:
            timer = min(due, key=lambda timer: timer[0])
            self._timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end


class World:
    """An app, its checks, and a supervisor that takes note."""

    def __init__(self, top: Path, plan: HealthPlan) -> None:
        self.clock = Clock()
        self.plan = plan
        self.told: list[str] = []
        self.checks: list[Callable[[int], None]] = []
        self.app = SimpleNamespace(
            name="a", ident="a", bundle=str(top), process={}, step="main", pid=0, unhealthy="",
            plan=SimpleNamespace(give=lambda *_: None),
        )  # fmt: skip
        host = SimpleNamespace(
            loop=self.clock, rkt_dir=str(top), say=self.told.append,
            runtime=SimpleNamespace(exec_argv=lambda *_, **__: ["exec"]),
            children=SimpleNamespace(spawn=self.spawn),
            unhealthy=lambda _, text: self.told.append(text),
        )  # fmt: skip
        self.health = health.Health(cast("health.Host", host), cast("AppRun", self.app), plan)

    def spawn(self, _argv: list[str], _stdio: object, ended: Callable[[int], None]) -> int:
        self.checks.append(ended)
        return 1 << 22  # nobody's PID

    def begin(self, pid: int) -> None:
        self.app.pid = pid
        self.health.start()

    def end(self) -> None:
        self.app.pid = 0
        self.health.stop()


@pytest.fixture
def world(tmp_path: Path) -> World:
    plan = HealthPlan(["false"])
    plan.interval, plan.retries, plan.start_period = 1.0, 1, 0.0
    return World(tmp_path, plan)


def dead_child() -> int:
    """Give a child that has ended and was not reaped yet."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_a_check_that_failed(world: World) -> None:
    world.begin(os.getpid())
    world.clock.pass_time(1)
    world.checks.pop()(1)
    assert [text.partition(" (")[0] for text in world.told] == ["failed its health check once"]


def test_a_check_that_failed_because_the_app_has_just_ended(world: World) -> None:
    """The supervisor hears of the end of the check first: the app itself gives the reason."""
    pid = dead_child()
    try:
        world.begin(pid)
        world.clock.pass_time(1)
        world.checks.pop()(1)
        assert world.told == []
    finally:
        os.waitpid(pid, 0)


def test_each_run_has_its_own_start_period(world: World) -> None:
    world.plan.start_period = 10.0
    world.begin(os.getpid())
    world.clock.pass_time(0.5)
    world.end()
    world.clock.pass_time(8)
    world.begin(os.getpid())
    while world.clock.now < 17:  # the start period of the run before is over, this one's is not
        world.clock.pass_time(1)
        world.checks.pop()(1)
        assert world.told == []
    world.clock.pass_time(1)
    world.checks.pop()(1)
    assert len(world.told) == 1


@pytest.mark.parametrize("room", range(5))
def test_no_descriptors_are_no_reason_to_end_an_app(world: World, room: int) -> None:
    world.begin(os.getpid())
    before = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_fd = os.dup(0)
    os.close(next_fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_fd + room, hard))
    try:
        world.clock.pass_time(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if not world.checks:
        assert world.told == ['app "a": cannot check its health: Too many open files']
        assert os.listdir("/proc/self/fd") == before
        world.clock.pass_time(1)
    assert len(world.checks) == 1
