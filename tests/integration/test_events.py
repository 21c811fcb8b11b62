"""Events of real pods, past and as they happen."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.context import TIMEOUT, UUID
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.context import RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
SHELL = ("--exec=/bin/sh", "--", "-c")


@pytest.fixture
def image(rkt: RktContext) -> str:
    return AciBuilder("example.com/app").busybox().build(rkt.files).path


def told(rkt: RktContext, *flags: str) -> list[dict[str, Any]]:
    """Give the past as JSON."""
    text = rkt.rkt("events", "--format=json", *flags).stdout
    return [json.loads(line) for line in text.splitlines()]


def words(found: list[dict[str, Any]]) -> list[str]:
    return [f"{event['type']} {event['status']}" for event in found]


class Following:
    """`rkt events --follow` while the test does something."""

    def __init__(self, rkt: RktContext, *flags: str) -> None:
        self.process = rkt.spawn("events", "--follow", "--format=json", *flags)
        assert self.process.stdout is not None
        self._out = self.process.stdout.fileno()
        self._text = b""

    def until(self, status: str, kind: str = "pod", count: int = 1) -> list[dict[str, Any]]:
        """Give what is told up to the event of that kind for the `count`-th time."""
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + TIMEOUT
        while count:
            line, newline, rest = self._text.partition(b"\n")
            if newline:
                self._text = rest
                found.append(json.loads(line))
                count -= words(found[-1:]) == [f"{kind} {status}"]
                continue
            left = deadline - time.monotonic()
            assert left > 0, f"{status} was not told after {words(found)}"
            if select.select([self._out], [], [], left)[0]:
                data = os.read(self._out, 65536)
                assert data, self.end()
                self._text += data
        return found

    def watches(self) -> bool:
        """Say whether it sleeps on what it watches."""
        try:
            with open(f"/proc/{self.process.pid}/wchan") as file:
                asleep = "poll" in file.read()
            fds = f"/proc/{self.process.pid}/fd"
            links = [os.readlink(f"{fds}/{name}") for name in os.listdir(fds)]
        except OSError:
            return False
        return asleep and "anon_inode:[eventpoll]" in links

    def end(self) -> tuple[int, bytes, bytes]:
        """Press Ctrl-C; give the exit status and what was not read yet."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, self._text + out, err


@pytest.fixture
def following(rkt: RktContext) -> Iterator[Following]:
    shutil.rmtree(rkt.data)
    one = Following(rkt)
    rkt.wait_for(one.watches)
    yield one
    if one.process.poll() is None:
        one.end()


def test_a_life_is_told_as_it_happens_and_after(
    rkt: RktContext, image: str, following: Following
) -> None:
    rkt.rkt(OPEN, "fetch", image)
    assert following.until("imported", "image")[-1]["name"] == "example.com/app:1.0.0"
    rkt.rkt(OPEN, "run", "--pod-name=web", image, *SHELL, "exit 3", status=3)
    live = following.until("exited")
    pods = [event for event in live if event["type"] != "image"]
    assert words(pods) == [
        "pod created", "pod started", "app started", "app exited", "pod exited",
    ]  # fmt: skip
    uuid = pods[0]["id"]
    assert UUID.fullmatch(uuid)
    assert pods[3]["name"] == "app"
    assert pods[3]["attributes"] == {
        "pod": "web", "image": "example.com/app", "reason": "exited with status 3",
        "exit-code": "3",
    }  # fmt: skip
    past = told(rkt, "--filter=pod=web")
    assert words(past) == words(pods)
    assert past[1:] == pods[1:]  # and at the same times
    rkt.rkt("rm", "web")
    gone = [event for event in following.until("removed") if event["type"] == "pod"]
    assert words(gone) == ["pod garbage", "pod removed"]
    assert {event["id"] for event in gone} == {uuid}
    assert gone[0]["name"] == "web"
    assert told(rkt, f"--filter=pod={uuid}") == []
    rkt.rkt("image", "rm", "example.com/app")
    removed = following.until("removed", "image")[-1]
    assert removed["name"] == "example.com/app:1.0.0"
    status, rest, err = following.end()
    assert (status, rest, err) == (0, b"", b"")


def test_restarts_and_a_killed_supervisor(
    rkt: RktContext, image: str, following: Following
) -> None:
    restart = "--restart=on-failure:2"
    rkt.rkt(OPEN, "run", restart, image, *SHELL, "exit 4", status=4)
    found = [event for event in following.until("exited") if event["type"] == "app"]
    assert words(found) == [
        "app started", "app restarting", "app started", "app restarting", "app started",
        "app exited",
    ]  # fmt: skip
    assert found[-1]["attributes"]["restarts"] == "2"
    pod = rkt.spawn(OPEN, "run", image, *SHELL, "sleep 1000")
    following.until("started", "app")
    pod.kill()
    pod.wait(TIMEOUT)
    found = following.until("exited")
    assert words(found) == ["app exited", "pod exited"]
    assert found[0]["attributes"]["reason"] == "its supervisor was killed while it ran"
    past = told(rkt, f"--filter=pod={found[0]['id']}")
    assert past[-1]["attributes"] == {"estimated": "true"}
    rkt.rkt("gc", "--grace-period=0s")


def test_prepared_and_mutable_pods(rkt: RktContext, image: str, following: Following) -> None:
    uuid = rkt.rkt(OPEN, "prepare", image).stdout.strip()
    prepared = following.until("prepared")
    assert [event["id"] for event in prepared if event["type"] == "pod"] == [uuid, uuid]
    rkt.rkt("run-prepared", uuid, status=0)
    # That the images were stored may be seen after the pod: another directory tells it.
    told = [event for event in following.until("exited") if event["type"] != "image"]
    assert words(told) == ["pod started", "app started", "app exited", "pod exited"]
    sandbox = rkt.spawn("app", "sandbox", f"--uuid-file-save={rkt.files}/uuid")
    following.until("started")
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    rkt.rkt("status", "--wait-ready", uuid)
    rkt.rkt(OPEN, "app", "add", uuid, image, "--name=late", "--exec=/bin/sleep", "--", "1000")
    rkt.rkt("app", "start", "--app=late", uuid)
    assert words(following.until("started", "app"))[-2:] == ["app created", "app started"]
    rkt.rkt("app", "stop", "--app=late", uuid)
    assert following.until("exited", "app")[-1]["name"] == "late"
    rkt.rkt("app", "rm", "--app=late", uuid)
    assert following.until("removed", "app")[-1]["name"] == "late"
    rkt.rkt("stop", uuid)
    sandbox.wait(TIMEOUT)
    following.until("exited")


def test_twenty_pods_at_once_lose_no_event(
    rkt: RktContext, image: str, following: Following
) -> None:
    rkt.rkt(OPEN, "fetch", image)
    pods = [rkt.spawn(OPEN, "run", image, *SHELL, "exit 0") for _ in range(20)]
    for pod in pods:
        assert pod.wait(TIMEOUT) == 0
    rkt.rkt("gc", "--grace-period=0s")
    found = following.until("removed", count=20)
    for status in ("created", "started", "exited", "garbage", "removed"):
        of = [e["id"] for e in found if e["type"] == "pod" and e["status"] == status]
        assert len(of) == len(set(of)) == 20, status


def test_filters_times_and_formats(rkt: RktContext, image: str) -> None:
    rkt.rkt(OPEN, "run", image, *SHELL, "exit 0")
    lines = rkt.rkt("events", "--filter=type=app").stdout.splitlines()
    assert len(lines) == 2
    assert " app exited " in lines[1]
    assert lines[1].endswith(
        "(app=app, image=example.com/app, reason=exited with status 0, exit-code=0)"
    )
    assert words(told(rkt, "--filter=event=exited,event=started", "--filter=type=pod")) == [
        "pod started", "pod exited",
    ]  # fmt: skip
    assert sorted(words(told(rkt, "--filter=image=example.com/app"))) == [
        "app exited", "app started", "image imported",
    ]  # fmt: skip
    assert told(rkt, "--until=10m") == []
    assert words(told(rkt, "--since=10m", "--filter=type=pod"))[0] == "pod created"
    pretty = rkt.rkt("events", "--filter=event=exited", "--format=json-pretty").stdout
    assert pretty.startswith('{\n\t"time": ')
    ended = rkt.rkt("events", "--follow", "--since=10m", "--until=0s", "--filter=type=pod").stdout
    assert len(ended.splitlines()) == 3


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--filter=colour=red",), 'must be KEY=VALUE, KEY one of: app, event, image, pod, type'),
        (("--filter=type=dog",), "type must be one of: pod, app, image"),
        (("--filter=event=barked",), "event must be one of: aborted, created, exited,"),
        (("--since=tea",), "is neither a duration nor a time"),
        (("--format=xml",), "Invalid format option: xml"),
    ],
)  # fmt: skip
def test_flags_that_make_no_sense(rkt: RktContext, flags: tuple[str, ...], text: str) -> None:
    assert text in rkt.rkt("events", *flags, status=254).stderr


def test_a_closed_pipe_ends_it_without_an_event(following: Following) -> None:
    assert following.process.stdout is not None
    following.process.stdout.close()
    assert following.process.wait(TIMEOUT) == 254
    assert following.process.stderr is not None
    assert following.process.stderr.read() == b""
