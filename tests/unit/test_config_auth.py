"""Credentials: rkt's own files in three layers, those of docker and podman, AWS signatures."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING

import pytest

from rkt.config import aws
from rkt.config.auth import Credentials
from rkt.errors import ConfigError

if TYPE_CHECKING:
    import pathlib

BASIC = {
    "rktKind": "auth", "rktVersion": "v1", "domains": ["example.com", "host:8080"],
    "type": "basic", "credentials": {"user": "u", "password": "p"},
}  # fmt: skip
DOCKER = {
    "rktKind": "dockerAuth", "rktVersion": "v1", "registries": ["index.docker.io", "quay.io"],
    "credentials": {"user": "u", "password": "p"},
}  # fmt: skip


def put(layer: pathlib.Path, name: str, document: object, *, mode: int = 0o600) -> pathlib.Path:
    """Write a configuration file."""
    folder = layer / "auth.d"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    path.chmod(mode)
    return path


def failure(layer: pathlib.Path) -> str:
    """Give the text of the failure to read a layer, without its beginning and the path."""
    with pytest.raises(ConfigError) as caught:
        Credentials([str(layer)], {}).headers("https://example.com/")
    return caught.value.message.removeprefix("cannot get configuration: ").replace(
        f"{layer}/auth.d", "D"
    )


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_basic_and_oauth_for_exactly_their_domains(tmp_path: pathlib.Path) -> None:
    put(tmp_path, "a.json", BASIC)
    token = {**BASIC, "type": "oauth", "domains": ["t.example.com"], "credentials": {"token": "x"}}
    put(tmp_path, "b.json", token)
    found = Credentials([str(tmp_path)], {})
    header = {"Authorization": "Basic " + encoded("u:p")}
    assert found.headers("https://example.com/a.aci") == header
    assert found.headers("https://host:8080/a.aci") == header
    assert found.headers("https://t.example.com/") == {"Authorization": "Bearer x"}
    for url in ("https://host/", "https://example.com:8443/", "https://a.example.com/",
                "https://xexample.com/", "https://example.com.evil.org/"):  # fmt: skip
        assert found.headers(url) == {}


def test_later_layers_override(tmp_path: pathlib.Path) -> None:
    layers = [tmp_path / name for name in ("system", "local", "user")]
    for number, layer in enumerate(layers):
        put(layer, "a.json", {**BASIC, "domains": [f"{n}.org" for n in range(number, 3)],
                              "credentials": {"user": str(number), "password": "p"}})  # fmt: skip
        put(layer, "d.json", {**DOCKER, "registries": [f"{n}.org" for n in range(number, 3)],
                              "credentials": {"user": str(number), "password": "p"}})  # fmt: skip
    found = Credentials([*map(str, layers), "", str(tmp_path / "missing")], {})
    for number in range(3):
        header = found.headers(f"https://{number}.org/")["Authorization"]
        assert header == "Basic " + encoded(f"{number}:p")
        login = found.registry(f"{number}.org", "x")
        assert login is not None and login.user == str(number)


def test_docker_hub_has_several_names(tmp_path: pathlib.Path) -> None:
    put(tmp_path, "a.json", DOCKER)
    found = Credentials([str(tmp_path)], {})
    login = found.registry("registry-1.docker.io", "library/busybox")
    assert login is not None
    assert login.header() == "Basic " + encoded("u:p")
    assert "p" not in repr(login.password)
    assert found.registry("example.com", "x") is None


@pytest.mark.parametrize(("change", "expected"), [
    ({"rktKind": ""}, 'no rktKind specified in "D/a.json"'),
    ({"rktVersion": ""}, 'no rktVersion specified in "D/a.json"'),
    ({"rktKind": "paths"},
     ('the configuration directory "D" expects to have configuration files of kinds "auth", '
      '"dockerAuth", but "D/a.json" has kind of "paths"')),
    ({"rktKind": "x"}, 'no parser available for configuration of kind "x" in "D/a.json"'),
    ({"rktVersion": "v2"},
     'no parser available for configuration of kind "auth" and version "v2" in "D/a.json"'),
    ({"domains": []}, 'failed to parse "D/a.json": no domains specified'),
    ({"type": ""}, 'failed to parse "D/a.json": no auth type specified'),
    ({"type": "x"}, 'failed to parse "D/a.json": unknown auth type: "x"'),
    ({"credentials": {}}, 'failed to parse "D/a.json": user not specified'),
    ({"credentials": {"user": "u"}}, 'failed to parse "D/a.json": password not specified'),
    ({"type": "oauth"}, 'failed to parse "D/a.json": no oauth bearer token specified'),
    ({"type": "aws"}, 'failed to parse "D/a.json": no AWS Access Key ID specified'),
    ({"type": "aws", "credentials": {"accessKeyID": "a"}},
     'failed to parse "D/a.json": no AWS Secret Access Key specified'),
    ({"domains": ["a", "a"]},
     'failed to parse "D/a.json": auth for domain "a" is already specified'),
    ({"domains": "a"},
     'failed to parse "D/a.json": expected `array | null`, got `str` - at $.domains'),
])  # fmt: skip
def test_bad_auth(tmp_path: pathlib.Path, change: dict[str, object], expected: str) -> None:
    put(tmp_path, "a.json", {**BASIC, **change})
    assert failure(tmp_path) == expected


@pytest.mark.parametrize(("change", "expected"), [
    ({"registries": []}, "no registries specified"),
    ({"credentials": None}, "no credentials"),
    ({"credentials": {}}, "user not specified"),
    ({"credentials": {"user": "u"}}, "password not specified"),
    ({"registries": ["r", "r"]}, 'credentials for docker registry "r" are already specified'),
])  # fmt: skip
def test_bad_docker_auth(tmp_path: pathlib.Path, change: dict[str, object], expected: str) -> None:
    put(tmp_path, "a.json", {**DOCKER, **change})
    assert failure(tmp_path) == f'failed to parse "D/a.json": {expected}'


def test_the_same_domain_in_two_files_of_a_directory(tmp_path: pathlib.Path) -> None:
    put(tmp_path, "a.json", BASIC)
    put(tmp_path, "b.json", {**BASIC, "domains": ["example.com"]})
    text = 'failed to parse "D/b.json": auth for domain "example.com" is already specified'
    assert failure(tmp_path) == text


def test_files_that_do_not_count(tmp_path: pathlib.Path) -> None:
    path = put(tmp_path, "a.txt", "nonsense")
    (path.parent / "link.json").symlink_to(path)
    (path.parent / "folder.json").mkdir()
    assert Credentials([str(tmp_path)], {}).headers("https://example.com/") == {}
    put(tmp_path, "c.json", "{")
    assert failure(tmp_path) == (
        'failed to parse "D/c.json": error at line 1, column 2: unexpected end of JSON input'
    )


def test_a_directory_that_is_none(tmp_path: pathlib.Path) -> None:
    (tmp_path / "auth.d").write_text("")
    assert failure(tmp_path) == 'expected "D" to be a directory'


def test_open_files_are_told(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path, "a.json", BASIC, mode=0o644)
    put(tmp_path, "b.json", DOCKER, mode=0o640)
    Credentials([str(tmp_path)], {}).headers("https://example.com/")
    assert capsys.readouterr().err == (
        f'rkt: warning: "{path}" holds credentials and others can read it; run: chmod o= {path}\n'
    )


# --- docker's and podman's files ---------------------------------------------------------------


def user_file(path: pathlib.Path, auths: dict[str, object], **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": auths, **more}))
    path.chmod(0o600)


def test_files_of_docker_and_podman(tmp_path: pathlib.Path) -> None:
    docker, podman = tmp_path / ".docker/config.json", tmp_path / "run/containers/auth.json"
    user_file(docker, {
        "https://index.docker.io/v1/": {"auth": encoded("hub:secret")},
        "quay.io": {"auth": encoded("q:docker")},
        "empty.org": {}, "bad.org": {"auth": "%"}, "plain.org": {"username": "a", "password": "b"},
    })  # fmt: skip
    user_file(podman, {
        "quay.io": {"auth": encoded("q:podman")},
        "quay.io/team/app": {"auth": encoded("team:x:y")},
    })  # fmt: skip
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    found = Credentials([], env)

    def login(host: str, repository: str = "x/y") -> str | None:
        one = found.registry(host, repository)
        return f"{one.user}:{one.password.reveal}" if one is not None else None

    assert login("registry-1.docker.io") == "hub:secret"
    assert login("quay.io") == "q:podman"
    assert login("quay.io", "team/app") == "team:x:y"
    assert login("quay.io", "team/application") == "q:podman"
    assert login("plain.org") == "a:b"
    assert [login(host) for host in ("empty.org", "bad.org", "none.org")] == [None] * 3
    put(tmp_path, "a.json", DOCKER)
    found = Credentials([str(tmp_path)], env)
    assert login("quay.io", "team/app") == "u:p"  # rkt's own configuration comes first
    user_file(tmp_path / "other.json", {"quay.io": {"auth": encoded("o:o")}})
    found = Credentials([], {**env, "REGISTRY_AUTH_FILE": str(tmp_path / "other.json")})
    assert login("quay.io") == "o:o"
    assert login("plain.org") is None


def test_a_damaged_file_of_docker_is_only_told(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    found = Credentials([], {"DOCKER_CONFIG": str(tmp_path), "XDG_RUNTIME_DIR": "/nonexistent"})
    assert found.registry("quay.io", "x") is None
    assert capsys.readouterr().err.startswith(f'rkt: warning: "{path}": error at line 1, column 2')


HELPER = """\
#!/bin/sh
read host
echo "$host $HOME" >> {log}
case $1$host in
gethelped.org) echo '{{"ServerURL":"x","Username":"h","Secret":"s"}}' ;;
gettoken.org) echo '{{"ServerURL":"x","Username":"<token>","Secret":"t0ken"}}' ;;
gethttps://index.docker.io/v1/) echo '{{"Username":"hub","Secret":"s"}}' ;;
getlocked.org) echo 'the store is locked'; exit 1 ;;
getodd.org) echo 'hello' ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


@pytest.fixture
def helped(tmp_path: pathlib.Path) -> dict[str, str]:
    """Give an environment with a helper program."""
    program = tmp_path / "bin/docker-credential-mine"
    program.parent.mkdir()
    program.write_text(HELPER.format(log=tmp_path / "log"))
    program.chmod(0o755)
    return {
        "HOME": str(tmp_path), "PATH": f"{program.parent}:/usr/bin:/bin",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }  # fmt: skip


def test_credential_helpers(
    tmp_path: pathlib.Path, helped: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    auths: dict[str, object] = {"quay.io": {"auth": encoded("q:docker")}, "helped.org": {}}
    path = tmp_path / ".docker/config.json"
    user_file(path, auths, credsStore="mine", credHelpers={"only.org": "gone"})
    found = Credentials([], helped)
    login = found.registry("helped.org", "x")
    assert login is not None
    assert (login.user, login.password.reveal) == ("h", "s")
    login = found.registry("token.org", "x")
    assert login is not None and login.identity_token is not None
    assert login.identity_token.reveal == "t0ken"
    login = found.registry("registry-1.docker.io", "x")
    assert login is not None
    assert login.user == "hub"
    login = found.registry("quay.io", "x")  # what the file has needs no helper
    assert login is not None
    assert login.user == "q"
    assert found.registry("none.org", "x") is None
    assert capsys.readouterr().err == ""
    hosts = ["helped.org", "token.org", "https://index.docker.io/v1/", "none.org"]
    assert (tmp_path / "log").read_text() == "".join(f"{host} {tmp_path}\n" for host in hosts)
    mine = 'credential helper "docker-credential-mine" gives no credentials:'
    for host, text in (
        ("only.org", 'there is no program "docker-credential-gone": no credentials'),
        ("locked.org", f"{mine} exited with status 1: the store is locked"),
        ("odd.org", f"{mine} answer: error at line 1, column 1: "),
    ):
        assert found.registry(host, "x") is None
        assert capsys.readouterr().err.startswith(f'rkt: warning: "{path}": {text}')


def test_helpers_that_are_not_run(
    tmp_path: pathlib.Path, helped: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ".docker/config.json"
    user_file(path, {}, credHelpers={"helped.org": "../bin/docker-credential-mine"})
    assert Credentials([], helped).registry("helped.org", "x") is None
    assert capsys.readouterr().err == (
        f'rkt: warning: "{path}": "../bin/docker-credential-mine" cannot be a credential helper\n'
    )
    user_file(path, {}, credHelpers={"helped.org": "mine"})
    path.chmod(0o622)
    assert Credentials([], helped).registry("helped.org", "x") is None
    assert capsys.readouterr().err == (
        f'rkt: warning: "{path}": its credential helper "mine" is not run, since the file is '
        "another user's or can be written by others\n"
    )
    assert not (tmp_path / "log").exists()


def test_identity_tokens_and_odd_files(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "auth.json"
    env = {"REGISTRY_AUTH_FILE": str(path)}
    auth = {"auth": encoded("00000000-0000-0000-0000-000000000000:"), "identitytoken": "long"}
    user_file(path, {"quay.io": auth})
    login = Credentials([], env).registry("quay.io", "x")
    assert login is not None and login.identity_token is not None
    assert login.identity_token.reveal == "long"
    assert "long" not in repr(login.identity_token)
    path.chmod(0o644)
    assert Credentials([], env).registry("quay.io", "x") is not None
    assert capsys.readouterr().err == (
        f'rkt: warning: "{path}" holds credentials and others can read it; run: chmod o= {path}\n'
    )


# --- AWS ---------------------------------------------------------------------------------------

# The examples of "Authenticating Requests: Using the Authorization Header (AWS Signature Version
# 4)" in Amazon's S3 API reference.
KEY = aws.Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = time.strptime("20130524T000000Z", "%Y%m%dT%H%M%SZ")


@pytest.mark.parametrize(("target", "headers", "names", "signature"), [
    ("/test.txt", {"Range": "bytes=0-9"}, "host;range;x-amz-content-sha256;x-amz-date",
     "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
    ("/?lifecycle", {}, "host;x-amz-content-sha256;x-amz-date",
     "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
    ("/?max-keys=2&prefix=J", {}, "host;x-amz-content-sha256;x-amz-date",
     "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ("?prefix=J&max-keys=2", {}, "host;x-amz-content-sha256;x-amz-date",
     "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
])  # fmt: skip
def test_published_signatures(
    target: str, headers: dict[str, str], names: str, signature: str
) -> None:
    url = f"https://examplebucket.s3.amazonaws.com{target}"
    assert aws.sign(KEY, url, NOW, headers) == {
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-amz-date": "20130524T000000Z",
        "Authorization": "AWS4-HMAC-SHA256 "
        "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders={names},Signature={signature}",
    }
    assert "wJalr" not in repr(KEY)


def test_regions() -> None:
    for host, region in (
        ("s3.amazonaws.com", "us-east-1"), ("s3-eu-west-1.amazonaws.com", "eu-west-1"),
        ("s3.eu-central-1.amazonaws.com", "eu-central-1"), ("example.com", "us-east-1"),
        ("b.s3-us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("bucket.s3.ap-south-1.amazonaws.com:443", "ap-south-1"),
        ("b.s3.dualstack.eu-west-2.amazonaws.com", "eu-west-2"),
    ):  # fmt: skip
        assert aws.guess_region(host) == region


def test_aws_from_configuration(tmp_path: pathlib.Path) -> None:
    values = {"accessKeyID": "AK", "secretAccessKey": "SK"}
    put(tmp_path, "a.json", {**BASIC, "type": "aws", "domains": ["b.s3-eu-west-1.amazonaws.com"],
                             "credentials": values})  # fmt: skip
    put(tmp_path, "b.json", {**BASIC, "type": "aws", "domains": ["minio.local"],
                             "credentials": {**values, "awsRegion": "here"}})  # fmt: skip
    found = Credentials([str(tmp_path)], {})
    header = found.headers("https://b.s3-eu-west-1.amazonaws.com/x.aci")["Authorization"]
    assert header.startswith("AWS4-HMAC-SHA256 Credential=AK/")
    assert "/eu-west-1/s3/aws4_request," in header
    assert "/here/s3/" in found.headers("https://minio.local/x")["Authorization"]
