"""What an image argument stands for: an ID, a name, a file, a URL (rkt-cli §4.1)."""

from __future__ import annotations

import os

from rkt.errors import FetchError, one_line
from rkt.schema.struct import Struct
from rkt.schema.types import DIGITS, LOWER, UPPER, BadValue, is_made_of, parse_hash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.schema.docker import Reference

HASH, NAME, FILE, URL, DOCKER = "hash", "name", "file", "url", "docker"
LOCAL = ("oci", "oci-archive", "docker-archive")
"""Kinds of docker and OCI images in local files."""
_FOREIGN = ("docker://", *(f"{kind}:" for kind in LOCAL))

_SCHEME = LOWER + UPPER + DIGITS + "+.-"


class Address(Struct):
    """A classified image argument; `text` is the ID, the name, the path or the URL."""

    kind: str
    text: str


def classify(text: str) -> Address:
    """Find out what an image argument is; the first rule that matches wins.

    Raises FetchError for a URL that cannot be an image.
    """
    try:
        return Address(HASH, parse_hash(text))
    except BadValue:
        pass
    scheme, colon, _ = text.partition(":")
    if not colon or not is_made_of(scheme, _SCHEME) or scheme[0] not in LOWER + UPPER:
        return Address(FILE if _is_file(text) else NAME, text)
    kind = scheme.lower()
    if kind in ("file", "http", "https"):
        return _archive(text, kind)
    if kind == "docker":
        return Address(DOCKER, text)
    if kind in LOCAL:
        return Address(kind, text[len(kind) + 1 :])
    if kind == "cimd":
        return _distribution(text)
    return Address(NAME, text)


def is_foreign(source: str) -> bool:
    """Say whether an image that came from there is a docker or OCI image, or a layer of one."""
    return source.startswith(_FOREIGN)


def docker_reference(text: str) -> Reference:
    """Read `docker://…`.  Raises FetchError."""
    from rkt.schema.docker import parse_reference

    try:
        return parse_reference(text.partition(":")[2].removeprefix("//"))
    except BadValue as err:
        raise FetchError(
            f'invalid docker URL "{one_line(text)}"; expected syntax is '
            '"docker://[REGISTRY_HOST[:REGISTRY_PORT]/]IMAGE_NAME[:TAG]"'
        ) from err


def _is_file(text: str) -> bool:
    if text.startswith("/") or os.path.isfile(text):
        return True
    if ":" in text:
        return False
    return "./" in text or text.endswith(".aci")


def _archive(text: str, scheme: str) -> Address:
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(text)
    except ValueError as err:
        raise FetchError(f'invalid image string "{one_line(text)}": {err}') from err
    if not parts.path.endswith(".aci"):
        raise FetchError(f'invalid image string "{one_line(text)}": the path must end in ".aci"')
    if scheme != "file":
        return Address(URL, text)
    if parts.netloc not in ("", "localhost"):
        raise FetchError(f'invalid image string "{one_line(text)}": a file has no host')
    return Address(FILE, unquote(parts.path))


def _distribution(text: str) -> Address:
    """Read rkt's internal form, `cimd:TYPE:v=0:DATA`."""
    from urllib.parse import unquote

    parts = text.split(":", 3)
    if len(parts) != 4 or parts[2] != "v=0":
        raise FetchError(f'invalid image string "{one_line(text)}"')
    kind, data = parts[1], parts[3]
    if kind == "appc":
        name, _, labels = data.partition("?")
        pairs = [unquote(pair) for pair in labels.split("&") if pair]
        return Address(NAME, ",".join([unquote(name), *pairs]))
    if kind == "aci-archive":
        return classify(unquote(data))
    if kind == "docker":
        return Address(DOCKER, f"docker://{data}")
    raise FetchError(f'invalid image string "{one_line(text)}"')
