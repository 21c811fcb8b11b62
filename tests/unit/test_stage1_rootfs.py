"""Looking into hostile roots: users, programs, files; volumes; no privileges needed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rkt.errors import NotFound, RktError
from rkt.linux import libc
from rkt.stage1.app import files, manifest, rootfs, users, view, volumes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_IN_OPEN = 0x20
PASSWD = "root:x:0:0:r:/root:/bin/sh\nbob:x:1000:1001::/:/bin/sh\nbad:x:-4:x\nbig:x:99999999999:1\n"
GROUP = "root:x:0:\nstaff:x:50:bob\n"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    for name in ("etc", "bin", "srv/app"):
        (tmp_path / "root" / name).mkdir(parents=True)
    base = tmp_path / "root"
    (base / "etc/passwd").write_text(PASSWD)
    (base / "etc/group").write_text(GROUP)
    for name in ("bin/tool", "srv/app/own"):
        (base / name).write_bytes(b"\x7fELF")
        (base / name).chmod(0o755)
    (tmp_path / "secret").write_text("mallory:x:66:66::/:/bin/sh\n")
    (tmp_path / "secret").chmod(0o755)
    return base


@pytest.fixture
def root(image: Path) -> Iterator[rootfs.Root]:
    made = rootfs.Root(str(image))
    yield made
    made.close()


def _app(user: str = "0", group: str = "0", **image: object) -> manifest.App:
    section = {"exec": ["/x"], "user": user, "group": group}
    return manifest.App({"name": "a", "app": section}, dict(image), "here")


# Users


@pytest.mark.parametrize(("user", "group", "ids"), [
    ("0", "0", (0, 0)), ("root", "root", (0, 0)), ("bob", "staff", (1000, 50)),
    ("1000", "7", (1000, 7)), ("4294967294", "0", (4294967294, 0)), ("/bin/tool", "0", None),
])  # fmt: skip
def test_users(root: rootfs.Root, user: str, group: str, ids: tuple[int, int] | None) -> None:
    assert users.resolve(root, _app(user, group)) == (ids or (os.getuid(), 0))


@pytest.mark.parametrize(("user", "group", "message"), [
    ("", "0", 'invalid user ""'),
    ("0", "", 'invalid group ""'),
    ("joe", "0", 'invalid user "joe": not in /etc/passwd of the image'),
    ("bad", "0", 'invalid user "bad": not in /etc/passwd of the image'),
    ("big", "0", 'invalid user "big": not in /etc/passwd of the image'),
    ("bo", "0", 'invalid user "bo": not in /etc/passwd of the image'),
    ("4294967295", "0", 'invalid user "4294967295"'),
    ("9" * 5000, "0", f'invalid user "{"9" * 5000}"'),
    ("0", "wheel", 'invalid group "wheel": not in /etc/group of the image'),
    ("/none", "0", 'failed to configure user "/none": no such file or directory'),
])  # fmt: skip
def test_users_refused(root: rootfs.Root, user: str, group: str, message: str) -> None:
    with pytest.raises(RktError) as caught:
        users.resolve(root, _app(user, group))
    assert caught.value.message == message


def test_a_docker_user_needs_no_group_of_its_name(root: rootfs.Root) -> None:
    annotations = [{"name": "appc.io/docker/repository", "value": "library/x"}]
    assert users.resolve(root, _app("bob", "bob", annotations=annotations)) == (1000, 1000)
    with pytest.raises(RktError, match=r'invalid group "bob"'):
        users.resolve(root, _app("bob", "bob"))


def test_a_file_as_a_user_is_not_followed(root: rootfs.Root, image: Path) -> None:
    (image / "link").symlink_to("/etc/shadow")
    assert users.resolve(root, _app("/link"))[0] == os.getuid()


@pytest.mark.parametrize("way", ["{outside}/secret", "../../../../../../../{outside}/secret"])
def test_passwd_never_comes_from_outside(root: rootfs.Root, image: Path, way: str) -> None:
    (image / "etc/passwd").unlink()
    (image / "etc/passwd").symlink_to(way.format(outside=image.parent))
    with pytest.raises(RktError, match=r"the image has no /etc/passwd"):
        users.resolve(root, _app("mallory"))


def test_passwd_in_a_loop_as_a_fifo_and_huge(root: rootfs.Root, image: Path) -> None:
    path = image / "etc/passwd"
    path.unlink()
    path.symlink_to("passwd")
    with pytest.raises(RktError, match=r"the image has no /etc/passwd"):
        users.resolve(root, _app("bob"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RktError, match=r"the image has no /etc/passwd"):
        users.resolve(root, _app("bob"))
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RktError, match=r'^failed to configure user "bob"$'):
        users.resolve(root, _app("bob"))


# Programs


@pytest.mark.parametrize(("name", "search", "cwd", "path"), [
    ("/bin/tool", "", "/", "/bin/tool"),
    ("tool", "/usr/bin:/bin", "/", "/bin/tool"),
    ("own", "app", "/srv", "/srv/app/own"),
    ("./own", "", "/srv/app", "/srv/app/./own"),
    ("own", ":/bin", "/srv/app", "/srv/app/own"),
])  # fmt: skip
def test_programs_found(root: rootfs.Root, name: str, search: str, cwd: str, path: str) -> None:
    assert rootfs.find_executable(root, name, search, cwd) == path


def test_a_program_through_an_absolute_link_of_the_image(root: rootfs.Root, image: Path) -> None:
    (image / "link").symlink_to("/bin/tool")
    assert rootfs.find_executable(root, "/link", "", "/") == "/link"


@pytest.mark.parametrize(("name", "message"), [
    ("/no", 'error looking up "/no": no such file or directory'),
    ("no", 'error looking up "no": not found along PATH=/bin:/etc'),
    ("/etc/passwd", 'error looking up "/etc/passwd": permission denied (not executable)'),
    ("passwd", 'error looking up "passwd": "/etc/passwd": permission denied (not executable)'),
    ("/bin", 'error looking up "/bin": is a directory'),
    ("/etc/passwd/x", 'error looking up "/etc/passwd/x": no such file or directory'),
    ("/out", 'error looking up "/out": no such file or directory'),
    ("/fifo", 'error looking up "/fifo": not a regular file'),
])  # fmt: skip
def test_programs_not_found(root: rootfs.Root, image: Path, name: str, message: str) -> None:
    (image / "out").symlink_to(image.parent / "secret")
    os.mkfifo(image / "fifo", 0o777)
    with pytest.raises(RktError) as caught:
        rootfs.find_executable(root, name, "/bin:/etc", "/")
    assert caught.value.message == message


def _elf(interpreter: bytes, *, big: bool = False) -> bytes:
    order = "big" if big else "little"
    head = bytearray(64 + 56)
    head[:6] = b"\x7fELF\2" + (b"\2" if big else b"\1")
    for offset, size, value in (
        (32, 8, 64), (54, 2, 56), (56, 2, 1), (64, 4, 3), (72, 8, 120), (96, 8, len(interpreter)),
    ):  # fmt: skip
        head[offset : offset + size] = value.to_bytes(size, order)  # type: ignore[arg-type]
    return bytes(head) + interpreter


@pytest.mark.parametrize(("content", "missing"), [
    (b"#!/bin/tool -x\n", ""), (b"#! /usr/bin/perl -w\nx", "/usr/bin/perl"),
    (b"#!", ""), (b"", ""), (b"text", ""), (b"#!relative\n", ""),
    (_elf(b"/lib/ld.so\0"), "/lib/ld.so"), (_elf(b"/lib/ld.so\0", big=True), "/lib/ld.so"),
    (_elf(b"/bin/tool\0"), ""), (_elf(b""), ""), (b"\x7fELF\2\1", ""),
    (b"\x7fELF\2\1" + b"\xff" * 200, ""), (b"\x7fELF\1\1" + b"\xff" * 60, ""),
])  # fmt: skip
def test_interpreters(root: rootfs.Root, image: Path, content: bytes, missing: str) -> None:
    (image / "program").write_bytes(content)
    assert rootfs.missing_interpreter(root, "/program") == missing


# Files


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_mount_points_become_real_directories(root: rootfs.Root, image: Path, name: str) -> None:
    outside = image.parent / "outside"
    outside.mkdir()
    (image / name).symlink_to(outside)
    files.prepare_root(root, [])
    assert (image / name).is_dir() and not (image / name).is_symlink()
    assert list(outside.iterdir()) == []


def test_promised_directories(root: rootfs.Root, image: Path) -> None:
    files.prepare_root(root, [volumes.Bind("/x", "/tmp", read_only=False)])
    assert not (image / "tmp").exists()
    files.prepare_root(root, [])
    assert (image / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert os.readlink(image / "etc/mtab") == "../proc/self/mounts"
    files.prepare_root(root, [])


def test_mtab_of_the_image_stays(root: rootfs.Root, image: Path) -> None:
    (image / "etc/mtab").write_text("mine")
    files.prepare_root(root, [])
    assert (image / "etc/mtab").read_text() == "mine"


@pytest.mark.parametrize(("text", "result"), [
    ("127.0.0.1 localhost\n::1 x\n", "127.0.0.1 localhost h\n::1 x\n"),
    ("127.0.0.1 localhost h\n", "127.0.0.1 localhost h\n"),
    ("# 127.0.0.1 no\n", "# 127.0.0.1 no\n127.0.0.1\th\n"),
    ("10.0.0.1 x", "10.0.0.1 x\n127.0.0.1\th\n"), ("", "127.0.0.1\th\n"),
])  # fmt: skip
def test_the_hostname_in_hosts(text: str, result: str) -> None:
    assert files.with_hostname(text, "h") == result


# Volumes


def _resolved(root: rootfs.Root, where: Path, pod: object, app: dict[str, object]) -> list[object]:
    section = {"exec": ["/x"], "user": "0", "group": "0"}
    runtime = {"name": "a", "mounts": app.pop("mounts", []), "app": section | app}
    made = manifest.App(runtime, {}, "here")
    owner = manifest.Pod({"volumes": pod}, [made])
    return [
        (bind.source.removeprefix(f"{where}/"), bind.target, bind.read_only, bind.recursive)
        for bind in volumes.resolve(made, owner, str(where), root)
    ]


def test_volumes_and_mount_points(root: rootfs.Root, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("")
    found = _resolved(
        root, tmp_path,
        [
            {"name": "ro", "kind": "host", "source": str(source), "readOnly": True},
            {"name": "rw", "kind": "host", "source": str(source), "readOnly": False},
            {"name": "open", "kind": "host", "source": str(source), "recursive": False},
            {"name": "file", "kind": "host", "source": str(source / "file")},
        ],
        {
            "mounts": [{"volume": "ro", "path": "/x/y/"}, {"volume": "rw", "path": "x/y"},
                       {"volume": "file", "path": "//f"}],
            "mountPoints": [
                {"name": "rw", "path": "/deep/below", "readOnly": True},
                {"name": "open", "path": "/deep", "readOnly": True},
                {"name": "other", "path": "/x/y"},
            ],
        },
    )  # fmt: skip
    assert found == [
        ("source/file", "/f", False, False),
        ("source", "/deep", True, False),
        ("source", "/x/y", True, True),
        ("source", "/deep/below", False, True),
    ]


def test_nothing_but_files_is_opened(root: rootfs.Root, image: Path) -> None:
    """An image may name a device as its user's file, its program or an interpreter."""
    os.mkfifo(image / "odd", 0o777)
    (image / "program").write_bytes(b"#!/odd\n")
    (image / "program").chmod(0o755)
    notify = libc.inotify_init()
    libc.inotify_add_watch(notify, str(image / "odd"), _IN_OPEN)
    os.set_blocking(notify, False)
    try:
        assert root.read("odd") is None
        assert rootfs.missing_interpreter(root, "/program") == ""
        bind = volumes.Bind(str(image / "odd"), "/bin/tool", read_only=True, recursive=False)
        for path in ("/odd", "/bin/tool"):
            with pytest.raises(OSError, match="not a regular file"):
                view.View(root, [bind]).head(path)
        with pytest.raises(BlockingIOError):  # no event
            os.read(notify, 4096)
        os.close(os.open(image / "odd", os.O_RDONLY | os.O_NONBLOCK))
        assert os.read(notify, 4096)
    finally:
        os.close(notify)


def test_an_implicit_volume_is_announced(
    root: rootfs.Root, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"mountPoints": [{"name": "data", "path": "/data"}]}
    if os.getuid() != 0:
        pytest.skip("gives a directory to root")
    assert _resolved(root, tmp_path, [], dict(points)) == [
        ("sharedVolumes/a-data", "/data", False, True)
    ]
    assert 'implicitly creating an "empty" volume' in capsys.readouterr().err


def test_volumes_that_do_not_exist(root: rootfs.Root, tmp_path: Path) -> None:
    mounts: list[object] = [{"volume": "v", "path": "/v"}]
    with pytest.raises(NotFound, match=r'^could not find volume "v"$'):
        _resolved(root, tmp_path, [], {"mounts": mounts})
    missing = [{"name": "v", "kind": "host", "source": "/no/such"}]
    with pytest.raises(NotFound, match=r'source "/no/such": no such file or directory$'):
        _resolved(root, tmp_path, missing, {"mounts": mounts})
