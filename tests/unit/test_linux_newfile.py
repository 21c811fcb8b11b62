"""Files for the user that appear whole or not at all."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from rkt.linux.newfile import new_file

if TYPE_CHECKING:
    from pathlib import Path

    from _pytest.monkeypatch import MonkeyPatch


@pytest.fixture(params=["nameless", "named"], autouse=True)
def _kind(request: pytest.FixtureRequest, monkeypatch: MonkeyPatch) -> None:
    if request.param == "named":  # a flag for directories alone fails like an old file system
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)


def test_a_new_file_and_one_in_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "x"
    mask = os.umask(0o027)
    try:
        for content in (b"one", b"two"):
            with new_file(str(path)) as file:
                file.write(content)
            assert os.listdir(tmp_path) == ["x"]
            assert path.read_bytes() == content
    finally:
        os.umask(mask)
    assert path.stat().st_mode == 0o100640


def test_in_the_current_directory(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with new_file("x") as file:
        file.write(b"x")
    assert os.listdir() == ["x"]


def test_what_a_dead_process_of_the_same_number_left(tmp_path: Path) -> None:
    (tmp_path / f"x.{os.getpid()}.tmp").write_text("old")
    with new_file(str(tmp_path / "x")) as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "new"


def test_failures_name_the_file_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("no/x", "d"):
        with pytest.raises(OSError) as caught, new_file(str(tmp_path / name)) as file:
            file.write(b"x")
        assert caught.value.filename == str(tmp_path / name)
    with pytest.raises(ValueError, match="mine"), new_file(str(tmp_path / "x")):
        raise ValueError("mine")
    assert os.listdir(tmp_path) == ["d"]


def test_what_is_left_of_a_killed_process(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pid = os.fork()
    if pid == 0:
        with new_file(str(tmp_path / "x")) as file:
            file.write(b"x" * (1 << 20))
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    is_named = request.node.callspec.params["_kind"] == "named"
    assert os.listdir(tmp_path) == ([f"x.{pid}.tmp"] if is_named else [])
