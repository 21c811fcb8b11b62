"""Images in local files: OCI layouts, archives of them, and what `docker save` writes.

An archive is read where it is: blobs are parts of the file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

from rkt import log
from rkt.errors import ArchiveError, FetchError, KernelError, VerifyError, one_line
from rkt.fetch.docker import ImageSource, checked, convert, for_host
from rkt.fetch.layers import Obtained
from rkt.image import tar
from rkt.image.archive import LIMITS, clean, decompress, detect
from rkt.image.layer import Blob, uncompressed
from rkt.schema import codec
from rkt.schema.docker import DEFAULT_HOST, DEFAULT_TAG, SavedImage, decode_saved, parse_reference
from rkt.schema.oci import Descriptor, Document, decode_config, decode_document, digest_of
from rkt.schema.struct import Struct
from rkt.schema.types import BadValue, sanitize_ac_identifier
from rkt.store import files, layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from rkt.fetch.address import Address
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

OCI, OCI_ARCHIVE, DOCKER_ARCHIVE = "oci", "oci-archive", "docker-archive"
_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"
_MAX_DOCUMENT = 4 << 20
_MAX_CONFIG = 8 << 20
_MAX_NESTING = 3
_MAX_MEMBERS = 100_000
_CHUNK = 1 << 20


class _LayoutFile(Struct, rename={"version": "imageLayoutVersion"}):
    version: str = ""


class LocalFetcher:
    """Takes images out of local files into a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def fetch(self, address: Address, text: str) -> ImageRecord:
        """Get the image at an address; `text` is how the user wrote it.

        Raises FetchError and its kin, SchemaError, ArchiveError or KernelError.
        """
        path, tag = _split(address.text, text)
        log.info(f"fetching image from {one_line(text)}")
        log.warning("signature verification has been disabled")
        layout.ensure(self._store.data_dir)
        private = f"{self._store.path}/partial"
        source = f"{address.kind}:{os.path.abspath(path)}" + (f":{tag}" if tag else "")
        with ExitStack() as stack:
            try:
                place: _Place
                if address.kind == OCI:
                    place = _Directory(path, private, stack)
                else:
                    place = _Archive(path, private, stack)
                if address.kind == DOCKER_ARCHIVE:
                    image = _saved_image(place, path, tag, source)
                else:
                    image = _layout_image(place, path, tag, source)
                return convert(self._store, image, _LocalBlobs(place))
            except OSError as err:
                raise KernelError("cannot read", err, err.filename or path) from err


def _split(text: str, shown: str) -> tuple[str, str]:
    """Divide `PATH[:TAG]`: the longest path that exists wins."""
    if os.path.exists(text):
        return text, ""
    path, colon, tag = text, ":", ""
    while colon:
        path, colon, tail = path.rpartition(":")
        tag = f"{tail}:{tag}" if tag else tail
        if colon and os.path.exists(path):
            return path, tag
    raise FetchError(f'"{one_line(shown)}": no such file or directory')


class _Place:
    """Where an image's parts are; a part is named as in an OCI layout."""

    def open(self, name: str) -> Obtained:
        """Give a part of an open file that stays open; raises FetchError if it is missing."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Say whether there is such a part."""
        raise NotImplementedError

    def read(self, name: str, limit: int) -> bytes:
        """Read a small part."""
        found = self.open(name)
        if found.size > limit:
            raise FetchError(f'"{one_line(name)}": larger than {limit} bytes')
        return Blob(found.fd, found.size, found.start).read()


class _Directory(_Place):
    """An OCI layout."""

    def __init__(self, path: str, private: str, stack: ExitStack) -> None:
        self._path = path
        self._private = private
        self._stack = stack

    def open(self, name: str) -> Obtained:
        """Give a file whose bytes nobody else can change meanwhile."""
        path = f"{self._path}/{name}"
        real = os.path.realpath(path)  # tools make links of equal blobs
        file = files.open_stable(real, self._private)
        if file is None:
            raise FetchError(f'"{one_line(path)}": no such file')
        self._stack.enter_context(file)
        return Obtained(file.fileno(), os.fstat(file.fileno()).st_size)

    def has(self, name: str) -> bool:
        """Say whether there is such a file."""
        return os.path.isfile(f"{self._path}/{name}")


class _Archive(_Place):
    """A tar archive, maybe compressed."""

    def __init__(self, path: str, private: str, stack: ExitStack) -> None:
        self._path = path
        file = files.open_stable(os.path.realpath(path), private)
        if file is None or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FetchError(f'"{one_line(path)}": no such file')
        stack.enter_context(file)
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        try:
            self._fd = self._plain(file, private, stack)
            self._scan()
        except ArchiveError as err:
            raise ArchiveError(f'"{one_line(path)}": {err.message}', hint=err.hint) from err

    @staticmethod
    def _plain(file: BinaryIO, private: str, stack: ExitStack) -> int:
        """Give a file with the archive uncompressed."""
        fd = file.fileno()
        if detect(os.pread(fd, 512, 0)) == "none":
            return fd
        plain = os.open(private, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, plain)
        for chunk in decompress(file, limits=LIMITS):
            view = memoryview(chunk)
            while view:
                view = view[os.write(plain, view) :]
        return plain

    def _scan(self) -> None:
        at = 0

        def count(data: bytes) -> None:
            nonlocal at
            at += len(data)

        size = os.fstat(self._fd).st_size
        reader = tar.TarReader(self._chunks(size), raw=count)
        while (entry := reader.next()) is not None:
            name = os.fsdecode(clean(entry.name.lstrip(b"/")))
            if len(self._members) + len(self._links) >= _MAX_MEMBERS:
                raise ArchiveError(f"more than {_MAX_MEMBERS} members")
            if entry.kind == tar.FILE and entry.sparse is None:
                self._members[name] = (at, entry.size)
            elif entry.kind in (tar.SYMLINK, tar.HARDLINK):
                target = os.fsdecode(entry.link)
                base = os.path.dirname(name) if entry.kind == tar.SYMLINK else ""
                self._links[name] = os.path.normpath(f"/{base}/{target}").lstrip("/")
            at += entry.stored

    def _chunks(self, size: int) -> _Iterator:
        at = 0
        while at < size:
            data = os.pread(self._fd, min(_CHUNK, size - at), at)
            if not data:
                return
            at += len(data)
            yield data

    def _find(self, name: str) -> tuple[int, int] | None:
        for _ in range(8):
            name = self._links.get(name, name)
        return self._members.get(name)

    def open(self, name: str) -> Obtained:
        """Give a member as a part of the archive."""
        found = self._find(name)
        if found is None:
            raise FetchError(f'"{one_line(self._path)}": has no "{one_line(name)}"')
        return Obtained(self._fd, found[1], found[0])

    def has(self, name: str) -> bool:
        """Say whether there is such a member."""
        return self._find(name) is not None


class _LocalBlobs:
    """Layers that are here already; digest and size are checked."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._names: dict[str, str] = {}

    def lock(self, digest: str) -> AbstractContextManager[None]:
        """Do nothing: reading twice harms nobody."""
        del digest
        return nullcontext()

    def obtain(self, layer: Descriptor, stopped: Callable[[], bool]) -> Obtained:
        """Open a layer and check it; raises VerifyError."""
        name = (layer.annotations or {}).get(_MEMBER) or _blob_name(layer.digest)
        found = self._place.open(name)
        if found.size != layer.size:
            raise VerifyError(f'"{one_line(name)}": has {found.size} bytes instead of {layer.size}')
        algorithm = layer.digest.partition(":")[0]
        digest = _digest(found, algorithm, stopped)
        if digest != layer.digest:
            raise VerifyError(f'"{one_line(name)}": its digest is {digest}')
        return Obtained(os.dup(found.fd), found.size, found.start)


_MEMBER = "rkt.member"


def _blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _digest(found: Obtained, algorithm: str, stopped: Callable[[], bool] = lambda: False) -> str:
    hasher = hashlib.new(algorithm)
    blob = Blob(found.fd, found.size, found.start)
    while data := blob.read(_CHUNK):
        if stopped():
            raise FetchError("broken off")
        hasher.update(data)
    return f"{algorithm}:{hasher.hexdigest()}"


# --- OCI layouts


def _layout_image(place: _Place, path: str, tag: str, source: str) -> ImageSource:
    shown = one_line(path)
    if not place.has("oci-layout") and not place.has("index.json"):
        raise FetchError(f'"{shown}": not an OCI image layout')
    if place.has("oci-layout"):
        data = place.read("oci-layout", 65536)
        version = codec.decode(data, _LayoutFile, f'"{shown}": oci-layout').version
        if not version.startswith("1."):
            raise FetchError(f'"{shown}": unknown version of OCI layout "{one_line(version)}"')
    where = f'"{shown}": index.json'
    index = decode_document(place.read("index.json", _MAX_DOCUMENT), where)
    found = _choose(index, tag, shown)
    notes = found.annotations or {}
    digest = found.digest
    document = None
    for _ in range(_MAX_NESTING):
        data = place.read(_blob_name(found.digest), _MAX_DOCUMENT)
        checked(data, found.digest, found.size, f'"{shown}": manifest')
        document = decode_document(data, f'"{shown}": manifest')
        digest = found.digest
        if not document.is_index:
            break
        found = for_host(document, path)
    if document is None or document.is_index:
        raise FetchError(f'"{shown}": indexes of indexes')
    config = document.config
    assert config is not None and document.layers is not None  # the document was checked
    data = place.read(_blob_name(config.digest), _MAX_CONFIG)
    checked(data, config.digest, config.size, f'"{shown}": configuration')
    name, version, original = _names(path, notes.get(_FULL_NAME) or notes.get(_REF_NAME, ""), tag)
    return ImageSource(
        name=name, version=version, original=original, source=source,
        config=decode_config(data, f'"{shown}": configuration'),
        config_digest=config.digest, manifest_digest=digest, layers=document.layers,
    )  # fmt: skip


def _choose(index: Document, tag: str, shown: str) -> Descriptor:
    """Choose by tag, or by platform where there is no tag to go by."""
    manifests = index.manifests or ()
    if tag:
        for one in manifests:
            notes = one.annotations or {}
            if tag in (notes.get(_REF_NAME), notes.get(_FULL_NAME), one.digest):
                return one
        raise FetchError(f'"{shown}": no image with the tag "{one_line(tag)}"{_listed(index)}')
    if len(manifests) == 1:
        return manifests[0]
    if not manifests:
        raise FetchError(f'"{shown}": no image in it')
    names = {(one.annotations or {}).get(_REF_NAME) for one in manifests}
    if len(names) == 1:
        return for_host(index, shown)
    raise FetchError(f'"{shown}": several images, give a tag{_listed(index)}')


def _listed(index: Document) -> str:
    tags = sorted(
        {(one.annotations or {}).get(_REF_NAME, "") for one in index.manifests or ()} - {""}
    )
    return f" (there are: {one_line(', '.join(tags[:20]))})" if tags else ""


def _names(path: str, reference: str, tag: str) -> tuple[str, str, str]:
    """Give name, version and the original reference.

    A full reference in the file says what the image is; otherwise its name is that of the file, so
    that it does not depend on the directory.
    """
    if "/" in reference:
        try:
            found = parse_reference(reference)
        except BadValue:
            pass
        else:
            version = found.tag or sanitize_ac_identifier(found.digest)
            return sanitize_ac_identifier(f"{found.host}/{found.repository}"), version, str(found)
    base = os.path.basename(os.path.abspath(path))
    for ending in (".gz", ".zst", ".xz", ".bz2", ".tgz", ".tar", ".oci"):
        base = base.removesuffix(ending)
    try:
        name = sanitize_ac_identifier(base)
    except BadValue:
        name = "image"
    version = reference or tag or DEFAULT_TAG
    return name, version, f"{base}:{version}"


# --- docker save


def _saved_image(place: _Place, path: str, tag: str, source: str) -> ImageSource:
    shown = one_line(path)
    if not place.has("manifest.json"):
        raise FetchError(f'"{shown}": not an archive of docker save: it has no manifest.json')
    data = place.read("manifest.json", _MAX_DOCUMENT)
    saved, chosen = _choose_saved(decode_saved(data, f'"{shown}": manifest.json'), tag, shown)
    data = place.read(_member(saved.config), _MAX_CONFIG)
    digest = digest_of(data)
    stem = os.path.basename(saved.config).removesuffix(".json")
    if len(stem) == 64 and digest != f"sha256:{stem}":
        raise VerifyError(f'"{shown}": configuration: its digest is {digest}')
    config = decode_config(data, f'"{shown}": configuration')
    diff_ids = config.rootfs.diff_ids or ()
    if len(diff_ids) != len(saved.layers):
        raise FetchError(
            f'"{shown}": {len(saved.layers)} layers, but the configuration names {len(diff_ids)}'
        )
    layers = tuple(
        _saved_layer(place, _member(member), diff_id, shown)
        for member, diff_id in zip(saved.layers, diff_ids, strict=True)
    )
    name, version, original = _names(path, _qualified(chosen), "")
    return ImageSource(
        name=name, version=version, original=original, source=source, config=config,
        config_digest=digest, manifest_digest="", layers=layers,
    )  # fmt: skip


def _member(name: str) -> str:
    return os.fsdecode(clean(os.fsencode(name).lstrip(b"/")))


def _qualified(reference: str) -> str:
    """Write `busybox:1` out: in such an archive it is docker's own kind of reference."""
    return (
        f"{DEFAULT_HOST}/library/{reference}" if reference and "/" not in reference else reference
    )


def _choose_saved(images: tuple[SavedImage, ...], tag: str, shown: str) -> tuple[SavedImage, str]:
    """Choose an image, and which of its tags it goes by; `app` and `app:1` fit `x/app:1` too."""
    tagged = [(one, image) for image in images for one in image.repo_tags or ()]
    names = one_line(", ".join(one for one, _ in tagged[:20]))
    listed = f" (there are: {names})" if names else ""
    if tag:
        for wanted in (tag, f"{tag}:{DEFAULT_TAG}"):
            for exact in (True, False):
                for one, image in tagged:
                    if one == wanted or (not exact and one.endswith(f"/{wanted}")):
                        return image, one
        raise FetchError(f'"{shown}": no image with the tag "{one_line(tag)}"{listed}')
    if len(images) != 1:
        what = f"several images, give a tag{listed}" if images else "no image in it"
        raise FetchError(f'"{shown}": {what}')
    return images[0], tagged[0][0] if tagged else ""


def _saved_layer(place: _Place, member: str, diff_id: str, shown: str) -> Descriptor:
    """Describe a layer; its digest is that of the bytes in the archive."""
    found = place.open(member)
    notes = {_MEMBER: member}
    head = os.pread(found.fd, min(512, found.size), found.start)
    try:
        is_plain = detect(head) == "none"
    except ArchiveError:
        is_plain = True
    if is_plain:
        return Descriptor(diff_id, found.size, annotations=notes)
    hasher = hashlib.sha256()
    for chunk in uncompressed(Blob(found.fd, found.size, found.start)):
        hasher.update(chunk)
    if diff_id != f"sha256:{hasher.hexdigest()}":
        raise VerifyError(f'"{shown}": {one_line(member)}: its content is not {diff_id}')
    return Descriptor(_digest(found, "sha256"), found.size, annotations=notes)


if TYPE_CHECKING:
    from collections.abc import Iterator

    _Iterator = Iterator[bytes]
