"""Which stage1 image a pod gets (rkt-config section 2.5), and whether it can be used here."""

from __future__ import annotations

import os
import stat

from rkt import const, log
from rkt.errors import AmbiguousName, FetchError, NotFound, RktError, SchemaError, describe
from rkt.schema.textual import AppRef, host_arch, parse_app_string
from rkt.stage0.entrypoint import interface_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.fetch.finder import Finder
    from rkt.schema.image import ImageManifest
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

DEFAULT_FILE = "stage1-oci.aci"


class Choice:
    """How the user named the stage1 image: the kind of flag (``, image, path, url, name, hash,
    from-dir) and its value; or the configured location, and the configured name before it.
    """

    __slots__ = ("kind", "named", "value")

    def __init__(self, kind: str = "", value: str = "", named: AppRef | None = None) -> None:
        self.kind = kind
        self.value = value
        self.named = named


class Places:
    """Where stage1 images of the installation itself lie: trusted because of that."""

    __slots__ = ("images", "program")

    def __init__(self, images: str, program: str) -> None:
        self.images = images
        self.program = program  # the directory of rkt's executable

    def holds(self, path: str) -> bool:
        """Say whether a file lies directly in the directory of images, links resolved."""
        return os.path.dirname(os.path.realpath(path)) == os.path.realpath(self.images)


def find(store: Store, finder: Finder, choice: Choice, places: Places) -> ImageRecord:
    """Give the record of the stage1 image, stored and unpacked.

    What lies in the installation's own directory is trusted, everything else is verified.  Raises
    RktError also for an image that cannot be the stage1 of a pod on this host.
    """
    record = _find(store, finder, choice, places)
    _check(store.manifest(record.key))
    return record


def supports_mutable(record: ImageRecord, store: Store) -> bool:
    """Say whether a stage1 image can add apps to a running pod."""
    return store.manifest(record.key).annotation(f"{const.STAGE1_PREFIX}app/add") is not None


def check_programs(manifest: ImageManifest, rootfs: str) -> None:
    """Make sure that the programs a stage1 declares are there, and are its own."""
    for annotation in manifest.annotations:
        name = annotation.name.removeprefix(const.STAGE1_PREFIX)
        if name == annotation.name or name not in const.STAGE1_PROGRAMS:
            continue
        where = f'stage1 image "{manifest.name}": entrypoint "{name}"'
        inside = os.path.normpath("/" + annotation.value.lstrip("/"))
        try:
            found = os.path.realpath(rootfs + inside, strict=True)
            mode = os.stat(found).st_mode
        except OSError as err:
            cause = (err.strerror or "cannot be read").lower()
            raise RktError(f'{where} not found: "{inside}": {cause}') from None
        if not found.startswith(os.path.realpath(rootfs) + "/"):
            raise RktError(f'{where}: "{inside}" is a link that leads out of the image')
        if not stat.S_ISREG(mode) or not mode & 0o111:
            raise RktError(f'{where}: "{inside}" is not an executable file')


def _check(manifest: ImageManifest) -> None:
    where = f'stage1 image "{manifest.name}"'
    if manifest.annotation(f"{const.STAGE1_PREFIX}run") is None:
        raise RktError(f'{where}: entrypoint "run" not found',
                       hint="an image that is not made to be a stage1 cannot be one")  # fmt: skip
    version = interface_version(manifest)
    if version > const.STAGE1_INTERFACE_MAX:
        raise RktError(
            f"{where}: interface version {version} is newer than this rkt knows "
            f"({const.STAGE1_INTERFACE_MAX})"
        )
    labels = {label.name: label.value for label in manifest.labels}
    host = ("linux", host_arch())
    own = (labels.get("os", host[0]), labels.get("arch", host[1]))
    if own != host:
        raise RktError(f"{where} is for {'/'.join(own)}, this host is {'/'.join(host)}")


def _find(store: Store, finder: Finder, choice: Choice, places: Places) -> ImageRecord:
    if choice.kind == "hash":
        return finder.require_trusted(_by_id(store, choice.value))
    if choice.kind == "configured":
        named = _named(store, choice.named, places) if choice.named else None
        return named or _configured(store, finder, choice.value, places)
    if choice.kind == "path" or (choice.kind == "image" and os.path.isfile(choice.value)):
        return _by_path(store, finder, os.path.abspath(choice.value), places)
    if choice.kind in ("image", "url", "name"):
        address = _address(choice)
        ref = _reference(address) if choice.kind != "url" else None
        named = _named(store, ref, places) if ref else None
        return named or finder.require_trusted(finder.find(address))
    if choice.kind == "from-dir":
        return _from_dir(store, choice.value, places)
    return _default(store, places)


def _by_id(store: Store, text: str) -> ImageRecord:
    try:
        return store.get(store.resolve(text))
    except (NotFound, AmbiguousName) as err:
        raise type(err)(f'cannot resolve stage1 image ID "{text}"', hint=err.hint) from err


def _address(choice: Choice) -> str:
    has_scheme = "://" in choice.value
    if choice.kind == "url" and not has_scheme:
        raise RktError(f'"{choice.value}": --stage1-url takes a URL')
    if choice.kind == "name" and (has_scheme or choice.value.startswith((".", "/"))):
        raise RktError(f'"{choice.value}": --stage1-name takes the name of an image')
    return choice.value


def _reference(text: str) -> AppRef | None:
    """Read the name of an image; None if it is anything else, which the finder judges."""
    from rkt.fetch.address import NAME, classify

    try:
        return parse_app_string(text) if classify(text).kind == NAME else None
    except (SchemaError, FetchError):
        return None


def _named(store: Store, ref: AppRef, places: Places) -> ImageRecord | None:
    """Find an installed image by its name and labels.  Raises AmbiguousName."""
    try:
        files = sorted(name for name in os.listdir(places.images) if name.endswith(".aci"))
    except FileNotFoundError:
        return None
    found = []
    for name in files:
        path = f"{places.images}/{name}"
        try:
            if places.holds(path) and _is_called(_manifest_of(store, path), ref):
                found.append(path)
        except RktError as err:
            log.warning(f'stage1 image "{path}" is left out: {describe(err)}')
    if len(found) > 1:
        names = ", ".join(f'"{os.path.basename(path)}"' for path in found)
        raise AmbiguousName(
            f'"{ref}" is the name of several installed stage1 images: {names}',
            hint="give the version (NAME:VERSION), or choose one with --stage1-from-dir",
        )
    return _installed(store, found[0]) if found else None


def _is_called(manifest: ImageManifest, ref: AppRef) -> bool:
    if manifest.name != ref.name:
        return False
    host = {"os": "linux", "arch": host_arch()}
    own = {**host, **{label.name: label.value for label in manifest.labels}}
    return {**host, **ref.labels}.items() <= own.items()


def _manifest_of(store: Store, path: str) -> ImageManifest:
    record = _known(store, path)
    if record is not None:
        return store.manifest(record.key)
    from rkt.image.ingest import read_manifest

    return read_manifest(store, path)


def _by_path(store: Store, finder: Finder, path: str, places: Places) -> ImageRecord:
    if places.holds(path) and os.path.isfile(path):
        return _installed(store, path)
    beside = f"{places.program}/{os.path.basename(path)}"
    if not os.path.exists(path) and os.path.isfile(beside):
        return _installed(store, beside)
    return finder.require_trusted(finder.find(path))


def _from_dir(store: Store, name: str, places: Places) -> ImageRecord:
    if os.path.basename(name) != name or name in ("", ".", ".."):
        raise RktError(f'"{name}": --stage1-from-dir takes a file name without directories')
    path = f"{places.images}/{name}"
    if os.path.lexists(path) and not places.holds(path):
        raise RktError(f'stage1 image "{path}" is a link that leads out of its directory',
                       hint="name the image with --stage1-path: it is verified then")  # fmt: skip
    return _installed(store, path)


def _default(store: Store, places: Places) -> ImageRecord:
    path, beside = (f"{place}/{DEFAULT_FILE}" for place in (places.images, places.program))
    if not os.path.isfile(path) and os.path.isfile(beside):
        return _installed(store, beside)
    return _installed(store, path)


def _configured(store: Store, finder: Finder, location: str, places: Places) -> ImageRecord:
    """Find the image at the configured location; a file that fails has a stand-in beside rkt."""
    if not location:
        return _default(store, places)
    if not location.startswith("/"):
        return finder.require_trusted(finder.find(location))
    beside = f"{places.program}/{DEFAULT_FILE}"
    try:
        return _by_path(store, finder, location, places)
    except (NotFound, FetchError) as err:
        if os.path.exists(location):
            raise  # it is there and not to be trusted: nothing may take its place
        if os.path.isfile(beside):
            return _installed(store, beside)
        raise NotFound(
            f'cannot find the configured stage1 image: {describe(err)}; "{beside}" does not exist',
            hint="correct the file in stage1.d, or name an image with --stage1-path",
        ) from None


def _known(store: Store, path: str) -> ImageRecord | None:
    """Give what is stored of an installed image; None if nothing is, or it has no ID file."""
    try:
        with open(path + ".id", encoding="utf-8") as file:
            return store.get(store.resolve(file.read().strip()))
    except (FileNotFoundError, NotFound):
        return None


def _installed(store: Store, path: str) -> ImageRecord:
    record = _known(store, path)
    if record is not None:
        return record
    if not os.path.isfile(path):
        raise NotFound(
            f'stage1 image "{path}" does not exist',
            hint="install it (make install), or name another one with --stage1-path",
        )
    from rkt.image.ingest import ingest
    from rkt.store.records import TRUSTED_LOCATION, Verification

    verification = Verification(status=TRUSTED_LOCATION)
    return ingest(store, path, source=path, verification=verification, signature=None, latest=False)
