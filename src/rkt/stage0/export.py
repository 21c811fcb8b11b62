"""Make an image of an app as it was left by its pod."""

from __future__ import annotations

import os

from rkt.const import STAGE2_DIR
from rkt.errors import KernelError, PodStateError, RktError
from rkt.image import render
from rkt.image.build import build_aci
from rkt.linux import atomic, mounts, owners, userns
from rkt.pod import state
from rkt.schema.image import decode_image_manifest
from rkt.stage0 import privateusers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.linux.userns import Range
    from rkt.pod.lifecycle import Pod
    from rkt.store.images import Store

_STATES = ("exited", "exited garbage")


def refuse_unless_exited(pod: Pod) -> None:
    """Raise PodStateError for a pod that still runs, or never did."""
    if pod.state() not in _STATES:
        raise PodStateError("pod is not exited. Only exited pods can be exported")


def export(store: Store, pod: Pod, app: str, target: str, *, overwrite: bool) -> None:
    """Write an app of an exited pod to an ACI file: its image's manifest, its root as it is now.

    This process gets a mount namespace of its own.  Nothing is left of the file after a failure.
    """
    refuse_unless_exited(pod)
    pod.lock(exclusive=False)  # gc must not take away what is being read
    if pod.where not in (state.RUN, state.EXITED_GARBAGE):
        raise PodStateError(f'pod "{pod.uuid}" is being deleted')
    manifest = pod.read(f"appsinfo/{app}/manifest")
    if manifest is None:
        raise RktError(f'pod "{pod.uuid}": the image manifest of app "{app}" is missing')
    decode_image_manifest(manifest, where=f'pod "{pod.uuid}": image manifest of app "{app}"')
    has_overlay = pod.exists("overlay-prepared")
    root = f"{STAGE2_DIR}/{app}/rootfs"
    users = privateusers.read(pod)
    if not has_overlay:
        _refuse_mounts(pod, root)
    mounts.leave_host_mounts()
    with store.tmp_dir() as layout:
        try:
            os.mkdir(f"{layout}/rootfs")
            atomic.write_file(f"{layout}/manifest", manifest, durable=False)
            if has_overlay:
                _mount_overlay(pod, app, f"{layout}/rootfs", users)
            elif users is None:
                _bind(pod, app, root, f"{layout}/rootfs")
            else:
                _copy_back(pod, app, root, f"{layout}/rootfs", users)
            build_aci(layout, target, overwrite=overwrite)
        except OSError as err:
            raise RktError(f'pod "{pod.uuid}": cannot export app "{app}"') from err
        finally:
            mounts.detach_below(layout)


def _refuse_mounts(pod: Pod, root: str) -> None:
    """Raise PodStateError if something is mounted in an app's root: it is not the app's."""
    base = os.path.realpath(f"{pod.path}/{root}")
    if any(mount.point == base or mount.point.startswith(base + "/") for mount in mounts.table()):
        raise PodStateError("pod has remaining mountpoints. Only pods using overlayfs or with no "
                            "mountpoints can be exported")  # fmt: skip


def _mount_overlay(pod: Pod, app: str, target: str, users: Range | None) -> None:
    layer = pod.read_text(f"appsinfo/{app}/treeStoreID")
    if not layer or "/" in layer or "\0" in layer:
        raise RktError(f'pod "{pod.uuid}": file "appsinfo/{app}/treeStoreID" is missing or damaged')
    upper, lower = f"overlay/{layer}/upper/{app}", f"../../../cas/tree/{layer}/rootfs"
    os.chdir(pod.path)  # not by its descriptor, which is of the old mount namespace
    if not os.path.isdir(upper):
        raise RktError(f'pod "{pod.uuid}": the files of app "{app}" are gone')
    if not os.path.isdir(lower):
        raise RktError(f'pod "{pod.uuid}": the tree of the image of app "{app}" is gone')
    if users is not None:
        _bind_back(upper, users)
    mounts.mount_layers((upper, lower), target)


def _bind_back(path: str, users: Range) -> None:
    """Have what belongs to the pod's users belong to those of the image, in this process's view."""
    space = userns.namespace(users, back=True)
    try:
        userns.bind(path, path, space)
    except OSError as err:
        raise KernelError("cannot shift the owners of a mount", err, path) from err
    finally:
        os.close(space)


def _enter(pod: Pod, app: str, root: str) -> None:
    """Make the pod's directory the current one.  Raises RktError for an app whose root is gone."""
    os.chdir(pod.path)  # not by its descriptor, which is of the old mount namespace
    if os.path.islink(root) or not os.path.isdir(root):
        raise RktError(f'pod "{pod.uuid}": the files of app "{app}" are gone')


def _copy_back(pod: Pod, app: str, root: str, target: str, users: Range) -> None:
    """Copy the root of an app and give it back to the users of the image.

    Such pods are those of kernels that cannot shift the owners of a mount.
    """
    _enter(pod, app, root)
    render.copy_tree(root, target)
    owners.shift(target, users, back=True)


def _bind(pod: Pod, app: str, root: str, target: str) -> None:
    _enter(pod, app, root)
    try:
        mounts.bind(root, target)
    except OSError as err:
        raise KernelError("cannot bind the root of the app", err, root) from err
