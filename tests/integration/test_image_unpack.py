"""What needs root: owners, set-id bits, devices, attributes, overlay on a rendered tree."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
from typing import TYPE_CHECKING

import pytest

from rkt.errors import ArchiveError
from rkt.image import export, ingest
from rkt.image.build import build_aci
from rkt.image.render import copy_tree, render
from rkt.linux import tree
from rkt.store.images import Store
from rkt.store.records import VERIFIED, Verification
from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rkt.store.records import ImageRecord

pytestmark = needs("root")

# version 2, effective; cap_net_bind_service permitted
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"{tmp_path}/data")
    yield store
    store.close()


def special(name: str, kind: bytes, major: int = 0, minor: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(f"rootfs/{name}")
    member.type, member.devmajor, member.devminor, member.mode = kind, major, minor, 0o640
    member.uid, member.gid = 7, 8
    return member


def builder() -> AciBuilder:
    image = AciBuilder("example.com/app")
    image.directory("d", 0o2775, owner=(1000, 2000))
    image.file("d/suid", b"x", mode=0o6755, owner=(1000, 2000))
    image.file("d/plain", b"x", mode=0o600, owner=(65534, 4_000_000_000))
    image.symlink("d/l", "suid")
    image.members[-1][0].uid = 1234
    image.add(special("null", tarfile.CHRTYPE, 1, 3))
    image.add(special("loop", tarfile.BLKTYPE, 7, 0))
    image.add(special("fifo", tarfile.FIFOTYPE))
    member = tarfile.TarInfo("rootfs/cap")
    member.pax_headers = {
        "SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1"),
        "SCHILY.xattr.user.note": "hi",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
    }
    return image.add(member, b"program")


def put(store: Store, image: AciBuilder) -> ImageRecord:
    path = f"{os.path.dirname(store.data_dir)}/x.aci"
    with open(path, "wb") as file:
        file.write(image.tar())
    return ingest.ingest(store, path, source=path, verification=Verification(VERIFIED))


def check(root: str) -> None:
    def look(name: str) -> os.stat_result:
        return os.lstat(f"{root}/{name}")

    assert (look("d").st_uid, look("d").st_gid, stat.S_IMODE(look("d").st_mode)) == (
        1000, 2000, 0o2775)  # fmt: skip
    suid = look("d/suid")
    assert (suid.st_uid, suid.st_gid, stat.S_IMODE(suid.st_mode)) == (1000, 2000, 0o6755)
    assert (look("d/plain").st_uid, look("d/plain").st_gid) == (65534, 4_000_000_000)
    assert look("d/l").st_uid == 1234
    null, loop, fifo = look("null"), look("loop"), look("fifo")
    assert stat.S_ISCHR(null.st_mode)
    assert null.st_rdev == os.makedev(1, 3)
    assert (null.st_uid, null.st_gid, stat.S_IMODE(null.st_mode)) == (7, 8, 0o640)
    assert stat.S_ISBLK(loop.st_mode)
    assert stat.S_ISFIFO(fifo.st_mode)
    assert os.getxattr(f"{root}/cap", "security.capability") == CAPABILITY
    assert os.getxattr(f"{root}/cap", "user.note") == b"hi"
    assert "trusted.overlay.opaque" not in os.listxattr(f"{root}/cap")


def test_owners_modes_devices_and_attributes(store: Store, tmp_path: Path) -> None:
    os.umask(0o077)
    try:
        image = builder()
        record = put(store, image)
        root = f"{store.tree_path(record.key)}/rootfs"
        check(root)
        out = io.BytesIO()
        export.export_tar(store, record.key, out)
        assert out.getvalue() == image.tar()
        copy_tree(root, f"{tmp_path}/copy")
        check(f"{tmp_path}/copy")
    finally:
        os.umask(0o022)


def test_an_image_built_from_a_tree_unpacks_to_the_same_tree(store: Store, tmp_path: Path) -> None:
    record = put(store, builder())
    path = store.tree_path(record.key)
    build_aci(path, f"{tmp_path}/again.aci")
    again = ingest.ingest(
        store, f"{tmp_path}/again.aci", source="x", verification=Verification(VERIFIED)
    )
    check(f"{store.tree_path(again.key)}/rootfs")


def test_trees_are_for_root_alone(store: Store) -> None:
    """A member of the group must not run the set-uid programs of stored images."""
    record = put(store, builder())
    trees = os.stat(f"{store.path}/tree")
    assert (trees.st_uid, stat.S_IMODE(trees.st_mode)) == (0, 0o700)
    assert stat.S_IMODE(os.stat(f"{store.path}/db/db.sqlite").st_mode) == 0o660
    assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o2750
    root = os.stat(store.tree_path(record.key))
    assert (root.st_uid, root.st_gid, stat.S_IMODE(root.st_mode)) == (0, 0, 0o700)
    assert os.stat(f"{store.tree_path(record.key)}/rootfs").st_mode & stat.S_ISGID == 0


def test_a_rendered_tree_is_a_lower_directory(store: Store, tmp_path: Path) -> None:
    put(store, builder())
    top = AciBuilder("example.com/top").file("d/top", b"top")
    top.manifest["dependencies"] = [{"imageName": "example.com/app"}]
    rendered = render(store, put(store, top).key)
    check(rendered.rootfs)
    script = """
import os, sys
from rkt.linux import libc
lower, top = sys.argv[1:]
libc.unshare(libc.CLONE_NEWNS)
libc.mount("none", "/", "", libc.MS_REC | libc.MS_PRIVATE)
for name in ("upper", "work", "merged"):
    os.mkdir(f"{top}/{name}")
libc.mount("overlay", f"{top}/merged", "overlay", 0,
           f"lowerdir={lower},upperdir={top}/upper,workdir={top}/work")
with open(f"{top}/merged/d/suid", "w") as file:
    file.write("changed")
os.unlink(f"{top}/merged/cap")
assert open(f"{top}/merged/d/top").read() == "top"
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    mounts = tmp_path / "mounts"
    mounts.mkdir()
    subprocess.run(
        [sys.executable, "-c", script, rendered.rootfs, str(mounts)], check=True, env=environment
    )
    check(rendered.rootfs)
    for record in store.list():
        export.verify(store, record.key)


def test_removal_stops_at_mount_points(tmp_path: Path) -> None:
    script = """
import os, sys
from rkt.linux import libc, tree
top = sys.argv[1]
libc.unshare(libc.CLONE_NEWNS)
libc.mount("none", "/", "", libc.MS_REC | libc.MS_PRIVATE)
for kind in ("tmpfs", "bind"):
    os.makedirs(f"{top}/victim/d/mount")
    if kind == "tmpfs":
        libc.mount("tmpfs", f"{top}/victim/d/mount", "tmpfs")
        open(f"{top}/victim/d/mount/precious", "w").close()
    else:
        libc.mount(f"{top}/keep", f"{top}/victim/d/mount", "", libc.MS_BIND)
    try:
        tree.remove(f"{top}/victim")
    except OSError as err:
        assert err.errno == 18, err
    else:
        sys.exit("removed a mount point")
    assert os.path.exists(f"{top}/victim/d/mount/precious")
    libc.umount(f"{top}/victim/d/mount")
    tree.remove(f"{top}/victim")
"""
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "precious").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=environment)
    assert os.listdir(tmp_path) == ["keep"]
    assert os.listdir(tmp_path / "keep") == ["precious"]


def test_removal_of_immutable_files(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "f").touch()
    done = subprocess.run(["chattr", "+i", str(victim / "f")], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip("no immutable files on this file system")
    subprocess.run(["chattr", "+a", str(victim)], check=True)
    tree.remove(str(victim))
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from rkt.image import ingest
from rkt.store import images
from rkt.store.images import Store, Verification
step = int(sys.argv[3])
count = 0
def cut(original):
    def wrapped(*args, **kwargs):
        global count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return wrapped
os.rename = cut(os.rename)
os.fsync = cut(os.fsync)
os.mkdir = cut(os.mkdir)
images.Store._insert = cut(images.Store._insert)
store = Store(sys.argv[1])
ingest.ingest(store, sys.argv[2], source="x", verification=Verification("verified"))
"""


def test_a_kill_at_any_step_is_repaired_by_the_next_import(store: Store, tmp_path: Path) -> None:
    image = builder()
    path = f"{tmp_path}/x.aci"
    with open(path, "wb") as file:
        file.write(image.tar())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for step in range(1, 100):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, store.data_dir, path, str(step)],
            env=environment, check=False,
        )  # fmt: skip
        records = store.list()
        for record in records:
            export.verify(store, record.key)
        if done.returncode == 0:
            break
        assert done.returncode == -9
        assert records == []
        record = ingest.ingest(store, path, source="x", verification=Verification(VERIFIED))
        export.verify(store, record.key)
        assert os.listdir(f"{store.path}/tmp") == []
        assert os.listdir(f"{store.path}/imagelocks") == []
        store.remove(record.key)
        store.remove_tree(record.key)
    else:
        pytest.fail("the import never got through")
    assert step > 10


@needs("other-users")
def test_a_group_member_keeps_the_archive_and_root_unpacks_it(store: Store) -> None:
    script = """
import os, sys
os.setgid(65534); os.setuid(65534)
from rkt.image import ingest
from rkt.store.images import Store, Verification
store = Store(sys.argv[1])
record = ingest.ingest(store, sys.argv[2], source="x", verification=Verification("verified"))
assert not record.unpacked
assert store.blob_path(record.key)
print(record.key)
"""
    parent = os.path.dirname(store.data_dir)
    while parent not in ("/", tempfile.gettempdir()):  # pytest's directories are private
        os.chmod(parent, 0o755)
        parent = os.path.dirname(parent)
    put(store, AciBuilder("example.com/first"))  # root makes the store
    for folder, _, files in os.walk(store.data_dir):
        if "/tree" not in folder:
            for name in ("", *files):
                os.chown(os.path.join(folder, name), 0, 65534)
    path = f"{os.path.dirname(store.data_dir)}/x.aci"
    with open(path, "wb") as file:
        file.write(builder().tar())
    os.chmod(path, 0o644)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    store.close()
    key = subprocess.run(
        [sys.executable, "-c", script, store.data_dir, path],
        env=environment, check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    assert not store.get(key).unpacked
    assert ingest.ensure_unpacked(store, key).unpacked
    assert store.blob_path(key) is None
    check(f"{store.tree_path(key)}/rootfs")


def test_a_foreign_tree_directory_is_taken_over(store: Store) -> None:
    record = put(store, builder())
    os.chown(f"{store.path}/tree", 65534, 65534)
    os.chmod(f"{store.path}/tree", 0o755)
    with store.lock_image(record.key):
        info = os.stat(f"{store.path}/tree")
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o700)


def test_a_full_disk_is_reported_and_cleaned_up(tmp_path: Path) -> None:
    script = """
import os, sys
from rkt.errors import RktError, describe
from rkt.image import ingest
from rkt.linux import libc
from rkt.store.images import Store, Verification
libc.unshare(libc.CLONE_NEWNS)
libc.mount("none", "/", "", libc.MS_REC | libc.MS_PRIVATE)
libc.mount("tmpfs", sys.argv[1], "tmpfs", 0, "size=4m")
store = Store(sys.argv[1] + "/data")
try:
    ingest.ingest(store, sys.argv[2], source="x", verification=Verification("verified"))
except RktError as err:
    print(describe(err))
print(os.listdir(store.path + "/tmp"), os.listdir(store.path + "/tree"), store.list())
"""
    path = f"{tmp_path}/x.aci"
    with open(path, "wb") as file:
        file.write(AciBuilder("example.com/big").file("big", os.urandom(8 << 20)).tar())
    os.mkdir(f"{tmp_path}/small")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(
        [sys.executable, "-c", script, f"{tmp_path}/small", path],
        env=environment, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert out == ['cannot unpack "rootfs/big": No space left on device', "[] [] []"]


def test_devices_out_of_range(store: Store) -> None:
    image = AciBuilder("example.com/app")
    image.add(special("dev", tarfile.CHRTYPE, 5000, 1))
    with pytest.raises(ArchiveError, match='"rootfs/dev": bad device 5000:1'):
        put(store, image)
    assert store.trees() == []
