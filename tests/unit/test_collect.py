"""Many pods at a time: each is handled once, and none keeps the others."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from rkt.errors import RktError, describe
from rkt.linux import lock
from rkt.pod import lifecycle
from rkt.stage0 import collect, remove

if TYPE_CHECKING:
    from pathlib import Path

    from rkt.pod.lifecycle import Pod


def collector(top: Path, said: dict[str, list[str]]) -> collect.Collector:
    return collect.Collector(
        str(top), local_config="", moved=said["moved"].append, deleted=said["deleted"].append,
        failed=said["failed"].append,
    )  # fmt: skip


@pytest.fixture
def said() -> dict[str, list[str]]:
    return {"moved": [], "deleted": [], "failed": []}


@pytest.fixture
def pods(tmp_path: Path) -> list[str]:
    uuids = [str(uuid4()) for _ in range(60)]
    for uuid in uuids:
        where = tmp_path / "pods/exited-garbage" / uuid
        (where / "stage1/rootfs").mkdir(parents=True)
        (where / "pod").write_text("{}")
        (where / "released").touch()
    return uuids


def test_each_is_deleted_once(
    tmp_path: Path, said: dict[str, list[str]], pods: list[str]
) -> None:  # fmt: skip
    held = lock.open_dir(f"{tmp_path}/pods/exited-garbage/{pods[7]}")
    lock.acquire(held, blocking=False, what="pod")
    collector(tmp_path, said).sweep(0, "0s")
    os.close(held)
    wanted = sorted(f'Garbage collecting pod "{uuid}"' for uuid in pods if uuid != pods[7])
    assert sorted(said["deleted"]) == wanted
    assert os.listdir(tmp_path / "pods/exited-garbage") == [pods[7]]
    assert said["failed"] == []


def test_those_within_their_grace_stay(
    tmp_path: Path, said: dict[str, list[str]], pods: list[str]
) -> None:  # fmt: skip
    collector(tmp_path, said).sweep(3600, "1h0m0s")
    text = "not removed: still within grace period (1h0m0s)"
    assert sorted(said["moved"]) == sorted(f'pod "{uuid}" {text}' for uuid in pods)
    assert sorted(os.listdir(tmp_path / "pods/exited-garbage")) == sorted(pods)


def test_one_that_stays_does_not_keep_the_others(
    tmp_path: Path, said: dict[str, list[str]], pods: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    discard = remove.discard

    def refuse(pod: Pod, *, local_config: str, debug: bool = False) -> None:
        if pod.uuid == pods[3]:
            raise RktError(f'pod "{pod.uuid}": cannot unmount "/x"')
        discard(pod, local_config=local_config, debug=debug)

    monkeypatch.setattr(remove, "discard", refuse)
    collector(tmp_path, said).sweep(0, "0s")
    why = f'pod "{pods[3]}": cannot unmount "/x"'
    assert said["failed"] == [f'unable to remove pod "{pods[3]}": {why}']
    assert os.listdir(tmp_path / "pods/exited-garbage") == [pods[3]]


def test_what_the_kernel_refuses_is_said_in_words(
    tmp_path: Path, said: dict[str, list[str]], pods: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", "stage1")

    monkeypatch.setattr(remove, "discard", refuse)
    collector(tmp_path, said).sweep(0, "0s")
    assert sorted(said["failed"]) == sorted(
        f'unable to remove pod "{uuid}": "stage1": Operation not permitted' for uuid in pods
    )


def test_a_failure_that_nobody_expected_is_not_lost(
    tmp_path: Path, said: dict[str, list[str]], pods: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pod: Pod, **_: object) -> None:
        raise ValueError(pod.uuid)

    monkeypatch.setattr(remove, "discard", fail)
    with pytest.raises(RuntimeError, match=r"ValueError: .*-"):
        collector(tmp_path, said).sweep(0, "0s")
    assert len(os.listdir(tmp_path / "pods/exited-garbage")) == len(pods)


def test_a_killed_child_is_one_line(
    tmp_path: Path, said: dict[str, list[str]], pods: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_args: object, **_more: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(remove, "discard", die)
    with pytest.raises(RktError) as caught:
        collector(tmp_path, said).sweep(0, "0s")
    assert describe(caught.value) == "cannot collect all pods: a worker process died"
    assert len(os.listdir(tmp_path / "pods/exited-garbage")) == len(pods)


@pytest.fixture
def exited(tmp_path: Path) -> str:
    uuid = str(uuid4())
    (tmp_path / "pods/run" / uuid).mkdir(parents=True)
    (tmp_path / "pods/exited-garbage").mkdir()
    return uuid


def test_a_pod_that_is_about_to_be_moved_does_not_seem_to_run(tmp_path: Path, exited: str) -> None:
    states = []

    def look(_text: str) -> None:
        with lifecycle.find(str(tmp_path), exited) as pod:
            states.append(pod.state())

    collect.Collector(str(tmp_path), local_config="", moved=look, deleted=look, failed=look).mark()
    assert states == ["exited"]
    assert os.listdir(tmp_path / "pods/exited-garbage") == [exited]


def test_two_collectors_at_once(tmp_path: Path, said: dict[str, list[str]], exited: str) -> None:
    other = collector(tmp_path, said)
    collect.Collector(
        str(tmp_path), local_config="", moved=lambda _text: other.mark(),
        deleted=said["deleted"].append, failed=said["failed"].append,
    ).mark()  # fmt: skip
    assert os.listdir(tmp_path / "pods/exited-garbage") == [exited]
    assert len(said["moved"]) == 1
    assert said["failed"] == []
