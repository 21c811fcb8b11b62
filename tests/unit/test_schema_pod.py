"""Pod manifests: rules, defaults of volumes, and the written form."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from rkt.errors import SchemaError
from rkt.schema import codec
from rkt.schema.image import Annotation, App
from rkt.schema.isolators import Isolator
from rkt.schema.pod import (
    ExposedPort,
    Mount,
    PodManifest,
    RuntimeApp,
    RuntimeImage,
    Volume,
    decode_pod_manifest,
    is_ipv4,
)

BASE: dict[str, Any] = {"acKind": "PodManifest", "acVersion": "0.8.11", "apps": []}
IMAGE = {"id": "sha512-aa"}


def decode(**changes: Any) -> PodManifest:
    return decode_pod_manifest(json.dumps(BASE | changes).encode())


def volume(**fields: Any) -> Volume:
    return decode(volumes=[{"name": "work"} | fields]).volumes[0]


def refused(text: str) -> pytest.RaisesExc[SchemaError]:
    return pytest.raises(SchemaError, match=f"^pod manifest: {re.escape(text)}$")


def test_written_form_is_that_of_the_reference() -> None:
    pod = PodManifest.create((RuntimeApp("a", RuntimeImage("example.com/a", "sha512-aa")),))
    assert codec.encode(pod) == (
        b'{"acVersion":"0.8.11","acKind":"PodManifest",'
        b'"apps":[{"name":"a","image":{"name":"example.com/a","id":"sha512-aa"}}],'
        b'"volumes":null,"isolators":null,"annotations":null,"ports":null}'
    )
    assert decode_pod_manifest(codec.encode(pod)) == pod


def test_full_manifest_is_read_back() -> None:
    pod = PodManifest.create(
        (
            RuntimeApp(
                "a",
                RuntimeImage(id="sha512-aa"),
                app=App(exec=("/a",), user="0", group="0"),
                read_only_root_fs=True,
                mounts=(Mount("work", "/w", Volume("own", "empty")), Mount("work", "/x")),
                annotations=(Annotation("x", "1"),),
            ),
        ),
        volumes=(Volume("work", "host", "/srv", read_only=True), Volume("tmp", "empty")),
        isolators=(Isolator("resource/memory", {"limit": "1G"}), Isolator("vendor/x", [1])),
        annotations=(Annotation("coreos.com/rkt/stage1/mutable", "false"),),
        ports=(ExposedPort("www", 8080, "127.0.0.1"), ExposedPort("x", 0)),
        user_labels={"Name": "x"},
    )
    data = codec.encode(pod)
    assert decode_pod_manifest(data) == pod
    wire = json.loads(data)
    assert list(wire) == [
        "acVersion",
        "acKind",
        "apps",
        "volumes",
        "isolators",
        "annotations",
        "ports",
        "userLabels",
    ]
    assert wire["apps"][0]["readOnlyRootFS"] is True
    assert wire["volumes"][0] == {
        "name": "work",
        "kind": "host",
        "source": "/srv",
        "readOnly": True,
    }
    assert wire["ports"][1] == {"name": "x", "hostPort": 0}
    app = pod.app("a")
    assert app is not None
    assert app.annotation("x") == "1"
    assert app.annotation("y") is None
    assert pod.app("b") is None
    assert pod.volume("tmp") == pod.volumes[1]
    assert pod.annotation("coreos.com/rkt/stage1/mutable") == "false"


def test_decimal_numbers_in_isolators_are_kept() -> None:
    pod = decode_pod_manifest(
        b'{"acKind":"PodManifest","acVersion":"0.8.11","isolators":'
        b'[{"name":"resource/cpu","value":{"limit":1.50}}]}'
    )
    assert b'"limit":1.50}' in codec.encode(pod)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"acKind": "ImageManifest"}, 'missing or bad ACKind (must be "PodManifest")'),
        ({"acKind": None}, 'missing or bad ACKind (must be "PodManifest")'),
        ({"acVersion": None}, "acVersion must be set"),
        (
            {"apps": [{"name": "a", "image": IMAGE}, {"name": "a", "image": IMAGE}]},
            'duplicate apps of name "a"',
        ),
        (
            {"volumes": [{"name": "v", "kind": "empty"}, {"name": "v", "kind": "empty"}]},
            'duplicate volume name "v"',
        ),
        ({"annotations": [{"name": "a"}, {"name": "a"}]}, 'duplicate annotations of name "a"'),
        (
            {"apps": [{"name": "A", "image": IMAGE}]},
            (
                'ACName must contain only lower case alphanumeric characters plus "-" '
                "- at $.apps[0].name"
            ),
        ),
        ({"apps": [{"name": "a"}]}, "object missing required field `image` - at $.apps[0]"),
        ({"apps": [{"name": "a", "image": {}}]}, "id must be set - at $.apps[0].image"),
        (
            {"apps": [{"name": "a", "image": {"id": "x"}}]},
            "badly formatted hash string - at $.apps[0].image.id",
        ),
        (
            {"apps": [{"name": "a", "image": IMAGE, "app": {}}]},
            "user is required - at $.apps[0].app",
        ),
        (
            {"apps": [{"name": "a", "image": IMAGE, "mounts": [{"path": "/x"}]}]},
            "volume must be set - at $.apps[0].mounts[0]",
        ),
        (
            {"apps": [{"name": "a", "image": IMAGE, "mounts": [{"volume": "v"}]}]},
            "path must be set - at $.apps[0].mounts[0]",
        ),
        (
            {"ports": [{"name": "www", "hostPort": 65536}]},
            "hostPort must be in 1-65535 range - at $.ports[0]",
        ),
        (
            {"ports": [{"name": "www", "hostPort": 80, "hostIP": "::g"}]},
            'hostIP: "::g" is not a valid IP - at $.ports[0]',
        ),
        (
            {"ports": [{"name": "www", "hostPort": 80, "podPort": {"name": "x"}}]},
            "port must be in 1-65535 range - at $.ports[0].podPort",
        ),
        (
            {"isolators": [{"name": "os/linux/cpu-shares", "value": 1}]},
            "os/linux/cpu-shares must be between 2 and 262144, got 1 - at $.isolators[0]",
        ),
    ],
)
def test_manifest_refuses(changes: dict[str, Any], error: str) -> None:
    with refused(error):
        decode(**changes)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"name": None, "kind": "empty"}, "name must be set"),
        ({"kind": "nfs"}, 'unrecognized volume kind: should be one of "empty", "host"'),
        ({}, 'unrecognized volume kind: should be one of "empty", "host"'),
        ({"kind": "host"}, "source for host volume cannot be empty"),
        ({"kind": "host", "source": "x"}, "source for host volume must be absolute path"),
        (
            {"kind": "host", "source": "/\0"},
            "source for host volume must not contain a NUL character",
        ),
        ({"kind": "empty", "source": "/x"}, "source for empty volume must be empty"),
        ({"kind": "host", "source": "/", "mode": "1"}, "mode for host volume cannot be set"),
        ({"kind": "host", "source": "/", "uid": 0}, "uid for host volume cannot be set"),
        ({"kind": "host", "source": "/", "gid": 0}, "gid for host volume cannot be set"),
        ({"kind": "empty", "mode": "9"}, 'mode for empty volume must be an octal number, got "9"'),
        ({"kind": "empty", "mode": ""}, 'mode for empty volume must be an octal number, got ""'),
        (
            {"kind": "empty", "mode": "77777"},
            'mode for empty volume must be an octal number, got "77777"',
        ),
        ({"kind": "empty", "uid": -1}, "uid for empty volume must be between 0 and 4294967294"),
    ],
)
def test_volume_refuses(fields: dict[str, Any], error: str) -> None:
    with refused(f"{error} - at $.volumes[0]"):
        volume(**fields)


def test_volume_defaults() -> None:
    assert volume(kind="empty") == Volume("work", "empty", mode="0755", uid=0, gid=0)
    assert volume(kind="empty", mode="1777", uid=5).gid == 0
    host = volume(kind="host", source="/srv", readOnly=None)
    assert (host.read_only, host.recursive, host.mode, host.uid) == (None, None, None, None)


def test_old_manifests_with_null_lists_load() -> None:
    pod = decode(apps=None, volumes=None, isolators=None, annotations=None, ports=None)
    assert pod == PodManifest.create(())


def test_ipv4() -> None:
    for text in ("0.0.0.0", "255.255.255.255", "10.1.2.30"):
        assert is_ipv4(text)
    for text in ("", "1.2.3", "1.2.3.4.", "1.2.3.256", "01.2.3.4", "1.2.3.4\n", "a.b.c.d", "::1"):
        assert not is_ipv4(text)
