"""Images of docker and OCI registries: resolve the reference, get the layers, convert.

There are no signatures: rkt refuses such an image unless the user switches the check off.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

from rkt import log
from rkt.errors import FetchError, NotFound, SchemaError, VerifyError, one_line
from rkt.fetch.download import Sink, download, exclusive
from rkt.fetch.http import Client, shown
from rkt.fetch.layers import Obtained, assemble
from rkt.fetch.progress import Board
from rkt.fetch.registry import Registry
from rkt.image.appsection import app_section
from rkt.image.convert import Description
from rkt.image.whole import is_whole
from rkt.schema import codec
from rkt.schema.docker import DEFAULT_TAG
from rkt.schema.image import Annotation, Label
from rkt.schema.oci import (
    INDEXES,
    MANIFESTS,
    Document,
    ImageConfig,
    Platform,
    choose,
    decode_config,
    decode_document,
    digest_of,
)
from rkt.schema.struct import Struct
from rkt.schema.textual import appc_arch
from rkt.schema.types import BadValue, parse_date, sanitize_ac_identifier
from rkt.store import layout
from rkt.store.records import Remote

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rkt.config.login import Login
    from rkt.fetch.layers import Provider
    from rkt.fetch.options import Options
    from rkt.fetch.progress import Row
    from rkt.schema.docker import Reference
    from rkt.schema.oci import Descriptor
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

_MAX_CONFIG = 8 << 20
_MAX_NESTING = 3
_SHORT = 12
_GO_ARCH = {
    "x86_64": ("amd64", ""), "i386": ("386", ""), "i486": ("386", ""), "i586": ("386", ""),
    "i686": ("386", ""), "aarch64": ("arm64", "v8"), "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"), "armv8l": ("arm", "v7"),
}  # fmt: skip


class ImageSource(Struct):
    """An image before it is converted."""

    name: str
    version: str
    original: str
    """The reference in its normal form."""
    source: str
    """What `rkt fetch` gets it with."""
    config: ImageConfig
    config_digest: str
    manifest_digest: str
    layers: tuple[Descriptor, ...]
    registry: tuple[str, str] | None = None
    """Host and repository."""


def host_platform() -> Platform:
    """Give the platform of this machine in Go's names."""
    machine = os.uname().machine
    arch, variant = _GO_ARCH.get(machine, (machine, ""))
    return Platform("linux", arch, variant or None)


class DockerFetcher:
    """Fetches from registries into a store."""

    def __init__(self, store: Store, options: Options, client: Client | None = None) -> None:
        self._store = store
        self._options = options
        self._client = client or Client(options.insecure)

    def fetch(self, address: str, reference: Reference) -> ImageRecord:
        """Get the image that a reference stands for.

        Raises FetchError and its kin, SchemaError or ArchiveError; complete layers stay then.
        """
        log.info(f"fetching image from {one_line(address)}")
        log.warning("signature verification has been disabled")
        registry = Registry(self._client, reference, lambda: self._login(reference))
        image = self._resolve(registry, reference)
        layout.ensure(self._store.data_dir)
        with Board() as board:
            blobs = _RegistryBlobs(
                registry, f"{self._store.path}/partial", self._options.max_image_size, board
            )
            return convert(self._store, image, blobs, f"docker://{reference}")

    def _login(self, reference: Reference) -> Login | None:
        read = self._options.credentials
        return read().registry(reference.host, reference.repository) if read is not None else None

    def _resolve(self, registry: Registry, reference: Reference) -> ImageSource:
        digest = reference.digest
        wanted = reference.wanted
        size: int | None = None
        for _ in range(_MAX_NESTING):
            data, headers = registry.read(
                "manifests", wanted, accept=", ".join((*MANIFESTS, *INDEXES))
            )
            where = f'manifest of "{reference}"'
            checked(data, digest, size, where)
            announced = headers.get("Docker-Content-Digest", "")
            digest = digest or digest_of(data)
            if announced.startswith("sha256:") and announced != digest_of(data):
                raise VerifyError(f"{where}: has not the digest that the registry announces")
            document = decode_document(data, where)
            if not document.is_index:
                break
            chosen = for_host(document, str(reference))
            digest = wanted = chosen.digest
            size = chosen.size
        else:
            raise FetchError(f'"{reference}": indexes of indexes')
        config = document.config
        assert config is not None and document.layers is not None  # the document was checked
        data, _ = registry.read("blobs", config.digest, limit=min(config.size, _MAX_CONFIG))
        checked(data, config.digest, config.size, f'configuration of "{reference}"')
        return ImageSource(
            name=sanitize_ac_identifier(f"{reference.host}/{reference.repository}"),
            version=reference.tag or sanitize_ac_identifier(reference.digest),
            original=str(reference),
            source=f"docker://{reference}",
            config=decode_config(data, f'configuration of "{reference}"'),
            config_digest=config.digest,
            manifest_digest=digest,
            layers=document.layers,
            registry=(reference.host, reference.repository),
        )


def checked(data: bytes, digest: str, size: int | None, what: str) -> None:
    """Compare a document with what is known of it; raises VerifyError."""
    if size is not None and len(data) != size:
        raise VerifyError(f"{what}: has {len(data)} bytes instead of {size}")
    if digest and digest_of(data, digest) != digest:
        raise VerifyError(f"{what}: its digest is {digest_of(data, digest)} instead of {digest}")


def for_host(index: Document, what: str) -> Descriptor:
    """Choose the image for this machine out of an index; raises FetchError."""
    manifests = index.manifests or ()
    platform = host_platform()
    chosen = choose(manifests, platform)
    if chosen is None:
        found = sorted({str(one.platform) for one in manifests if one.platform is not None})
        raise FetchError(
            f'"{what}": no image for {platform}, '
            f"only for {one_line(', '.join(found[:20])) or 'nothing'}"
        )
    return chosen


def convert(
    store: Store, image: ImageSource, blobs: Provider, address: str | None = None
) -> ImageRecord:
    """Get the layers of an image and store it, unless it is there already.

    The image is then remembered as what an address stands for.
    """
    about = describe_image(image)
    # Until the image itself is stored nothing names its layers: keep `image gc` away.
    with store.guard(exclusive=False):
        record = _converted(store, image, about, blobs)
        if address is not None:
            remember(store, address, record)
        return record


def _converted(
    store: Store, image: ImageSource, about: Description, blobs: Provider
) -> ImageRecord:
    known = f"oci-image:{image.name}:{image.version}@{image.manifest_digest or image.config_digest}"
    found = store.remote(known)
    if found is not None and is_whole(store, found.key):
        record = store.get(found.key)
        if record.unpacked or os.geteuid() != 0:
            return record
    with assemble(store, image.source, image.layers, blobs) as assembly:
        record = _sized(store, assembly.finish(about))
    remember(store, known, record)
    return record


def _sized(store: Store, record: ImageRecord) -> ImageRecord:
    """Count the files of an image's layers as its own: the layers themselves are not listed."""
    sizes: dict[str, int] = {}
    todo = [record]
    while todo:
        one = todo.pop()
        sizes[one.key] = one.tree_size or one.size
        for dependency in store.manifest(one.key).dependencies:  # maybe a long one: one at a time
            child = store.get(store.resolve(dependency.image_id or ""))
            if child.key not in sizes:
                todo.append(child)
    store.set_tree_size(record.key, sum(sizes.values()))
    return store.get(record.key)


def remember(store: Store, url: str, record: ImageRecord) -> None:
    """Note which image an address stands for."""
    store.put_remote(Remote(url, "", 0, time.time_ns(), record.key))


def stored(store: Store, url: str) -> ImageRecord | None:
    """Give the whole image that an address stood for when it was last fetched."""
    found = store.remote(url)
    if found is None or not is_whole(store, found.key):
        return None
    try:
        return store.get(found.key)
    except NotFound:
        return None


def describe_image(image: ImageSource) -> Description:
    """Make labels, annotations and the app section (docker2aci).  Raises SchemaError."""
    config = image.config
    platform = config.platform
    try:
        arch = appc_arch(platform.os, platform.architecture, platform.variant or "")
    except BadValue as err:
        raise SchemaError(f'configuration of "{image.original}": {err.message}') from err
    labels = (
        Label("version", image.version), Label("os", platform.os), Label("arch", arch)
    )  # fmt: skip
    run = config.config
    words = {"entrypoint": run.entrypoint, "cmd": run.cmd} if run is not None else {}
    host, repository = image.registry or ("", "")
    notes = [
        ("appc.io/docker/originalname", image.original),
        ("appc.io/docker/registryurl", host),
        ("appc.io/docker/repository", repository),
        ("appc.io/docker/tag", image.version),
        ("appc.io/docker/imageid", image.config_digest),
        ("appc.io/docker/manifesthash", image.manifest_digest),
        *(
            (f"appc.io/docker/{name}", codec.encode(value).decode())
            for name, value in words.items()
            if value
        ),
        ("author", config.author or ""),
        ("created", _date(config.created)),
        ("docker-comment", config.comment or ""),
    ]
    return Description(
        name=image.name,
        labels=labels,
        annotations=tuple(Annotation(name, value) for name, value in notes if value),
        app=app_section(run, log.warning) if run is not None else None,
        latest=image.version == DEFAULT_TAG,
    )


def _date(text: str | None) -> str:
    try:
        return text if text and parse_date(text) else ""
    except BadValue:
        return ""


class _Verified(Sink):
    """Hashes a download and counts it, and breaks it off when it is no longer wanted."""

    def __init__(self, algorithm: str, board: Board, row: Row, stopped: Callable[[], bool]) -> None:
        self._algorithm = algorithm
        self._board = board
        self._row = row
        self._stopped = stopped
        self.restart()

    def restart(self) -> None:
        """Begin again."""
        self._hash = hashlib.new(self._algorithm)
        self.size = 0
        self._board.restart(self._row)

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        if self._stopped():
            raise FetchError("broken off")
        self._hash.update(chunk)
        self.size += len(chunk)
        self._board.advance(self._row, len(chunk))

    @property
    def digest(self) -> str:
        """Give the digest of what came."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"


class _RegistryBlobs:
    """Downloads layers; what breaks off is continued by a later run."""

    def __init__(self, registry: Registry, directory: str, limit: int, board: Board) -> None:
        self._registry = registry
        self._directory = directory
        self._limit = limit
        self._board = board

    def lock(self, digest: str) -> AbstractContextManager[None]:
        """Let one process at a time download a layer."""
        return exclusive(self._directory, f"layer:{digest}")

    def obtain(self, layer: Descriptor, stopped: Callable[[], bool]) -> Obtained:
        """Download a layer and check it.  Raises FetchError, VerifyError."""
        algorithm, _, value = layer.digest.partition(":")
        if layer.size > self._limit:
            raise FetchError(f"layer {layer.digest}: larger than the {self._limit} bytes allowed")
        if not self._board.is_live:
            log.plain(f"Downloading layer: {value}")
        row = self._board.begin(f"Downloading layer {value[:_SHORT]}", layer.size)
        try:
            return self._download(layer, _Verified(algorithm, self._board, row, stopped))
        finally:
            self._board.end(row)

    def _download(self, layer: Descriptor, sink: _Verified) -> Obtained:
        url = self._registry.url("blobs", layer.digest)
        with download(
            self._registry, url, self._directory, sink=sink, limit=layer.size, label=""
        ) as got:
            if sink.size != layer.size:
                raise VerifyError(f'"{shown(url)}": has {sink.size} bytes instead of {layer.size}')
            if sink.digest != layer.digest:
                raise VerifyError(f'"{shown(url)}": its digest is {sink.digest}')
            return Obtained(os.open(got.path, os.O_RDONLY | os.O_CLOEXEC), layer.size)
