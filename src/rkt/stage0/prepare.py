"""Make a pod: manifest, app roots and stage1, up to the point where it could be started."""

from __future__ import annotations

import os
import stat

from rkt import const, log
from rkt.errors import RktError
from rkt.image import render
from rkt.linux import atomic, mounts
from rkt.pod import lifecycle, naming
from rkt.schema import codec
from rkt.stage0 import podmanifest, stage1image
from rkt.stage0.remove import remove
from rkt.stage0.stage1image import supports_mutable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rkt.fetch.finder import Finder
    from rkt.linux.userns import Range
    from rkt.pod.lifecycle import Pod
    from rkt.stage0.podmanifest import Image
    from rkt.stage0.request import AppRequest, PodRequest
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord


class Preparer:
    """Prepares pods of one data directory from images that a finder finds."""

    def __init__(
        self, store: Store, finder: Finder, *, data_dir: str, places: stage1image.Places,
        stage1: stage1image.Choice,
    ) -> None:  # fmt: skip
        self._store = store
        self._finder = finder
        self._data_dir = data_dir
        self._places = places
        self._stage1 = stage1

    def prepare(self, request: PodRequest) -> Pod:
        """Prepare a pod and give it locked, in state preparing; the caller moves it on.

        Every image is verified and unpacked before the pod's directory is made.  After a failure
        nothing of the pod is left.
        """
        os.umask(0o022)  # the caller's is not that of the apps
        # Keeps `image gc` and `image rm` away until the pod's files name what it uses.
        with self._store.guard(exclusive=False):
            stage1 = stage1image.find(self._store, self._finder, self._stage1, self._places)
            if request.mutable and not supports_mutable(stage1, self._store):
                raise RktError("stage1 does not support mutable pods")
            if request.pod_manifest:
                manifest, images = podmanifest.read(
                    request.pod_manifest, self._store, self._finder, request.annotations
                )
            else:
                images = self._images(request.apps)
                manifest = podmanifest.build(request, images)
            pod = lifecycle.create(self._data_dir)
            try:
                if request.name:
                    naming.claim(pod, request.name)
                os.mkdir(f"{pod.path}/{const.LOG_DIR}", 0o700)
                users = _private_users(pod, self._data_dir) if request.private_users else None
                self._fill(pod, stage1, [app.name for app in manifest.apps], images,
                           overlay=self._use_overlay(request), users=users)  # fmt: skip
                atomic.write_file(f"{pod.path}/pod", codec.encode(manifest), mode=0o640,
                                  durable=False)  # fmt: skip
            except BaseException as err:
                remove(pod)
                pod.close()
                if isinstance(err, OSError):
                    raise RktError(f'pod "{pod.uuid}": cannot prepare it') from err
                raise
        return pod

    def _images(self, apps: Sequence[AppRequest]) -> list[Image]:
        found: list[Image] = []
        for app in apps:
            try:
                found.append(self._image(app.image, app.last("signature")))
            except RktError as err:
                # Other tools take what follows an image for its arguments.
                if found and not err.hint and not any(app.args for app in apps):
                    err.hint = (
                        'arguments of an app follow "--", as in: rkt run IMAGE -- ARGUMENT...'
                    )
                raise
        return found

    def _image(self, address: str, signature: str | None) -> Image:
        found = self._finder.find(address, signature=signature)
        record = self._finder.require_trusted(found)
        return podmanifest.Image(record, self._store.manifest(record.key))

    def _use_overlay(self, request: PodRequest) -> bool:
        if request.no_overlay:
            return False
        obstacle = mounts.overlay_obstacle(self._data_dir)
        if obstacle:
            log.info(f'disabling overlay support: "{obstacle}"')
        elif request.private_users and not _can_shift(f"{self._data_dir}/cas/tree"):
            log.info('disabling overlay support: "the kernel cannot shift the owners of a mount"')
            return False
        return obstacle is None

    def _fill(
        self, pod: Pod, stage1: ImageRecord, names: list[str], images: list[Image], *,
        overlay: bool, users: Range | None,
    ) -> None:  # fmt: skip
        stage1_tree = render.render(self._store, stage1.key)
        stage1image.check_programs(self._store.manifest(stage1.key), stage1_tree.rootfs)
        os.makedirs(f"{pod.path}/stage1/rootfs", mode=0o755)
        _write(pod, "stage1/manifest", self._store.manifest_bytes(stage1.key))
        _write(pod, "stage1TreeStoreID", f"{stage1_tree.id}\n".encode())
        if overlay:
            upper = f"overlay/{stage1_tree.id}/upper"
            os.makedirs(f"{pod.path}/{upper}/rkt/status", mode=0o755)
            os.mkdir(f"{pod.path}/overlay/{stage1_tree.id}/work", mode=0o755)
            _write(pod, "overlay-prepared", b"")
        else:
            rootfs = f"{pod.path}/stage1/rootfs"
            render.copy_tree(stage1_tree.rootfs, rootfs)
            os.makedirs(f"{rootfs}/rkt/status", mode=0o755, exist_ok=True)
            os.makedirs(f"{pod.path}/{const.STAGE2_DIR}", mode=0o755, exist_ok=True)
            os.chmod(f"{pod.path}/{const.STAGE2_DIR}", 0o700)
        os.makedirs(f"{pod.path}/appsinfo", mode=0o755)
        for name, image in zip(names, images, strict=True):
            self._fill_app(pod, name, image, overlay=overlay, users=users)

    def _fill_app(
        self, pod: Pod, name: str, image: Image, *, overlay: bool, users: Range | None
    ) -> None:
        tree = render.render(self._store, image.record.key)
        os.mkdir(f"{pod.path}/appsinfo/{name}", 0o755)
        _write(pod, f"appsinfo/{name}/manifest", self._store.manifest_bytes(image.record.key))
        if overlay:
            os.makedirs(f"{pod.path}/overlay/{tree.id}", mode=0o700, exist_ok=True)
            os.makedirs(f"{pod.path}/overlay/{tree.id}/upper/{name}", mode=0o755)
            os.makedirs(f"{pod.path}/overlay/{tree.id}/work/{name}", mode=0o755)
            _same_top(tree.rootfs, f"{pod.path}/overlay/{tree.id}/upper/{name}", users)
            _write(pod, f"appsinfo/{name}/treeStoreID", f"{tree.id}\n".encode())
        else:
            rootfs = f"{pod.path}/{const.STAGE2_DIR}/{name}/rootfs"
            os.makedirs(rootfs, mode=0o755, exist_ok=True)
            render.copy_tree(tree.rootfs, rootfs)
            if users is not None:
                from rkt.linux import owners

                owners.shift(rootfs, users)


def _private_users(pod: Pod, data_dir: str) -> Range:
    from rkt.stage0 import privateusers

    return privateusers.assign(pod, data_dir)


def _can_shift(path: str) -> bool:
    from rkt.linux import userns

    return userns.can_shift(path)


def _same_top(source: str, target: str, users: Range | None) -> None:
    """Give an overlay's upper directory the mode and owner of the root that it covers."""
    found = os.stat(source)
    uid, gid = found.st_uid, found.st_gid
    if users is not None:
        uid, gid = users.outside(uid), users.outside(gid)
    os.chown(target, uid, gid)
    os.chmod(target, found.st_mode & 0o7777)


def _write(pod: Pod, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=pod.fd), "wb") as file:
        file.write(data)


def save_uuid(path: str, uuid: str) -> None:
    """Write the UUID of a pod to the file that the caller asked for, without a newline.

    Who waits for the file never finds it empty.  One that is there stays the same file.
    """
    data = uuid.encode()
    try:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            atomic.write_file(os.path.realpath(path), data, durable=False)
            return
        with os.fdopen(fd, "wb", buffering=0) as file:
            file.write(data)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                file.truncate()
    except OSError as err:
        err.filename = path  # not that of the file before it got its name
        raise RktError("cannot save the UUID of the pod") from err
