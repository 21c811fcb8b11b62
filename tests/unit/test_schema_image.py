"""Image manifests: the rules of the spec with the reference's texts, and the written form."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkt.errors import SchemaError
from rkt.schema import codec
from rkt.schema.image import (
    Annotation,
    App,
    EnvVar,
    ImageManifest,
    Label,
    MountPoint,
    Port,
    check_image_manifest,
    decode_image_manifest,
    outline_of,
    whitelist_of,
)

BASE: dict[str, Any] = {
    "acKind": "ImageManifest",
    "acVersion": "0.8.11",
    "name": "example.com/app",
}
APP: dict[str, Any] = {"exec": ["/bin/app"], "user": "0", "group": "0"}


def decode(**changes: Any) -> ImageManifest:
    return decode_image_manifest(json.dumps(BASE | changes).encode())


def decode_app(**changes: Any) -> App:
    app = decode(app=APP | changes).app
    assert app is not None
    return app


def refused(text: str) -> pytest.RaisesExc[SchemaError]:
    return pytest.raises(SchemaError, match=f"^image manifest: {re.escape(text)}$")


# The example of appc spec v0.8.11, aci.md, shortened in its texts only.
SPEC_EXAMPLE = {
    "acKind": "ImageManifest",
    "acVersion": "0.8.11",
    "name": "example.com/reduce-worker",
    "labels": [
        {"name": "version", "value": "1.0.0"},
        {"name": "arch", "value": "amd64"},
        {"name": "os", "value": "linux"},
    ],
    "app": {
        "exec": ["/usr/bin/reduce-worker", "--quiet"],
        "user": "100",
        "group": "300",
        "supplementaryGids": [400, 500],
        "eventHandlers": [
            {"exec": ["/usr/bin/data-downloader"], "name": "pre-start"},
            {"exec": ["/usr/bin/deregister-worker", "--verbose"], "name": "post-stop"},
        ],
        "workingDirectory": "/opt/work",
        "environment": [{"name": "REDUCE_WORKER_DEBUG", "value": "true"}],
        "isolators": [
            {"name": "resource/cpu", "value": {"request": "250m", "limit": "500m"}},
            {"name": "resource/memory", "value": {"limit": "2G"}},
            {
                "name": "os/linux/capabilities-retain-set",
                "value": {"set": ["CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN"]},
            },
        ],
        "mountPoints": [{"name": "work", "path": "/opt/work"}],
        "ports": [
            {"name": "health", "port": 4000, "protocol": "tcp", "socketActivated": True},
            {"name": "ftp", "port": 6000, "protocol": "tcp", "count": 10},
        ],
        "userAnnotations": {"customkey": "customvalue", "Odd Key": ""},
    },
    "dependencies": [
        {
            "imageName": "example.com/reduce-worker-base",
            "imageID": "sha512-aabbcc",
            "labels": [{"name": "os", "value": "linux"}],
            "size": 22017258,
        }
    ],
    "pathWhitelist": ["/etc/ca/example.com/crt", "/usr/bin/map-reduce-worker"],
    "annotations": [
        {"name": "authors", "value": "Carly C <carly@example.com>"},
        {"name": "created", "value": "2014-10-27T19:32:27.67021798Z"},
        {"name": "documentation", "value": "https://example.com/docs"},
        {"name": "homepage", "value": "https://example.com"},
        {"name": "appc.io/executor/supports-systemd-notify", "value": "true"},
    ],
}


def test_example_of_the_spec() -> None:
    manifest = decode_image_manifest(json.dumps(SPEC_EXAMPLE).encode())
    assert manifest.label("arch") == "amd64"
    assert manifest.label("os2") is None
    assert manifest.annotation("homepage") == "https://example.com"
    app = manifest.app
    assert app is not None
    assert app.supplementary_gids == (400, 500)
    assert app.ports[1] == Port("ftp", "tcp", 6000, 10)
    assert app.mount_points == (MountPoint("work", "/opt/work"),)
    assert app.env("REDUCE_WORKER_DEBUG") == "true"
    assert app.env("X") is None
    assert manifest.dependencies[0].image_id == "sha512-aabbcc"
    assert decode_image_manifest(codec.encode(manifest)) == manifest


def test_written_form_has_the_order_and_omissions_of_the_reference() -> None:
    manifest = ImageManifest.create(
        "example.com/app",
        labels=(Label("os", "linux"),),
        app=App(
            user="0",
            group="0",
            ports=(Port("www", "tcp", 80),),
            mount_points=(MountPoint("work", "/w"), MountPoint("ro", "", read_only=True)),
            environment=(EnvVar("A"),),
        ),
        annotations=(Annotation("authors", "x"),),
    )
    assert codec.encode(manifest).decode() == (
        '{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/app",'
        '"labels":[{"name":"os","value":"linux"}],'
        '"app":{"exec":[],"user":"0","group":"0","environment":[{"name":"A","value":""}],'
        '"mountPoints":[{"name":"work","path":"/w"},{"name":"ro","path":"","readOnly":true}],'
        '"ports":[{"name":"www","protocol":"tcp","port":80,"count":1,"socketActivated":false}]},'
        '"annotations":[{"name":"authors","value":"x"}]}'
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"acKind": None}, 'missing or bad ACKind (must be "ImageManifest")'),
        ({"acKind": "PodManifest"}, 'missing or bad ACKind (must be "ImageManifest")'),
        ({"acKind": ""}, "ACKind must be set - at $.acKind"),
        ({"acKind": "Foo"}, "bad ACKind: Foo - at $.acKind"),
        ({"acVersion": None}, "acVersion must be set"),
        ({"acVersion": "0.0.0"}, "SemVer cannot be zero - at $.acVersion"),
        ({"acVersion": "x"}, "SemVer is bad - at $.acVersion"),
        ({"acVersion": 8}, "expected `str`, got `int` - at $.acVersion"),
        ({"name": None}, "name must be set"),
        ({"name": ""}, "ACIdentifier cannot be empty - at $.name"),
        ({"labels": [{"name": "name", "value": "x"}]}, 'invalid label name: "name"'),
        ({"labels": [{"name": "a"}, {"name": "a"}]}, 'duplicate labels of name "a"'),
        (
            {"labels": [{"name": "os", "value": "plan9"}]},
            'bad os "plan9" (must be one of: [darwin freebsd linux])',
        ),
        (
            {"labels": [{"name": "arch", "value": "arm"}, {"name": "os", "value": "linux"}]},
            (
                'bad arch "arm" for linux (must be one of: [amd64 i386 aarch64 aarch64_be armv6l '
                "armv7l armv7b ppc64 ppc64le s390x])"
            ),
        ),
        (
            {"labels": [{"name": "os", "value": "darwin"}, {"name": "arch", "value": "amd64"}]},
            'bad arch "amd64" for darwin (must be one of: [x86_64 i386])',
        ),
        ({"labels": {"os": "linux"}}, "expected `array`, got `object` - at $.labels"),
        ({"annotations": [{"name": "a"}, {"name": "a"}]}, 'duplicate annotations of name "a"'),
        (
            {"annotations": [{"name": "created", "value": "now"}]},
            'annotation "created": bad Date: "now" is not an RFC 3339 date',
        ),
        (
            {"annotations": [{"name": "homepage", "value": "ftp://x"}]},
            'annotation "homepage": bad URL scheme, must be http/https',
        ),
        (
            {"annotations": [{"name": "documentation", "value": "x"}]},
            'annotation "documentation": bad URL scheme, must be http/https',
        ),
        (
            {"annotations": [{"name": "appc.io/executor/supports-systemd-notify", "value": "y"}]},
            (
                'annotation "appc.io/executor/supports-systemd-notify": bad boolean "y" '
                "(must be true or false)"
            ),
        ),
        ({"dependencies": [{}]}, "imageName cannot be empty - at $.dependencies[0]"),
        (
            {"dependencies": [{"imageName": "A"}]},
            (
                'ACIdentifier must contain only lower case alphanumeric characters plus "-._~/" '
                "- at $.dependencies[0].imageName"
            ),
        ),
        (
            {"dependencies": [{"imageName": "a", "imageID": "md5-x"}]},
            "unrecognized hash type: md5 - at $.dependencies[0].imageID",
        ),
        (
            {"dependencies": [{"imageName": "a", "size": -1}]},
            "size must not be negative - at $.dependencies[0]",
        ),
        (
            {"dependencies": [{"imageName": "a", "labels": [{"name": "os", "value": "x"}]}]},
            'bad os "x" (must be one of: [darwin freebsd linux]) - at $.dependencies[0]',
        ),
        ({"pathWhitelist": ["/a\0"]}, "pathWhitelist must not contain a NUL character"),
    ],
)
def test_manifest_refuses(changes: dict[str, Any], error: str) -> None:
    with refused(error):
        decode(**changes)


def test_where_begins_the_message() -> None:
    with pytest.raises(SchemaError, match=r"^/tmp/x\.aci: name must be set$"):
        decode_image_manifest(b'{"acKind":"ImageManifest","acVersion":"0.8.1"}', "/tmp/x.aci")


@pytest.mark.parametrize(
    "labels",
    [
        [{"name": "arch", "value": "anything"}],
        [{"name": "os", "value": "linux"}],
        [{"name": "os", "value": "freebsd"}, {"name": "arch", "value": "arm"}],
        [{"name": "version", "value": ""}],
        [],
        None,
    ],
)
def test_labels_accepts(labels: object) -> None:
    assert len(decode(labels=labels).labels) == len(labels or ())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"user": None}, "user is required"),
        ({"user": ""}, "user is required"),
        ({"group": ""}, "group is required"),
        ({"workingDirectory": "opt"}, "workingDirectory must be an absolute path"),
        ({"workingDirectory": "/a\0b"}, "workingDirectory must not contain a NUL character"),
        ({"exec": ["/a", "b\0c"]}, "exec must not contain a NUL character"),
        (
            {"environment": [{"name": "A"}, {"name": "A"}]},
            'duplicate environment variable of name "A"',
        ),
        (
            {"eventHandlers": [{"name": "pre-start"}, {"name": "pre-start"}]},
            'Only one eventHandler of name "pre-start" allowed',
        ),
        ({"supplementaryGIDs": [-1]}, "supplementaryGIDs must be between 0 and 4294967294"),
        ({"supplementaryGIDs": [2**32 - 1]}, "supplementaryGIDs must be between 0 and 4294967294"),
        (
            {"isolators": [{"name": "os/linux/apparmor-profile", "value": "x"}]},
            'invalid isolator: "os/linux/apparmor-profile" is not known',
        ),
    ],
)
def test_app_refuses(changes: dict[str, Any], error: str) -> None:
    with refused(f"{error} - at $.app"):
        decode_app(**changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"environment": [{"name": "A"}, {"name": ""}]},
            "environment variable name must not be empty - at $.app.environment[1]",
        ),
        (
            {"environment": [{"name": "1A"}]},
            'environment variable does not have valid identifier "1A" - at $.app.environment[0]',
        ),
        (
            {"environment": [{"name": "A=B"}]},
            'environment variable does not have valid identifier "A=B" - at $.app.environment[0]',
        ),
        (
            {"environment": [{"name": "A", "value": "\0"}]},
            'environment variable "A" must not contain a NUL character - at $.app.environment[0]',
        ),
        (
            {"eventHandlers": [{"name": "reload"}]},
            'bad eventHandler "name": "reload" - at $.app.eventHandlers[0]',
        ),
        (
            {"eventHandlers": [{"exec": []}]},
            'eventHandler "name" cannot be empty - at $.app.eventHandlers[0]',
        ),
        (
            {"mountPoints": [{"name": "A", "path": "/"}]},
            (
                'ACName must contain only lower case alphanumeric characters plus "-" '
                "- at $.app.mountPoints[0].name"
            ),
        ),
        (
            {"mountPoints": [{"name": "", "path": "/"}]},
            "ACName cannot be empty - at $.app.mountPoints[0].name",
        ),
        ({"ports": [{"name": "a"}]}, "port must be in 1-65535 range - at $.app.ports[0]"),
        (
            {"ports": [{"name": "a", "port": 65536}]},
            "port must be in 1-65535 range - at $.app.ports[0]",
        ),
        (
            {"ports": [{"name": "a", "port": 65535, "count": 2}]},
            "end of port range must be in 1-65535 range - at $.app.ports[0]",
        ),
        (
            {"ports": [{"name": "a", "port": 1, "count": -1}]},
            "end of port range must be in 1-65535 range - at $.app.ports[0]",
        ),
        ({"exec": "/bin/sh"}, "expected `array`, got `str` - at $.app.exec"),
        ({"exec": ["a", 1]}, "expected `str`, got `int` - at $.app.exec[1]"),
    ],
)
def test_app_refuses_inner_values(changes: dict[str, Any], error: str) -> None:
    with refused(error):
        decode_app(**changes)


def test_app_accepts_null_for_every_list() -> None:
    nothing = dict.fromkeys(
        (
            "exec",
            "eventHandlers",
            "supplementaryGIDs",
            "environment",
            "mountPoints",
            "ports",
            "isolators",
            "userAnnotations",
            "userLabels",
            "workingDirectory",
        )
    )
    assert decode_app(**nothing) == App(user="0", group="0")
    assert decode(app=None, labels=None, annotations=None, dependencies=None).app is None


def test_app_accepts_what_the_spec_allows() -> None:
    app = decode_app(
        environment=[{"name": "a.b-c_D", "value": "x=y"}],
        ports=[{"name": "p", "port": 65535, "count": 0}],
        eventHandlers=[{"name": "post-stop", "exec": ["/x"]}, {"name": "pre-start"}],
    )
    assert app.ports[0].count == 1
    assert app.environment == (EnvVar("a.b-c_D", "x=y"),)


def test_all_forms_of_supplementary_gids() -> None:
    for key in ("supplementaryGIDs", "supplementaryGids", "supplementarygids"):
        app = decode_app(**{key: [7]})
        assert app.supplementary_gids == (7,)
        assert b'"supplementaryGIDs":[7]' in codec.encode(app)


def test_user_keys_are_not_folded() -> None:
    app = decode_app(userLabels={"NAME": "a", "Path": "b"})
    assert app.user_labels == {"NAME": "a", "Path": "b"}


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
NAMES = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True)


@given(
    st.lists(TEXT, max_size=4),
    st.lists(st.tuples(NAMES, TEXT), unique_by=lambda pair: pair[0], max_size=4),
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.lists(st.integers(0, 2**32 - 2), max_size=3),
)
def test_what_is_written_is_read_back(
    words: list[str], pairs: list[tuple[str, str]], labels: dict[str, str], gids: list[int]
) -> None:
    manifest = ImageManifest.create(
        "a",
        app=App(
            exec=tuple(words),
            user="u",
            group="g",
            supplementary_gids=tuple(gids),
            environment=tuple(EnvVar(f"E{name}", value) for name, value in pairs),
            user_labels=labels,
        ),
        annotations=tuple(Annotation(f"x/{name}", value) for name, value in pairs),
    )
    assert decode_image_manifest(codec.encode(manifest)) == manifest
    assert decode_image_manifest(codec.encode_pretty(manifest)) == manifest


@pytest.mark.parametrize("separators", [(",", ":"), (" ,\n ", " : ")])
def test_a_long_whitelist_is_read_in_pieces(separators: tuple[str, str]) -> None:
    paths = [f'/dev/pci:{n}:00:1f.3/","/quoted\\{n}é' for n in range(60_000)]
    document = {
        "acKind": "ImageManifest", "pathWhitelist": paths, "acVersion": "0.8.11", "name": "a",
        "labels": [{"name": "version", "value": "1"}],
    }  # fmt: skip
    data = json.dumps(document, separators=separators, ensure_ascii=False).encode()
    assert data.count(b":") > 180_000
    assert decode_image_manifest(data).path_whitelist == tuple(paths)
    assert list(whitelist_of(data)) == paths
    outline = outline_of(data)
    assert (outline.has_whitelist, outline.manifest.path_whitelist) == (True, ())
    assert outline.manifest == check_image_manifest(data)
    assert outline.manifest.label("version") == "1"


@pytest.mark.parametrize("whitelist", ["[]", " [ ] ", "null"])
def test_a_long_manifest_may_have_no_whitelist(whitelist: str) -> None:
    head = '{"acKind":"ImageManifest","acVersion":"0.8.11","name":"a"'
    data = f'{head},"PathWhitelist":{whitelist},"more":"{"x" * 300_000}"}}'.encode()
    assert not outline_of(data).has_whitelist
    assert list(whitelist_of(data)) == []
    assert check_image_manifest(data) == decode_image_manifest(data) == outline_of(data).manifest
