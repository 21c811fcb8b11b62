"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rkt.linux import atomic

if TYPE_CHECKING:
    from pathlib import Path


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("keep")
    (tmp_path / f"x.{os.getpid()}.tmp").symlink_to("victim")
    atomic.write_file(str(tmp_path / "x"), b"new", mode=0o640)
    assert sorted(os.listdir(tmp_path)) == ["victim", "x"]
    assert (tmp_path / "x").read_text() == "new"
    assert (tmp_path / "x").stat().st_mode == 0o100640
    assert (tmp_path / "victim").read_text() == "keep"


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic.write_file(str(tmp_path / "d"), b"x")
    assert os.listdir(tmp_path) == ["d"]
