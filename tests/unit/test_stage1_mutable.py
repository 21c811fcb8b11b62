"""Adding an app whose volume has to be filled: the supervisor waits for nothing."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from rkt.errors import PodStateError
from rkt.stage1.app.volumes import Fill
from rkt.stage1.streams import pump
from rkt.stage1.supervision import mutable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rkt.stage1.app.manifest import App
    from rkt.stage1.app.spec import AppPlan


class World:
    """A supervisor and a pod that do nothing but take note."""

    def __init__(self, top: Path) -> None:
        self.commands: list[tuple[list[str], Callable[[int], None]]] = []
        self.killed: list[int] = []
        self.answers: list[dict[str, object]] = []
        (top / "rkt/status").mkdir(parents=True)
        self.status = top / "rkt/status"
        self.host = SimpleNamespace(
            loop=pump.Loop(), children=SimpleNamespace(spawn_tied=self.spawn), keep=True,
            stopping=False, init_alive=True, rkt_dir=f"{top}/rkt", on_step=None,
        )  # fmt: skip
        self.pod = SimpleNamespace(
            dir=str(top), rootfs=str(top), layout=None, streams=lambda _: None
        )
        self.operations = mutable.Operations(self.pod, self.host)  # type: ignore[arg-type]

    def spawn(self, argv: list[str], _: object, _keep: int, ended: Callable[[int], None]) -> int:
        self.commands.append((argv, ended))
        return 1000 + len(self.commands)

    def fill(self, count: int) -> list[int]:
        fds = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(count)]
        fills = [Fill(fd, f"{self.pod.dir}/volume{number}") for number, fd in enumerate(fds)]
        for fill in fills:
            os.makedirs(f"{fill.destination}/copied")
        app = cast("App", SimpleNamespace(name="db"))
        plan = cast("AppPlan", SimpleNamespace(name="db", cgroup=""))
        self.operations._fill(app, plan, fills, self.answers.append)
        return fds

    @property
    def destinations(self) -> list[str]:
        return [os.path.basename(argv[-1]) for argv, _ in self.commands]

    @property
    def volumes(self) -> list[str]:
        return sorted(name for name in os.listdir(self.pod.dir) if name.startswith("volume"))

    @property
    def created(self) -> bool:
        return (self.status / "db-created").exists()


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found = World(tmp_path)
    monkeypatch.setattr(mutable, "kill", found.killed.append)
    yield found
    found.operations.close()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_the_answer_comes_after_the_last_copy(world: World) -> None:
    fds = world.fill(2)
    assert world.destinations == ["volume0"]
    assert (world.answers, world.created) == ([], False)
    world.commands[0][1](0)
    assert world.destinations == ["volume0", "volume1"]
    assert (world.answers, world.created) == ([], False)
    world.commands[1][1](0)
    assert (world.answers, world.created) == ([{}], True)
    assert world.volumes == ["volume0", "volume1"]
    assert not any(map(is_open, fds))


def test_a_copy_that_fails_is_the_answer(world: World) -> None:
    fds = world.fill(3)
    world.commands[0][1](0)
    world.commands[1][1](1)
    text = f'app "db": cannot fill the volume "{world.pod.dir}/volume1": cp exited with status 1'
    assert world.answers == [{"error": text}]
    assert len(world.commands) == 2
    assert not world.created
    assert world.volumes == ["volume0"]  # the next try begins with those that are missing
    assert not any(map(is_open, fds))


def test_the_end_of_the_pod_ends_a_copy(world: World) -> None:
    world.fill(1)
    world.host.on_step()
    assert world.killed == []
    world.host.stopping = True
    world.host.on_step()
    assert world.killed == [1001]
    world.commands[0][1](-9)
    text = f'app "db": cannot fill the volume "{world.pod.dir}/volume0": cp was killed'
    assert world.answers == [{"error": text}]
    world.host.on_step()
    assert world.killed == [1001]


@pytest.mark.parametrize("code", [0, -9])
def test_an_app_that_is_removed_meanwhile_does_not_come(world: World, code: int) -> None:
    """Who adds it was interrupted, and takes it back."""
    fds = world.fill(2)
    world.operations._remove("db", {}, world.answers.append)
    assert (world.killed, world.answers) == ([1001], [])
    with pytest.raises(PodStateError, match='app "db" is being added'):
        world.operations._add("db", {}, world.answers.append)
    world.commands[0][1](code)  # it may have ended just before
    text = f'app "db": cannot fill the volume "{world.pod.dir}/volume0": '
    assert world.answers == [{"error": f"{text}the app was removed meanwhile"}, {}]
    assert (len(world.commands), world.created) == (1, False)
    assert not any(map(is_open, fds))
    assert not any(os.path.exists(f"{world.pod.dir}/volume{number}") for number in range(2))
    world.fill(1)
    world.commands[1][1](0)
    assert world.answers[2:] == [{}]
    assert world.created
