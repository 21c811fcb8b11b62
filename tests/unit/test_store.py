"""The image store: looking up, placing, verification records, removal, many processes."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rkt.errors import AmbiguousName, KernelError, LockedError, NotFound, StoreError
from rkt.schema.struct import replace
from rkt.store.gc import sweep
from rkt.store.images import Store
from rkt.store.records import (
    SKIPPED,
    UNVERIFIED,
    VERIFIED,
    ImageKey,
    ImageRecord,
    Remote,
    Verification,
    image_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = b'{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/app"}'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"{tmp_path}/data")
    yield store
    store.close()


def put(
    store: Store,
    digest: str,
    *,
    name: str = "example.com/app",
    labels: tuple[tuple[str, str], ...] = (),
    latest: bool = False,
    when: int = 1,
    status: str = VERIFIED,
    unpacked: bool = True,
    signature: bytes | None = None,
    blob: bool = False,
) -> ImageRecord:
    digest = digest.ljust(128, "0")
    with store.tmp_dir() as staging:
        if unpacked:
            os.makedirs(f"{staging}/tree/rootfs")
            write(f"{staging}/split", b"split")
        if blob or not unpacked:
            write(f"{staging}/blob", b"archive")
        record = ImageRecord(
            key=image_key(digest), digest=digest, name=name, labels=labels, import_time=when,
            last_used=when, latest=latest, size=10, tree_size=5, unpacked=unpacked, source="x",
            verification=Verification(status),
        )  # fmt: skip
        return store.place(record, staging, manifest=MANIFEST, signature=signature)


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def leftovers(store: Store) -> list[str]:
    return [
        f"{kind}/{name}"
        for kind in ("tmp", "tree", "split", "blob", "sig", "manifest", "imagelocks", "treelocks")
        for name in os.listdir(f"{store.path}/{kind}")
    ]


def test_a_store_that_does_not_exist_reads_as_empty(store: Store) -> None:
    assert store.list() == []
    assert store.find("example.com/app", {}) is None
    assert store.remote("https://example.com/app.aci") is None
    with pytest.raises(NotFound, match=r"^no image IDs found$"):
        store.resolve("sha512-ab")
    assert not os.path.exists(store.data_dir)


def test_resolve(store: Store) -> None:
    first = put(store, "abcd").key
    second = put(store, "abce").key
    assert store.resolve("sha512-abcd") == first
    assert store.resolve(second) == second
    assert store.resolve("sha512-" + "abcd".ljust(128, "0")) == first
    for text, error, message in (
        ("sha512-abc", AmbiguousName, 'ambiguous image ID: "sha512-abc"'),
        ("sha512-a", NotFound, "image ID too short"),
        ("sha512-", NotFound, "image ID too short"),
        ("sha256-abcd", NotFound, "wrong key prefix"),
        ("sha512-ff", NotFound, "no image IDs found"),
        ("sha512-ab%", NotFound, "no image IDs found"),
        ("sha512-" + "abcd".ljust(127, "0") + "1", NotFound, "no image IDs found"),
    ):
        with pytest.raises(error) as caught:
            store.resolve(text)
        assert str(caught.value) == message


def test_find_prefers_latest_then_the_newest(store: Store) -> None:
    one, two, three = (("version", "1"),), (("version", "2"),), (("version", "3"), ("os", "linux"))
    put(store, "01", labels=one, when=1)
    latest = put(store, "02", labels=two, when=2, latest=True)
    newest = put(store, "03", labels=three, when=3)
    assert store.find("example.com/app", {}) == latest
    assert store.find("example.com/app", {"version": "3"}) == newest
    assert store.find("example.com/app", {"os": "linux"}) == newest
    assert store.find("example.com/app", {"version": "4"}) is None
    assert store.find("example.com/other", {}) is None
    again = put(store, "04", labels=two, when=4)
    assert store.find("example.com/app", {"version": "2"}) == again


def test_placing_again_refreshes_the_row_and_keeps_the_parts(store: Store) -> None:
    first = put(store, "aa", latest=True, signature=b"first")
    inode = os.stat(store.tree_path(first.key)).st_ino
    second = put(store, "aa", when=7, signature=b"second")
    assert (second.import_time, second.latest) == (7, False)
    assert store.list() == [second]
    assert os.stat(store.tree_path(first.key)).st_ino == inode
    assert store.signature(first.key) == b"second"
    assert store.manifest(first.key).name == "example.com/app"
    assert os.listdir(f"{store.path}/tmp") == []


def test_a_verified_image_stays_verified(store: Store) -> None:
    key = put(store, "aa", signature=b"good").key
    record = put(store, "aa", status=UNVERIFIED, signature=b"unknown", unpacked=False)
    assert record.verification.status == VERIFIED
    assert record.unpacked
    assert store.signature(key) == b"good"
    assert store.blob_path(key) is None


def test_an_unverified_image_becomes_verified(store: Store) -> None:
    key = put(store, "aa", status=UNVERIFIED, signature=b"s", unpacked=False).key
    assert store.blob_path(key) is not None
    record = put(store, "aa", status=VERIFIED, signature=b"s")
    assert record.verification.status == VERIFIED
    assert store.blob_path(key) is None
    assert store.get(key) == record


def test_the_archive_of_an_unverified_image_is_kept_until_it_is_verified(store: Store) -> None:
    key = put(store, "aa", status=SKIPPED).key
    put(store, "aa", status=UNVERIFIED, signature=b"s", unpacked=False)
    assert store.get(key).unpacked
    assert store.blob_path(key) is not None
    verdict = Verification(VERIFIED, "F" * 40, "Alice <a@example.com>", "example.com", 5)
    store.set_verification(key, verdict)
    assert store.get(key).verification == verdict
    assert store.blob_path(key) is None
    with pytest.raises(NotFound, match='image "sha512-ff" is not in the store'):
        store.set_verification("sha512-ff", verdict)


def test_add_tree(store: Store) -> None:
    key = put(store, "aa", unpacked=False).key
    with store.tmp_dir() as staging:
        os.makedirs(f"{staging}/tree/rootfs")
        write(f"{staging}/split", b"x")
        record = store.add_tree(key, staging, tree_size=77)
    assert record == store.get(key)
    assert (record.unpacked, record.tree_size) == (True, 77)
    assert store.blob_path(key) is None


def test_a_half_that_is_equal_is_no_equal_hash(store: Store) -> None:
    put(store, "aa")
    with pytest.raises(StoreError, match="is in the store with another full hash"):
        put(store, "aa".ljust(127, "0") + "1")


def test_remove_leaves_the_tree_to_its_users(store: Store) -> None:
    key = put(store, "aa", signature=b"s").key
    store.put_remote(Remote("https://example.com/a.aci", "tag", 60, 1, key))
    with pytest.raises(StoreError, match=f'tree "{key}" belongs to an image in the store'):
        store.remove_tree(key)
    assert store.remove(key) is True
    assert store.remote("https://example.com/a.aci") is None
    assert store.list() == []
    assert store.trees() == [key]
    with store.lock_tree(key, exclusive=False), pytest.raises(LockedError):
        store.remove_tree(key)
    store.remove_tree(key)
    assert leftovers(store) == []
    with pytest.raises(NotFound, match="is not in the store"):
        store.remove(key)


def test_remotes(store: Store) -> None:
    key = put(store, "aa").key
    remote = Remote("https://example.com/a.aci", '"etag"', 3600, 123, key)
    store.put_remote(remote)
    assert store.remote(remote.url) == remote
    newer = replace(remote, etag="", download_time=124)
    store.put_remote(newer)
    assert store.remote(remote.url) == newer
    with pytest.raises(NotFound, match="is not in the store"):
        store.put_remote(replace(remote, key=ImageKey("sha512-ff")))


def test_touch(store: Store) -> None:
    key = put(store, "aa").key
    store.touch(key)
    assert store.get(key).last_used > 10**18


def test_keys_are_no_paths(store: Store) -> None:
    for key in ("../db.sqlite", "a/b", ".", ".."):
        with pytest.raises(NotFound, match="is not in the store"):
            store.manifest_bytes(key)


def test_staging_of_a_dead_process_is_removed_and_that_of_a_living_one_is_not(store: Store) -> None:
    with store.tmp_dir() as living:
        os.mkdir(f"{store.path}/tmp/dead")
        os.mkdir(f"{store.path}/tmp/dead/sub")
        with store.tmp_dir():
            assert not os.path.exists(f"{store.path}/tmp/dead")
            assert os.path.isdir(living)
    assert os.listdir(f"{store.path}/tmp") == []


def test_sweep_takes_what_no_row_knows(store: Store) -> None:
    key = put(store, "aa", signature=b"s").key
    for kind in ("manifest", "sig", "blob", "split"):
        write(f"{store.path}/{kind}/sha512-dead", b"x")
    write(f"{store.path}/blob/sha512-busy", b"x")
    os.mkdir(f"{store.path}/tmp/dead")
    with store.lock_image("sha512-busy"):
        assert sweep(store) == [
            "blob/sha512-dead", "manifest/sha512-dead", "sig/sha512-dead", "split/sha512-dead",
        ]  # fmt: skip
    assert sweep(store) == ["blob/sha512-busy"]
    assert leftovers(store) == [f"{kind}/{key}" for kind in ("tree", "split", "sig", "manifest")]


def test_links_in_the_store_are_not_followed(store: Store, tmp_path: Path) -> None:
    key = put(store, "aa", unpacked=False).key
    write(f"{tmp_path}/secret", b"secret")
    os.unlink(f"{store.path}/manifest/{key}")
    os.symlink(f"{tmp_path}/secret", f"{store.path}/manifest/{key}")
    with pytest.raises(KernelError, match=r"cannot read .*: Too many levels of symbolic links"):
        store.manifest_bytes(key)


def test_a_newer_schema_is_refused(store: Store) -> None:
    put(store, "aa")
    store.close()
    with sqlite3.connect(f"{store.path}/db/db.sqlite") as db:
        db.execute("PRAGMA user_version=9")
    db.close()
    with pytest.raises(StoreError) as caught:
        store.list()
    assert str(caught.value) == (
        "current store db version: 9 (greater than the current rkt expected version: 1)"
    )


def test_a_damaged_database_is_named(store: Store) -> None:
    os.makedirs(f"{store.path}/db")
    write(f"{store.path}/db/db.sqlite", b"no database at all" * 100)
    text = r'image store ".*/cas/db/db.sqlite": file is not a database'
    with pytest.raises(StoreError, match=text):
        store.list()


def test_a_failed_transaction_leaves_no_trace(store: Store) -> None:
    key = put(store, "aa").key
    with pytest.raises(ZeroDivisionError), store._db.write() as db:
        db.execute("DELETE FROM images")
        raise ZeroDivisionError
    assert store.get(key).key == key


def test_lock_files_vanish_and_exclude(store: Store) -> None:
    put(store, "aa")
    with store.lock_image("sha512-aa") as fd:
        other = os.open(f"{store.path}/imagelocks/sha512-aa", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        assert os.fstat(fd).st_mode & 0o777 == 0o660
    assert os.listdir(f"{store.path}/imagelocks") == []


WORKER = """
import os, sys
from rkt.store.images import *
from rkt.store.records import *
store = Store(sys.argv[1])
for turn in range(3):
    digest = f"{(int(sys.argv[2]) + turn) % 5:02x}" + "0" * 126
    with store.tmp_dir() as staging:
        os.makedirs(f"{staging}/tree/rootfs")
        open(f"{staging}/split", "w").close()
        record = ImageRecord(image_key(digest), digest, "example.com/a", (), 1, 1, False, 1, 1,
                             True, "x", Verification("verified"))
        key = store.place(record, staging, manifest=b"{}").key
    store.touch(key)
    store.put_remote(Remote(f"https://example.com/{sys.argv[2]}", "", 0, turn, key))
    assert store.get(key).key == key
"""


def test_many_processes_at_once(store: Store) -> None:
    """Fifty importers of five images begin with a store that does not exist."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, store.data_dir, str(number)],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for number in range(50)
    ]  # fmt: skip
    for worker in workers:
        _, errors = worker.communicate(timeout=100)
        assert worker.returncode == 0, errors
    assert len(store.list()) == 5
    assert len(store.trees()) == 5
    for kind in ("tmp", "imagelocks", "treelocks"):
        assert os.listdir(f"{store.path}/{kind}") == []


def test_a_damaged_database_is_said_and_can_be_replaced(store: Store) -> None:
    put(store, "ab")
    store.close()
    path = f"{store.path}/db/db.sqlite"
    with open(path, "r+b") as file:
        file.write(b"no SQLite format at all")
    with pytest.raises(StoreError, match=r"db\.sqlite\": file is not a database$") as caught:
        store.list()
    assert caught.value.hint == "move it away, run rkt image gc, and fetch the images again"
    os.unlink(path)
    assert store.list() == []
    put(store, "ab")
    assert len(store.list()) == 1
