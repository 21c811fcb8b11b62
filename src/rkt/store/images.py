"""The image store: what images there are, where their parts lie, how they were verified.

Below <data>/cas: `tree/<key>/{rootfs,manifest}` (the unpacked image), `split/<key>` (the rest of
its archive), `blob/<key>` (the archive as it came, of an image that is not unpacked or not
verified), `sig/<key>`, `manifest/<key>`, `trust/<key>` (how root found it verified).  A name there
is always a whole thing: parts are staged in `tmp/`, renamed into place, and only then told to the
database; a removal tells the database first.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from rkt.errors import (
    AmbiguousName,
    KernelError,
    NotFound,
    SchemaError,
    StoreError,
)
from rkt.linux import atomic, libc, lock, tree
from rkt.schema import codec
from rkt.schema.struct import replace
from rkt.store import files, layout
from rkt.store.db import Database
from rkt.store.records import (
    CONVERTED,
    DEPS_PREFIX,
    KEY_LENGTH,
    PREFIX,
    TRUSTED_LOCATION,
    UNVERIFIED,
    VERIFIED,
    DamagedRecord,
    ImageKey,
    ImageRecord,
    Remote,
    Verification,
    of_row,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from rkt.schema.image import ImageManifest, Outline

_MIN_LENGTH = len(PREFIX) + 2
_SMALL = 64 << 10  # a manifest that may be kept in memory
_LASTING = (VERIFIED, TRUSTED_LOCATION, CONVERTED)
_TREE_PARTS = ("split", "tree")  # in this order: a tree alone is no image


class Store:
    """The images below one data directory.  Safe for many processes at a time."""

    def __init__(self, data_dir: str) -> None:
        self.data_dir = data_dir
        self.path = f"{data_dir}/cas"
        self._db = Database(f"{self.path}/db/db.sqlite")
        self._pinned: dict[str, frozenset[str]] = {}
        self._outlines: dict[str, tuple[bytes, Outline]] = {}

    def close(self) -> None:
        """Close the database; a later use opens it again."""
        self._db.close()

    # -- questions

    def resolve(self, prefix: str) -> ImageKey:
        """Find the only image whose ID begins so.  Raises NotFound or AmbiguousName."""
        if not prefix.startswith(PREFIX):
            raise NotFound("wrong key prefix")
        if len(prefix) < _MIN_LENGTH:
            raise NotFound("image ID too short")
        start = prefix[:KEY_LENGTH]
        with self._db.read() as db:
            rows = db.execute(
                "SELECT key, digest FROM images WHERE key >= ? AND substr(key, 1, ?) = ? LIMIT 2",
                (start, len(start), start),
            ).fetchall()
        if len(rows) > 1:
            raise AmbiguousName(f'ambiguous image ID: "{prefix}"')
        if not rows or not rows[0][1].startswith(prefix[len(PREFIX) :]):
            raise NotFound("no image IDs found")
        return ImageKey(rows[0][0])

    def find(self, name: str, labels: Mapping[str, str]) -> ImageRecord | None:
        """Find the best image of a name that has all these labels with these values.

        Without a `version` label images that were fetched as the latest come first, then the most
        recently imported.
        """
        order = "import_time DESC" if "version" in labels else "latest DESC, import_time DESC"
        with self._db.read() as db:
            rows = db.execute(f"SELECT * FROM images WHERE name = ? ORDER BY {order}", (name,))
            for row in rows:
                record = of_row(row)
                if labels.items() <= dict(record.labels).items():
                    return record
        return None

    def get(self, key: str) -> ImageRecord:
        """Give the record of an image.  Raises NotFound."""
        record = self._row(key)
        if record is None:
            raise NotFound(f'image "{key}" is not in the store')
        return record

    def is_damaged(self, key: str) -> bool:
        """Say whether there is an image with this key whose record cannot be read."""
        try:
            self._row(key)
        except DamagedRecord:
            return True
        return False

    def list(self, *, problems: _Names | None = None) -> list[ImageRecord]:
        """Give all images, oldest import first; with `problems` bad rows are noted there."""
        found = []
        with self._db.read() as db:
            for row in db.execute("SELECT * FROM images ORDER BY import_time"):
                try:
                    found.append(of_row(row))
                except StoreError as err:
                    if problems is None:
                        raise
                    problems.append(err.message)
        return found

    def manifest_bytes(self, key: str) -> bytes:
        """Give an image's manifest as it stands in the archive."""
        data = None
        if os.geteuid() == 0:  # the copy that the group `rkt` cannot write
            data = files.read(f"{self._part('tree', key)}/manifest")
        if data is None:
            data = files.read(self._part("manifest", key))
        if data is None:
            raise NotFound(f'image "{key}" has no manifest in the store')
        return data

    def manifest(self, key: str) -> ImageManifest:
        """Give an image's manifest, but for a long whitelist: `whitelist` gives that."""
        return self.outline(key).manifest

    def mend_manifest(self, key: str) -> bool:
        """Restore the copy of an unpacked image's manifest that is for the group; root only.

        Gives false if nothing was wrong with it.
        """
        data = self.manifest_bytes(key)
        path = self._part("manifest", key)
        try:
            if files.read(path) == data:
                return False
        except (StoreError, KernelError):
            pass  # a link, a pipe, too large: something that a member of the group put there
        with self.tmp_dir() as staging, self.lock_image(key):
            files.write(f"{staging}/manifest", data)
            files.unlink(path)
            files.move(f"{staging}/manifest", path, replace=True)
        return True

    def outline(self, key: str) -> Outline:
        """Give an image's manifest without a long whitelist, and whether it has any."""
        data = self.manifest_bytes(key)
        known = self._outlines.get(key)
        if known is not None and known[0] == data:
            return known[1]
        from rkt.schema.image import outline_of

        outline = outline_of(data, f'manifest of image "{key}"')
        if len(data) <= _SMALL:
            self._outlines[key] = data, outline
        return outline

    def whitelist(self, key: str) -> Iterator[str]:
        """Give the paths of an image's whitelist one after the other."""
        from rkt.schema.image import whitelist_of

        return whitelist_of(self.manifest_bytes(key), f'manifest of image "{key}"')

    def signature(self, key: str) -> bytes | None:
        """Give the detached signature that came with an image."""
        return files.read(self._part("sig", key))

    def blob_path(self, key: str) -> str | None:
        """Give the path of the archive as it came, if it is kept; read it with `open_blob`."""
        path = self._part("blob", key)
        return path if os.path.lexists(path) else None

    def open_blob(self, key: str) -> BinaryIO | None:
        """Open the archive as it came, if it is kept; nobody else can change what is read."""
        path = self._part("blob", key)
        return files.open_stable(path, f"{self.path}/tmp")  # noqa: S108 - the store's own

    def proof(self, key: str) -> Verification | None:
        """Give the verification of an image that this user can rely on, if there is one.

        The database may be written by every member of the group: root believes its own notes only.
        """
        if os.geteuid() != 0:
            row = self._row(key)
            return row.verification if row else None
        data = files.read(self._part("trust", key))
        if data is None:
            return None
        try:
            return codec.decode(data, Verification, "verification")
        except SchemaError as err:
            raise StoreError(f'image "{key}": record of its verification is damaged') from err

    def pin(self, key: str, keys: frozenset[str]) -> None:
        """Say which images the root file system of an image may be made of in this process."""
        self._pinned[key] = keys

    def pinned(self, key: str) -> frozenset[str] | None:
        """Give the images of which an image's root file system may be made, None: any."""
        return self._pinned.get(key)

    def split_path(self, key: str) -> str:
        """Give the path of the record of an unpacked image's archive."""
        return self._part("split", key)

    def tree_path(self, tree_id: str) -> str:
        """Give the directory of an unpacked image or a rendered tree: its `rootfs` is in it."""
        return self._part("tree", tree_id)

    def remote(self, url: str) -> Remote | None:
        """Give what is known about an earlier download from a URL."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT url, etag, max_age, download_time, key FROM remotes WHERE url = ?", (url,)
            ).fetchone()
        return Remote(*row) if row else None

    # -- changes

    def put_remote(self, remote: Remote) -> None:
        """Remember a download.  Raises NotFound when its image is gone."""
        with self._db.write() as db:
            if not db.execute("SELECT 1 FROM images WHERE key = ?", (remote.key,)).fetchone():
                raise NotFound(f'image "{remote.key}" is not in the store')
            db.execute(
                "INSERT OR REPLACE INTO remotes(url, etag, max_age, download_time, key) "
                "VALUES(?, ?, ?, ?, ?)",
                (remote.url, remote.etag, remote.max_age, remote.download_time, remote.key),
            )

    def touch(self, *keys: str) -> None:
        """Note that images are used now."""
        marks, now = ",".join("?" * len(keys)), time.time_ns()
        with self._db.write(durable=False) as db:
            db.execute(f"UPDATE images SET last_used = ? WHERE key IN ({marks})", (now, *keys))

    def set_tree_size(self, key: str, size: int) -> None:
        """Note how many bytes the files of an image take, with those of its layers."""
        self._update(key, "tree_size = ?", size, durable=False)

    def set_verification(self, key: str, verification: Verification) -> None:
        """Record how an image was verified; drops an archive that was kept only for that.

        Raises NotFound.
        """
        with self.lock_image(key):
            v = verification
            self._update(
                key,
                "status = ?, fingerprint = ?, identity = ?, prefix = ?, verified_at = ?",
                v.status, v.fingerprint, v.identity, v.prefix, v.when,
            )  # fmt: skip
            self._note_proof(key, v)
            if v.status != UNVERIFIED and self.get(key).unpacked:
                files.unlink(self._part("blob", key))

    def place(
        self, record: ImageRecord, staging: str, *, manifest: bytes, signature: bytes | None = None
    ) -> ImageRecord:
        """Move the staged parts of an image into the store and give its final record.

        `staging` holds `tree` and `split` of an unpacked image, or `blob`, or all three.  For an
        image that is here already the row is refreshed and only missing parts are taken; a
        verification that lasts is not replaced by a weaker one.
        """
        files.write(f"{staging}/manifest", manifest)
        if signature is not None:
            files.write(f"{staging}/sig", signature)
        try:
            files.sync(staging)
            with self.lock_image(record.key):
                record = self._settle(record, staging, signed=signature is not None)
                self._note_proof(record.key, record.verification)
                self._insert(record)
        except OSError as err:
            raise KernelError(f'cannot store image "{record.key}"', err) from err
        return record

    def add_tree(self, key: str, staging: str, *, tree_size: int) -> ImageRecord:
        """Move the staged `tree` and `split` of an image into the store and give its new record.

        Its archive is dropped unless its signature still has to be verified.  Raises NotFound.
        """
        try:
            files.sync(staging)
            with self.lock_image(key):
                record = self.get(key)
                for kind in _TREE_PARTS:
                    files.move(f"{staging}/{kind}", self._part(kind, key), replace=False)
                tree_size = max(tree_size, record.tree_size)  # it may count its layers' files
                self._update(key, "unpacked = 1, tree_size = ?", tree_size)
                proof = self.proof(key)
                is_settled = proof is not None and proof.status != UNVERIFIED
                if is_settled or self.signature(key) is None:
                    files.unlink(self._part("blob", key))
        except OSError as err:
            raise KernelError(f'cannot store image "{key}"', err) from err
        return replace(record, unpacked=True, tree_size=tree_size)

    def remove(self, key: str) -> bool:
        """Remove an image, all but its unpacked tree, which pods may still use (`remove_tree`).

        Gives false if files were left behind.  Raises NotFound.
        """
        with self.lock_image(key):
            with self._db.write() as db:
                row = db.execute("SELECT unpacked FROM images WHERE key = ?", (key,)).fetchone()
                if row is None:
                    raise NotFound(f'image "{key}" is not in the store')
                db.execute("DELETE FROM images WHERE key = ?", (key,))
                db.execute("DELETE FROM remotes WHERE key = ?", (key,))
            whole = True
            for kind in ("manifest", "sig", "blob", "split", "trust"):
                try:
                    files.unlink(self._part(kind, key))
                except PermissionError:
                    whole = whole and not row[0]  # what root unpacked is root's
                except OSError:
                    whole = False
        return whole

    def _note_proof(self, key: str, verification: Verification) -> None:
        if os.geteuid() == 0 and verification.status in _LASTING:
            path = self._part("trust", key)
            atomic.write_file(path, codec.encode(verification), mode=0o600)

    def place_tree(self, tree_id: str, staged: str) -> None:
        """Move a rendered tree into the store; the caller holds its exclusive lock."""
        files.sync(staged)
        files.move(staged, self._part("tree", tree_id), replace=False)

    def trees(self) -> _Names:
        """Give the IDs of all trees: image keys and IDs of rendered trees.  Needs root."""
        try:
            return sorted(os.listdir(f"{self.path}/tree"))
        except FileNotFoundError:
            return []

    def is_removable_tree(self, tree_id: str) -> bool:
        """Say whether a tree is not the only copy of an image in the store."""
        return tree_id.startswith(DEPS_PREFIX) or self._row(tree_id) is None

    def remove_tree(self, tree_id: str) -> None:
        """Remove a tree that no pod uses.

        Raises StoreError for the tree of an image that is still in the store, LockedError if it is
        in use.
        """
        with self.tmp_dir() as trash, self.lock_tree(tree_id, exclusive=True, blocking=False):
            if not self.is_removable_tree(tree_id):
                raise StoreError(f'tree "{tree_id}" belongs to an image in the store')
            try:
                os.rename(self.tree_path(tree_id), f"{trash}/tree")
            except FileNotFoundError:
                pass
            except OSError as err:
                raise KernelError("cannot remove tree", err, tree_id) from err

    def exchange_tree(self, tree_id: str, staged: str) -> None:
        """Put another tree in the place of one; `staged` is the old one then.  Raises OSError."""
        files.sync(staged)
        libc.exchange(staged, self._part("tree", tree_id))

    # -- locks and temporary files

    def guard(self, *, exclusive: bool) -> _Lock:
        """Hold the lock between those who take images into use and those who remove some.

        Whoever relies on images that nothing names yet (a pod, an image made of layers) holds it
        shared until something does.
        """
        if os.geteuid() == 0:
            layout.ensure(self.data_dir)
        return files.guard(f"{self.data_dir}/locks", exclusive=exclusive)

    def lock_image(self, key: str) -> _Lock:
        """Hold the lock that serialises importing and removing an image."""
        layout.ensure(self.data_dir)
        return lock.held(f"{self.path}/imagelocks/{key}")

    def lock_tree(self, tree_id: str, *, exclusive: bool, blocking: bool = True) -> _Lock:
        """Hold the lock of a tree: shared to use it, exclusive to make or remove it."""
        layout.ensure(self.data_dir)
        path = f"{self.path}/treelocks/{tree_id}"
        return lock.held(path, exclusive=exclusive, blocking=blocking)

    @contextmanager
    def tmp_dir(self) -> Iterator[str]:
        """Give a new directory for staging, removed at the end, and by others after a crash."""
        layout.ensure(self.data_dir)
        tmp = f"{self.path}/tmp"  # noqa: S108 - the store's own
        try:
            path, fd = files.make_locked(tmp)
        except OSError as err:
            raise KernelError("cannot write to the image store", err, tmp) from err
        try:
            yield path
        finally:
            try:
                tree.remove(path)
            finally:
                os.close(fd)

    # -- parts

    def _part(self, kind: str, key: str) -> str:
        if "/" in key or key.startswith("."):
            raise NotFound(f'image "{key}" is not in the store')
        return f"{self.path}/{kind}/{key}"

    def _row(self, key: str) -> ImageRecord | None:
        with self._db.read() as db:
            row = db.execute("SELECT * FROM images WHERE key = ?", (key,)).fetchone()
        return of_row(row) if row else None

    def _update(self, key: str, what: str, *values: object, durable: bool = True) -> None:
        with self._db.write(durable=durable) as db:
            if not db.execute(f"UPDATE images SET {what} WHERE key = ?", (*values, key)).rowcount:
                raise NotFound(f'image "{key}" is not in the store')

    def _insert(self, record: ImageRecord) -> None:
        r, v = record, record.verification
        row = (
            r.key, r.digest, r.name, codec.encode(r.labels).decode(), r.import_time,
            r.last_used, r.latest, r.size, r.tree_size, r.unpacked, r.source, v.status,
            v.fingerprint, v.identity, v.prefix, v.when,
        )  # fmt: skip
        with self._db.write() as db:
            db.execute(f"INSERT OR REPLACE INTO images VALUES({','.join('?' * len(row))})", row)

    def _settle(self, record: ImageRecord, staging: str, *, signed: bool) -> ImageRecord:
        """Rename the staged parts into place as far as they are wanted; under the image's lock."""
        key = record.key
        old = self._row(key)
        if old is not None and old.digest != record.digest:
            raise StoreError(f'image "{key}" is in the store with another full hash')
        proof = self.proof(key) if old is not None else None
        keep = proof is not None and proof.status in _LASTING
        if record.verification.status == VERIFIED:
            keep = False
        elif proof is not None and keep:
            record = replace(record, verification=proof)
        if record.unpacked:
            for kind in _TREE_PARTS:
                files.move(f"{staging}/{kind}", self._part(kind, key), replace=False)
        elif old is not None and old.unpacked:
            record = replace(record, unpacked=True, tree_size=old.tree_size)
        files.move(f"{staging}/manifest", self._part("manifest", key), replace=True)
        if signed and not keep:
            files.move(f"{staging}/sig", self._part("sig", key), replace=True)
        elif not keep:
            files.unlink(self._part("sig", key))
        if not record.unpacked or (record.verification.status == UNVERIFIED and signed):
            files.move(f"{staging}/blob", self._part("blob", key), replace=not keep)
        else:
            files.unlink(self._part("blob", key))
        return record


if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    _Lock = AbstractContextManager[int]
    _Names = list[str]  # inside the class `list` is the method
