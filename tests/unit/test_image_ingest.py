"""Taking archives into the store: what is kept, and a corpus of hostile archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest
import zstandard

from rkt.errors import ArchiveError, RktError, SchemaError, StoreError
from rkt.image import export, ingest
from rkt.image.archive import Limits, detect
from rkt.store.images import Store
from rkt.store.records import UNVERIFIED, VERIFIED, Verification
from rkt_testkit.acibuilder import AciBuilder, compress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rkt.schema.image import ImageManifest
    from rkt.store.records import ImageRecord

NAME = "example.com/app"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store whose images are unpacked whoever runs the tests; owners need root."""
    monkeypatch.setattr(ingest, "can_own_files", lambda: True)
    store = Store(f"{tmp_path}/data")
    yield store
    store.close()


def image() -> AciBuilder:
    """An image whose files belong to whoever runs the test."""
    me = (os.geteuid(), os.getegid())
    builder = AciBuilder(NAME)
    builder.directory("bin", owner=me).file("bin/sh", b"#!" * 3000, mode=0o755, owner=me)
    return builder.hardlink("bin/ash", "bin/sh").symlink("etc", "/etc").file("empty")


def take(
    store: Store,
    data: bytes,
    *,
    status: str = VERIFIED,
    signature: bytes | None = None,
    unpack: bool = True,
    expect: Callable[[ImageManifest], None] | None = None,
    limits: Limits | None = None,
) -> ImageRecord:
    path = f"{os.path.dirname(store.data_dir)}/x.aci"
    with open(path, "wb") as file:
        file.write(data)
    return ingest.ingest(
        store, path, source=path, verification=Verification(status), signature=signature,
        unpack=unpack, expect=expect, limits=limits or Limits(),
    )  # fmt: skip


def assert_nothing_left(store: Store) -> None:
    for kind in ("tmp", "tree", "split", "blob", "sig", "manifest", "imagelocks", "treelocks"):
        assert os.listdir(f"{store.path}/{kind}") == [], kind
    assert store.list() == []


def exported(store: Store, key: str) -> bytes:
    out = io.BytesIO()
    export.export_tar(store, key, out)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["none", "gzip", "bzip2", "xz", "zstd", "members", "padded"])
def test_every_compression_gives_the_same_image(store: Store, kind: str) -> None:
    data = image().tar()
    if kind == "zstd":
        packed = zstandard.compress(data)
    elif kind == "members":
        packed = gzip.compress(data[:700]) + gzip.compress(data[700:])
    elif kind == "padded":
        packed = gzip.compress(data) + bytes(100)
    else:
        packed = compress(data, kind)
    record = take(store, packed)
    digest = hashlib.sha512(data).hexdigest()
    assert (record.digest, record.key) == (digest, f"sha512-{digest[:64]}")
    assert (record.name, record.size, record.unpacked) == (NAME, len(data), True)
    assert record.label("os") == "linux"
    assert store.get(record.key) == record
    assert exported(store, record.key) == data


def test_the_unpacked_tree(store: Store) -> None:
    record = take(store, image().tar(manifest_last=True))
    root = store.tree_path(record.key)
    shell = os.stat(f"{root}/rootfs/bin/sh")
    assert stat.S_IMODE(shell.st_mode) == 0o755
    assert (shell.st_mtime, shell.st_nlink) == (1_500_000_000, 2)
    assert os.path.samefile(f"{root}/rootfs/bin/ash", f"{root}/rootfs/bin/sh")
    assert os.readlink(f"{root}/rootfs/etc") == "/etc"
    assert os.lstat(f"{root}/rootfs/etc").st_mtime == 1_500_000_000
    assert os.stat(f"{root}/rootfs/bin").st_mtime == 1_500_000_000
    assert sorted(os.listdir(root)) == ["manifest", "rootfs"]
    with open(f"{root}/manifest", "rb") as file:
        assert file.read() == store.manifest_bytes(record.key)
    assert record.tree_size == 6000 + len(store.manifest_bytes(record.key))
    assert store.blob_path(record.key) is None
    assert os.listdir(f"{store.path}/tmp") == []


def test_directories_may_be_implied_and_come_late(store: Store) -> None:
    builder = AciBuilder(NAME)
    me = (os.geteuid(), os.getegid())
    builder.file("a/b/c", b"x", owner=me).directory("a", 0o701, owner=me)
    record = take(store, builder.tar())
    root = f"{store.tree_path(record.key)}/rootfs"
    assert stat.S_IMODE(os.stat(f"{root}/a").st_mode) == 0o701
    assert stat.S_IMODE(os.stat(f"{root}/a/b").st_mode) == 0o755
    with open(f"{store.tree_path(record.key)}/implied", "rb") as file:
        assert file.read() == b"rootfs/a/b\0"


def test_a_directory_without_permissions_can_be_filled(store: Store) -> None:
    me = (os.geteuid(), os.getegid())
    builder = AciBuilder(NAME).directory("locked", 0o500, owner=me)
    record = take(store, builder.file("locked/f", b"x", owner=me).tar())
    path = f"{store.tree_path(record.key)}/rootfs/locked"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o500
    os.chmod(path, 0o700)


def test_more_directories_than_are_held_open(store: Store) -> None:
    builder = AciBuilder(NAME)
    for number in range(300):
        builder.file(f"d{number % 150}/e/f{number}", b"x", owner=(os.geteuid(), os.getegid()))
    data = builder.tar()
    assert exported(store, take(store, data).key) == data


def test_blob_only(store: Store) -> None:
    data = image().tar()
    packed = gzip.compress(data)
    record = take(store, packed, unpack=False, status=UNVERIFIED, signature=b"sig")
    assert not record.unpacked
    blob = store.blob_path(record.key)
    assert blob is not None
    with open(blob, "rb") as file:
        assert file.read() == packed
    assert store.signature(record.key) == b"sig"
    assert store.trees() == []
    assert exported(store, record.key) == data
    unpacked = ingest.ensure_unpacked(store, record.key)
    assert unpacked.unpacked
    assert unpacked.tree_size == record.tree_size or record.tree_size == 0
    assert store.blob_path(record.key) == blob  # the signature is still to be verified
    assert exported(store, record.key) == data
    assert ingest.ensure_unpacked(store, record.key) == unpacked
    store.set_verification(record.key, Verification(VERIFIED))
    assert store.blob_path(record.key) is None


def test_the_archive_is_dropped_when_it_is_unpacked(store: Store) -> None:
    record = take(store, image().tar(), unpack=False)
    assert ingest.ensure_unpacked(store, record.key).unpacked
    assert store.blob_path(record.key) is None


def test_who_cannot_give_files_away_keeps_the_archive(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "can_own_files", lambda: False)
    record = take(store, image().tar())
    assert not record.unpacked
    with pytest.raises(StoreError, match="can be unpacked by root only"):
        ingest.ensure_unpacked(store, record.key)


def test_a_changed_archive_in_the_store_is_found(store: Store) -> None:
    record = take(store, image().tar(), unpack=False)
    blob = store.blob_path(record.key)
    assert blob is not None
    with open(blob, "wb") as file:
        file.write(AciBuilder(NAME).tar())
    with pytest.raises(StoreError, match="is damaged: image hash does not match expected"):
        ingest.ensure_unpacked(store, record.key)
    with pytest.raises(StoreError, match="is damaged: image hash does not match expected"):
        exported(store, record.key)
    os.unlink(blob)
    with pytest.raises(StoreError, match="is damaged: its archive is missing"):
        ingest.ensure_unpacked(store, record.key)
    assert store.trees() == []


def test_a_changed_tree_is_found(store: Store) -> None:
    record = take(store, image().tar())
    path = f"{store.tree_path(record.key)}/rootfs/bin/sh"
    export.verify(store, record.key)
    with open(path, "r+b") as file:
        file.write(b"XX")
    with pytest.raises(StoreError, match="is damaged: image hash does not match expected"):
        export.verify(store, record.key)
    os.truncate(path, 10)
    with pytest.raises(StoreError, match='stored file "rootfs/bin/sh" is shorter than it was'):
        export.verify(store, record.key)
    os.unlink(path)
    with pytest.raises(StoreError, match='stored file "rootfs/bin/sh" cannot be read: No such'):
        export.verify(store, record.key)
    os.symlink("/etc/passwd", path)
    with pytest.raises(StoreError, match='stored file "rootfs/bin/sh" cannot be read: Too many'):
        export.verify(store, record.key)


def test_a_damaged_record_is_found(store: Store) -> None:
    record = take(store, image().tar())
    with open(store.split_path(record.key), "r+b") as file:
        file.truncate(60)
    with pytest.raises(StoreError, match="record of the archive is damaged"):
        export.verify(store, record.key)


def test_expect_sees_the_manifest_and_may_refuse(store: Store) -> None:
    seen: list[ImageManifest] = []
    take(store, image().tar(), expect=seen.append)
    assert [manifest.name for manifest in seen] == [NAME]

    def refuse(manifest: ImageManifest) -> None:
        raise StoreError(f"not wanted: {manifest.name}")

    other = image().file("more").tar()
    with pytest.raises(StoreError, match=r"not wanted: example.com/app"):
        take(store, other, expect=refuse)
    assert len(store.list()) == 1
    assert os.listdir(f"{store.path}/tmp") == []


# -- hostile archives


def bare() -> AciBuilder:
    return AciBuilder(NAME)


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    member.uid, member.gid = os.geteuid(), os.getegid()
    return member


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    builder = bare()
    for member, content in members:
        builder.add(member, content)
    return builder.tar()


def without_manifest() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        file.addfile(entry("rootfs", tarfile.DIRTYPE))
    return out.getvalue()


def without_rootfs() -> bytes:
    builder = bare()
    builder.members.clear()
    return builder.tar()


def implied_rootfs() -> bytes:
    builder = bare()
    builder.members.clear()
    return builder.add(entry("rootfs/f"), b"x").tar()


def rootfs_of_kind(kind: bytes, link: str = "") -> Callable[[], bytes]:
    builder = bare()
    builder.members.clear()
    return builder.add(entry("rootfs", kind, link)).tar


def manifest_of_kind(kind: bytes, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        file.addfile(entry("rootfs", tarfile.DIRTYPE))
        file.addfile(entry("rootfs/m"))
        file.addfile(entry("manifest", kind, link))
    return out.getvalue()


def raw_manifest(text: bytes) -> bytes:
    builder = bare()
    builder.raw_manifest = text
    return builder.tar()


SYM, LNK, DIR, CHR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "dot-dot at the front": (
        lambda: tar_of((entry("../evil"), b"x")), 'entry "../evil": path contains ".."'),
    "dot-dot in rootfs": (
        lambda: tar_of((entry("rootfs/../../evil"), b"x")),
        'entry "rootfs/../../evil": path contains ".."'),
    "dot-dot that stays inside": (
        lambda: tar_of((entry("rootfs/a/../b"), b"x")),
        'entry "rootfs/a/../b": path contains ".."'),
    "absolute": (
        lambda: tar_of((entry("/rootfs/evil"), b"x")),
        'unrecognized file path in layout: "/rootfs/evil"'),
    "outside rootfs": (
        lambda: tar_of((entry("evil"), b"x")), 'unrecognized file path in layout: "evil"'),
    "beside rootfs": (
        lambda: tar_of((entry("rootfs2/evil"), b"x")),
        'unrecognized file path in layout: "rootfs2/evil"'),
    "below the manifest": (
        lambda: tar_of((entry("manifest/evil"), b"x")),
        'unrecognized file path in layout: "manifest/evil"'),
    "a file as the root": (
        lambda: tar_of((entry("."), b"x")), 'unrecognized file path in layout: "."'),
    "through an absolute link": (
        lambda: tar_of((entry("rootfs/l", SYM, "/tmp"), b""), (entry("rootfs/l/evil"), b"x")),
        '"rootfs/l/evil": its parent "rootfs/l" is a symbolic link'),
    "through a relative link": (
        lambda: tar_of((entry("rootfs/l", SYM, "../../.."), b""), (entry("rootfs/l/e"), b"x")),
        '"rootfs/l/e": its parent "rootfs/l" is a symbolic link'),
    "deep through a link": (
        lambda: tar_of((entry("rootfs/l", SYM, "/"), b""), (entry("rootfs/l/a/b/c"), b"x")),
        '"rootfs/l/a/b/c": its parent "rootfs/l" is a symbolic link'),
    "directory through a link": (
        lambda: tar_of((entry("rootfs/l", SYM, "/"), b""), (entry("rootfs/l/d", DIR), b"")),
        '"rootfs/l/d": its parent "rootfs/l" is a symbolic link'),
    "through a file": (
        lambda: tar_of((entry("rootfs/f"), b"x"), (entry("rootfs/f/g"), b"x")),
        '"rootfs/f/g": its parent "rootfs/f" is not a directory'),
    "over a link": (
        lambda: tar_of((entry("rootfs/l", SYM, "/tmp/x"), b""), (entry("rootfs/l"), b"x")),
        "duplicate file entry in archive: rootfs/l"),
    "over a link by a directory": (
        lambda: tar_of((entry("rootfs/l", SYM, "/tmp"), b""), (entry("rootfs/l", DIR), b"")),
        "duplicate file entry in archive: rootfs/l"),
    "duplicate file": (
        lambda: tar_of((entry("rootfs/f"), b"x"), (entry("rootfs/f"), b"y")),
        "duplicate file entry in archive: rootfs/f"),
    "duplicate after cleaning": (
        lambda: tar_of((entry("rootfs/f"), b"x"), (entry("./rootfs//./f"), b"y")),
        "duplicate file entry in archive: rootfs/f"),
    "duplicate directory": (
        lambda: tar_of((entry("rootfs/d", DIR), b""), (entry("rootfs/d/", DIR), b"")),
        "duplicate file entry in archive: rootfs/d"),
    "file where a directory is implied": (
        lambda: tar_of((entry("rootfs/d/f"), b"x"), (entry("rootfs/d"), b"x")),
        "duplicate file entry in archive: rootfs/d"),
    "duplicate manifest": (
        lambda: tar_of((entry("manifest"), b"{}")), "duplicate file entry in archive: manifest"),
    "hard link outside": (
        lambda: tar_of((entry("rootfs/h", LNK, "/etc/passwd"), b"")),
        'unrecognized file path in layout: "/etc/passwd"'),
    "hard link up": (
        lambda: tar_of((entry("rootfs/h", LNK, "rootfs/../../etc/passwd"), b"")),
        'entry "rootfs/../../etc/passwd": path contains ".."'),
    "hard link relative to the root file system": (
        lambda: tar_of((entry("rootfs/f"), b""), (entry("rootfs/h", LNK, "f"), b"")),
        '"rootfs/h": hard link to "f" leads outside'),
    "hard link to the manifest": (
        lambda: tar_of((entry("rootfs/h", LNK, "manifest"), b"")),
        '"rootfs/h": hard link to "manifest" leads outside'),
    "hard link to what comes later": (
        lambda: tar_of((entry("rootfs/h", LNK, "rootfs/f"), b""), (entry("rootfs/f"), b"")),
        '"rootfs/h": hard link to "rootfs/f", which is no earlier file'),
    "hard link to a directory": (
        lambda: tar_of((entry("rootfs/d", DIR), b""), (entry("rootfs/h", LNK, "rootfs/d"), b"")),
        '"rootfs/h": hard link to "rootfs/d", which is no earlier file'),
    "hard link through a link": (
        lambda: tar_of((entry("rootfs/l", SYM, "/etc"), b""),
                       (entry("rootfs/h", LNK, "rootfs/l/passwd"), b"")),
        '"rootfs/h": hard link to "rootfs/l/passwd", which is no earlier file'),
    "hard link to itself": (
        lambda: tar_of((entry("rootfs/h", LNK, "rootfs/h"), b"")),
        '"rootfs/h": hard link to "rootfs/h", which is no earlier file'),
    "link to nowhere": (
        lambda: tar_of((entry("rootfs/l", SYM, ""), b"")),
        '"rootfs/l": symbolic link without a target'),
    "too deep": (
        lambda: tar_of((entry("rootfs/" + "d/" * 300 + "f"), b"x")),
        "more than 256 directories deep"),
    "name that no file system takes": (
        lambda: tar_of((entry("rootfs/" + "n" * 300), b"x")), "File name too long"),
    "no manifest": (without_manifest, "no image manifest found in layout"),
    "no rootfs": (without_rootfs, "no rootfs found in layout"),
    "rootfs only implied": (implied_rootfs, "no rootfs found in layout"),
    "rootfs is a file": (
        rootfs_of_kind(tarfile.REGTYPE), "rootfs is not a directory"),
    "rootfs is a link": (
        rootfs_of_kind(SYM, "/"), "rootfs is not a directory"),
    "rootfs is a hard link": (
        rootfs_of_kind(LNK, "rootfs/f"), "rootfs is not a directory"),
    "manifest is a link": (
        lambda: manifest_of_kind(SYM, "/etc/passwd"), "manifest is not a regular file"),
    "manifest is a hard link": (
        lambda: manifest_of_kind(LNK, "rootfs/m"), "manifest is not a regular file"),
    "manifest is a directory": (lambda: manifest_of_kind(DIR), "manifest is not a regular file"),
    "manifest is a device": (lambda: manifest_of_kind(CHR), "manifest is not a regular file"),
    "huge manifest": (
        lambda: raw_manifest(b" " * (17 << 20)), "manifest is larger than 16777216 bytes"),
    "manifest that is no JSON": (
        lambda: raw_manifest(b"{]"), "image manifest validation failed: .*error at line 1"),
    "empty manifest": (lambda: raw_manifest(b""), "image manifest validation failed: "),
    "manifest of another kind": (
        lambda: raw_manifest(b'{"acKind":"PodManifest","acVersion":"0.8.11","name":"a"}'),
        "image manifest validation failed: .*missing or bad ACKind"),
    "manifest of another age": (
        lambda: raw_manifest(b'{"acKind":"ImageManifest","acVersion":"1.0.0","name":"a"}'),
        "ACVersion too old. Found major version 1, expected 0"),
    "empty file": (lambda: b"", "error: unknown image filetype"),
    "text": (lambda: b"404 page not found\n" * 50, "error: unknown image filetype"),
    "truncated gzip": (
        lambda: gzip.compress(os.urandom(5000) + image().tar())[:3000],
        "gzip data of the archive is damaged|bad header checksum|header"),
    "truncated at the end": (
        lambda: gzip.compress(image().tar())[:-5],
        "gzip data of the archive is damaged: unexpected end of file"),
    "gzip with a tail": (
        lambda: gzip.compress(image().tar()) + b"tail", "gzip data of the archive is damaged"),
    "gzip with a wrong sum": (
        lambda: gzip.compress(image().tar())[:-8] + bytes(8),
        "gzip data of the archive is damaged"),
    "truncated xz": (
        lambda: compress(image().tar(), "xz")[:-9],
        "xz data of the archive is damaged: unexpected end of file"),
    "broken xz": (
        lambda: compress(image().tar(), "xz")[:60] + bytes(50),
        "xz data of the archive is damaged"),
    "truncated bzip2": (
        lambda: compress(image().tar(), "bzip2")[:-9],
        "bzip2 data of the archive is damaged: unexpected end of file"),
    "broken zstd": (
        lambda: zstandard.compress(image().tar())[:20] + b"\xff" * 99,
        "zstd data of the archive is damaged"),
    "truncated zstd": (
        lambda: zstandard.compress(image().tar())[:-3],
        "zstd data of the archive is damaged: unexpected end of file"),
    "zstd with a tail": (
        lambda: zstandard.compress(image().tar()) + b"tail",
        "zstd data of the archive is damaged: "),
}  # fmt: skip


@pytest.mark.parametrize("unpack", [True, False], ids=["unpack", "read"])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives(store: Store, tmp_path: Path, case: str, unpack: bool) -> None:
    make, text = HOSTILE[case]
    if case == "name that no file system takes" and not unpack:
        pytest.skip("found by the file system only")
    with store.tmp_dir():  # makes the store
        pass
    before = sorted(os.listdir(tmp_path))
    with pytest.raises((ArchiveError, SchemaError, RktError), match=text) as caught:
        take(store, make(), unpack=unpack)
    assert "\n" not in caught.value.message
    assert_nothing_left(store)
    assert sorted(os.listdir(tmp_path)) == sorted({*before, "x.aci"})


def test_a_decompression_bomb(store: Store) -> None:
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", mtime=0) as file:
        head = tarfile.TarInfo("rootfs/zeros")
        head.size = 200 << 20
        file.write(head.tobuf())
        for _ in range(200):
            file.write(bytes(1 << 20))
    with pytest.raises(ArchiveError, match="grows more than 250 times by decompression: refused"):
        take(store, bomb.getvalue(), limits=Limits(ratio_from=16 << 20))
    assert_nothing_left(store)
    with pytest.raises(ArchiveError, match="are larger than 8388608 bytes"):
        take(store, bomb.getvalue(), limits=Limits(size=8 << 20))
    assert_nothing_left(store)


@pytest.mark.parametrize("kind", ["none", "zstd", "xz", "bzip2"])
def test_an_archive_that_never_ends(store: Store, kind: str) -> None:
    """No entry is large, but what follows the end marker is."""
    data = image().tar() + bytes(30 << 20)
    packed = zstandard.compress(data) if kind == "zstd" else compress(data, kind)
    with pytest.raises(ArchiveError, match="is larger than 8388608 bytes when uncompressed"):
        take(store, packed, limits=Limits(size=8 << 20))
    assert_nothing_left(store)
    if kind != "none":
        with pytest.raises(ArchiveError, match="refused as a bomb"):
            take(store, packed, limits=Limits(ratio_from=8 << 20))
        assert_nothing_left(store)


def test_a_sparse_bomb(store: Store) -> None:
    member = entry("rootfs/holes")
    member.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1",
        "GNU.sparse.size": str(1 << 50),
    }  # fmt: skip
    with pytest.raises(ArchiveError, match="files of the archive are larger than"):
        take(store, tar_of((member, b"x")))
    assert_nothing_left(store)


def test_too_many_entries(store: Store) -> None:
    data = tar_of(*((entry(f"rootfs/{n}"), b"") for n in range(20)))
    with pytest.raises(ArchiveError, match="archive has more than 10 entries"):
        take(store, data, limits=Limits(entries=10))
    assert_nothing_left(store)


def test_links_that_lead_out_are_content(store: Store, tmp_path: Path) -> None:
    data = tar_of(
        (entry("rootfs/abs", SYM, str(tmp_path)), b""),
        (entry("rootfs/up", SYM, "../../../../.."), b""),
        (entry("rootfs/again", LNK, "rootfs/abs"), b""),
    )
    record = take(store, data)
    root = f"{store.tree_path(record.key)}/rootfs"
    assert os.readlink(f"{root}/abs") == str(tmp_path)
    assert os.lstat(f"{root}/again").st_ino == os.lstat(f"{root}/abs").st_ino


def test_sparse_files_come_back_byte_by_byte(store: Store, tmp_path: Path) -> None:
    import subprocess

    os.makedirs(f"{tmp_path}/l/rootfs")
    with open(f"{tmp_path}/l/rootfs/s", "wb") as file:
        for at in range(9):
            file.seek(at * 1_000_000)
            file.write(b"%d" % at)
        file.truncate(20_000_000)
    with open(f"{tmp_path}/l/manifest", "wb") as file:
        file.write(b'{"acKind":"ImageManifest","acVersion":"0.8.11","name":"a"}')
    for form in ("--format=gnu", "--format=pax"):
        data = subprocess.run(
            ["tar", "-C", f"{tmp_path}/l", "-cS", form, "manifest", "rootfs"],
            check=True, capture_output=True,
        ).stdout  # fmt: skip
        assert len(data) < 200_000
        record = take(store, data)
        path = f"{store.tree_path(record.key)}/rootfs/s"
        assert os.stat(path).st_blocks * 512 < 1_000_000
        with open(path, "rb") as one, open(f"{tmp_path}/l/rootfs/s", "rb") as two:
            assert one.read() == two.read()
        assert exported(store, record.key) == data


def test_detect() -> None:
    tar = image().tar()
    for kind in ("none", "gzip", "bzip2", "xz"):
        assert detect(compress(tar, kind)[:512]) == kind
    assert detect(zstandard.compress(tar)[:512]) == "zstd"
    with pytest.raises(ArchiveError, match=r"^error: unknown image filetype$"):
        detect(tar[:262])


def test_a_missing_archive(store: Store) -> None:
    with pytest.raises(RktError, match=r'cannot read image ".*/no.aci": No such file or directory'):
        ingest.ingest(
            store, f"{store.data_dir}/no.aci", source="x", verification=Verification(VERIFIED)
        )
