"""What happened to pods, told from directories that look like theirs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import time
from typing import TYPE_CHECKING

import pytest

from rkt.errors import RktError, StoreError
from rkt.linux import libc
from rkt.pod import events, lifecycle
from rkt.pod.eventwatch import Follower

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rkt.pod.events import Event

UUID = "5bc080ca-0d1f-4f2e-8beb-2b95f3d69a0f"
MANIFEST = {"acKind": "PodManifest", "acVersion": "0.8.11",
            "apps": [{"name": "one", "image": {"id": "sha512-" + "ab" * 32}}]}  # fmt: skip
S = 10**9


def write(path: str, content: object, when: int = 0) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.tmp", "w") as file:
        file.write(content if isinstance(content, str) else json.dumps(content))
    if when:
        os.utime(f"{path}.tmp", ns=(when * S, when * S))
    os.rename(f"{path}.tmp", path)


def make(data: object, where: str, uuid: str = UUID) -> str:
    pod = f"{data}/pods/{where}/{uuid}"
    write(f"{pod}/pod-created", "", 100)
    write(f"{pod}/pod", MANIFEST, 110)
    return pod


def ran(pod: str, **why: object) -> None:
    write(f"{pod}/pid", "1\n", 120)
    rkt = f"{pod}/stage1/rootfs/rkt"
    write(f"{rkt}/status/one.pid", "2 3\n", 130)
    reason = {"kind": "exited", "text": "exited with status 3", "status": 3, "time": 140 * S, **why}
    write(f"{rkt}/status/one.reason", reason)
    if not why.get("again"):
        write(f"{rkt}/status/one", "3\n", 140)


def short(found: list[Event]) -> list[str]:
    return [f"{event.time // S if event.time < 10**6 * S else 'now'} {event.kind} {event.status}"
            for event in found]  # fmt: skip


def past(data: object) -> list[Event]:
    problems: list[str] = []
    found = events.past(str(data), problem=problems.append)
    assert problems == []
    return found


class Watched:
    """A follower, and what it says."""

    def __init__(self, data: object, images: events.Images | None = None) -> None:
        self.problems: list[str] = []
        self._told: list[Event] = []
        self.follower = Follower(str(data), images=images, problem=self.problems.append)
        self.begun = self.follower.start()

    def until(self, status: str) -> list[Event]:
        """Give what is told up to an event."""
        found: list[Event] = []
        deadline = time.monotonic() + 60
        while True:
            while self._told:
                found.append(self._told.pop(0))
                if found[-1].status == status:
                    return found
            assert time.monotonic() < deadline, short(found)
            left = self.follower.timeout()
            select.select([self.follower], [], [], 5 if left is None else left)
            self._told += self.follower.take()

    def quiet(self) -> list[Event]:
        """Give what is told without anything having happened."""
        found, self._told = self._told, []
        while select.select([self.follower], [], [], 0)[0]:
            found += self.follower.take()
        return found


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    one = Watched(tmp_path / "not" / "yet")
    yield one
    one.follower.close()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("prepared", ["100 pod created", "110 pod prepared"]),
        ("prepare", ["100 pod created", "now pod aborted"]),
        ("garbage", ["100 pod created", "110 pod prepared", "now pod garbage"]),
        ("run", ["100 pod created", "now app failed", "now pod exited"]),
        ("embryo", []),
    ],
)
def test_pods_that_were_not_started(tmp_path: Path, where: str, expected: list[str]) -> None:
    make(tmp_path, where)
    assert short(past(tmp_path)) == expected


def test_a_pod_that_ended_is_told_once_and_in_order(tmp_path: Path) -> None:
    pod = make(tmp_path, "run")
    ran(pod)
    write(f"{pod}/name", "web\n")
    write(f"{pod}/released", "", 139)  # a file's time may lag behind the clock
    write(f"{pod}/appsinfo/one/manifest", {"name": "example.com/one"})
    expected = ["100 pod created", "120 pod started", "130 app started", "140 app exited",
                "140 pod exited"]  # fmt: skip
    found = past(tmp_path)
    assert short(found) == expected
    assert found[3].attributes == {
        "pod": "web", "image": "example.com/one", "reason": "exited with status 3",
        "exit-code": "3",
    }  # fmt: skip
    assert (found[3].id, found[3].name, found[4].name) == (UUID, "one", "web")
    assert found[4].attributes == {}
    os.makedirs(f"{tmp_path}/pods/exited-garbage")
    os.rename(pod, f"{tmp_path}/pods/exited-garbage/{UUID}")
    assert short(past(tmp_path)) == [*expected, "now pod garbage"]


def test_the_end_of_a_killed_supervisor_is_estimated(tmp_path: Path) -> None:
    pod = make(tmp_path, "run")
    ran(pod, again=True, restarts=2)
    found = past(tmp_path)
    assert short(found)[-2:] == ["now app exited", "now pod exited"]
    assert found[-1].attributes == {"estimated": "true"}
    assert found[-2].attributes == {"reason": "its supervisor was killed while it ran"}


def test_an_end_that_is_guessed_comes_after_the_start(tmp_path: Path) -> None:
    pod = make(tmp_path, "run")
    write(f"{pod}/pid", "1\n", 120)
    write(f"{pod}/stage1/rootfs/rkt/status/one.pid", "2 3\n", 130)
    os.utime(pod, ns=(125 * S, 125 * S))
    assert short(past(tmp_path))[-3:] == [
        "130 app started", "130 app exited", "130 pod exited",
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["", "{", '{"acKind": "PodManifest"}', "\0" * 100, "[" * 9999])
def test_a_damaged_pod_is_reported_and_keeps_no_other(tmp_path: Path, content: str) -> None:
    other = UUID.replace("5", "6", 1)
    ran(make(tmp_path, "run"))
    write(f"{make(tmp_path, 'run', other)}/pod", content)
    problems: list[str] = []
    found = events.past(str(tmp_path), problem=problems.append)
    assert [event.status for event in found if event.id == other] == ["created", "exited"]
    assert [event.status for event in found if event.id == UUID][-1] == "exited"
    assert len(problems) == 1
    assert problems[0].startswith(f'pod "{other}": ')
    assert problems[0].count(other) == 1


def test_what_is_no_pod_is_no_event(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "pods" / "run" / "lost+found")
    write(f"{tmp_path}/pods/run/{UUID}", "a file")
    assert past(tmp_path) == []


def test_a_pod_is_followed_from_before_there_is_a_data_directory(
    tmp_path: Path, watched: Watched
) -> None:
    data = tmp_path / "not" / "yet"
    with lifecycle.create(str(data)) as pod:
        assert short(watched.until("created")) == ["now pod created"]
        pod.move("prepared")
        assert [event.status for event in watched.until("prepared")] == ["prepared"]
        pod.move("run")
        write(f"{pod.path}/pod", MANIFEST)
        write(f"{pod.path}/pid", "1\n", 120)
        assert short(watched.until("started")) == ["120 pod started"]
        ran(pod.path, again=True)
        found = watched.until("restarting")
        assert [event.status for event in found if event.kind == "app"] == ["started", "restarting"]
        ran(pod.path)
        write(f"{pod.path}/stage1/rootfs/rkt/status/one.reason", {
            "kind": "exited", "text": "exited with status 0", "time": 150 * S,
        })  # fmt: skip
        assert short(watched.until("exited"))[-1] == "150 app exited"
    assert [event.kind for event in watched.until("exited")] == ["pod"]
    with lifecycle.find(str(data), pod.uuid) as again:
        again.move("exited-garbage")
        assert [event.status for event in watched.until("garbage")] == ["garbage"]
    os.rename(again.path, data / "elsewhere")
    assert watched.quiet() == []
    os.rename(data / "elsewhere", again.path)
    lifecycle_remove(again.path)
    assert [event.status for event in watched.until("removed")] == ["removed"]
    assert watched.quiet() == []
    assert watched.problems == []


def lifecycle_remove(path: str) -> None:
    for folder, directories, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(f"{folder}/{name}")
        for name in directories:
            os.rmdir(f"{folder}/{name}")
    os.rmdir(path)


def test_a_pod_that_is_gone_before_it_can_be_looked_at(tmp_path: Path, watched: Watched) -> None:
    data = tmp_path / "not" / "yet"
    lifecycle.create(str(data)).close()
    watched.until("aborted")
    with lifecycle.create(str(data)) as pod:
        for where in ("prepared", "run", "exited-garbage"):
            pod.move(where)
    lifecycle_remove(pod.path)
    found = watched.until("removed")
    assert [event.status for event in found if event.id == pod.uuid] == [
        "created", "prepared", "exited", "garbage", "removed",
    ]  # fmt: skip


def test_a_preparation_that_is_killed_is_noticed(tmp_path: Path, watched: Watched) -> None:
    with lifecycle.create(str(tmp_path / "not" / "yet")) as pod:
        watched.until("created")
        fd = os.open(pod.path, os.O_RDONLY)
        os.close(fd)  # another command that looks at it
        watched.quiet()
    found = watched.until("aborted")
    assert [(event.id, event.status) for event in found] == [(pod.uuid, "aborted")]


def test_a_data_directory_that_is_deleted_and_comes_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make(data, "prepared")
    watched = Watched(data)
    assert short(watched.begun) == ["100 pod created", "110 pod prepared"]
    lifecycle_remove(str(data))
    watched.until("removed")
    make(tmp_path / "new", "prepared")
    os.rename(tmp_path / "new", data)
    assert [event.status for event in watched.until("prepared")] == ["created", "prepared"]
    watched.follower.close()


def test_nothing_is_lost_when_the_kernel_drops_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    for number in range(40):
        make(data, "prepared", UUID[:-2] + f"{number:02d}")
    watched = Watched(data)
    assert len(watched.begun) == 80
    lifecycle_remove(f"{data}/pods/prepared/{UUID[:-2]}39")
    real = os.read
    header = (-1).to_bytes(4, "little", signed=True) + (0x4000).to_bytes(4, "little") + b"\0" * 8
    monkeypatch.setattr(os, "read", lambda fd, size: (real(fd, size), header)[1])
    found = watched.until("removed")
    monkeypatch.undo()
    assert [event.id for event in found] == [f"{UUID[:-2]}39"]
    watched.follower.close()


def test_a_running_pod_of_a_foreign_stage1_is_followed_by_its_lock(tmp_path: Path) -> None:
    pod = make(tmp_path, "run")
    write(f"{pod}/ppid", "1\n", 120)
    fd = os.open(pod, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    watched = Watched(tmp_path)
    assert short(watched.begun) == ["100 pod created", "120 pod started"]
    os.close(fd)
    assert [event.status for event in watched.until("exited")][-1] == "exited"
    watched.follower.close()


def test_many_pods_take_no_descriptor_each_once_they_have_ended(tmp_path: Path) -> None:
    for number in range(100):
        ran(make(tmp_path, "run", UUID[:-2] + f"{number:02d}"))
    before = len(os.listdir("/proc/self/fd"))
    watched = Watched(tmp_path)
    assert len(watched.begun) == 500
    assert len(os.listdir("/proc/self/fd")) == before + 2
    watched.follower.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_images_come_and_go() -> None:
    stored = {"sha512-aa": ("example.com/a", 5 * S), "sha512-bb": ("example.com/b", 4 * S)}
    images = events.Images(lambda: dict(stored))
    assert [(e.id, e.name, e.time // S) for e in images.look()] == [
        ("sha512-bb", "example.com/b", 4), ("sha512-aa", "example.com/a", 5),
    ]  # fmt: skip
    stored["sha512-aa"] = ("example.com/a", 6 * S)
    del stored["sha512-bb"]
    assert [(e.status, e.id) for e in images.look()] == [
        ("imported", "sha512-aa"), ("removed", "sha512-bb"),
    ]  # fmt: skip
    assert images.look() == []


def test_a_damaged_store_is_said_once(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "cas" / "db")

    def fail() -> dict[str, tuple[str, int]]:
        raise StoreError("image store: it is damaged")

    watched = Watched(tmp_path, events.Images(fail))
    for _ in range(3):
        write(f"{tmp_path}/cas/db/db.sqlite", "x")
        watched.quiet()
    assert watched.problems == ["image store: it is damaged"]
    watched.follower.close()


def test_the_kernel_gives_no_more_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root in an app may take all that there are for user 0."""

    def refuse() -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(libc, "inotify_init", refuse)
    with pytest.raises(RktError, match="no inotify instance is left to this user") as caught:
        Follower(str(tmp_path), problem=print)
    assert caught.value.hint == "sysctl fs.inotify.max_user_instances"
