"""The file that tells a script the UUID of its pod."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from rkt.errors import RktError, describe
from rkt.stage0.prepare import save_uuid

if TYPE_CHECKING:
    from pathlib import Path

UUID = "a43710e2-ba74-4214-8490-c7332946094e"


def test_who_waits_for_the_file_finds_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "uuid"
    rename = os.rename

    def watched(source: str, target: str) -> None:
        assert not path.exists()
        with open(source, encoding="ascii") as file:
            assert file.read() == UUID
        rename(source, target)

    monkeypatch.setattr(os, "rename", watched)
    save_uuid(str(path), UUID)
    assert path.read_text() == UUID
    assert os.listdir(tmp_path) == ["uuid"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("old", ["", "x", "x" * 100])
def test_a_file_that_is_there_stays_the_same(tmp_path: Path, old: str) -> None:
    path, link = tmp_path / "uuid", tmp_path / "link"
    path.write_text(old)
    path.chmod(0o600)
    link.symlink_to("uuid")
    inode = path.stat().st_ino
    save_uuid(str(link), UUID)
    assert path.read_text() == UUID
    assert (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == (inode, 0o600)


def test_a_link_to_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("uuid")
    save_uuid(str(tmp_path / "link"), UUID)
    assert (tmp_path / "uuid").read_text() == UUID
    assert (tmp_path / "link").is_symlink()


def test_a_fifo(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=save_uuid, args=(str(path), UUID))
    writer.start()
    assert path.read_text() == UUID
    writer.join()


def test_no_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(RktError, match="cannot save the UUID of the pod") as caught:
        save_uuid(str(tmp_path / "none/uuid"), UUID)
    assert describe(caught.value).endswith(
        f'pod: "{tmp_path}/none/uuid": No such file or directory'
    )
