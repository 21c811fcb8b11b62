"""What an image argument stands for: the table of rkt-cli §4.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rkt.errors import FetchError
from rkt.fetch.address import classify

if TYPE_CHECKING:
    import pathlib


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("sha512-fa1c", "hash", "sha512-fa1c"),
        ("sha512-a", "hash", "sha512-a"),
        ("sha512-xyz", "name", "sha512-xyz"),
        ("/srv/a", "file", "/srv/a"),
        ("/srv/a:b", "file", "/srv/a:b"),
        ("example.com/app:1.0", "name", "example.com/app:1.0"),
        ("example.com/app", "name", "example.com/app"),
        ("example.com/app,os=linux", "name", "example.com/app,os=linux"),
        ("./dir/app", "file", "./dir/app"),
        ("../app", "file", "../app"),
        ("app.aci", "file", "app.aci"),
        ("my-app:v1", "name", "my-app:v1"),
        ("redis:3.0,arch=amd64", "name", "redis:3.0,arch=amd64"),
        ("file:///srv/my%20app.aci", "file", "/srv/my app.aci"),
        ("https://example.com/a.aci", "url", "https://example.com/a.aci"),
        ("HTTPS://example.com/a.aci?x=1", "url", "HTTPS://example.com/a.aci?x=1"),
        ("http://example.com/a.aci", "url", "http://example.com/a.aci"),
        ("docker://busybox", "docker", "docker://busybox"),
        ("docker:busybox", "docker", "docker:busybox"),
        ("cimd:docker:v=0:registry/repo:tag", "docker", "docker://registry/repo:tag"),
        ("cimd:appc:v=0:example.com/app?version=1&os=linux", "name",
         "example.com/app,version=1,os=linux"),
        ("cimd:aci-archive:v=0:https%3A%2F%2Fexample.com%2Fa.aci", "url",
         "https://example.com/a.aci"),
    ],
)  # fmt: skip
def test_kinds(text: str, kind: str, value: str) -> None:
    found = classify(text)
    assert (found.kind, found.text) == (kind, value)


def test_existing_file_of_any_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "directory").mkdir()
    assert classify("plain").kind == "file"
    assert classify("directory").kind == "name"


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/app", "https://example.com/a.aci.gz", "file:///etc/passwd",
        "file://host/a.aci", "cimd:appc:v=1:x", "cimd:appc", "cimd:other:v=0:x",
        "https://[::1/a.aci",
    ],
)  # fmt: skip
def test_not_an_image(text: str) -> None:
    with pytest.raises(FetchError, match="invalid image string"):
        classify(text)
