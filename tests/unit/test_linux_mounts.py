"""Whether overlays can be used."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from rkt.linux import libc, mounts

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("fstype", ["aufs", "zfs", "nfs4"])
def test_file_systems_that_cannot_carry_overlays(
    fstype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mounts, "fstype_of", lambda _: fstype)
    assert mounts.overlay_obstacle(str(tmp_path)) == f"unsupported filesystem: {fstype}"


def test_a_kernel_without_overlays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = io.StringIO("nodev\tproc\n\text4\n")
    monkeypatch.setattr(mounts, "open", lambda *_, **__: table, raising=False)
    monkeypatch.setattr(libc, "has_filesystem", lambda _: False)
    assert mounts.overlay_obstacle(str(tmp_path)) == (
        "overlay entry not present in /proc/filesystems"
    )


def test_without_types_of_entries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mounts, "fstype_of", lambda _: "xfs")
    assert mounts.overlay_obstacle(str(tmp_path)) is None
    monkeypatch.setattr(libc, "has_entry_types", lambda _: False)
    assert mounts.overlay_obstacle(str(tmp_path)) == (
        "unsupported filesystem: missing d_type support"
    )


def test_types_of_entries(tmp_path: Path) -> None:
    assert libc.has_entry_types(str(tmp_path))
    (tmp_path / "file").touch()
    assert libc.has_entry_types(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        libc.has_entry_types(str(tmp_path / "none"))


def test_the_type_of_a_file_system() -> None:
    assert mounts.fstype_of("/proc") == "proc"
    assert mounts.fstype_of("/sys") == "sysfs"
