"""Building archives: deterministic, readable by others, refused when they would be invalid."""

from __future__ import annotations

import os
import socket
import tarfile
from typing import TYPE_CHECKING

import pytest

from rkt.errors import ArchiveError, RktError
from rkt.image import ingest
from rkt.image.archive import detect
from rkt.image.build import COMPRESSIONS, build_aci
from rkt.image.export import verify
from rkt.store.images import Store
from rkt.store.records import VERIFIED, Verification

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = '{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/app"}'
LONG = "/".join(["directory" * 5] * 5)


@pytest.fixture
def layout(tmp_path: Path) -> str:
    top = tmp_path / "layout"
    (top / "rootfs" / LONG).mkdir(parents=True)
    (top / "manifest").write_text(MANIFEST)
    (top / "rootfs" / LONG / "deep").write_text("deep")
    (top / "rootfs" / "b").write_bytes(b"b" * 3000)
    os.link(top / "rootfs" / "b", top / "rootfs" / "c")
    (top / "rootfs" / "a").symlink_to(LONG + "/deep")
    os.mkfifo(top / "rootfs" / "p")
    os.utime(top / "rootfs" / "b", (1, 1_500_000_000.75))
    (top / "rootfs" / "empty").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(top / "rootfs" / "s"))
    return str(top)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_two_builds_are_equal(layout: str, tmp_path: Path, compression: str) -> None:
    one, two = f"{tmp_path}/one.aci", f"{tmp_path}/two.aci"
    build_aci(layout, one, compression=compression, source_date=1_600_000_000)
    os.utime(f"{layout}/rootfs/empty")
    os.utime(f"{layout}/manifest")
    build_aci(layout, two, compression=compression, source_date=1_600_000_000)
    assert read(one) == read(two)
    assert detect(read(one)[:512]) == compression


def test_what_others_read(layout: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/x.aci"
    build_aci(layout, path, compression="none")
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive}
    assert next(iter(members)) == "rootfs"
    assert list(members)[-1] == "manifest"
    assert "rootfs/s" not in members
    assert members["rootfs/c"].islnk()
    assert members["rootfs/c"].linkname == "rootfs/b"
    assert members["rootfs/a"].linkname == f"{LONG}/deep"
    assert members["rootfs/b"].mtime == 1_500_000_000
    assert members["rootfs/p"].isfifo()
    assert members[f"rootfs/{LONG}/deep"].size == 4
    head = members["manifest"]
    assert (head.mode, head.uid, head.gid, head.size) == (0o644, 0, 0, len(MANIFEST))


def test_the_store_takes_it(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "can_own_files", lambda: True)
    path = f"{tmp_path}/x.aci"
    build_aci(layout, path)
    store = Store(f"{tmp_path}/data")
    record = ingest.ingest(store, path, source=path, verification=Verification(VERIFIED))
    verify(store, record.key)
    assert os.path.samefile(
        f"{store.tree_path(record.key)}/rootfs/b", f"{store.tree_path(record.key)}/rootfs/c"
    )
    store.close()


def test_invalid_layouts(layout: str, tmp_path: Path) -> None:
    out = f"{tmp_path}/x.aci"

    def refused(text: str) -> None:
        with pytest.raises(RktError, match=text):
            build_aci(layout, out)
        assert not [name for name in os.listdir(tmp_path) if name.startswith("x.aci")]

    with pytest.raises(ArchiveError, match='unknown compression "rar"'):
        build_aci(layout, out, compression="rar")
    with open(f"{layout}/more", "w", encoding="utf-8"):
        refused('unrecognized file path in layout: "more"')
    os.unlink(f"{layout}/more")
    with open(f"{layout}/manifest", "w", encoding="utf-8") as file:
        file.write("{}")
    refused("image manifest validation failed: ")
    os.unlink(f"{layout}/manifest")
    refused("no image manifest found in layout")
    with open(f"{layout}/manifest", "w", encoding="utf-8") as file:
        file.write(MANIFEST)
    os.rename(f"{layout}/rootfs", f"{tmp_path}/elsewhere")
    refused("no rootfs found in layout")
    os.symlink(f"{tmp_path}/elsewhere", f"{layout}/rootfs")
    refused("rootfs is not a directory")


def test_an_existing_file_is_kept(layout: str, tmp_path: Path) -> None:
    out = tmp_path / "x.aci"
    out.write_text("mine")
    with pytest.raises(ArchiveError, match=r'x.aci" exists'):
        build_aci(layout, str(out))
    assert out.read_text() == "mine"
    build_aci(layout, str(out), overwrite=True)
    assert detect(read(str(out))[:512]) == "gzip"
