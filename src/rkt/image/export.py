"""Give back an image's archive, uncompressed, byte by byte what its ID is the hash of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rkt.errors import KernelError, RktError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from rkt.store.images import Store
    from rkt.store.records import ImageRecord


def archive_chunks(store: Store, key: str) -> Iterator[bytes]:
    """Give the uncompressed archive in chunks; its hash is checked before the end is reached.

    Raises StoreError when it is not what was stored, NotFound for an unknown image.
    """
    record = store.get(key)
    try:
        if record.unpacked:
            yield from _from_tree(store, record)
        else:
            yield from _from_blob(store, record)
    except PermissionError as err:
        raise StoreError(f'image "{key}" is unpacked: only root can read its files') from err
    except (OSError, RktError) as err:
        cause = err.message if isinstance(err, RktError) else err.strerror
        raise StoreError(f'image "{key}" is damaged: {cause}') from err


def _from_tree(store: Store, record: ImageRecord) -> Iterator[bytes]:
    from rkt.image.split import reassemble

    path = store.tree_path(record.key)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(store.split_path(record.key), "rb") as file:
            yield from reassemble(file, fd, expect=record.digest)
    finally:
        os.close(fd)


def _from_blob(store: Store, record: ImageRecord) -> Iterator[bytes]:
    import hashlib

    from rkt.image.archive import decompress

    raw = store.open_blob(record.key)
    if raw is None:
        raise StoreError("its archive is missing")
    digest = hashlib.sha512()
    with raw as file:
        for chunk in decompress(file):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != record.digest:
        raise StoreError(
            "image hash does not match expected "
            f"(sha512-{digest.hexdigest()} != sha512-{record.digest})"
        )


def export_tar(store: Store, key: str, out: BinaryIO) -> None:
    """Write an image's uncompressed archive; on an error what was written is not the image.

    Raises StoreError, NotFound or KernelError.
    """
    for chunk in archive_chunks(store, key):
        try:
            out.write(chunk)
        except BrokenPipeError:
            raise
        except OSError as err:
            raise KernelError(f'cannot export image "{key}"', err) from err


def verify(store: Store, key: str) -> None:
    """Check that an image in the store still has the hash that is its ID.  Raises StoreError."""
    for _ in archive_chunks(store, key):
        pass
