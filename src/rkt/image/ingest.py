"""Take an archive into the store: decompress, hash, check, unpack, place."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from rkt.errors import ArchiveError, KernelError, SchemaError, StoreError
from rkt.image import tar
from rkt.image.archive import LIMITS, Layout, Limits, decompress
from rkt.linux import libc, treecopy
from rkt.linux.spill import Scratch
from rkt.store.records import UNVERIFIED, ImageRecord, Verification, check_name, image_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from rkt.image.split import Writer
    from rkt.image.unpack import Unpacker
    from rkt.schema.image import ImageManifest
    from rkt.store.images import Store

_QUEUE = 8  # chunks between the decompressor and the hash
_FLUSH_EVERY = 64 << 20


def can_own_files() -> bool:
    """Say whether this process may unpack images, which have files of any owner."""
    return os.geteuid() == 0


class _Scan:
    """What reading an archive to its end gives."""

    __slots__ = ("digest", "manifest", "raw_manifest", "size", "tree_size")

    def __init__(self) -> None:
        self.manifest: ImageManifest | None = None
        self.raw_manifest = b""
        self.digest = b""
        self.size = 0
        self.tree_size = 0


class _Hasher:
    """SHA-512 in a thread of its own, fed through a short queue."""

    def __init__(self) -> None:
        import hashlib
        from queue import Queue
        from threading import Thread

        self._queue: Queue[bytes] = Queue(_QUEUE)
        self._digest = hashlib.sha512()
        self._thread = Thread(target=self._work, name="sha512", daemon=True)
        self._thread.start()
        self.size = 0

    def _work(self) -> None:
        while chunk := self._queue.get():
            self._digest.update(chunk)

    def tee(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass chunks on and hash them."""
        for chunk in chunks:
            self._queue.put(chunk)
            self.size += len(chunk)
            yield chunk

    def close(self) -> bytes:
        """Wait for the thread and give the digest; may be called again."""
        if self._thread.is_alive():
            self._queue.put(b"")
            self._thread.join()
        return self._digest.digest()


class _Flusher:
    """Write unpacked files to disk while more are unpacked, so that little is left at the end."""

    def __init__(self, fd: int) -> None:
        from threading import Event, Thread

        self._fd = fd
        self._wanted = Event()
        self._stop = False
        self._thread = Thread(target=self._work, name="syncfs", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while self._wanted.wait() and not self._stop:
            self._wanted.clear()
            try:
                libc.syncfs(self._fd)
            except OSError:
                return  # the store syncs again before it takes the files, and reports it

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass chunks on and start writing now and then."""
        pending = 0
        for chunk in chunks:
            pending += len(chunk)
            if pending >= _FLUSH_EVERY:
                pending = 0
                self._wanted.set()
            yield chunk

    def close(self) -> None:
        """Stop; waits for a flush that is under way."""
        self._stop = True
        self._wanted.set()
        self._thread.join()


def ingest(
    store: Store,
    path: str,
    *,
    source: str,
    verification: Verification,
    signature: bytes | None = None,
    latest: bool = False,
    unpack: bool = True,
    expect: Callable[[ImageManifest], None] | None = None,
    limits: Limits = LIMITS,
) -> ImageRecord:
    """Store the image in an archive and give its record.

    It is unpacked if `unpack` is on and this process can give files away; otherwise it is only read
    and its archive kept for `ensure_unpacked`.  `expect` sees the manifest as soon as it was read
    and may raise.  Raises ArchiveError, SchemaError, StoreError or KernelError; then nothing stays.
    """
    unpack = unpack and can_own_files()
    keep_blob = not unpack or (verification.status == UNVERIFIED and signature is not None)
    try:
        with open(path, "rb", buffering=0) as raw, store.tmp_dir() as staging:
            scan = _read(raw, staging, expect, limits, unpack=unpack)
            assert scan.manifest is not None  # the layout was checked
            if keep_blob:
                _copy_blob(raw.fileno(), f"{staging}/blob")
            now = time.time_ns()
            manifest = scan.manifest
            record = ImageRecord(
                key=image_key(scan.digest.hex()),
                digest=scan.digest.hex(),
                name=manifest.name,
                labels=tuple((label.name, label.value) for label in manifest.labels),
                import_time=now,
                last_used=now,
                latest=latest,
                size=scan.size,
                tree_size=scan.tree_size,
                unpacked=unpack,
                source=os.fsencode(source).decode("utf-8", "replace"),
                verification=verification,
            )
            return store.place(record, staging, manifest=scan.raw_manifest, signature=signature)
    except OSError as err:
        raise KernelError("cannot read image", err, path) from err


def read_manifest(store: Store, path: str, *, limits: Limits = LIMITS) -> ImageManifest:
    """Read the manifest of an archive, and nothing that comes after it.

    Raises ArchiveError, SchemaError or KernelError.
    """
    scan = _Scan()
    try:
        with open(path, "rb", buffering=0) as raw, Scratch(store.tmp_dir) as scratch:
            layout = Layout(scratch, limits)
            reader = tar.TarReader(decompress(raw, limits=limits))
            while scan.manifest is None and (entry := reader.next()) is not None:
                _admit(entry, reader, layout, scan, None, None, None)
    except OSError as err:
        raise KernelError("cannot read image", err, path) from err
    if scan.manifest is None:
        raise ArchiveError("no image manifest found in layout")
    return scan.manifest


def ensure_unpacked(store: Store, key: str, *, limits: Limits = LIMITS) -> ImageRecord:
    """Unpack an image of which the store has only the archive; nothing to do for others.

    The archive's hash is checked again.  It is dropped, unless it is still needed to verify the
    image's signature.
    """
    record = store.get(key)
    if record.unpacked:
        return record
    raw = store.open_blob(key)
    if raw is None:
        raise StoreError(f'image "{key}" is damaged: its archive is missing')
    with raw:
        if not can_own_files():
            raise StoreError(f'image "{key}" can be unpacked by root only')
        return settle(store, record, raw, unpack=True, limits=limits)


def settle(
    store: Store, record: ImageRecord, raw: BinaryIO, *, unpack: bool, limits: Limits = LIMITS
) -> ImageRecord:
    """Check to the last byte that an archive is a stored image, and maybe unpack it on the way.

    What the database says of its name and labels must be what the manifest says.  Raises
    ArchiveError, SchemaError or StoreError.
    """
    with store.tmp_dir() as staging:
        tree_size = unpack_again(record, raw, staging, unpack=unpack, limits=limits)
        if not unpack:
            return record
        return store.add_tree(record.key, staging, tree_size=tree_size)


def unpack_again(
    record: ImageRecord,
    raw: BinaryIO,
    staging: str,
    *,
    unpack: bool = True,
    limits: Limits = LIMITS,
) -> int:
    """Read the archive of a stored image to its end; with `unpack`, put `tree` and `split` there.

    Gives the size of the tree.  Raises as `settle` does.
    """

    def expect(manifest: ImageManifest) -> None:
        check_name(record, manifest)

    scan = _read(raw, staging, expect, limits, unpack=unpack)
    if scan.digest.hex() != record.digest:
        raise StoreError(
            f'image "{record.key}" is damaged: image hash does not match expected '
            f"(sha512-{scan.digest.hex()} != sha512-{record.digest})"
        )
    return scan.tree_size


def _read(
    raw: BinaryIO,
    staging: str,
    expect: Callable[[ImageManifest], None] | None,
    limits: Limits,
    *,
    unpack: bool,
) -> _Scan:
    """Read an archive to its end and, with `unpack`, write `tree` and `split` into `staging`."""
    scan = _Scan()
    scratch = Scratch.within(staging)
    layout = Layout(scratch, limits)
    hasher = _Hasher()
    try:
        chunks = hasher.tee(decompress(raw, limits=limits))
        if not unpack:
            _entries(tar.TarReader(chunks), layout, scan, expect, None, None)
            layout.finish()
            scan.digest = hasher.close()
        else:
            _unpack_to(staging, chunks, layout, scan, expect, hasher)
    finally:
        hasher.close()
        scratch.close()
    scan.size = hasher.size
    return scan


def _unpack_to(
    staging: str,
    chunks: Iterator[bytes],
    layout: Layout,
    scan: _Scan,
    expect: Callable[[ImageManifest], None] | None,
    hasher: _Hasher,
) -> None:
    from rkt.image.split import Writer
    from rkt.image.unpack import Unpacker

    root = f"{staging}/tree"
    os.mkdir(root, 0o700)
    if os.geteuid() == 0:
        os.chown(root, 0, 0)  # the store's directories hand their group down
        os.chmod(root, 0o700)
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flusher = _Flusher(root_fd)
    chunks = flusher.watch(chunks)
    try:
        with open(f"{staging}/split", "xb") as record_file:
            writer = Writer(record_file)
            with Unpacker(root_fd, layout, owners=os.geteuid() == 0) as unpacker:
                reader = tar.TarReader(chunks, raw=writer.raw)
                _entries(reader, layout, scan, expect, unpacker, writer)
                layout.finish()
                unpacker.finish()
                scan.tree_size = unpacker.size
            scan.digest = hasher.close()
            if writer.end(scan.digest) != hasher.size:
                raise StoreError("record of the archive is incomplete")
        layout.write_implied(f"{root}/implied")
    finally:
        flusher.close()
        os.close(root_fd)


def _entries(
    reader: tar.TarReader,
    layout: Layout,
    scan: _Scan,
    expect: Callable[[ImageManifest], None] | None,
    unpacker: Unpacker | None,
    writer: Writer | None,
) -> None:
    while (entry := reader.next()) is not None:
        _admit(entry, reader, layout, scan, expect, unpacker, writer)


def _admit(
    entry: tar.Entry,
    reader: tar.TarReader,
    layout: Layout,
    scan: _Scan,
    expect: Callable[[ImageManifest], None] | None,
    unpacker: Unpacker | None,
    writer: Writer | None,
) -> None:
    if not layout.admit(entry):
        return
    if entry.name == b"manifest":
        _take_manifest(entry, reader, scan, expect, unpacker, writer)
    elif unpacker is not None and writer is not None:
        writer.payload(entry)
        unpacker.add(entry, reader.payload())
    else:
        layout.missing_parents(entry.name)
    layout.record(entry)


def _take_manifest(
    entry: tar.Entry,
    reader: tar.TarReader,
    scan: _Scan,
    expect: Callable[[ImageManifest], None] | None,
    unpacker: Unpacker | None,
    writer: Writer | None,
) -> None:
    from rkt.schema.image import check_image_manifest

    scan.raw_manifest = b"".join(reader.payload())
    try:
        scan.manifest = check_image_manifest(scan.raw_manifest)
    except SchemaError as err:
        raise SchemaError(f"image manifest validation failed: {err.message}") from err
    if not _is_known_version(scan.manifest.ac_version):
        major = scan.manifest.ac_version.partition(".")[0]
        raise ArchiveError(f"ACVersion too old. Found major version {major}, expected 0")
    if expect is not None:
        expect(scan.manifest)
    if unpacker is not None and writer is not None:
        writer.payload(entry)
        unpacker.add(entry, iter((memoryview(scan.raw_manifest),)))


def _is_known_version(version: str) -> bool:
    return version.partition(".")[0] == "0"


def _copy_blob(source: int, target: str) -> None:
    size = os.fstat(source).st_size
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        os.fchmod(fd, 0o640)
        treecopy.copy_data(source, fd, size)
    finally:
        os.close(fd)
