from __future__ import annotations

import os
import stat
import threading

import pytest

from rkt.errors import AmbiguousName, LockedError, NotFound, PodStateError, RktError
from rkt.linux import lock
from rkt.pod import lifecycle, state, view


@pytest.fixture
def data(tmp_path: object) -> str:
    return str(tmp_path)


def _second(pod: lifecycle.Pod) -> lifecycle.Pod:
    other = lifecycle.opened(os.path.dirname(pod.pods_dir), pod.uuid, pod.where)
    assert other is not None
    return other


def test_a_new_pod_is_preparing_and_locked(data: str) -> None:
    with lifecycle.create(data) as pod, _second(pod) as other:
        assert pod.where == state.PREPARE
        assert other.state() == "preparing"
        with pytest.raises(LockedError) as caught:
            other.lock()
        assert caught.value.message == f'pod "{pod.uuid}" is locked by another process'


@pytest.mark.parametrize(
    ("moves", "held", "released"),
    [
        ((), "preparing", "aborted prepare"),
        ((state.PREPARED,), "prepared", "prepared"),
        ((state.RUN,), "running", "exited"),
        ((state.RUN, state.EXITED_GARBAGE), "exited deleting", "exited garbage"),
        ((state.GARBAGE,), "deleting", "garbage"),
    ],
)
def test_states(data: str, moves: tuple[str, ...], held: str, released: str) -> None:
    pod = lifecycle.create(data)
    for where in moves:
        pod.move(where)
    with _second(pod) as other:
        assert other.state() == held
        pod.close()
        assert other.state() == released


@pytest.mark.parametrize(
    "moves",
    [
        (state.RUN,), (state.PREPARED,), (state.PREPARED, state.RUN),
        (state.RUN, state.EXITED_GARBAGE),
    ],
)  # fmt: skip
def test_a_pod_that_moves_is_not_overlooked(
    data: str, monkeypatch: pytest.MonkeyPatch, moves: tuple[str, ...]
) -> None:
    """It does so between two directories that are looked into, whichever these are."""
    listdir = os.listdir
    for count in range(1, len(state.VISIBLE)):
        with lifecycle.create(data) as pod:
            for where in moves[:-1]:
                pod.move(where)
            looks: list[str] = []

            def look(
                path: str, pod: lifecycle.Pod = pod, looks: list[str] = looks, count: int = count
            ) -> list[str]:
                if len(looks) == count:
                    pod.move(moves[-1])
                looks.append(path)
                return listdir(path)

            with monkeypatch.context() as patch:
                patch.setattr(os, "listdir", look)
                assert lifecycle.names(data)[pod.uuid] in (*moves, state.PREPARE)
            assert pod.where == moves[-1]
            with lifecycle.find(data, pod.uuid[:13]) as found:
                assert found.where == moves[-1]


def test_readers_of_the_state_do_not_keep_others_from_locking(data: str) -> None:
    pod = lifecycle.create(data)
    pod.move(state.RUN)
    with _second(pod) as reader, _second(pod) as other:
        pod.close()
        lock.acquire(reader.fd, exclusive=False)
        threading.Timer(0.05, lock.release, (reader.fd,)).start()
        other.lock()  # much later than a pod that runs is given up
        with pytest.raises(LockedError):
            reader.lock()


def test_a_lasting_reader_is_not_waited_for_without_end(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_READERS", 0.02)
    pod = lifecycle.create(data)
    pod.move(state.RUN)
    with _second(pod) as reader, _second(pod) as other:
        pod.close()
        lock.acquire(reader.fd, exclusive=False)
        with pytest.raises(LockedError):
            other.lock()
        assert other.state() == "exited"


def test_after_a_refusal_the_place_is_known(data: str) -> None:
    with lifecycle.create(data) as pod, _second(pod) as other:
        pod.move(state.RUN)
        pod.move(state.EXITED_GARBAGE)
        with pytest.raises(LockedError):
            other.lock()
        assert other.where == state.EXITED_GARBAGE


def test_the_states_of_the_document_are_those_of_the_code() -> None:
    assert {where for where, _ in state.STATES} == set(state.SEARCH_ORDER) == set(state.MOVES)


def test_a_forbidden_move_changes_nothing(data: str) -> None:
    with lifecycle.create(data) as pod:
        with pytest.raises(PodStateError, match="cannot go from prepare to exited-garbage"):
            pod.move(state.EXITED_GARBAGE)
        assert os.path.isdir(pod.path)


def test_an_open_pod_is_followed_through_renames(data: str) -> None:
    with lifecycle.create(data) as pod, _second(pod) as other:
        pod.move(state.RUN)
        assert other.state() == "running"
        assert other.where == state.RUN


def test_a_deleted_pod_is_gone(data: str) -> None:
    with lifecycle.create(data) as pod, _second(pod) as other:
        os.unlink(f"{pod.path}/pod-created")
        os.rmdir(pod.path)
        with pytest.raises(NotFound, match="is gone"):
            other.state()


def test_find_by_prefix(data: str) -> None:
    with lifecycle.create(data) as pod:
        with lifecycle.find(data, pod.uuid[:12].upper()) as found:
            assert found.uuid == pod.uuid
        with pytest.raises(NotFound, match='no matches found for "zz"'):
            lifecycle.find(data, "zz")
        with pytest.raises(NotFound, match="UUID cannot be empty"):
            lifecycle.find(data, "")


def test_ambiguity_is_an_error(data: str) -> None:
    for end in ("0", "1"):
        os.makedirs(f"{data}/pods/run/aaaaaaaa-0000-4000-8000-00000000000{end}")
    with pytest.raises(AmbiguousName, match='"aaaa": ambiguous uuid, 2 matches'):
        lifecycle.find(data, "aaaa")


def test_names_that_are_no_uuids_are_not_pods(data: str) -> None:
    os.makedirs(f"{data}/pods/run/..x")
    os.makedirs(f"{data}/pods/run/AAAAAAAA-0000-4000-8000-000000000000")
    assert lifecycle.names(data) == {}


def test_exit_codes_come_from_the_upper_directory_of_stage1(data: str) -> None:
    with lifecycle.create(data) as pod:
        for base, code in (("stage1/rootfs", "1"), ("overlay/tree/upper", "7")):
            os.makedirs(f"{pod.path}/{base}/rkt/status")
            with open(f"{pod.path}/{base}/rkt/status/app", "w") as file:
                file.write(code + "\n")
        assert pod.exit_codes(["app", "other"]) == {"app": 1}
        with open(f"{pod.path}/stage1TreeStoreID", "w") as file:
            file.write("tree\n")
        assert pod.exit_codes(["app"]) == {"app": 7}


def test_files_of_a_pod_are_not_read_through_links(data: str) -> None:
    with lifecycle.create(data) as pod:
        os.symlink("/etc/passwd", f"{pod.path}/pid")
        with pytest.raises(RktError, match='cannot read "pid": Too many levels of symbolic links'):
            pod.read("pid")


def test_what_is_no_file_of_a_sensible_size_is_not_read(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_fd: int, _count: int) -> bytes:
        raise AssertionError("it was read")

    with lifecycle.create(data) as pod:
        os.mkfifo(f"{pod.path}/fifo")
        os.mknod(f"{pod.path}/socket", 0o600 | stat.S_IFSOCK)
        os.mkdir(f"{pod.path}/directory")
        with open(f"{pod.path}/huge", "wb") as file:
            file.truncate(1 << 40)
        monkeypatch.setattr(os, "read", never)
        for name, text in (
            ("fifo", "not a regular file"), ("socket", "No such device or address"),
            ("directory", "Is a directory"), ("huge", "File too large"),
        ):  # fmt: skip
            with pytest.raises(RktError, match=f'^pod "{pod.uuid}": cannot read "{name}": {text}$'):
                pod.read(name)
        assert pod.read("none") is None


def test_lock_files_vanish_and_exclude(data: str) -> None:
    path = f"{data}/lock"
    with lock.held(path), pytest.raises(LockedError), lock.held(path, blocking=False):
        pass
    assert not os.path.exists(path)


def _steal(data: str) -> None:
    """Do what a gc does that finds an embryo before its maker has locked it."""
    embryos = f"{data}/pods/{state.EMBRYO}"
    for uuid in os.listdir(embryos):
        os.rmdir(f"{embryos}/{uuid}")


def test_a_gc_is_quicker_than_the_maker_of_a_pod(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = lock.open_dir
    stolen: list[str] = []

    def open_dir(path: str, *, dir_fd: int | None = None) -> int:
        if len(stolen) < 2:
            # Before the directory is opened, then after that.
            fd = -1 if not stolen else opening(path, dir_fd=dir_fd)
            _steal(data)
            stolen.append(path)
            return fd if fd >= 0 else opening(path, dir_fd=dir_fd)
        return opening(path, dir_fd=dir_fd)

    monkeypatch.setattr(lock, "open_dir", open_dir)
    with lifecycle.create(data) as pod:
        assert pod.where == state.PREPARE
        assert pod.path not in stolen
    assert len(stolen) == 2


def test_the_manifest_of_a_pod_that_is_being_deleted(data: str) -> None:
    with lifecycle.create(data) as pod, _second(pod) as other:
        with pytest.raises(RktError, match="it has no manifest") as missing:
            view.manifest(other)
        assert not isinstance(missing.value, NotFound)
        pod.move(state.GARBAGE)
        with pytest.raises(NotFound, match="is being deleted"):
            view.manifest(other)
