"""Docker's own forms: image references, and the index of an archive made by `docker save`."""

from __future__ import annotations

import re

from rkt.schema import codec
from rkt.schema.oci import parse_digest
from rkt.schema.struct import Struct
from rkt.schema.types import BadValue

DEFAULT_HOST = "registry-1.docker.io"
DEFAULT_TAG = "latest"
HUB = ("docker.io", "index.docker.io", "registry.docker.io", DEFAULT_HOST)
_HOST = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MAX_NAME = 255


class Reference(Struct):
    """Where an image is in a registry; `tag` is empty if only the digest was given."""

    host: str
    repository: str
    tag: str
    digest: str = ""

    @property
    def wanted(self) -> str:
        """Give what to ask the registry for: the digest if there is one."""
        return self.digest or self.tag

    def __str__(self) -> str:
        text = f"{self.host}/{self.repository}"
        text += f":{self.tag}" if self.tag else ""
        return f"{text}@{self.digest}" if self.digest else text


def parse_reference(text: str) -> Reference:
    """Read `[HOST[:PORT]/]NAME[:TAG][@DIGEST]` with docker's defaults.  Raises BadValue."""
    rest, at, digest = text.partition("@")
    if at:
        parse_digest(digest)
    first, slash, path = rest.partition("/")
    # A first component with a dot or a port, or "localhost", is a host: docker's own rule.
    if slash and ("." in first or ":" in first or first == "localhost"):
        host = first.lower()
    else:
        host, path = DEFAULT_HOST, rest
    if host in HUB:
        host = DEFAULT_HOST
    path, colon, tag = path.partition(":")
    if host == DEFAULT_HOST and "/" not in path:
        path = f"library/{path}"
    if not _HOST.fullmatch(host) or not _REPOSITORY.fullmatch(path) or len(path) > _MAX_NAME:
        raise BadValue(f'bad image name "{rest}"')
    if colon and not _TAG.fullmatch(tag):
        raise BadValue(f'bad tag "{tag}"')
    if not colon and not at:
        tag = DEFAULT_TAG
    return Reference(host, path, tag, digest)


class SavedImage(Struct, rename={"config": "Config", "layers": "Layers", "repo_tags": "RepoTags"}):
    """One image of a `docker save` archive; the values are names of members."""

    config: str
    layers: tuple[str, ...] = ()
    repo_tags: tuple[str, ...] | None = None


def decode_saved(data: bytes, where: str) -> tuple[SavedImage, ...]:
    """Read `manifest.json` of a `docker save` archive; raises SchemaError."""
    return codec.decode(data, tuple[SavedImage, ...], where)
