"""Manifests, indexes and configurations of OCI images; docker's schema 2 has the same shapes.

OCI image specification v1.1; Docker image manifest version 2, schema 2.  Unknown keys are ignored.
"""

from __future__ import annotations

import hashlib
import re

from rkt.errors import SchemaError
from rkt.schema import codec
from rkt.schema.struct import Struct, field
from rkt.schema.types import BadValue, quote

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIGS = (OCI_CONFIG, DOCKER_CONFIG)

MAX_LAYERS = 1000
_MAX_SIZE = 1 << 42
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_LAYER = re.compile(
    r"application/vnd\.(?:oci\.image\.layer(?:\.nondistributable)?\.v1\.tar"
    r"|docker\.image\.rootfs(?:\.foreign)?\.diff\.tar)(?:[.+](?:gzip|zstd))?"
)


def parse_digest(text: str) -> str:
    """Check a digest: `sha256:` or `sha512:` and lower-case hex; raise BadValue."""
    if not _DIGEST.fullmatch(text):
        raise BadValue(f"bad digest {quote(text)}")
    return text


def digest_of(data: bytes, like: str = "sha256:") -> str:
    """Compute a digest with the algorithm of another one."""
    kind = like.partition(":")[0]
    return f"{kind}:{hashlib.new(kind, data).hexdigest()}"


class Platform(Struct):
    """What an image runs on, in Go's names."""

    os: str = ""
    architecture: str = ""
    variant: str | None = None

    def __str__(self) -> str:
        text = f"{self.os}/{self.architecture}"
        return f"{text}/{self.variant}" if self.variant else text


class Descriptor(Struct, rename={"media_type": "mediaType"}):
    """Something that a manifest or an index points at."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None

    def __post_init__(self) -> None:
        parse_digest(self.digest)
        if not 0 <= self.size <= _MAX_SIZE:
            raise BadValue(f"size {self.size} is out of range")


class Document(Struct, rename={
    "schema_version": "schemaVersion", "media_type": "mediaType",
}):  # fmt: skip
    """A manifest or an index: which one it is shows in its keys."""

    schema_version: int = 0
    media_type: str | None = None
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] | None = None
    manifests: tuple[Descriptor, ...] | None = None

    @property
    def is_index(self) -> bool:
        """Say whether it lists images for several platforms."""
        return self.media_type in INDEXES or (not self.media_type and self.manifests is not None)


class ContainerConfig(Struct, rename={
    "user": "User", "env": "Env", "entrypoint": "Entrypoint", "cmd": "Cmd",
    "working_dir": "WorkingDir", "volumes": "Volumes", "exposed_ports": "ExposedPorts",
}):  # fmt: skip
    """How to run the image."""

    user: str | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str | None = None
    volumes: dict[str, codec.JSON] | None = None
    exposed_ports: dict[str, codec.JSON] | None = None


class RootFS(Struct):
    """The digests of the uncompressed layers."""

    type: str = "layers"
    diff_ids: tuple[str, ...] | None = None


class ImageConfig(Struct):
    """The configuration blob of an image."""

    os: str = ""
    architecture: str = ""
    variant: str | None = None
    created: str | None = None
    author: str | None = None
    comment: str | None = None
    config: ContainerConfig | None = None
    rootfs: RootFS = field(default_factory=RootFS)

    @property
    def platform(self) -> Platform:
        """Give what it runs on."""
        return Platform(self.os or "linux", self.architecture, self.variant)


def decode_document(data: bytes, where: str) -> Document:
    """Read a manifest or an index of untrusted origin; raises SchemaError begun by `where`."""
    document = codec.decode(data, Document, where)
    kind = document.media_type or ""
    if document.schema_version == 1 or kind in (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED):
        raise SchemaError(
            f"{where}: image manifest of schema 1, which is not supported",
            hint="push the image again with a current docker, podman or skopeo",
        )
    if document.schema_version != 2:
        raise SchemaError(f"{where}: unknown schema version {document.schema_version}")
    if kind and kind not in (*INDEXES, *MANIFESTS):
        raise SchemaError(f"{where}: unknown media type {quote(kind)}")
    if document.is_index:
        if document.manifests is None:
            raise SchemaError(f"{where}: index without manifests")
        return document
    if document.config is None or document.layers is None:
        raise SchemaError(f"{where}: manifest without config or layers")
    if document.config.media_type and document.config.media_type not in CONFIGS:
        raise SchemaError(f"{where}: not an image but {quote(document.config.media_type)}")
    if len(document.layers) > MAX_LAYERS:
        raise SchemaError(f"{where}: more than {MAX_LAYERS} layers")
    for layer in document.layers:
        if layer.media_type and not _LAYER.fullmatch(layer.media_type):
            raise SchemaError(f"{where}: unknown type of layer {quote(layer.media_type)}")
    return document


def decode_config(data: bytes, where: str) -> ImageConfig:
    """Read an image's configuration; raises SchemaError begun by `where`."""
    return codec.decode(data, ImageConfig, where)


def choose(manifests: tuple[Descriptor, ...], wanted: Platform) -> Descriptor | None:
    """Choose the image for a platform out of an index; the first of equally good ones."""
    best: tuple[int, Descriptor] | None = None
    for one in manifests:
        if one.media_type and one.media_type not in (*MANIFESTS, *INDEXES):
            continue
        rank = _rank(one.platform, wanted)
        if rank > 0 and (best is None or rank > best[0]):
            best = (rank, one)
    return best[1] if best else None


def _rank(found: Platform | None, wanted: Platform) -> int:
    if found is None:
        return 1
    if (found.os, found.architecture) != (wanted.os, wanted.architecture):
        return 0
    if found.variant == wanted.variant:
        return 30
    if not found.variant:
        return 20
    if found.architecture == "arm" and wanted.variant:
        # A newer ARM runs what was made for an older one.
        return 10 + _version(found.variant) if found.variant < wanted.variant else 0
    return 5 if found.architecture == "arm64" and found.variant == "v8" else 0


def _version(variant: str) -> int:
    return int(variant[1:]) if variant[1:].isdigit() and len(variant) < 3 else 0
