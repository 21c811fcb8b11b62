"""Make an image of an app as it was left by its pod."""

from __future__ import annotations

import os

from rkt.errors import KernelError, PodStateError, RktError
from rkt.image.build import build_aci
from rkt.linux import atomic, mounts
from rkt.pod import state
from rkt.schema.image import decode_image_manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod
    from rkt.store.images import Store

_STATES = ("exited", "exited garbage")
STAGE2 = "stage1/rootfs/opt/stage2"


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
    root = f"{STAGE2}/{app}/rootfs"
    if not has_overlay:
        _refuse_mounts(pod, root)
    mounts.leave_host_mounts()
    with store.tmp_dir() as layout:
        try:
            os.mkdir(f"{layout}/rootfs")
            atomic.write_file(f"{layout}/manifest", manifest, durable=False)
            if has_overlay:
                _mount_overlay(pod, app, f"{layout}/rootfs")
            else:
                _bind(pod, app, root, f"{layout}/rootfs")
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


def _mount_overlay(pod: Pod, app: str, target: str) -> None:
    tree = pod.read_text(f"appsinfo/{app}/treeStoreID")
    if not tree or "/" in tree or "\0" in tree:
        raise RktError(f'pod "{pod.uuid}": file "appsinfo/{app}/treeStoreID" is missing or damaged')
    upper, lower = f"overlay/{tree}/upper/{app}", f"../../../cas/tree/{tree}/rootfs"
    os.chdir(pod.path)  # not by its descriptor, which is of the old mount namespace
    if not os.path.isdir(upper):
        raise RktError(f'pod "{pod.uuid}": the files of app "{app}" are gone')
    if not os.path.isdir(lower):
        raise RktError(f'pod "{pod.uuid}": the tree of the image of app "{app}" is gone')
    mounts.mount_layers((upper, lower), target)


def _bind(pod: Pod, app: str, root: str, target: str) -> None:
    os.chdir(pod.path)  # not by its descriptor, which is of the old mount namespace
    if os.path.islink(root) or not os.path.isdir(root):
        raise RktError(f'pod "{pod.uuid}": the files of app "{app}" are gone')
    try:
        mounts.bind(root, target)
    except OSError as err:
        raise KernelError("cannot bind the root of the app", err, root) from err
