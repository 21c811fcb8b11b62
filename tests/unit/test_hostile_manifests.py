"""Image manifests that must not get into the store, each with the line that it earns."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from rkt.errors import RktError, describe
from rkt.image.ingest import ingest
from rkt.store.images import Store
from rkt.store.records import VERIFIED, Verification
from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from pathlib import Path

BASE: dict[str, Any] = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"}
APP: dict[str, Any] = {"exec": ["/bin/app"], "user": "0", "group": "0"}


BEGIN = "image manifest validation failed: image manifest: "
"""What the lines begin with, unless they are marked with `!`."""


def manifest(**changes: Any) -> bytes:
    return json.dumps({**BASE, **changes}).encode()


def app(**changes: Any) -> bytes:
    return manifest(app={**APP, **changes})


def isolator(name: str, value: Any) -> bytes:
    return app(isolators=[{"name": name, "value": value}])


CHARS = 'ACIdentifier must contain only lower case alphanumeric characters plus "-._~/"'
ENDS = "ACIdentifier must start and end with only lower case alphanumeric characters"

MANIFESTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "error at line 1, column 1: unexpected end of JSON input"),
    "null": (b"null", "expected `object`, got `null`"),
    "list": (b"[]", "expected `object`, got `array`"),
    "text": (b'"manifest"', "expected `object`, got `str`"),
    "number": (b"1e999", "expected `object`, got `float`"),
    "two documents": (manifest() + manifest(), "error at line 1, column 78: trailing characters"),
    "cut": (manifest()[:-1], "error at line 1, column 77: unexpected end of JSON input"),
    "trailing comma": (
        manifest()[:-1] + b",}",
        "error at line 1, column 78: trailing comma in object",
    ),
    "comment": (b"/* x */" + manifest(), "error at line 1, column 1: invalid character"),
    "byte order mark": (
        b"\xef\xbb\xbf" + manifest(),
        "error at line 1, column 1: invalid character",
    ),
    "utf-16": (
        manifest().decode().encode("utf-16"),
        "error at line 1, column 1: invalid character",
    ),
    "not utf-8": (
        manifest().replace(b"app", b"\xff\xfe"),
        "error at line 1, column 73: text is not UTF-8",
    ),
    "nul bytes": (manifest() + b"\0\0", "error at line 1, column 78: trailing characters"),
    "lone surrogate": (
        manifest(name="example.com/app").replace(b"app", b"\\ud800"),
        "error at line 1, column 81: unexpected end of JSON input",
    ),
    "deep lists": (b"[" * 100_000, "document is nested too deeply"),
    "deep objects": (b'{"a":' * 100_000, "document is nested too deeply"),
    "deep in a known place": (b'{"acKind":' + b"[" * 50_000, "document is nested too deeply"),
    "kind of a pod": (
        manifest(acKind="PodManifest"),
        'missing or bad ACKind (must be "ImageManifest")',
    ),
    "kind is a number": (manifest(acKind=7), "expected `str`, got `int` - at $.acKind"),
    "no kind": (
        json.dumps({"acVersion": "0.8.11", "name": "a"}).encode(),
        'missing or bad ACKind (must be "ImageManifest")',
    ),
    "no version": (
        json.dumps({"acKind": "ImageManifest", "name": "a"}).encode(),
        "acVersion must be set",
    ),
    "no name": (
        json.dumps({"acKind": "ImageManifest", "acVersion": "0.8.11"}).encode(),
        "name must be set",
    ),
    "version is no version": (manifest(acVersion="latest"), "SemVer is bad - at $.acVersion"),
    "version of the future": (
        manifest(acVersion="1.0.0"),
        "!ACVersion too old. Found major version 1, expected 0",
    ),
    "huge version": (manifest(acVersion="0." + "9" * 400 + ".1"), "SemVer is bad - at $.acVersion"),
    "empty name": (manifest(name=""), "ACIdentifier cannot be empty - at $.name"),
    "name with capitals": (manifest(name="Example.com/App"), CHARS + " - at $.name"),
    "name that climbs": (manifest(name="../../etc/passwd"), ENDS + " - at $.name"),
    "absolute name": (manifest(name="/etc/passwd"), ENDS + " - at $.name"),
    "name with a newline": (
        manifest(name="example.com/app\nrkt: signature verified:"),
        CHARS + " - at $.name",
    ),
    "name with escapes": (manifest(name="example.com/\x1b[31mapp"), CHARS + " - at $.name"),
    "label twice": (
        manifest(labels=[{"name": "x", "value": "1"}, {"name": "x", "value": "2"}]),
        'duplicate labels of name "x"',
    ),
    "label called name": (
        manifest(labels=[{"name": "name", "value": "x"}]),
        'invalid label name: "name"',
    ),
    "label with a bad name": (
        manifest(labels=[{"name": "A b", "value": "x"}]),
        CHARS + " - at $.labels[0].name",
    ),
    "label without a name": (
        manifest(labels=[{"value": "x"}]),
        "object missing required field `name` - at $.labels[0]",
    ),
    "label value is a list": (
        manifest(labels=[{"name": "x", "value": ["y"]}]),
        "expected `str`, got `array` - at $.labels[0].value",
    ),
    "unknown system": (
        manifest(labels=[{"name": "os", "value": "plan9"}]),
        'bad os "plan9" (must be one of: [darwin freebsd linux])',
    ),
    "unknown machine": (
        manifest(labels=[{"name": "os", "value": "linux"}, {"name": "arch", "value": "pdp11"}]),
        (
            'bad arch "pdp11" for linux (must be one of: [amd64 i386 aarch64 aarch64_be '
            "armv6l armv7l armv7b ppc64 ppc64le s390x])"
        ),
    ),
    "labels are an object": (
        manifest(labels={"os": "linux"}),
        "expected `array`, got `object` - at $.labels",
    ),
    "app is a list": (manifest(app=[]), "expected `object | null`, got `array` - at $.app"),
    "exec is a text": (app(exec="/bin/app"), "expected `array`, got `str` - at $.app.exec"),
    "no user": (manifest(app={"exec": ["/bin/app"], "group": "0"}), "user is required - at $.app"),
    "no group": (manifest(app={"exec": ["/bin/app"], "user": "0"}), "group is required - at $.app"),
    "relative directory": (
        app(workingDirectory="tmp"),
        "workingDirectory must be an absolute path - at $.app",
    ),
    "group number too large": (
        app(supplementaryGIDs=[1 << 40]),
        "supplementaryGIDs must be between 0 and 4294967294 - at $.app",
    ),
    "negative group number": (
        app(supplementaryGIDs=[-1]),
        "supplementaryGIDs must be between 0 and 4294967294 - at $.app",
    ),
    "nul in exec": (
        app(exec=["/bin/app\0--evil"]),
        "exec must not contain a NUL character - at $.app",
    ),
    "nul in the environment": (
        app(environment=[{"name": "A", "value": "x\0y"}]),
        'environment variable "A" must not contain a NUL character - at $.app.environment[0]',
    ),
    "variable without a name": (
        app(environment=[{"name": "", "value": "x"}]),
        "environment variable name must not be empty - at $.app.environment[0]",
    ),
    "variable with an equals sign": (
        app(environment=[{"name": "A=B", "value": "x"}]),
        'environment variable does not have valid identifier "A=B" - at $.app.environment[0]',
    ),
    "mount point with a bad name": (
        app(mountPoints=[{"name": "a b", "path": "/x"}]),
        (
            'ACName must contain only lower case alphanumeric characters plus "-" - at '
            "$.app.mountPoints[0].name"
        ),
    ),
    "port 0": (
        app(ports=[{"name": "a", "protocol": "tcp", "port": 0}]),
        "port must be in 1-65535 range - at $.app.ports[0]",
    ),
    "port 65536": (
        app(ports=[{"name": "a", "protocol": "tcp", "port": 65536}]),
        "port must be in 1-65535 range - at $.app.ports[0]",
    ),
    "range of ports that ends nowhere": (
        app(ports=[{"name": "a", "protocol": "tcp", "port": 65000, "count": 1000}]),
        "end of port range must be in 1-65535 range - at $.app.ports[0]",
    ),
    "port is a text": (
        app(ports=[{"name": "a", "protocol": "tcp", "port": "80"}]),
        "expected `int`, got `str` - at $.app.ports[0].port",
    ),
    "unknown handler": (
        app(eventHandlers=[{"name": "boom", "exec": ["/x"]}]),
        'bad eventHandler "name": "boom" - at $.app.eventHandlers[0]',
    ),
    "memory is a word": (
        isolator("resource/memory", {"limit": "lots"}),
        (
            "resource/memory: limit: quantities must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$' - at $.app.isolators[0]"
        ),
    ),
    "memory is negative": (
        isolator("resource/memory", {"limit": "-1G"}),
        "resource/memory: limit: quantity must not be negative - at $.app.isolators[0]",
    ),
    "endless quantity": (
        isolator("resource/cpu", {"limit": "9" * 5000}),
        "resource/cpu: limit: unable to parse numeric part of quantity - at $.app.isolators[0]",
    ),
    "empty filter of system calls": (
        isolator("os/linux/seccomp-retain-set", {"set": []}),
        "os/linux/seccomp-retain-set: set must be non-empty - at $.app.isolators[0]",
    ),
    "value of an isolator is a list": (
        isolator("resource/memory", [1]),
        "resource/memory: expected `object`, got `array` - at $.app.isolators[0]",
    ),
    "dependency without a name": (
        manifest(dependencies=[{"imageID": "sha512-" + "0" * 64}]),
        "imageName cannot be empty - at $.dependencies[0]",
    ),
    "dependency with a bad ID": (
        manifest(dependencies=[{"imageName": "a", "imageID": "md5-00"}]),
        "unrecognized hash type: md5 - at $.dependencies[0].imageID",
    ),
    "dependency with a short ID": (
        manifest(dependencies=[{"imageName": "a", "imageID": "sha512-"}]),
        "unexpected empty hash value - at $.dependencies[0].imageID",
    ),
    "dependency of negative size": (
        manifest(dependencies=[{"imageName": "a", "size": -1}]),
        "size must not be negative - at $.dependencies[0]",
    ),
    "dependency that climbs": (
        manifest(dependencies=[{"imageName": "../a"}]),
        ENDS + " - at $.dependencies[0].imageName",
    ),
    "whitelist is an object": (
        manifest(pathWhitelist={"/a": 1}),
        "expected `array`, got `object` - at $.pathWhitelist",
    ),
    "whitelist is a long object": (
        manifest(pathWhitelist={f"/a{number}": 1 for number in range(50_000)}),
        "pathWhitelist: expected `array`, got `object`",
    ),
    "long whitelist with a number": (
        manifest(pathWhitelist=["/usr/share/name"] * 50_000 + [1]),
        "pathWhitelist[50000]: expected `str`, got `int`",
    ),
    "long whitelist with a NUL": (
        manifest(pathWhitelist=["/usr/share/name"] * 50_000 + ["/a\0b"]),
        "pathWhitelist must not contain a NUL character",
    ),
    "many values that nobody knows": (
        b'{"x":[' + b"[]," * 5_000_000 + b"[]]}",
        "document of more than 400000 values",
    ),
    "many keys that nobody knows": (
        b"{" + b",".join(b'"%d":1' % number for number in range(500_000)) + b"}",
        "document of more than 400000 values",
    ),
    "annotation twice": (
        manifest(annotations=[{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]),
        'duplicate annotations of name "a"',
    ),
    "annotation with a bad date": (
        manifest(annotations=[{"name": "created", "value": "yesterday"}]),
        'annotation "created": bad Date: "yesterday" is not an RFC 3339 date',
    ),
    "annotation with a bad address": (
        manifest(annotations=[{"name": "homepage", "value": "ftp://x"}]),
        'annotation "homepage": bad URL scheme, must be http/https',
    ),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_hostile_manifests(tmp_path: Path, case: str) -> None:
    data, text = MANIFESTS[case]
    builder = AciBuilder("example.com/app")
    builder.raw_manifest = data
    path = builder.build(f"{tmp_path}/x.aci").path
    store = Store(f"{tmp_path}/data")
    with pytest.raises(RktError) as caught:
        ingest(store, path, source=path, verification=Verification(VERIFIED))
    line = describe(caught.value)
    assert line == (text[1:] if text.startswith("!") else BEGIN + text)
    assert line.isprintable()
    assert len(line) < 600
    assert store.list() == []
    for kind in ("tmp", "tree", "split", "blob", "sig", "manifest", "trust", "imagelocks"):
        assert os.listdir(f"{store.path}/{kind}") == [], kind
    store.close()
