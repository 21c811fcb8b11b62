"""Meta discovery: from an image name to where its archive, signature and keys are (appc.md §7)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rkt import log
from rkt.errors import DiscoveryError, FetchError, describe, one_line
from rkt.fetch.http import Unreachable, split
from rkt.schema.struct import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeVar

    from rkt.fetch.http import Client

    T = TypeVar("T")

MAX_PAGE = 1 << 20
NO_TAGS = "found no ACI meta tags"
_MAX_LEVELS = 32
_EXTENSION = "aci"
_SIGNATURE_EXTENSION = "aci.asc"

_ATTRIBUTE = re.compile(r"[\s/]*([^\s/>=]+)\s*(=?)\s*")
_UNQUOTED = re.compile(r"[^\s>]*")
_TAG = re.compile(r"<(!--|[a-z]+(?=[\s/>]))", re.I | re.A)
_RAW_TEXT = {
    name: re.compile(f"</{name}", re.I | re.A) for name in ("script", "style", "title", "textarea")
}


class Tag(Struct):
    """A meta tag of discovery: `ac-discovery` or `ac-discovery-pubkeys`."""

    name: str
    prefix: str
    uri: str


class Endpoint(Struct):
    """Where an image and its signature are."""

    image: str
    signature: str


def find_endpoint(client: Client, name: str, labels: Mapping[str, str]) -> Endpoint:
    """Discover where an image is; the first usable template counts.

    Raises DiscoveryError with the reason of the last page that was tried.
    """

    def choose(tags: list[Tag]) -> Endpoint | None:
        for tag in tags:
            if tag.name == "ac-discovery":
                image = render(tag.uri, name, labels, _EXTENSION)
                signature = render(tag.uri, name, labels, _SIGNATURE_EXTENSION)
                if image is not None and signature is not None:
                    return Endpoint(image, signature)
        return None

    endpoint = _walk(client, name, choose, "no endpoints discovered")
    for url in (endpoint.image, endpoint.signature):
        _check_url(client, url)
    return endpoint


def find_keys(client: Client, name: str) -> list[str]:
    """Discover the locations of the public keys for a name.  Raises DiscoveryError."""

    def choose(tags: list[Tag]) -> list[str] | None:
        return [tag.uri for tag in tags if tag.name == "ac-discovery-pubkeys"] or None

    locations = list(dict.fromkeys(_walk(client, name, choose, NO_KEYS.format(one_line(name)))))
    for location in locations:  # a page must not make us read local files
        _check_url(client, location)
    return locations


NO_KEYS = "meta discovery on {} resulted in no keys"


def render(template: str, name: str, labels: Mapping[str, str], ext: str) -> str | None:
    """Fill in a URL template; None if a variable is left over."""
    values = {"version": "latest", **labels, "name": name, "ext": ext}
    url = re.sub(r"\{([^{}]*)\}", lambda found: values.get(found[1], found[0]), template)
    return None if "{" in url or "}" in url else url


def parse_tags(page: str) -> list[Tag]:
    """Give the discovery tags of a page in order."""
    tags: list[Tag] = []
    for attributes in _meta_tags(page):
        name = attributes.get("name", "")
        prefix, _, uri = attributes.get("content", "").strip().partition(" ")
        if name.startswith("ac-") and prefix and uri.strip():
            tags.append(Tag(name, prefix, uri.strip()))
    return tags


def _walk(client: Client, name: str, choose: Callable[[list[Tag]], T | None], nothing: str) -> T:
    """Ask the page of the name, then those of its parents, until one has what is wanted."""
    failure: FetchError = DiscoveryError(nothing)
    parts = name.split("/")
    for depth in range(min(len(parts), _MAX_LEVELS), 0, -1):
        path = "/".join(parts[:depth])
        try:
            page = _page(client, path)
        except Unreachable:
            raise  # the other pages are on the same host
        except FetchError as err:
            log.debug(f"discovery on {one_line(path)}: {describe(err)}")
            failure = err
            continue
        tags = parse_tags(page)
        # A plain string prefix, as in the specification: not aware of path components.
        chosen = choose([tag for tag in tags if name.startswith(tag.prefix)])
        if chosen is not None:
            return chosen
        failure = DiscoveryError(nothing if tags else NO_TAGS)
    raise failure


def _page(client: Client, path: str) -> str:
    try:
        data = client.read(f"https://{path}?ac-discovery=1", limit=MAX_PAGE)
    except FetchError as err:
        if not client.insecure.http:
            raise
        log.debug(f"discovery over https: {describe(err)}")
        data = client.read(f"http://{path}?ac-discovery=1", limit=MAX_PAGE)
    return data.decode("utf-8", "replace")


def _check_url(client: Client, url: str) -> None:
    scheme = split(url).scheme
    if scheme == "https" or (scheme == "http" and client.insecure.http):
        return
    hint = "allow plain http with --insecure-options=http" if scheme == "http" else None
    raise DiscoveryError(f'discovered location "{one_line(url)}" is not an https URL', hint=hint)


def _meta_tags(page: str) -> Iterator[dict[str, str]]:
    """Yield the attributes of each <meta> tag outside comments and raw text.

    html.parser would do, but takes quadratic time on pages made for that; this is linear.
    """
    at = 0
    while found := _TAG.search(page, at):
        at = found.end()
        name = found[1].lower()
        if name == "!--":
            at = page.find("-->", at)
        elif name == "meta":
            attributes, at = _attributes(page, at)
            if at >= 0:
                yield attributes
        elif name in _RAW_TEXT:
            end = _RAW_TEXT[name].search(page, at)
            at = end.end() if end else -1
        if at < 0:
            return


def _attributes(page: str, at: int) -> tuple[dict[str, str], int]:
    """Read the attributes of a tag and give the place after it, -1 if the tag never ends."""
    import html

    found: dict[str, str] = {}
    while True:
        match = _ATTRIBUTE.match(page, at)
        if match is None:
            end = page.find(">", at)
            return found, end + 1 if end >= 0 else -1
        key, at = match[1].lower(), match.end()
        value = ""
        if match[2]:
            quote = page[at : at + 1]
            if quote in ('"', "'") and quote:
                end = page.find(quote, at + 1)
                if end < 0:
                    return found, -1
                value, at = page[at + 1 : end], end + 1
            else:
                bare = _UNQUOTED.match(page, at)
                value, at = (bare[0], bare.end()) if bare else ("", at)
        found.setdefault(key, html.unescape(value))
