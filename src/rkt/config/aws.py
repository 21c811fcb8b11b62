"""AWS signatures, version 4, for GET requests to S3.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult

_EMPTY = hashlib.sha256(b"").hexdigest()
_REGION = re.compile(r"(?:^|\.)s3[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-[0-9]+)\.")
_SERVICE = "s3"
DEFAULT_REGION = "us-east-1"


class Key:
    """An access key and where it is used."""

    __slots__ = ("access", "region", "secret")

    def __init__(self, access: str, secret: str, region: str = DEFAULT_REGION) -> None:
        self.access = access
        self.secret = secret
        self.region = region

    def __repr__(self) -> str:
        return f"Key({self.access!r}, ****, {self.region!r})"


def guess_region(host: str) -> str:
    """Read the region out of a host name such as `s3-eu-west-1.amazonaws.com`."""
    found = _REGION.search(host.partition(":")[0])
    return found[1] if found else DEFAULT_REGION


def sign(
    key: Key, url: str, now: time.struct_time, headers: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Give the headers that a GET of a URL needs; `headers` are further ones to be signed."""
    parts = urlsplit(url)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", now)
    signed = {
        "host": _host(parts),
        "x-amz-content-sha256": _EMPTY,
        "x-amz-date": stamp,
        **{name.lower(): value.strip() for name, value in (headers or {}).items()},
    }
    names = ";".join(sorted(signed))
    request = "\n".join((
        "GET",
        quote(unquote(parts.path), safe="/-._~") or "/",
        _query(parts.query),
        "".join(f"{name}:{signed[name]}\n" for name in sorted(signed)),
        names,
        _EMPTY,
    ))  # fmt: skip
    scope = f"{stamp[:8]}/{key.region}/{_SERVICE}/aws4_request"
    text = "\n".join(
        ("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest())
    )
    secret = f"AWS4{key.secret}".encode()
    for word in (stamp[:8], key.region, _SERVICE, "aws4_request"):
        secret = hmac.digest(secret, word.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    return {
        "x-amz-content-sha256": _EMPTY,
        "x-amz-date": stamp,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={key.access}/{scope},"
        f"SignedHeaders={names},Signature={signature}",
    }


def _host(parts: SplitResult) -> str:
    """Give the header `Host` as the client sends it: in lower case, without the usual port."""
    host = parts.netloc.rpartition("@")[2].lower()
    port = {"http": ":80", "https": ":443"}[parts.scheme]
    return host.removesuffix(port).removesuffix(":")


def _query(text: str) -> str:
    pairs = []
    for item in text.split("&") if text else []:
        name, _, value = item.partition("=")
        pairs.append((quote(unquote(name), safe="-._~"), quote(unquote(value), safe="-._~")))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
