"""Write an image's files to a directory outside the store."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from rkt.errors import KernelError, StoreError
from rkt.image import render
from rkt.linux import libc, lock, tree
from rkt.schema import codec
from rkt.schema.image import ImageManifest
from rkt.schema.types import DIGITS, is_made_of
from rkt.store.records import LAYER_PREFIXES

if TYPE_CHECKING:
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

_STAGED = frozenset(("tree", "split", "done"))


def extract(store: Store, record: ImageRecord, target: str, *, rootfs_only: bool) -> None:
    """Write manifest and rootfs of an image, without its dependencies, in the place of `target`.

    The layers of a converted image are parts of it, not dependencies.  Who is not root becomes the
    owner of everything.  After an error `target` is as it was.
    """
    if has_layers(store.manifest(record.key)):
        if os.geteuid() != 0:
            raise StoreError(f'image "{record.key}" consists of layers: only root can extract it')
        write_rendered(store, record, target, rootfs_only=rootfs_only)
        return
    staging, fd = _make_staging(target)
    try:
        source = _unpacked(store, record, staging)
        if rootfs_only:
            os.rename(f"{source}/rootfs", f"{staging}/done")
        else:
            os.rename(source, f"{staging}/done")
        _put(f"{staging}/done", target)
    except OSError as err:
        raise _failure(err, staging, target) from err
    finally:
        tree.remove(staging)
        os.close(fd)


def write_rendered(store: Store, record: ImageRecord, target: str, *, rootfs_only: bool) -> None:
    """Write an image with its dependencies, as an app would see it, in the place of `target`."""
    rootfs = render.render(store, record.key).rootfs
    staging, fd = _make_staging(target)
    try:
        done = f"{staging}/done"
        if rootfs_only:
            render.copy_tree(rootfs, done)
        else:
            _compose(store, record, rootfs, done)
        _put(done, target)
    except OSError as err:
        raise _failure(err, staging, target) from err
    finally:
        tree.remove(staging)
        os.close(fd)


def has_layers(manifest: ImageManifest) -> bool:
    """Say whether an image was converted: what it depends on are its own layers."""
    return any(one.image_name.startswith(LAYER_PREFIXES) for one in manifest.dependencies)


def _make_staging(target: str) -> tuple[str, int]:
    """Make a directory beside `target`, locked; take away those of killed processes."""
    staging = f"{target}.{os.getpid()}.tmp"
    try:
        _remove_abandoned(target)
        os.mkdir(staging, 0o700)
        fd = lock.open_dir(staging)
        lock.acquire(fd)
    except OSError as err:
        raise KernelError("cannot write", err, target) from err
    return staging, fd


def _remove_abandoned(target: str) -> None:
    parent, base = os.path.split(target)
    try:
        names = os.listdir(parent)
    except OSError:  # one may write to a directory that one may not read
        return
    for name in names:
        pid = name.removeprefix(f"{base}.").removesuffix(".tmp")
        if name == f"{base}.{pid}.tmp" and is_made_of(pid, DIGITS) and not _is_alive(int(pid)):
            try:
                if _is_staging(f"{parent}/{name}"):
                    tree.remove(f"{parent}/{name}")
            except OSError:
                pass  # not ours to judge, or the next one tries again


def _is_alive(pid: int) -> bool:
    return pid != os.getpid() and os.path.exists(f"/proc/{pid}")


def _is_staging(path: str) -> bool:
    """Say whether a directory is what `_make_staging` made, and nobody uses it."""
    fd = lock.open_dir(path)
    try:
        is_ours = os.fstat(fd).st_uid == os.geteuid()
        return is_ours and _STAGED.issuperset(os.listdir(fd)) and not lock.is_locked(fd)
    finally:
        os.close(fd)


def _failure(err: OSError, staging: str, target: str) -> KernelError:
    """Name the place that the user gave, not the one beside it."""
    where = str(err.filename or target)
    return KernelError("cannot write", err, target if where.startswith(staging) else where)


def _unpacked(store: Store, record: ImageRecord, staging: str) -> str:
    """Give a directory with just `manifest` and `rootfs`."""
    source = f"{staging}/tree"
    if record.unpacked:
        rootfs = f"{store.tree_path(record.key)}/rootfs"
        try:
            os.stat(rootfs)
        except PermissionError as err:
            text = f'image "{record.key}" is unpacked: only root can read its files'
            raise StoreError(text) from err
        _compose(store, record, rootfs, source)
    else:
        from rkt.image.ingest import unpack_again

        raw = store.open_blob(record.key)
        if raw is None:
            raise StoreError(f'image "{record.key}" is damaged: its archive is missing')
        with raw:
            unpack_again(record, raw, staging)
        if os.path.exists(f"{source}/implied"):
            os.unlink(f"{source}/implied")
    os.chmod(source, 0o755)
    store.touch(record.key)
    return source


def _compose(store: Store, record: ImageRecord, rootfs: str, target: str) -> None:
    os.mkdir(target, 0o755)
    render.copy_tree(rootfs, f"{target}/rootfs")
    manifest = store.manifest(record.key)
    data = store.manifest_bytes(record.key)
    if has_layers(manifest):
        # The layers are in this rootfs: what is built from it must not ask for them again.
        data = codec.encode(
            ImageManifest.create(
                manifest.name,
                labels=manifest.labels,
                app=manifest.app,
                annotations=manifest.annotations,
            )
        )
    with open(f"{target}/manifest", "xb") as file:
        file.write(data)


def _put(done: str, target: str) -> None:
    """Give `done` the name `target`; what had it goes with the staging directory."""
    if not os.path.lexists(target):
        os.rename(done, target)
        return
    try:
        libc.exchange(done, target)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        tree.remove(target)  # a file system that cannot swap
        os.rename(done, target)
