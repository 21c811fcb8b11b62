"""The programs of a pod's stage1 image: where they are and what they understand."""

from __future__ import annotations

import os

from rkt import const
from rkt.errors import RktError
from rkt.schema.image import decode_image_manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod
    from rkt.schema.image import ImageManifest


class Stage1:
    """The stage1 of a pod: its manifest and its programs."""

    __slots__ = ("manifest", "pod")

    def __init__(self, pod: Pod) -> None:
        data = pod.read("stage1/manifest")
        if data is None:
            raise RktError(f'pod "{pod.uuid}": it has no stage1 manifest')
        self.pod = pod
        self.manifest: ImageManifest = decode_image_manifest(data, where="stage1 manifest")

    @property
    def interface(self) -> int:
        """The version of the contract that this stage1 speaks; absent means 1."""
        return interface_version(self.manifest)

    @property
    def private_mounts(self) -> bool:
        """Whether the pod's mounts belong into a mount namespace of its own."""
        return self.manifest.annotation(const.STAGE1_PRIVATE_MOUNTS) == "true"

    def program(self, name: str, *, missing: str = "") -> str:
        """Give the path of an entrypoint program; raises RktError if stage1 has none.

        Inside the pod if its stage1 is mounted where we can see it, else in the tree store.
        """
        inside = self.manifest.annotation(const.STAGE1_PREFIX + name)
        if inside is None:
            raise RktError(missing or f'stage1 image "{self.manifest.name}": '
                           f'entrypoint "{name}" not found')  # fmt: skip
        inside = os.path.normpath("/" + inside.lstrip("/"))
        path = f"{self.pod.path}/stage1/rootfs{inside}"
        tree = self.pod.read_text("stage1TreeStoreID")
        if not os.path.exists(path) and tree:
            data_dir = os.path.dirname(self.pod.pods_dir)
            path = f"{data_dir}/cas/tree/{os.path.basename(tree)}/rootfs{inside}"
        return path


def interface_version(manifest: ImageManifest) -> int:
    """Give the version of the contract that a stage1 image speaks; absent means 1."""
    text = manifest.annotation(const.STAGE1_INTERFACE)
    if text is None:
        return 1
    if not (text.isascii() and text.isdigit() and len(text) < 5 and int(text)):
        raise RktError(f'stage1 image "{manifest.name}": bad interface version "{text}"')
    return int(text)
