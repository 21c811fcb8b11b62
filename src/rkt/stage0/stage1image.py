"""Which stage1 image a pod gets (rkt-config section 2.5)."""

from __future__ import annotations

import os

from rkt.const import STAGE1_PREFIX
from rkt.errors import NotFound, RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.fetch.finder import Finder
    from rkt.store.images import ImageRecord, Store

DEFAULT_FILE = "stage1-oci.aci"


class Choice:
    """How the user named the stage1 image: the kind of flag (``, image, path, url, name, hash,
    from-dir) and its value.
    """

    __slots__ = ("kind", "value")

    def __init__(self, kind: str = "", value: str = "") -> None:
        self.kind = kind
        self.value = value


def find(store: Store, finder: Finder, choice: Choice, images_dir: str) -> ImageRecord:
    """Give the record of the stage1 image, stored and unpacked.

    What lies in the installation's own directory is trusted, everything else is verified.
    """
    if choice.kind == "hash":
        return finder.require_trusted(store.get(store.resolve(choice.value)))
    if choice.kind in ("image", "path", "url", "name"):
        return finder.require_trusted(finder.find(_address(choice)))
    name = choice.value if choice.kind == "from-dir" else DEFAULT_FILE
    if os.path.basename(name) != name:
        raise RktError(f'"{name}": --stage1-from-dir takes a file name without directories')
    return _installed(store, f"{images_dir}/{name}")


def supports_mutable(record: ImageRecord, store: Store) -> bool:
    """Say whether a stage1 image can add apps to a running pod."""
    return store.manifest(record.key).annotation(f"{STAGE1_PREFIX}app/add") is not None


def _address(choice: Choice) -> str:
    is_path = choice.kind == "path" or (choice.kind == "image" and os.path.isfile(choice.value))
    return os.path.abspath(choice.value) if is_path else choice.value


def _installed(store: Store, path: str) -> ImageRecord:
    try:
        with open(path + ".id", encoding="ascii") as file:
            key = store.resolve(file.read().strip())
        return store.get(key)
    except (FileNotFoundError, NotFound):
        pass  # not imported yet, or made by hand without an ID file
    if not os.path.isfile(path):
        raise NotFound(
            f'stage1 image "{path}" does not exist',
            hint="install it (make install), or name another one with --stage1-path",
        )
    from rkt.image.ingest import ingest
    from rkt.store.images import TRUSTED_LOCATION, Verification

    verification = Verification(status=TRUSTED_LOCATION)
    return ingest(store, path, source=path, verification=verification, signature=None, latest=False)
