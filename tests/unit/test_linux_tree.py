"""Removing and copying trees that somebody hostile wrote."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from rkt.linux import spill, tree, treecopy

if TYPE_CHECKING:
    from pathlib import Path


def test_remove_follows_no_links(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "f").write_text("x")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "out").symlink_to(keep)
    (victim / "d").mkdir()
    (victim / "d" / "out").symlink_to("../../keep")
    tree.remove(str(victim))
    assert not victim.exists()
    assert (keep / "f").read_text() == "x"
    (tmp_path / "link").symlink_to(keep)
    tree.remove(str(tmp_path / "link"))
    assert os.listdir(tmp_path) == ["keep"]


def test_remove_what_is_not_there(tmp_path: Path) -> None:
    tree.remove(str(tmp_path / "no"))
    tree.remove(str(tmp_path / "no" / "no"))


def test_remove_undeletable_modes(tmp_path: Path) -> None:
    top = tmp_path / "t"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "f").write_text("x")
    (top / "a" / "b").chmod(0o500)
    (top / "a").chmod(0)
    top.chmod(0o100)
    tree.remove(str(top))
    assert os.listdir(tmp_path) == []


def test_remove_a_tree_deeper_than_any_path(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("deep", dir_fd=fd)
    below = os.open("deep", os.O_RDONLY, dir_fd=fd)
    for _ in range(600):
        os.mkdir("d" * 100, dir_fd=below)
        os.close(os.open("file", os.O_CREAT, dir_fd=below))
        after = os.open("d" * 100, os.O_RDONLY, dir_fd=below)
        os.close(below)
        below = after
    os.close(below)
    tree.remove_at(fd, "deep")
    assert os.listdir(tmp_path) == []
    os.close(fd)


def test_remove_many_kinds(tmp_path: Path) -> None:
    top = tmp_path / "t"
    top.mkdir()
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(top / "socket"))
    for number in range(500):
        (top / f"d{number}").mkdir()
        (top / f"f{number}").touch()
    tree.remove(str(top))
    assert os.listdir(tmp_path) == []


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with a directory that is large for what counts as large here."""
    monkeypatch.setattr(tree, "_MANY", 50)
    monkeypatch.setattr(tree, "_FEW", 8)
    top = tmp_path / "top"
    for number in range(130):
        (top / "large" / f"d{number}" / "x").mkdir(parents=True)
        (top / "large" / f"f{number}").write_text(str(number))
    (top / "large" / "\udcff").touch()
    os.link(top / "large" / "f7", top / "large" / "g7")
    (top / "large" / "link").symlink_to("f7")
    (top / "small").mkdir()
    return top


def test_walk_gives_a_large_directory_in_parts(large: Path) -> None:
    fd = os.open(large, os.O_RDONLY)
    parts = [
        (path, [entry.name for entry in entries], [entry.stat(follow_symlinks=False).st_mode
                                                   for entry in entries])
        for path, _, entries in tree.walk(fd)
    ]  # fmt: skip
    os.close(fd)
    names = [path for path, _, _ in parts]
    assert names[:7] == ["", *["large"] * 6] and names.count("large") == 6
    assert max(len(found) for _, found, _ in parts) == 50
    found = [name for path, part, _ in parts if path == "large" for name in part]
    assert found == sorted(os.listdir(large / "large"))
    modes = [mode for path, _, part in parts if path == "large" for mode in part]
    assert modes == [os.lstat(large / "large" / name).st_mode for name in found]
    # each directory once, after its parent, in the order of names
    below = [name for name in found if name.startswith("d")]
    assert names[7:] == [f"large/{n}{x}" for n in below for x in ("", "/x")] + ["small"]


def test_walk_leaves_out_what_is_taken_out(large: Path) -> None:
    fd = os.open(large, os.O_RDONLY)
    seen = []
    for path, _, entries in tree.walk(fd):
        seen.append(path)
        for entry in list(entries):
            if entry.name != "d99" and entry.is_dir(follow_symlinks=False) and path == "large":
                entries.remove(entry)
    os.close(fd)
    assert seen == ["", *["large"] * 6, "large/d99", "large/d99/x", "small"]


def test_copy_and_remove_large_directories(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_EACH", 1 << 40)
    target = large.parent / "copy"
    treecopy.copy(str(large), str(target))
    assert sorted(os.listdir(target / "large")) == sorted(os.listdir(large / "large"))
    assert os.path.samefile(target / "large" / "f7", target / "large" / "g7")
    assert os.readlink(target / "large" / "link") == "f7"
    tree.remove(str(target))
    tree.remove(str(large))
    assert os.listdir(large.parent) == []


def test_copy_keeps_holes_links_and_special_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    with open(source / "holes", "wb") as file:
        file.seek(3_000_000)
        file.write(b"x" * 10)
        file.seek(9_000_000)
        file.write(b"y")
        file.truncate(20_000_000)
    with open(source / "hole", "wb") as file:
        file.truncate(5_000_000)
    os.link(source / "holes", source / "sub" / "again")
    os.mkfifo(source / "fifo", 0o612)
    (source / "dangling").symlink_to("/nowhere")
    os.utime(source / "sub", ns=(5, 123_456_789))
    target = tmp_path / "target"
    treecopy.copy(str(source), str(target))
    assert (target / "holes").read_bytes() == (source / "holes").read_bytes()
    assert (target / "hole").stat().st_size == 5_000_000
    assert (target / "holes").stat().st_blocks < 1000
    assert os.path.samefile(target / "holes", target / "sub" / "again")
    assert stat.S_ISFIFO((target / "fifo").stat().st_mode)
    assert os.readlink(target / "dangling") == "/nowhere"
    assert (target / "sub").stat().st_mtime_ns == 123_456_789


def test_copy_attributes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("x")
    try:
        os.setxattr(source / "f", "user.note", b"hi")
    except OSError:
        pytest.skip("no user attributes on this file system")
    treecopy.copy(str(source), str(tmp_path / "target"))
    assert os.getxattr(tmp_path / "target" / "f", "user.note") == b"hi"


def test_copy_by_hand_where_the_kernel_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "source").mkdir()
    data = os.urandom(3_000_000)
    (tmp_path / "source" / "f").write_bytes(data)
    treecopy.copy(str(tmp_path / "source"), str(tmp_path / "target"))
    assert (tmp_path / "target" / "f").read_bytes() == data


def test_open_below_stays_below(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc")
    fd = os.open(tmp_path / "in", os.O_RDONLY)
    for path in ("..", "link", "link/..", "/etc", "./../in"):
        with pytest.raises(OSError, match=r"Too many levels|Invalid cross|Not a dir"):
            tree.open_below(fd, path)
    os.close(tree.open_below(fd, "."))
    os.close(fd)
